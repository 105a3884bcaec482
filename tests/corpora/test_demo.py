from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr_compress.corpora import spoken
from asr_compress.corpora.demo import demo_grammar, demo_text, read_demo
from asr_compress.corpora.grammar import parse_grammar
from asr_compress.corpora.manifests import write_manifests
from asr_compress.corpora.normalize import upper
from asr_compress.corpora.registry import read_corpus
from asr_compress.runtime.errors import InputError

SIZES = {"train_minutes": 0.2, "dev_minutes": 0.1, "test_minutes": 0.1}


# The grammar -----------------------------------------------------------------------------------------------


def test_the_grammar_has_ordinary_words_in_many_sentences() -> None:
    grammar = demo_grammar()
    assert 200 <= len(grammar.words()) <= 320
    sentences = grammar.sentences(20_000, random.Random(0))
    assert len(set(sentences)) == 20_000
    for sentence in sentences:
        assert upper(sentence).lower() == sentence
    assert {word for sentence in sentences for word in sentence.split()} == grammar.words()
    assert grammar.sentences(50, random.Random(0)) == sentences[:50]


def test_grammar_by_hand() -> None:
    grammar = parse_grammar("# c\nsentence = a <b> | c\nb = d\n  | e f\n", "g.txt")
    assert set(grammar.sentences(3, random.Random(0))) == {"a d", "a e f", "c"}
    assert grammar.words() == set("acdef")
    with pytest.raises(InputError, match="only about 3"):
        grammar.sentences(4, random.Random(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence = <b>\n", "names <b>"),
        ("sentence = <b>\nb = x <sentence>\n", "comes back to itself"),
        ("b = x\n", "no rule `sentence`"),
        ("sentence = a\nsentence = b\n", "g.txt:2"),
        ("sentence a\n", "g.txt:1"),
        ("sentence = a | | b\n", "empty alternative"),
    ],
)
def test_wrong_grammars(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_grammar(text, "g.txt")


# The plan ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 100))
def test_voices_are_different_speakers(seed: int) -> None:
    variants = [voice.partition("+")[2] for voice in spoken.voices(seed)]
    assert sorted(variants) == sorted(spoken.VARIANTS)
    assert len(set(variants)) == len(variants)


def test_every_voice_and_accent_is_there_and_sounds_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = pytest.importorskip("espeakng_loader", reason="the demo's voices are not installed: pip install '.[demo]'")
    variants = Path(loader.get_data_path()) / "voices" / "!v"
    assert [name for name in spoken.VARIANTS if not (variants / name).is_file()] == []
    assert len({(variants / name).read_bytes() for name in spoken.VARIANTS}) == len(spoken.VARIANTS)
    monkeypatch.setattr(spoken, "_WORDS_PER_MINUTE", (170, 170))
    sounds = set()
    for accent in spoken.ACCENTS:
        block = spoken.deal("train", ["the farmer can not go to the water"], [f"{accent}+m3"], seed=0)
        cut = next(iter(spoken.spoken_splits(block, tmp_path)["train"]))
        sounds.add(cut.duration)
    assert len(sounds) == len(spoken.ACCENTS)


@given(st.integers(0, 50), st.integers(1, 10))
def test_sentences_are_dealt_evenly_and_once(sentences: int, speakers: int) -> None:
    texts = [str(number) for number in range(sentences)]
    blocks = spoken.deal("train", texts, [f"v{number}" for number in range(speakers)], seed=0)
    assert sorted(text for block in blocks for text in block.sentences) == sorted(texts)
    shares = [len(block.sentences) for block in blocks]
    assert len(shares) == min(sentences, speakers)
    assert not shares or max(shares) - min(shares) <= 1


def test_language_model_text_has_no_test_sentence(demo: dict) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "train_minutes"}
    text = demo_text(500, **sizes)
    assert len(set(text)) == 500
    spoken_texts = {name: {cut.supervisions[0].text for cut in cuts} for name, cuts in demo.items()}
    assert spoken_texts["test"].isdisjoint(text)
    assert spoken_texts["dev"].isdisjoint(text)
    assert spoken_texts["train"] == set(text[: len(spoken_texts["train"])])


# The speech --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(cache: Path) -> dict:
    pytest.importorskip("espeakng_loader", reason="the demo's voices are not installed: pip install '.[demo]'")
    return read_demo(cache, **SIZES)


