"""Verbs that turn speech into text. They need the runtime only."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from asr_compress.cli.output import say
from asr_compress.runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from asr_compress.runtime.recognizer import Recognizer
    from asr_compress.runtime.transcript import Transcript

DEFAULT_BUNDLE = Path("runs/demo/bundles/pruned-int8.safetensors")
BUNDLE_VARIABLE = "ASR_COMPRESS_BUNDLE"


class Format(StrEnum):
    """How a transcript is printed."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"


LanguageModel = Annotated[Path | None, typer.Option(help="n-gram language model, .arpa or .arpa.gz.")]
LmWeight = Annotated[float | None, typer.Option(help="Weight of the language model, instead of the bundle's.")]
WordScore = Annotated[float | None, typer.Option(help="Added for each word, instead of the bundle's.")]
BeamWidth = Annotated[int | None, typer.Option(help="Hypotheses kept after each frame.")]
Backend = Annotated[str, typer.Option(help="Engine: native, reference or auto.")]
Threads = Annotated[int, typer.Option(help="Cores that one utterance may use.")]


def transcribe(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="[BUNDLE] AUDIO", help="A .safetensors bundle, then recordings of any rate and format."),
    ],
    lm: LanguageModel = None,
    form: Annotated[Format, typer.Option("--format", help="text, json (one object a line) or srt.")] = Format.TEXT,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    beam_width: BeamWidth = None,
    backend: Backend = "auto",
    threads: Threads = 1,
) -> None:
    """Turn recordings into text: plain, JSON with word times, or subtitles.

    Without a bundle it takes the one that ASR_COMPRESS_BUNDLE names, or that of the demo. A recording that cannot
    be read is reported and the others are still transcribed; the exit code is then 2.

    \b
    Examples:
      asr-compress transcribe model.safetensors talk.flac
      asr-compress transcribe model.safetensors talk.mp3 --lm lm.arpa.gz --format srt > talk.srt
      asr-compress transcribe model.safetensors a.wav b.wav --json
      asr-compress transcribe talk.flac                          # after make demo
    """
    from asr_compress.runtime.recognizer import Recognizer

    bundle, recordings = _split(paths)
    recognizer = Recognizer.load(bundle, lm, backend, threads, _decoding(lm_weight, word_score, beam_width))
    failed = False
    for path in recordings:
        try:
            transcript = recognizer.transcribe(path)
        except InputError as error:
            say(f"asr-compress: {error}")
            failed = True
            continue
        _show(path, transcript, Format.JSON if json else form, several=len(recordings) > 1)
    if failed:
        raise typer.Exit(2)


def stream(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A .safetensors bundle.")],
    source: Annotated[
        str, typer.Argument(metavar="FILE|-|mic", help="A recording, - for raw PCM on standard input, or mic.")
    ],
    chunk_s: Annotated[float, typer.Option(help="Seconds of speech taken at once.")] = 0.2,
    endpoint_s: Annotated[float, typer.Option(help="Silence that ends a segment; 0: none does.")] = 0.8,
    look_ahead_s: Annotated[
        float | None, typer.Option(help="For a bidirectional model: what each chunk may hear of the next.")
    ] = None,
    lm: LanguageModel = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a segment, with word times.")] = False,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    beam_width: BeamWidth = None,
    backend: Backend = "auto",
    threads: Threads = 1,
) -> None:
    """Recognize speech as it comes: segments on standard output, what is not final yet on the terminal.

    Raw PCM is 16-bit little-endian, one channel, at the model's rate (16000 Hz). `mic` needs the package sounddevice.

    \b
    Examples:
      asr-compress stream model.safetensors talk.flac
      arecord -t raw -f S16_LE -r 16000 | asr-compress stream model.safetensors -
      asr-compress stream model.safetensors mic --endpoint-s 0.5
    """
    from asr_compress.runtime.recognizer import Recognizer

    if chunk_s <= 0:
        raise InputError(f"--chunk-s is {chunk_s}; it must be more than 0")
    recognizer = Recognizer.load(bundle, lm, backend, threads, _decoding(lm_weight, word_score, beam_width))
    live = recognizer.stream(endpoint_s or None, chunk_s if look_ahead_s is not None else None, look_ahead_s)
    shown = 0  # characters of unfinished text on the terminal's line
    rate_hz = recognizer.bundle.features.sample_rate_hz
    for samples in _chunks(recognizer, source, max(1, round(chunk_s * rate_hz))):
        for segment in live.push(samples):
            shown = _overwrite("", shown)
            _show_segment(segment, json)
        if sys.stderr.isatty():
            shown = _overwrite(live.partial().text, shown)
    _overwrite("", shown)
    for segment in live.finish():
        if segment.text:
            _show_segment(segment, json)


