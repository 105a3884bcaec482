"""LibriSpeech in its own layout: `<split>/<speaker>/<chapter>/*.trans.txt` beside the audio.

Panayotov, Chen, Povey, Khudanpur: "Librispeech: an ASR corpus based on public domain
audio books", ICASSP 2015.
"""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet

from asr_compress.corpora.download import ARCHIVES, download_librispeech
from asr_compress.corpora.text_files import read_table, require_folder
from asr_compress.corpora.utterances import AUDIO_SUFFIXES, Problem, Utterance, to_cuts
from asr_compress.runtime.errors import InputError

MINI = ("train-clean-5", "dev-clean-2")
"""The splits of Mini LibriSpeech (openslr.org/31)."""


def read_librispeech(
    folder: str | Path,
    *,
    download: bool = False,
    splits: list[str] | None = None,
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> dict[str, CutSet]:
    """Read the splits found in a folder, or those named; 'mini' stands for the two of Mini LibriSpeech.

    Audio is FLAC as published, or any other format that soundfile reads, under the same names.

    Args:
        folder: the folder of splits, or the one that holds `LibriSpeech/`.
        download: fetch the splits named that are not in `folder`/LibriSpeech.

    Raises:
        InputError: downloading fails; no split; a split that is not there; duplicate ids.
    """
    names = [part for name in splits or [] for part in (MINI if name == "mini" else (name,))]
    if download:
        if not names:
            raise InputError(f"download: name the splits, 'mini' or of {', '.join(ARCHIVES)}")
        download_librispeech(folder, names)
    root = require_folder(folder)
    if (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    found = [place for place in sorted(root.iterdir()) if place.is_dir() and any(place.glob("*/*/*.trans.txt"))]
    if not found:
        raise InputError(f"{root}: no LibriSpeech split; <split>/<speaker>/<chapter>/*.trans.txt is expected")
    for name in names:
        if root / name not in found:
            raise InputError(f"{root}: no split {name!r}; there are {', '.join(place.name for place in found)}")
    return {
        name: to_cuts(name, _utterances(root / name), normalize, problems)
        for name in names or [place.name for place in found]
    }


def _utterances(split: Path) -> list[Utterance]:
    utterances = []
    for transcripts in sorted(split.glob("*/*/*.trans.txt")):
        chapter = transcripts.parent
        audio = {path.stem: path for path in sorted(chapter.iterdir(), reverse=True) if path.suffix in AUDIO_SUFFIXES}
        texts = read_table(transcripts)
        for name in audio.keys() | texts.keys():
            text, where = texts.get(name, (None, str(transcripts)))
            path = audio.get(name, chapter / f"{name}.flac")
            utterances.append(Utterance(name, path, text, chapter.parent.name, where))
    return utterances
