from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.corpora.normalize import NORMALIZERS, normalizer, upper
from asr_compress.runtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Author of the danger trail, Philip Steels, etc.", "AUTHOR OF THE DANGER TRAIL PHILIP STEELS ETC"),
        ("a rifle-shot beyond", "A RIFLE SHOT BEYOND"),
        ("It\u2019s the boys\u02bc \u2018tis", "IT'S THE BOYS' 'TIS"),
        ("God bless 'em, rock ' roll", "GOD BLESS 'EM ROCK ROLL"),
        ("cafe\u0301 na\u00efve stra\u00dfe", "CAFE NAIVE STRASSE"),
        ("\uff28\uff49 \u2014 the \ufb01rst\u2026", "HI THE FIRST"),
        ("U.S. mail", "U S MAIL"),
        (" \u00a0 \n", ""),
        ("?!", ""),
    ],
)
def test_upper_values(text: str, expected: str) -> None:
    assert upper(text) == expected


@pytest.mark.parametrize(
    "text", ["in 1984", "salt & pepper", "50%", "\u0440\u0443\u0441", "\u00e6on", "a $ b", "x\u00b2"]
)
def test_upper_refuses_what_it_would_have_to_guess(text: str) -> None:
    with pytest.raises(InputError, match="upper"):
        upper(text)


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
@given(text=st.text(max_size=30))
def test_every_normalizer_is_idempotent_and_single_spaced(name: str, text: str) -> None:
    try:
        once = normalizer(name)(text)
    except InputError:
        return
    assert normalizer(name)(once) == once
    assert once == " ".join(once.split())


@given(text=st.text(max_size=30))
def test_upper_gives_only_its_alphabet(text: str) -> None:
    try:
        result = upper(text)
    except InputError:
        return
    assert set(result) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match="upper"):
        normalizer("lower")
