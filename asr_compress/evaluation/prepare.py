"""From variants to recognizers ready to be timed: loaded, warmed up, and compared before anything is timed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asr_compress.evaluation import cost
from asr_compress.evaluation.backends import BACKENDS, Unavailable
from asr_compress.evaluation.memory import footprint
from asr_compress.evaluation.recognition import Recognition
from asr_compress.evaluation.variants import Variant, file_sha256
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import log_mel
from asr_compress.runtime.network import walk

# As a share of the largest logit. A recurrence amplifies rounding over a thousand steps; a wrong graph is far off.
_LARGEST_DIFFERENCE = 0.02
# Kinds of formats that meet activations as floats: an engine that knows only their dense weights computes the same.
_OF_FLOATS = {"float32", "float16", "low_rank", "int4_float", "codebook", "sparse_float", "block_sparse_float32"}


@dataclass(frozen=True)
class Agreement:
    """What a variant says beside others, before it is timed.

    Attributes:
        texts: utterances tried.
        same_text: on how many it says what the first variant says.
        logit_difference: largest difference to the numpy reference of the same bundle, as a share of the largest
            logit, on one utterance; None where that was not looked at.
    """

    texts: int
    same_text: int
    logit_difference: float | None


def describe(variant: Variant) -> dict[str, Any]:
    """What a variant is and costs: the fields of its record that need no engine."""
    bundle = Bundle.load(variant.bundle)
    return {
        "variant": variant.to_json(),
        "sha256": file_sha256(variant.bundle),
        "cost": cost.measure(bundle, variant.bundle.stat().st_size).to_json(),
        "model": bundle.model,
        "history": bundle.history,
    }


def measured_footprint(variant: Variant, samples: np.ndarray) -> dict[str, Any]:
    """Memory and loading time of a fresh process, or why there is none."""
    try:
        return footprint(variant, samples).to_json()
    except InputError as error:
        return {"unavailable": str(error)}


@dataclass(frozen=True)
class Prepared:
    """A variant before the run.

    Attributes:
        record: fields of its line in the results.
        recognition: None where it is unavailable; then the record says why.
        rtf: rough real-time factor, to tell how long the run will take.
    """

    record: dict[str, Any]
    recognition: Recognition | None = None
    rtf: float = 0.0


def warm_up(recognition: Recognition, samples: Sequence[np.ndarray]) -> tuple[list[str | None], float]:
    """Recognize until caches, buffers and lazily compiled kernels are in place.

    Returns:
        texts (None where it failed), and the real-time factor of the last success.

    Raises:
        Unavailable: it fails on every one.
    """
    texts: list[str | None] = []
    rtf, reason = float("nan"), ""
    for waveform in samples:
        try:
            result = recognition.recognize([waveform])
        except Exception as error:  # counted as deletions in the run; here only not to end it
            texts.append(None)
            reason = f"{type(error).__name__}: {error}"
            continue
        texts.append(result.texts[0])
        rtf = result.times.total_s * recognition.sample_rate_hz / max(1, len(waveform))
    if all(text is None for text in texts):
        raise Unavailable(f"it fails on every utterance tried ({reason})")
    return texts, rtf


def agreement(
    recognition: Recognition, texts: Sequence[str | None], first: Sequence[str | None], samples: np.ndarray
) -> Agreement:
    """Compare a warmed-up variant with the first one's texts, and its logits with the reference's.

    Raises:
        Unavailable: an engine that should give the reference's logits does not, so its time would mean nothing.
    """
    variant, bundle = recognition.variant, recognition.bundle
    kinds = {map_.kind for _, map_ in walk(bundle.network)}
    backend = BACKENDS[variant.backend]
    features = log_mel(samples, bundle.features)
    difference = None
    if backend.timed and len(features):
        wanted = Engine(bundle.network, "reference").run(features)
        given = recognition.logits([features])[0]
        difference = float(np.abs(given - wanted).max() / max(float(np.abs(wanted).max()), 1e-9))
        # The reference quantizes activations for integer weights, which engines that run them as floats do not.
        same_numbers = backend.exact and (backend.runs is None or kinds <= _OF_FLOATS)
        if same_numbers and not difference <= _LARGEST_DIFFERENCE:
            raise Unavailable(
                f"its logits differ from the reference's by {difference:.2g} of the largest: not timed, please report"
            )
    same = sum(ours == theirs for ours, theirs in zip(texts, first, strict=True))
    return Agreement(len(texts), same, difference)


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection in here: its pauses are not the variant's."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def prepare(
    variants: Sequence[Variant],
    samples: Callable[[int], Sequence[np.ndarray]],
    footprints: bool,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Prepared]:
    """Load, warm up and compare all variants.

    Args:
        samples: sample rate -> the utterances to warm up with, the longest last; at least one.
        footprints: measure memory and loading in fresh processes.
        tell: called with what is being done.

    Returns:
        for each variant's key, what there is of it.
    """
    prepared: dict[str, Prepared] = {}
    first_texts: list[str | None] | None = None
    for variant in variants:
        tell(f"preparing {variant.key}")
        record: dict[str, Any] = {"kind": "variant", "key": variant.key, **describe(variant)}
        try:
            recognition = Recognition(variant)
            waveforms = samples(recognition.sample_rate_hz)
            texts, rtf = warm_up(recognition, waveforms)
            first_texts = first_texts or texts
            spoken = next(waveform for waveform, text in zip(waveforms, texts, strict=True) if text is not None)
            record["agreement"] = asdict(agreement(recognition, texts, first_texts, spoken))
        except Unavailable as reason:
            prepared[variant.key] = Prepared({**record, "unavailable": str(reason)})
            continue
        if footprints:
            record["footprint"] = measured_footprint(variant, waveforms[-1])
        prepared[variant.key] = Prepared(record, recognition, rtf)
    return prepared
