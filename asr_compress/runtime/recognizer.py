"""What a user calls: a bundle and a decoder as one object that turns speech into text."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np

from asr_compress.runtime.audio import checked_samples, load_audio, resample
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.decoding import Array, Decoder, GreedyDecoder, log_softmax
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import log_mel
from asr_compress.runtime.live import LiveTranscription
from asr_compress.runtime.network import is_streaming, time_stride
from asr_compress.runtime.transcript import Timings, Transcript


class Recognizer:
    """A speech recognizer. It holds no state of an utterance: one serves any number, and any number of streams.

    Attributes:
        bundle: the model's file, in memory.
        engine: what runs its network.
        decoder: what turns its output into text.
        frame_s: time from one output frame to the next.
    """

    def __init__(self, bundle: Bundle, decoder: Decoder, backend: str = "auto", threads: int = 1) -> None:
        """From parts; `load` makes them.

        Raises:
            InputError: a backend that there is not.
        """
        self.bundle = bundle
        self.decoder = decoder
        self.engine = Engine(bundle.network, backend=backend, threads=threads)
        stride = int(np.prod([time_stride(layer) for layer in bundle.network], dtype=np.int64))
        self.frame_s = stride * bundle.features.shift / bundle.features.sample_rate_hz

    @classmethod
    def load(
        cls,
        path: str | Path,
        lm: str | Path | None = None,
        backend: str = "auto",
        threads: int = 1,
        decoding: dict[str, Any] | None = None,
    ) -> Self:
        """Read a bundle and make the decoder that fits it; see `make_decoder`.

        Args:
            path: a `.safetensors` bundle.
            lm: n-gram language model, .arpa or .arpa.gz.
            backend: see `Engine`.
            threads: cores that one call may use.
            decoding: widths and weights of the search, over those that the bundle carries.

        Raises:
            InputError: naming the file or value and what is wrong with it.
        """
        bundle = Bundle.load(path)
        return cls(bundle, make_decoder(bundle, lm, decoding), backend, threads)

    def transcribe(self, audio: str | Path | np.ndarray, sample_rate_hz: int = 16000) -> Transcript:
        """Recognize a recording.

        Args:
            audio: a file of any rate and number of channels, or samples: (n,) floats in [-1, 1) or int16.
            sample_rate_hz: of samples; a file says its own.

        Raises:
            InputError: see `load_audio`; samples of another shape or type, none, or not finite.
        """
        samples = self.samples(audio, sample_rate_hz)
        started = perf_counter()
        frames = log_mel(samples, self.bundle.features)
        framed = perf_counter()
        log_probs = log_softmax(self.engine.run(frames)) if len(frames) else self._nothing()
        modeled = perf_counter()
        hypothesis = self.decoder.decode(log_probs, self.frame_s)
        timings = Timings(framed - started, modeled - framed, perf_counter() - modeled)
        duration_s = len(samples) / self.bundle.features.sample_rate_hz
        return Transcript(hypothesis.text, hypothesis.words, duration_s, timings=timings)

    def log_probs(self, audio: str | Path | np.ndarray, sample_rate_hz: int = 16000) -> Array:
        """What the decoder gets: (frames', tokens) float32. For tuning a decoder without running the model again."""
        frames = log_mel(self.samples(audio, sample_rate_hz), self.bundle.features)
        return log_softmax(self.engine.run(frames)) if len(frames) else self._nothing()

    def samples(self, audio: str | Path | np.ndarray, sample_rate_hz: int = 16000) -> Array:
        """Audio as the features take it: (n,) float32 at the model's rate. Raises as `transcribe` does."""
        rate_hz = self.bundle.features.sample_rate_hz
        if isinstance(audio, str | Path):
            return load_audio(audio, rate_hz)
        samples = checked_samples(audio)
        if not len(samples):
            raise InputError("the waveform holds no samples")
        return resample(samples, sample_rate_hz, rate_hz)

    def stream(
        self,
        endpoint_s: float | None = None,
        chunk_s: float | None = None,
        look_ahead_s: float | None = None,
    ) -> LiveTranscription:
        """Recognize speech as it comes.

        Args:
            endpoint_s: silence that ends a segment, whose text is then final. None: one segment to the end, whose
                text equals that of `transcribe`, for recordings rather than for streams without end.
            chunk_s, look_ahead_s: only for a model that reads backwards, which streams approximately: each piece of
                `chunk_s` sees `look_ahead_s` more.

        Raises:
            InputError: a model that reads backwards without chunk_s and look_ahead_s, or the other way round.
        """
        if not is_streaming(self.bundle.network) and (chunk_s is None or look_ahead_s is None):
            raise InputError(
                "this model reads backwards: give chunk_s and look_ahead_s (--chunk-s 1 --look-ahead-s 0.5, say) to "
                "stream it approximately, use transcribe, or take a unidirectional model"
            )
        if endpoint_s is not None and not endpoint_s > 0:
            raise InputError(f"endpoint_s is {endpoint_s}; it must be more than 0, or None for no end points")
        stream = self.engine.stream(self._input_frames(chunk_s), self._input_frames(look_ahead_s))
        return LiveTranscription(self.bundle, self.engine, self.decoder, self.frame_s, stream, endpoint_s)

    def resume(self, state: dict[str, np.ndarray]) -> LiveTranscription:
        """The stream whose `state()` was saved, with this recognizer's model and decoder.

        Raises:
            InputError: the state is not one of this model.
        """
        return LiveTranscription.from_state(self.bundle, self.engine, self.decoder, self.frame_s, state)

    def _input_frames(self, time_s: float | None) -> int | None:
        return None if time_s is None else round(time_s * 1000 / self.bundle.features.frame_shift_ms)

    def _nothing(self) -> Array:
        return np.empty((0, len(self.bundle.tokens)), np.float32)


def make_decoder(bundle: Bundle, lm: str | Path | None = None, decoding: dict[str, Any] | None = None) -> Decoder:
    """The decoder that fits a bundle.

    With a lexicon in the bundle, a beam search over its words. Without one and with a language model of words, a
    beam search over the model's words, spelled; with a language model of the tokens themselves, a free beam search.
    With neither, the best path.

    Args:
        lm: n-gram language model.
        decoding: widths and weights, over those that the bundle carries.

    Raises:
        InputError: a language model or a weight that will not do; phones with a language model but no lexicon.
    """
    tokens, lexicon = bundle.tokens, bundle.lexicon
    if lexicon is None and lm is None:
        return GreedyDecoder(tokens)
    from asr_compress.runtime.beam import BeamDecoder, DecodingConfig
    from asr_compress.runtime.search_graph import words_of_model

    config = DecodingConfig.from_json({**bundle.decoding, **(decoding or {})})
    if lexicon is None and lm is not None:
        words = words_of_model(lm)
        if not set(words) <= set(tokens.symbols):
            lexicon = tokens.spelled(words)
    return BeamDecoder(tokens, lexicon, lm, config)
