"""The utterances that a run recognizes: their texts, speakers and audio, and a fingerprint of the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse import MonoCut

from asr_compress.corpora.manifests import SUFFIX, read_manifest
from asr_compress.corpora.utterances import BROKEN
from asr_compress.runtime.audio import load_audio, resample
from asr_compress.runtime.errors import InputError

TAKES = "takes"
"""Custom field of a cut: ids of the takes its words were joined from, one a word."""


@dataclass(frozen=True)
class Reference:
    """What is known of an utterance before it is recognized. A failed file has its reason in `broken`."""

    id: str
    speaker: str
    duration_s: float
    text: str
    takes: tuple[str, ...] = ()
    broken: str | None = None


@dataclass(frozen=True)
class TestSet:
    """A test set.

    Attributes:
        name: the manifest's, for people.
        normalizer: name of the normalizer of the texts.
        references: in the order in which they are recognized: shuffled, always alike, so that a part is like the whole
            and the time that is left can be told.
    """

    __test__ = False  # pytest takes it for a test by its name

    name: str
    normalizer: str
    references: tuple[Reference, ...]
    cuts: dict[str, MonoCut]

    @property
    def audio_s(self) -> float:
        """Audio that can be read."""
        return sum(reference.duration_s for reference in self.references if reference.broken is None)

    @property
    def fingerprint(self) -> str:
        """Equal for two test sets exactly if their utterances, texts and durations are."""
        items = sorted((r.id, r.speaker, r.text, round(r.duration_s, 3)) for r in self.references)
        return hashlib.sha256(json.dumps(items, ensure_ascii=False).encode()).hexdigest()[:16]

    def read(self, references: Iterable[Reference], sample_rate_hz: int) -> dict[str, np.ndarray | str]:
        """Audio by utterance id: samples, or why they could not be read. Several files at once."""
        wanted = list(references)

        def attempt(reference: Reference) -> np.ndarray | str:
            if reference.broken is not None:
                return reference.broken
            try:
                return _read(self.cuts[reference.id], sample_rate_hz)
            except InputError as error:
                return str(error)

        with ThreadPoolExecutor() as pool:  # decoders release the interpreter's lock
            return dict(zip((r.id for r in wanted), pool.map(attempt, wanted), strict=True))


def load_test_set(manifest: str | Path, limit: int | None = None) -> TestSet:
    """Read a manifest.

    Args:
        limit: take only so many utterances, the first ones of the shuffled order.

    Raises:
        InputError: not a manifest, or texts of several normalizers.
    """
    path = Path(manifest)
    cuts = {cut.id: cut for cut in read_manifest(path)}
    normalizers = {str((cut.custom or {}).get("normalizer", "spaces")) for cut in cuts.values()}
    if len(normalizers) > 1:
        raise InputError(
            f"{path}: texts were normalized by {' and '.join(sorted(normalizers))}; a test set needs one normalizer"
        )
    ids = sorted(cuts)
    np.random.default_rng(0).shuffle(ids)
    kept = ids[:limit]
    references = tuple(_reference(cuts[id]) for id in kept)
    return TestSet(path.name.removesuffix(SUFFIX), normalizers.pop(), references, {id: cuts[id] for id in kept})


def batches(references: Sequence[Reference], size: int) -> list[list[Reference]]:
    """Utterances in batches of like length."""
    ordered = sorted(references, key=lambda reference: reference.duration_s) if size > 1 else references
    return [list(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def _reference(cut: MonoCut) -> Reference:
    supervision, custom = cut.supervisions[0], cut.custom or {}
    text = supervision.text or ""
    takes = tuple(custom.get(TAKES, ()))
    if takes and len(takes) != len(text.split()):
        raise InputError(f"cut {cut.id!r}: {len(takes)} takes for {len(text.split())} words; there must be one a word")
    return Reference(cut.id, str(supervision.speaker), cut.duration, text, takes, custom.get(BROKEN))


def _read(cut: MonoCut, sample_rate_hz: int) -> np.ndarray:
    recording = cut.recording
    assert recording is not None
    whole = cut.start == 0 and abs(cut.duration - recording.duration) < 1e-3
    if whole and recording.transforms is None and [source.type for source in recording.sources] == ["file"]:
        return load_audio(recording.sources[0].source, sample_rate_hz)  # as `transcribe` reads it
    try:
        samples = cut.load_audio()[0]
    except Exception as error:  # lhotse's readers raise what they like
        raise InputError(f"{cut.id}: audio cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not np.isfinite(samples).all():
        raise InputError(f"{cut.id}: has samples that are NaN or infinite; write the file again from its source")
    return resample(np.asarray(samples, np.float32), cut.sampling_rate, sample_rate_hz)
