"""Speech recognized as it comes: chunks in, partial and final text out, all state in the open."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Self

import numpy as np

from asr_compress.runtime.audio import checked_samples
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.decoding import Array, Decoder, Hypothesis, Search, Word, log_softmax
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import StreamingLogMel
from asr_compress.runtime.stream import Stream
from asr_compress.runtime.transcript import Timings, Transcript


class LiveTranscription:
    """One stream of speech. Made by `Recognizer.stream` and `Recognizer.resume`; not to be shared by threads.

    How the samples are divided into chunks does not matter to the text. With end points, a segment ends when
    blanks have been the likeliest token for `endpoint_s`: the model hears on, the decoder begins anew, and a segment
    without words is dropped. Without end points memory grows with the stream.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        decoder: Decoder,
        frame_s: float,
        stream: Stream,
        endpoint_s: float | None,
    ) -> None:
        self._bundle, self._engine, self._decoder, self._frame_s = bundle, engine, decoder, frame_s
        self._endpoint_s = endpoint_s
        self._features = StreamingLogMel(bundle.features)
        self._stream = stream
        self._search: Search = decoder.start(frame_s)
        self._samples = 0  # taken so far
        self._first_frame = 0  # of the open segment
        self._frames = 0  # decoded so far
        self._timings = Timings()  # of the open segment

    @property
    def latency_s(self) -> float:
        """The longest time from a sound to the output frame that tells of it, computing aside."""
        config = self._bundle.features
        return self._stream.latency_frames * config.frame_shift_ms / 1000 + config.frame_length_ms / 1000

    def push(self, samples: np.ndarray) -> list[Transcript]:
        """Take the next samples, any number, (n,) floats in [-1, 1) or int16 at the model's rate.

        Returns:
            the segments that ended and have words, mostly none; none ever without `endpoint_s`.

        Raises:
            InputError: samples of another shape or type or not finite; a stream that was finished.
        """
        samples = checked_samples(samples)
        started = perf_counter()
        frames = self._features.push(samples)
        framed = perf_counter()
        logits = self._stream.push(frames)
        self._samples += len(samples)
        self._timings += Timings(framed - started, perf_counter() - framed)
        return self._decode(logits)

    def partial(self) -> Transcript:
        """The open segment's text as it stands; what comes can change it."""
        return self._transcript(self._search.partial(), self._samples / self._rate_hz)

    def finish(self) -> list[Transcript]:
        """End the stream. Returns the segments that end with it; the last one is there even if nothing was said."""
        started = perf_counter()
        logits = self._stream.finish()
        self._timings += Timings(model_s=perf_counter() - started)
        return [*self._decode(logits), self._end_segment(self._samples / self._rate_hz)]

    def copy(self) -> LiveTranscription:
        """A stream that goes on from here by itself. The decoder's search is copied, not done again."""
        return self._restored(
            self._bundle, self._engine, self._decoder, self._frame_s, self.state(), self._search.copy()
        )

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `Recognizer.resume` needs, as arrays by name, for `numpy.savez` say.

        Raises:
            InputError: the stream was finished.
        """
        return {
            "counts": np.array([self._samples, self._first_frame, self._frames], np.int64),
            "endpoint_s": np.array(self._endpoint_s or 0, np.float64),
            "waveform": self._features.pending.copy(),
            "log_probs": self._search.frames(),
            **{f"model.{name}": array for name, array in self._stream.state().items()},
        }

    @classmethod
    def from_state(
        cls, bundle: Bundle, engine: Engine, decoder: Decoder, frame_s: float, state: Mapping[str, np.ndarray]
    ) -> Self:
        """As `Recognizer.resume`. The search goes over all frames of the open segment again."""
        return cls._restored(bundle, engine, decoder, frame_s, state)

    @classmethod
    def _restored(
        cls,
        bundle: Bundle,
        engine: Engine,
        decoder: Decoder,
        frame_s: float,
        state: Mapping[str, np.ndarray],
        search: Search | None = None,
    ) -> Self:
        missing = {"counts", "endpoint_s", "waveform", "log_probs"} - set(state)
        if missing:
            raise InputError(f"stream state lacks {', '.join(sorted(missing))}; give what state() returned")
        stream = engine.resume({name[6:]: array for name, array in state.items() if name.startswith("model.")})
        live = cls(bundle, engine, decoder, frame_s, stream, float(state["endpoint_s"]) or None)
        live._samples, live._first_frame, live._frames = map(int, state["counts"])
        live._features = StreamingLogMel(bundle.features, checked_samples(state["waveform"]))
        if search is None:
            live._search.push(np.asarray(state["log_probs"], np.float32))
        else:
            live._search = search
        return live

    @property
    def _rate_hz(self) -> int:
        return self._bundle.features.sample_rate_hz

    def _decode(self, logits: Array) -> list[Transcript]:
        """Give frames to the decoder, beginning a new segment wherever one ends."""
        started = perf_counter()
        log_probs = log_softmax(logits)
        ended = []
        while (end := self._endpoint(log_probs)) is not None:
            self._search.push(log_probs[:end])
            self._frames += end
            log_probs = log_probs[end:]
            self._timings += Timings(decode_s=perf_counter() - started)
            segment = self._end_segment(self._frames * self._frame_s)
            if segment.text:
                ended.append(segment)
            started = perf_counter()
        self._search.push(log_probs)
        self._frames += len(log_probs)
        self._timings += Timings(decode_s=perf_counter() - started)
        return ended

    def _endpoint(self, log_probs: Array) -> int | None:
        """How many of these frames belong to the open segment, if it ends in them."""
        if self._endpoint_s is None or not len(log_probs):
            return None
        needed = max(1, round(self._endpoint_s / self._frame_s))
        seen = self._search.frames()
        silent = np.concatenate([seen, log_probs]).argmax(axis=1) == 0
        places = np.arange(len(silent))
        # Frames since the last one that was not silent, or since the segment began.
        quiet = places - np.maximum.accumulate(np.where(silent, -1, places))
        ends = np.flatnonzero(quiet >= needed)
        return int(ends[0]) + 1 - len(seen) if len(ends) else None

    def _end_segment(self, end_s: float) -> Transcript:
        started = perf_counter()
        hypothesis = self._search.finish()
        self._timings += Timings(decode_s=perf_counter() - started)
        transcript = self._transcript(hypothesis, end_s)
        self._search = self._decoder.start(self._frame_s)
        self._first_frame, self._timings = self._frames, Timings()
        return transcript

    def _transcript(self, hypothesis: Hypothesis, end_s: float) -> Transcript:
        start_s = self._first_frame * self._frame_s
        words = tuple(Word(word.text, word.start_s + start_s, word.end_s + start_s) for word in hypothesis.words)
        return Transcript(hypothesis.text, words, max(0.0, end_s - start_s), start_s, self._timings)