def test_splits_share_neither_voices_nor_sentences(demo: dict) -> None:
    assert list(demo) == ["test", "dev", "train"]
    for what in ("speaker", "text"):
        sets = [{getattr(cut.supervisions[0], what) for cut in cuts} for cuts in demo.values()]
        assert sum(map(len, sets)) == len(set().union(*sets))
    minutes = {name: sum(cut.duration for cut in cuts) / 60 for name, cuts in demo.items()}
    for name, length in minutes.items():
        assert length == pytest.approx(SIZES[f"{name}_minutes"], rel=0.5)


def test_the_sound_is_speech_at_16_khz(demo: dict) -> None:
    for cuts in demo.values():
        for cut in cuts:
            samples, rate_hz = soundfile.read(cut.recording.sources[0].source)
            assert rate_hz == 16000
            assert 0.05 < np.abs(samples).max() <= 1
            # Speech comes and goes: loud parts well above quiet ones. About 12 letters a second are said.
            frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)
            energy = np.sort((frames**2).mean(1))
            assert energy[-len(energy) // 5] > 30 * energy[len(energy) // 20]
            assert 5 < len(cut.supervisions[0].text) / cut.duration < 35


def test_speaking_again_gives_the_same_and_goes_on_where_it_stopped(demo: dict, cache: Path, tmp_path: Path) -> None:
    again = read_demo(tmp_path / "a", splits=["train"], **SIZES)["train"]
    paths = [Path(cut.recording.sources[0].source) for cut in again]
    for path, cut in zip(paths, demo["train"], strict=True):
        assert path.read_bytes() == Path(cut.recording.sources[0].source).read_bytes()
    # A block is missing, as after an interrupt: it alone is spoken again.
    times = {path: path.stat().st_mtime_ns for path in paths}
    block = paths[0].parent
    for path in block.iterdir():
        path.unlink()
    block.rmdir()
    resumed = read_demo(tmp_path / "a", splits=["train"], **SIZES)["train"]
    assert list(resumed) == list(again)
    for path in paths:
        assert (path.stat().st_mtime_ns == times[path]) == (path.parent != block)
    assert not list(tmp_path.glob("**/.speaking-*"))


def test_another_size_of_training_leaves_the_test_as_it_is(demo: dict, cache: Path) -> None:
    test = read_demo(cache, splits=["test"], **{**SIZES, "train_minutes": 5.0})["test"]
    assert list(test) == list(demo["test"])


def test_manifests_of_the_demo_are_valid(demo: dict, tmp_path: Path) -> None:
    assert set(write_manifests(demo, tmp_path)) == {"train", "dev", "test"}


def test_a_text_read_aloud(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the demo's voices are not installed: pip install '.[demo]'")
    (tmp_path / "t.txt").write_text("One two three.\nFour five six!\n" + "Too long to be read. " * 20 + "\n")
    cuts = read_corpus("aloud", tmp_path / "t.txt", audio_dir=tmp_path / "audio")["train"]
    assert {cut.supervisions[0].text for cut in cuts} == {"ONE TWO THREE", "FOUR FIVE SIX"}
    some = read_corpus("aloud", tmp_path / "t.txt", audio_dir=tmp_path / "audio", hours=1 / 3600)["train"]
    assert len(some) == 1
    with pytest.raises(InputError, match="1 hours"):
        read_corpus("aloud", tmp_path / "t.txt", audio_dir=tmp_path / "audio", hours=1)


def test_failures_are_one_line_and_leave_nothing_half_done(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the demo's voices are not installed: pip install '.[demo]'")
    for voice in ("en-us+nobody", "xx-nowhere+f1"):
        with pytest.raises(InputError, match=f"no voice '{re.escape(voice)}'"):
            spoken.spoken_splits(spoken.deal("train", ["hello"], [voice], seed=0), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path != tmp_path / "train"]


def test_without_espeak_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'asr-compress\[demo\]'"):
        read_demo(tmp_path, **SIZES)


@pytest.mark.parametrize("sizes", [{"test_minutes": 0.0}, {"train_minutes": -1.0}, {"splits": ["eval"]}])
def test_sizes_that_cannot_be(tmp_path: Path, sizes: dict) -> None:
    with pytest.raises(InputError, match="demo corpus"):
        read_demo(tmp_path, **sizes)
