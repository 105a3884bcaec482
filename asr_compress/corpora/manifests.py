"""Manifests on disk: one `<split>.jsonl.gz` a split, a lhotse cut a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet, MonoCut
from lhotse.qa import validate_cut

from asr_compress.corpora.utterances import is_broken
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.files import atomic_write

SUFFIX = ".jsonl.gz"


@dataclass(frozen=True)
class Summary:
    """A split in numbers. `failed` utterances are in the manifest though their audio cannot be read."""

    split: str
    utterances: int
    speakers: int
    words: int
    hours: float
    failed: int


def summarize(split: str, cuts: CutSet) -> Summary:
    """Count a split."""
    items = list(cuts)
    return Summary(
        split=split,
        utterances=len(items),
        speakers=len({cut.supervisions[0].speaker for cut in items}),
        words=sum(len((cut.supervisions[0].text or "").split()) for cut in items),
        hours=sum(cut.duration for cut in items if not is_broken(cut)) / 3600,
        failed=sum(is_broken(cut) for cut in items),
    )


def write_manifests(splits: Mapping[str, CutSet], folder: str | Path, transcribed: bool = True) -> dict[str, Path]:
    """Write each split to `<folder>/<split>.jsonl.gz`, whole or not at all, and give back the paths.

    The same cuts give the same bytes.

    Args:
        transcribed: whether every cut must have text and speaker.

    Raises:
        InputError: a cut that is not valid.
        OSError: the folder cannot be written.
    """
    paths = {}
    for split, cuts in splits.items():
        path = Path(folder) / f"{split}{SUFFIX}"
        _check(cuts, path, transcribed)
        with (
            atomic_write(path) as temporary,
            temporary.open("wb") as raw,
            # No name and no time in the gzip header: they would make equal manifests differ.
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file,
        ):
            for cut in cuts:
                file.write((json.dumps(cut.to_dict(), ensure_ascii=False) + "\n").encode())
        paths[split] = path
    return paths


def read_manifest(path: str | Path, transcribed: bool = True) -> CutSet:
    """Read a manifest written by `write_manifests`, or any lhotse cut manifest of single utterances.

    Args:
        transcribed: whether every cut must have text and speaker; a teacher needs neither.

    Raises:
        InputError: not a manifest; a cut that is not valid.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest; make it with `asr-compress prepare`") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable {SUFFIX} manifest ({error})") from None
    cuts = []
    for number, line in enumerate(lines, start=1):
        try:
            cuts.append(MonoCut.from_dict(_untyped(json.loads(line))))
        except (KeyError, TypeError, AttributeError, AssertionError, ValueError) as error:
            raise InputError(f"{path}:{number}: not a lhotse MonoCut ({error})") from None
    result = CutSet.from_cuts(cuts)
    _check(result, path, transcribed)
    return result


def _untyped(line: object) -> dict:
    if not isinstance(line, dict) or line.pop("type", "MonoCut") != "MonoCut":
        raise ValueError("one utterance, one cut is expected")
    return line


def _check(cuts: CutSet, path: Path, transcribed: bool) -> None:
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise InputError(f"{path}: cut id {cut.id!r} is there twice; ids must be unique")
        seen.add(cut.id)
        if len(cut.supervisions) != 1:
            raise InputError(f"{path}: cut {cut.id!r} has {len(cut.supervisions)} supervisions; it must have one")
        if transcribed and not (cut.supervisions[0].text and cut.supervisions[0].speaker):
            raise InputError(f"{path}: cut {cut.id!r} must have one supervision with text and speaker")
        if cut.recording is None:
            raise InputError(f"{path}: cut {cut.id!r} has no recording")
        if cut.end > cut.recording.duration + 1e-3:
            raise InputError(f"{path}: cut {cut.id!r} ends at {cut.end} s, after its recording")
        try:
            validate_cut(cut)
        except AssertionError as error:
            raise InputError(f"{path}: cut {cut.id!r} is not valid ({error})") from None
    if not seen:
        raise InputError(f"{path}: a manifest without cuts")