def _split(paths: list[Path]) -> tuple[Path, list[Path]]:
    """The bundle and the recordings."""
    if paths[0].suffix == ".safetensors":
        bundle, recordings = paths[0], paths[1:]
    else:
        bundle, recordings = _default_bundle(), paths
    if not recordings:
        raise InputError(f"{bundle}: a bundle and no recording; give audio files after it")
    return bundle, recordings


def _default_bundle() -> Path:
    named = os.environ.get(BUNDLE_VARIABLE)
    if named:
        return Path(named)
    if not DEFAULT_BUNDLE.exists():
        raise InputError(
            f"no bundle given: put a .safetensors file before the recordings, name one in {BUNDLE_VARIABLE}, or make "
            "one with `make demo`"
        )
    say(f"using {DEFAULT_BUNDLE}: the demo's model, which knows synthetic voices and some 250 words only")
    return DEFAULT_BUNDLE


def _decoding(lm_weight: float | None, word_score: float | None, beam_width: int | None) -> dict[str, Any]:
    given = {"lm_weight": lm_weight, "word_score": word_score, "beam_width": beam_width}
    return {name: value for name, value in given.items() if value is not None}


def _show(path: Path, transcript: Transcript, form: Format, several: bool) -> None:
    if form is Format.JSON:
        typer.echo(json_module.dumps({"audio": str(path), **transcript.to_json()}, ensure_ascii=False))
    elif form is Format.SRT:
        typer.echo(transcript.to_srt(), nl=False)
    else:
        typer.echo(f"{path}\t{transcript.text}" if several else transcript.text)


def _show_segment(segment: Transcript, json: bool) -> None:
    typer.echo(json_module.dumps(segment.to_json(), ensure_ascii=False) if json else segment.text)


def _overwrite(text: str, shown: int) -> int:
    """Replace the terminal's unfinished line; returns its new length."""
    width = os.get_terminal_size(sys.stderr.fileno()).columns - 1 if sys.stderr.isatty() else 80
    text = text[-width:]
    if text or shown:
        sys.stderr.write("\r" + text.ljust(shown) + ("" if text else "\r"))
        sys.stderr.flush()
    return len(text)


def _chunks(recognizer: Recognizer, source: str, count: int) -> Iterator[np.ndarray]:
    """Pieces of `count` samples at the model's rate."""
    if source == "-":
        yield from _raw_chunks(sys.stdin.buffer, count)
    elif source == "mic":
        yield from _microphone(recognizer.bundle.features.sample_rate_hz, count)
    else:
        samples = recognizer.samples(source)
        yield from (samples[start : start + count] for start in range(0, len(samples), count))


def _raw_chunks(pipe: BinaryIO, count: int) -> Iterator[np.ndarray]:
    import numpy as np

    rest = b""
    while data := pipe.read1(2 * count):  # type: ignore[attr-defined]  # what is there, without waiting for all of it
        data = rest + data
        even = len(data) // 2 * 2
        rest = data[even:]
        yield np.frombuffer(data[:even], "<i2").astype(np.float32) / 32768


def _microphone(rate_hz: int, count: int) -> Iterator[np.ndarray]:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise InputError(f"mic: needs sounddevice and PortAudio ({error}): pip install sounddevice") from None
    say("listening; Ctrl-C ends")
    with sounddevice.InputStream(rate_hz, count, channels=1, dtype="float32") as microphone:
        while True:
            samples, _ = microphone.read(count)
            yield samples[:, 0]
