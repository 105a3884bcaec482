from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from asr_compress.runtime.decoding import Word
from asr_compress.runtime.transcript import Timings, Transcript


def transcript(*words: tuple[str, float, float]) -> Transcript:
    return Transcript(" ".join(word[0] for word in words), tuple(Word(*word) for word in words), 10.0)


def test_json() -> None:
    said = transcript(("HELLO", 0.1, 0.30000004), ("WORLD", 0.5, 0.9))
    plain = json.loads(json.dumps(said.to_json()))
    assert plain["text"] == "HELLO WORLD"
    assert plain["words"][0] == {"text": "HELLO", "start_s": 0.1, "end_s": 0.3}
    assert plain["duration_s"] == 10.0


def test_captions() -> None:
    said = transcript(("HELLO", 0.1, 0.3), ("WORLD", 0.5, 1.25), ("LATER", 3661.0, 3662.0))
    assert said.to_srt() == (
        "1\n00:00:00,100 --> 00:00:01,250\nHELLO WORLD\n\n2\n01:01:01,000 --> 01:01:02,000\nLATER\n"
    )


def test_nothing_said() -> None:
    assert Transcript("", (), 1.0).to_srt() == ""


WORDS = st.lists(
    st.tuples(st.text("AB", min_size=1, max_size=60), st.floats(0, 3), st.floats(0, 2)), min_size=1, max_size=40
)


@given(WORDS)
def test_captions_keep_every_word_in_order_and_never_overlap(parts: list[tuple[str, float, float]]) -> None:
    words, now = [], 0.0
    for text, pause_s, length_s in parts:
        words.append((text, now + pause_s, now + pause_s + length_s))
        now += pause_s + length_s
    blocks = transcript(*words).to_srt().rstrip("\n").split("\n\n")
    shown: list[str] = []
    previous_end = ""
    for number, block in enumerate(blocks, start=1):
        index, times, *lines = block.split("\n")
        assert index == str(number)
        assert len(lines) <= 2
        assert all(len(line) <= 42 or " " not in line for line in lines)
        start, end = re.fullmatch(r"([\d:,]{12}) --> ([\d:,]{12})", times).groups()
        assert previous_end <= start <= end
        previous_end = end
        shown += " ".join(lines).split()
    assert shown == [word[0] for word in words]


def test_timings_add_up() -> None:
    total = Timings(1.0, 2.0, 3.0) + Timings(decode_s=4.0)
    assert total == Timings(1.0, 2.0, 7.0)
    assert total.total_s == 10.0
