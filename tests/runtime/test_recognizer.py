from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr_compress as ac
from asr_compress.runtime.beam import BeamDecoder
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.decoding import GreedyDecoder
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.network import Normalize
from asr_compress.runtime.recognizer import Recognizer, make_decoder
from asr_compress.runtime.tokens import Tokens
from tests.runtime.networks import Maker
from tests.runtime.tones import FEATURES, GAP_S, RATE_HZ, TONE_S, say, silence, tone_bundle

CHARACTERS = Tokens.characters("ABC'")
PHONES = Tokens.phones()
LEXICON = Lexicon.from_text("A\tAH\nA\tEY\nCAT\tK AE T\nCATS\tK AE T S\nTEN\tT EH N\nTWO\tT UW\nTOO\tT UW\n")
TEXT = "A CAT TWO TEN"


@pytest.fixture(scope="module")
def phones() -> Recognizer:
    bundle = tone_bundle(PHONES, LEXICON)
    return Recognizer(bundle, make_decoder(bundle))


@pytest.fixture(scope="module")
def characters() -> Recognizer:
    bundle = tone_bundle(CHARACTERS)
    return Recognizer(bundle, make_decoder(bundle))


def random_recognizer(backward: bool = False) -> Recognizer:
    make = Maker(3, scale=1.0)
    normalize = Normalize(np.full(FEATURES.bins, 5, np.float32), np.full(FEATURES.bins, 0.2, np.float32))
    first = make.bidirectional(FEATURES.bins, 6) if backward else make.lstm(FEATURES.bins, 12)
    bundle = Bundle((normalize, first, make.linear(12, len(CHARACTERS))), FEATURES, CHARACTERS)
    return Recognizer(bundle, make_decoder(bundle))


def test_from_file_to_text(tmp_path: Path) -> None:
    tone_bundle(PHONES, LEXICON).save(tmp_path / "model.safetensors")
    stereo = np.repeat(say(TEXT, PHONES, LEXICON), 2).reshape(-1, 2)
    soundfile.write(tmp_path / "a.flac", stereo, RATE_HZ, subtype="PCM_24")
    recognizer = ac.Recognizer.load(tmp_path / "model.safetensors")
    transcript = recognizer.transcribe(tmp_path / "a.flac")
    assert transcript.text == TEXT
    assert recognizer.transcribe(str(tmp_path / "a.flac")) == transcript
    assert transcript.duration_s == len(stereo) / RATE_HZ
    assert transcript.timings.features_s > 0 and transcript.timings.model_s > 0 and transcript.timings.decode_s > 0


def test_word_times_are_when_the_words_are_said(phones: Recognizer) -> None:
    words = phones.transcribe(say(TEXT, PHONES, LEXICON)).words
    step_s, at_s = TONE_S + GAP_S, GAP_S
    for word in words:
        length_s = len(LEXICON[word.text][0]) * step_s - GAP_S
        assert word.start_s == pytest.approx(at_s, abs=0.05)
        assert word.end_s == pytest.approx(at_s + length_s, abs=0.05)
        at_s += length_s + GAP_S
    assert len(words) == 4


def test_characters_without_a_lexicon(characters: Recognizer) -> None:
    assert isinstance(characters.decoder, GreedyDecoder)
    assert characters.transcribe(say("ABC CAB A'A", CHARACTERS)).text == "ABC CAB A'A"


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000])
def test_samples_of_another_rate(phones: Recognizer, rate_hz: int) -> None:
    from asr_compress.runtime.audio import resample

    samples = resample(say("CAT TWO", PHONES, LEXICON), RATE_HZ, rate_hz)
    if rate_hz > RATE_HZ:
        assert phones.transcribe(samples, rate_hz).text == "CAT TWO"
    else:
        assert len(phones.samples(samples, rate_hz)) == 2 * len(samples)


