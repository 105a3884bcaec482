"""Connected digits from the Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset).

Its recordings, `<digit>_<speaker>_<n>` of one digit each at 8 kHz, are joined into strings of one to seven digits of
one speaker, with faint noise of random length before, between and after. The unit of the test is the recording, a
"take": each take of the dev and test splits stands in exactly one string, and the ids of a string's takes travel
with its cut (`custom["takes"]`), so that an interval can resample takes. Strings for training draw on their takes
several times.

The strings are written as FLAC files once, rather than joined at every reading, so that the manifest is one of
ordinary recordings to everything that reads it.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet

from asr_compress.corpora.text_files import require_folder
from asr_compress.corpora.utterances import AUDIO_SUFFIXES, Problem, Utterance, to_cuts
from asr_compress.runtime.errors import InputError

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
LONGEST_STRING = 7
TEST_TAKES = range(5)  # n of the test takes, as the data set's authors say
DEV_TAKES = range(5, 10)

_NAME = re.compile(r"(\d)_([^_]+)_(\d+)")
_EDGE_S = (0.15, 0.4)
_PAUSE_S = (0.05, 0.4)
_NOISE = 1e-3  # of full scale, root mean square; digital silence would mark every joint


@dataclass(frozen=True)
class _Take:
    digit: int
    speaker: str
    number: int
    path: Path


def read_fsdd(
    folder: str | Path,
    *,
    audio_dir: str | Path | None = None,
    leave_out: str | None = None,
    passes: int = 4,
    seed: int = 0,
    splits: list[str] | None = None,
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> dict[str, CutSet]:
    """Make the splits `train`, `dev` and `test` of digit strings.

    Held-out takes (the default): test has takes 0-4 of every digit and speaker, dev 5-9, training the others.
    Leave one speaker out: test has all takes of `leave_out`; dev has takes 5-9 and training the others of the
    remaining speakers.

    Args:
        folder: where `recordings/` is, or that folder itself.
        audio_dir: folder to write the strings to, a folder a split; one for each `leave_out`.
        passes: how many strings each training take is in.

    Raises:
        InputError: no recordings; a speaker that is not there; a recording that cannot be read.
    """
    if audio_dir is None:
        raise InputError("corpus 'fsdd': audio_dir, a folder to write the digit strings to, is needed")
    if passes < 1:
        raise InputError(f"corpus 'fsdd': passes={passes}: must be 1 or more")
    takes = _takes(require_folder(folder))
    speakers = sorted({take.speaker for take in takes})
    if leave_out is not None and leave_out not in speakers:
        raise InputError(f"{folder}: no speaker {leave_out!r} to leave out; there are {', '.join(speakers)}")
    parts = {name: [take for take in takes if _split(take, leave_out) == name] for name in ("train", "dev", "test")}
    for name in splits or []:
        if name not in parts:
            raise InputError(f"{folder}: no split {name!r}; there are {', '.join(parts)}")
    made = {}
    for name in splits or parts:
        if not parts[name]:
            raise InputError(f"{folder}: no takes for split {name!r}")
        randomness = random.Random(f"{seed} {name} {leave_out}")
        strings = [
            string
            for number in range(passes if name == "train" else 1)
            for string in _strings(parts[name], randomness, prefix=f"{name}{number}" if name == "train" else name)
        ]
        made[name] = to_cuts(name, _write(strings, Path(audio_dir) / name, seed), normalize, problems)
    return made


def _takes(folder: Path) -> list[_Take]:
    folder = folder / "recordings" if (folder / "recordings").is_dir() else folder
    takes = []
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.stem)
        if match and path.suffix in AUDIO_SUFFIXES:
            takes.append(_Take(int(match[1]), match[2], int(match[3]), path))
    if not takes:
        raise InputError(f"{folder}: no recordings called <digit>_<speaker>_<n>, such as 7_jackson_0.wav")
    return takes


def _split(take: _Take, leave_out: str | None) -> str:
    if leave_out is None:
        return "test" if take.number in TEST_TAKES else "dev" if take.number in DEV_TAKES else "train"
    if take.speaker == leave_out:
        return "test"
    return "dev" if take.number in DEV_TAKES else "train"


def _strings(takes: list[_Take], randomness: random.Random, prefix: str) -> list[tuple[str, list[_Take]]]:
    """Deal every take into one string: (string id, takes of one speaker in random order)."""
    by_speaker = defaultdict(list)
    for take in takes:
        by_speaker[take.speaker].append(take)
    strings: list[tuple[str, list[_Take]]] = []
    for speaker, own in sorted(by_speaker.items()):
        left = randomness.sample(own, len(own))
        while left:
            length = randomness.randint(1, LONGEST_STRING)
            strings.append((f"{prefix}-{speaker}-{len(strings):04d}", left[:length]))
            del left[:length]
    return strings


def _write(strings: list[tuple[str, list[_Take]]], folder: Path, seed: int) -> list[Utterance]:
    folder.mkdir(parents=True, exist_ok=True)
    recordings = {take.path: _read(take.path) for _, takes in strings for take in takes}
    utterances = []
    for name, takes in strings:
        path = folder / f"{name}.flac"
        samples, rate_hz = _join(
            [recordings[take.path] for take in takes], path, np.random.default_rng([seed, *name.encode()])
        )
        soundfile.write(path, samples, rate_hz)
        text = " ".join(WORDS[take.digit] for take in takes)
        ids = [f"{take.digit}_{take.speaker}_{take.number}" for take in takes]
        utterances.append(Utterance(name, path, text, takes[0].speaker, str(path), {"takes": ids}))
    return utterances


def _join(
    recordings: list[tuple[np.ndarray, int]], path: Path, randomness: np.random.Generator
) -> tuple[np.ndarray, int]:
    """(samples,) float32 of the recordings with gaps of faint noise around them, and their rate."""
    rate_hz = recordings[0][1]
    if any(rate != rate_hz for _, rate in recordings):
        raise InputError(f"{path}: the takes of one speaker have different sample rates")

    def gap(bounds_s: tuple[float, float]) -> np.ndarray:
        samples = round(randomness.uniform(*bounds_s) * rate_hz)
        return randomness.normal(0, _NOISE, samples).astype(np.float32)

    pieces = [gap(_EDGE_S)]
    for number, (samples, _) in enumerate(recordings):
        pieces += [gap(_PAUSE_S), samples] if number else [samples]
    return np.concatenate([*pieces, gap(_EDGE_S)]), rate_hz


def _read(path: Path) -> tuple[np.ndarray, int]:
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path}: not a readable audio file ({error}); fetch it again") from None
    if not len(samples):
        raise InputError(f"{path}: no samples; fetch it again")
    return samples.mean(axis=1), rate_hz
