"""Waveforms to text with the time of each stage: the thing that is timed, and the text that is scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from asr_compress.evaluation.backends import BACKENDS, Model
from asr_compress.evaluation.stopwatch import Stopwatch, stopwatch
from asr_compress.evaluation.variants import Variant
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.decoding import Decoder, GreedyDecoder, log_softmax
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import log_mel
from asr_compress.runtime.network import output_length, time_stride
from asr_compress.runtime.recognizer import make_decoder
from asr_compress.runtime.transcript import Timings

Scope = Literal["e2e", "features+model", "model"]
"""What a time covers: from a waveform in memory to text, to logits, or from features to logits."""

SCOPES: tuple[Scope, ...] = ("e2e", "features+model", "model")


def in_scope(times: Timings, scope: Scope) -> float:
    """Seconds of a scope."""
    if scope == "model":
        return times.model_s
    return times.features_s + times.model_s if scope == "features+model" else times.total_s


@dataclass(frozen=True)
class Recognized:
    """What came out of one call: texts, in order, and the times of the whole batch."""

    texts: tuple[str, ...]
    times: Timings


class Recognition:
    """A variant ready to run.

    Attributes:
        load_s: from the path of the bundle to here, the imports of the engine included.
    """

    def __init__(self, variant: Variant, watch: Stopwatch | None = None) -> None:
        """Load the bundle, the engine and the decoder.

        Raises:
            Unavailable: the engine cannot run this bundle here.
            InputError: the bundle is not readable, or a phone model is to be decoded without a lexicon.
        """
        start = time.perf_counter()
        self.variant = variant
        self.bundle = Bundle.load(variant.bundle)
        self.decoder = _decoder(variant, self.bundle)
        self.features = self._make_features()
        self.model: Model = BACKENDS[variant.backend].load(self.bundle, variant.device, variant.threads)
        self.watch = watch or stopwatch(variant.device)
        self.load_s = time.perf_counter() - start
        stride = int(np.prod([time_stride(layer) for layer in self.bundle.network], dtype=np.int64))
        self.frame_s = stride * self.bundle.features.shift / self.bundle.features.sample_rate_hz

    def _make_features(self) -> Callable[[Sequence[np.ndarray]], Sequence[Any]]:
        if self.variant.features == "torch":
            from asr_compress.evaluation.backends.torch_features import TorchFeatures

            return TorchFeatures(self.bundle.features, self.variant.device)
        return lambda batch: [log_mel(samples, self.bundle.features) for samples in batch]

    @property
    def sample_rate_hz(self) -> int:
        return self.bundle.features.sample_rate_hz

    def recognize(self, batch: Sequence[np.ndarray]) -> Recognized:
        """Recognize waveforms together.

        Args:
            batch: float32 (samples,) each, at `sample_rate_hz`. One shorter than a frame gives "".
        """
        watch = self.watch
        marks = [watch.mark()]
        features = self.features(batch)
        marks.append(watch.mark())
        logits = self.logits(features)
        marks.append(watch.mark())
        texts = tuple(self.decode(frames) for frames in logits)
        marks.append(watch.mark())
        seconds = [watch.seconds(start, end) for start, end in pairwise(marks)]
        return Recognized(texts, Timings(*seconds))

    def logits(self, features: Sequence[Any]) -> list[np.ndarray]:
        """Logits of utterances of (frames, bins); none for an utterance without frames."""
        heard = [x for x in features if len(x)]
        found = iter(self.model.run(heard) if heard else [])
        nothing = np.empty((0, len(self.bundle.tokens)), np.float32)
        return [next(found) if len(x) else nothing for x in features]

    def decode(self, logits: np.ndarray) -> str:
        """Text of one utterance's logits (frames', tokens)."""
        return self.decoder.decode(log_softmax(logits), self.frame_s).text if len(logits) else ""

    def output_frames(self, samples: int) -> int:
        """Frames of logits that so many samples give."""
        return output_length(self.bundle.network, self.bundle.features.frames(samples))


def _decoder(variant: Variant, bundle: Bundle) -> Decoder:
    """The decoder that a variant asks for.

    Raises:
        InputError: a beam search without lexicon and language model; phones, which score no words.
    """
    if variant.decoder == "beam" and variant.lm is None and bundle.lexicon is None:
        raise InputError(f"{variant.bundle}: beam search needs a lexicon in the bundle or a language model; give an lm")
    decoder = GreedyDecoder(bundle.tokens) if variant.decoder == "greedy" else make_decoder(bundle, variant.lm)
    if bundle.tokens.kind == "phone" and bundle.lexicon is None:
        raise InputError(f"{variant.bundle}: a model of phones without a lexicon gives no words to score")
    if bundle.tokens.kind == "phone" and variant.decoder == "greedy":
        raise InputError(f"{variant.bundle}: a model of phones gives no words by greedy decoding; use decoder 'auto'")
    return decoder