def test_int16_samples(characters: Recognizer) -> None:
    samples = say("CAB", CHARACTERS)
    assert characters.transcribe(np.round(samples * 32767).astype(np.int16)).text == "CAB"


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.03, 2.0])
def test_silence_and_the_shortest_sounds_are_no_error(
    phones: Recognizer, characters: Recognizer, seconds: float
) -> None:
    assert phones.transcribe(silence(seconds)).text == ""
    assert characters.transcribe(silence(seconds)).text == ""


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((10, 2), np.float32), "shape"),
        (np.zeros(10, np.int64), "int64"),
        (np.full(10, np.nan), "NaN"),
        (np.full(10, np.inf, np.float32), "infinity"),
        (np.zeros(0, np.float32), "no samples"),
    ],
)
def test_bad_samples(characters: Recognizer, samples: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        characters.transcribe(samples)


def arpa(words: dict[str, float]) -> str:
    lines = "".join(f"{score}\t{word}\t0\n" for word, score in words.items())
    return (
        f"\\data\\\nngram 1={len(words) + 3}\nngram 2=1\n\n\\1-grams:\n-3\t<unk>\n-99\t<s>\t0\n-1\t</s>\n{lines}\n"
        "\\2-grams:\n-1\t<s> </s>\n\n\\end\\\n"
    )


def test_a_language_model_chooses_among_homophones(tmp_path: Path) -> None:
    tone_bundle(PHONES, LEXICON).save(tmp_path / "model.safetensors")
    for likelier, rarer in (("TWO", "TOO"), ("TOO", "TWO")):
        (tmp_path / "lm.arpa").write_text(arpa({likelier: -1.0, rarer: -2.0, "CAT": -1.0}))
        recognizer = Recognizer.load(tmp_path / "model.safetensors", lm=tmp_path / "lm.arpa")
        assert recognizer.transcribe(say("CAT TWO", PHONES, LEXICON)).text == f"CAT {likelier}"


def test_characters_with_a_model_of_words_recognize_its_words(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(arpa({"CAB": -1.0, "ABBA": -1.0}))
    bundle = tone_bundle(CHARACTERS)
    recognizer = Recognizer(bundle, make_decoder(bundle, tmp_path / "lm.arpa"))
    assert recognizer.transcribe(say("CAB ABBA", CHARACTERS)).text == "CAB ABBA"
    assert set(recognizer.transcribe(say("CAB ABB A", CHARACTERS)).text.split()) <= {"CAB", "ABBA"}


def test_characters_with_a_model_of_characters_are_free(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(arpa({"A": -1.0, "B": -1.0, "C": -1.0, "|": -1.0}))
    bundle = tone_bundle(CHARACTERS)
    recognizer = Recognizer(bundle, make_decoder(bundle, tmp_path / "lm.arpa"))
    assert recognizer.transcribe(say("CAB ABB", CHARACTERS)).text == "CAB ABB"


def test_decoding_weights_come_from_the_bundle_and_the_caller_over_them() -> None:
    bundle = tone_bundle(PHONES, LEXICON)
    tuned = Bundle(bundle.network, FEATURES, PHONES, LEXICON, decoding={"lm_weight": 1.25, "beam_width": 7})
    decoder = make_decoder(tuned, decoding={"beam_width": 9})
    assert isinstance(decoder, BeamDecoder)
    assert (decoder.config.lm_weight, decoder.config.beam_width) == (1.25, 9)
    with pytest.raises(InputError, match="beam_size"):
        make_decoder(tuned, decoding={"beam_size": 9})


def test_log_probs_are_what_is_decoded(phones: Recognizer) -> None:
    samples = say(TEXT, PHONES, LEXICON)
    log_probs = phones.log_probs(samples)
    assert log_probs.shape[1] == len(PHONES)
    assert phones.decoder.decode(log_probs, phones.frame_s).text == phones.transcribe(samples).text


def chunks(samples: np.ndarray, seed: int, largest: int) -> list[np.ndarray]:
    sizes = np.random.default_rng(seed).integers(0, largest, 1 + 2 * len(samples) // largest)
    return np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))


@pytest.mark.parametrize("largest", [50, 700, 5000, 100000])
def test_streamed_equals_whole(phones: Recognizer, characters: Recognizer, largest: int) -> None:
    for recognizer, text in ((phones, TEXT), (characters, "ABC CAB A'A")):
        samples = say(text, recognizer.bundle.tokens, recognizer.bundle.lexicon)
        stream = recognizer.stream()
        for chunk in chunks(samples, largest, largest):
            assert stream.push(chunk) == []
        (streamed,) = stream.finish()
        whole = recognizer.transcribe(samples)
        assert (streamed.text, streamed.words, streamed.duration_s) == (whole.text, whole.words, whole.duration_s)
        assert streamed.text == text


def test_a_network_with_memory_streams_the_same() -> None:
    recognizer = random_recognizer()
    samples = say(TEXT, PHONES, LEXICON)
    stream = recognizer.stream()
    for chunk in chunks(samples, 0, 3000):
        stream.push(chunk)
    (streamed,) = stream.finish()
    whole = recognizer.transcribe(samples)
    assert len(whole.words) > 3
    assert streamed == whole


def test_partial_text_grows(phones: Recognizer) -> None:
    stream = phones.stream()
    seen = []
    for chunk in np.split(say(TEXT, PHONES, LEXICON), range(1600, 100000, 1600)):
        stream.push(chunk)
        seen.append(stream.partial().text)
    assert all(TEXT.startswith(text) for text in seen)
    assert seen == sorted(seen, key=len)
    assert {"A", "A CAT"} <= set(seen)


def with_pauses() -> np.ndarray:
    first, second = say("A CAT", PHONES, LEXICON), say("TWO TEN", PHONES, LEXICON)
    return np.concatenate([silence(2), first, silence(1), second, silence(3), silence(0.3)])


@pytest.mark.parametrize("largest", [200, 4000, 200000])
def test_end_points(phones: Recognizer, largest: int) -> None:
    samples = with_pauses()
    stream = phones.stream(endpoint_s=0.5)
    segments = [segment for chunk in chunks(samples, 1, largest) for segment in stream.push(chunk)]
    assert [segment.text for segment in segments] == ["A CAT", "TWO TEN"]
    (last,) = stream.finish()
    assert last.text == ""
    # Times count from the start of the stream, as in the whole recording.
    whole = phones.transcribe(samples)
    assert whole.text == "A CAT TWO TEN"
    for word, expected in zip([w for segment in segments for w in segment.words], whole.words, strict=True):
        assert word.text == expected.text
        assert word.start_s == pytest.approx(expected.start_s)
        assert word.end_s == pytest.approx(expected.end_s)
    for segment in (*segments, last):
        assert all(
            segment.start_s <= w.start_s and w.end_s <= segment.start_s + segment.duration_s for w in segment.words
        )
    assert last.start_s + last.duration_s == pytest.approx(len(samples) / RATE_HZ)


def test_a_stream_is_copied_saved_and_restored(phones: Recognizer) -> None:
    for recognizer, endpoint_s in ((phones, 0.5), (random_recognizer(), None)):
        samples = with_pauses()
        stream = recognizer.stream(endpoint_s)
        stream.push(samples[:38000])
        file = io.BytesIO()
        np.savez(file, **stream.state())
        file.seek(0)
        restored, twin = recognizer.resume(dict(np.load(file))), stream.copy()
        assert restored.partial() == stream.partial() == twin.partial()
        results = [[*each.push(samples[38000:]), *each.finish()] for each in (stream, restored, twin)]
        assert results[0] == results[1] == results[2]
        assert results[0][0].text


def test_a_copy_goes_its_own_way(phones: Recognizer) -> None:
    stream = phones.stream()
    stream.push(say("A CAT", PHONES, LEXICON))
    twin = stream.copy()
    twin.push(say("TEN", PHONES, LEXICON))
    assert stream.finish()[0].text == "A CAT"
    assert twin.finish()[0].text == "A CAT TEN"


def test_a_state_of_something_else_is_refused(phones: Recognizer) -> None:
    with pytest.raises(InputError, match="lacks counts"):
        phones.resume({})
    with pytest.raises(InputError, match="state"):
        random_recognizer().resume(phones.stream().state())


def test_a_model_that_reads_backwards_streams_with_look_ahead() -> None:
    recognizer = random_recognizer(backward=True)
    with pytest.raises(InputError, match="look_ahead_s"):
        recognizer.stream()
    stream = recognizer.stream(chunk_s=0.5, look_ahead_s=0.25)
    assert 0.7 < stream.latency_s < 0.9
    samples = say(TEXT, PHONES, LEXICON)
    for chunk in chunks(samples, 0, 3000):
        stream.push(chunk)
    assert stream.finish()[0].text
    with pytest.raises(InputError):
        random_recognizer().stream(chunk_s=1.0, look_ahead_s=0.5)


@pytest.mark.parametrize("endpoint_s", [0, -1.0, float("nan")])
def test_end_points_take_time(phones: Recognizer, endpoint_s: float) -> None:
    with pytest.raises(InputError, match="endpoint_s"):
        phones.stream(endpoint_s=endpoint_s)


def test_a_finished_stream_takes_no_more(phones: Recognizer) -> None:
    stream = phones.stream()
    stream.finish()
    with pytest.raises(InputError, match="finished"):
        stream.push(silence(1))
