"""From what a corpus reader finds, a list of utterances, to a lhotse CutSet.

One `MonoCut` an utterance, with one supervision (normalized text, speaker) and an absolute path to the audio.
Nothing is dropped silently: every utterance that is not usable becomes a `Problem` that names the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from asr_compress.corpora.normalize import normalizer
from asr_compress.runtime.errors import InputError

BROKEN = "broken"
"""Custom field of a cut whose audio cannot be read; its value says why."""

AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """One line of a corpus as its reader found it.

    Attributes:
        id: unique within its split.
        audio: where the recording should be; it need not exist.
        text: transcript before normalization; None if there is none.
        speaker: speaker id.
        source: file (and line) that told of it, for messages.
        custom: more to travel with the cut.
    """

    id: str
    audio: Path
    text: str | None
    speaker: str
    source: str
    custom: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """An utterance that is not as it should be, and what was done with it."""

    split: str
    utterance: str
    message: str
    kept: bool

    def __str__(self) -> str:
        fate = "kept, counts as a failed file" if self.kept else "left out"
        return f"{self.split}/{self.utterance}: {self.message} ({fate})"


def is_training(split: str) -> bool:
    """Whether the split is for training: its name begins with 'train' (`train`, `train-clean-100`)."""
    return split.startswith("train")


def is_broken(cut: MonoCut) -> bool:
    """Whether the cut's audio could not be read when its manifest was made."""
    return bool(cut.custom and BROKEN in cut.custom)


def to_cuts(
    split: str,
    utterances: Iterable[Utterance],
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> CutSet:
    """Build the cuts of one split, in order of id.

    Unreadable audio is left out of a training split. Elsewhere it is kept, marked with the custom field
    `broken`, one sample long, so that an evaluation counts its words as deletions. An utterance with no
    transcript, or with one that the normalizer refuses, is left out: there is nothing to score it by.

    Args:
        normalize: name of a normalizer.
        problems: what is wrong is appended here; without it, it is logged.

    Raises:
        InputError: two utterances with one id; no usable utterance at all.
    """
    function = normalizer(normalize)
    found: list[Problem] = []
    cuts = []
    ordered = sorted(utterances, key=lambda utterance: utterance.id)
    for before, utterance in zip([None, *ordered], ordered, strict=False):
        if before is not None and before.id == utterance.id:
            raise InputError(
                f"{utterance.source}: utterance id {utterance.id!r} is there twice (also {before.source}); "
                "ids must be unique"
            )
        if utterance.text is None:
            found.append(Problem(split, utterance.id, f"{utterance.source}: no transcript", kept=False))
            continue
        try:
            text = function(utterance.text)
        except InputError as error:
            found.append(Problem(split, utterance.id, f"{utterance.source}: {error}", kept=False))
            continue
        if not text:
            found.append(Problem(split, utterance.id, f"{utterance.source}: empty transcript", kept=False))
            continue
        recording, fault = _recording(utterance)
        if fault:
            found.append(Problem(split, utterance.id, fault, kept=not is_training(split)))
            if is_training(split):
                continue
        cuts.append(_cut(utterance, recording, text, normalize, fault))
    if not cuts:
        first = f"; the first problem: {found[0]}" if found else ""
        raise InputError(f"split {split!r}: no usable utterance among {len(ordered)}{first}")
    if problems is None:
        for problem in found:
            _log.warning("%s", problem)
    else:
        problems.extend(found)
    return CutSet.from_cuts(cuts)


def _recording(utterance: Utterance) -> tuple[Recording, str]:
    """The recording by its header, and what is wrong with it ('' when nothing is)."""
    path = utterance.audio.absolute()
    rate_hz, samples, channels, fault = 16000, 1, 1, ""
    try:
        header = soundfile.info(path)
        rate_hz, channels = header.samplerate, header.channels
        if header.frames > 0:
            samples = header.frames
        else:
            fault = f"{path}: no samples"
    except (RuntimeError, OSError, ValueError) as error:  # soundfile raises all three
        reason = "not a readable audio file" if path.is_file() else "no such file"
        fault = f"{path}: {reason} ({' '.join(str(error).split())})" if path.is_file() else f"{path}: {reason}"
    source = AudioSource(type="file", channels=list(range(channels)), source=str(path))
    return Recording(utterance.id, [source], rate_hz, samples, samples / rate_hz), fault


def _cut(utterance: Utterance, recording: Recording, text: str, normalize: str, fault: str) -> MonoCut:
    custom = {**utterance.custom, "normalizer": normalize}
    if fault:
        custom[BROKEN] = fault
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        text=text,
        speaker=utterance.speaker,
    )
    return MonoCut(
        id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        supervisions=[supervision],
        recording=recording,
        custom=custom,
    )
