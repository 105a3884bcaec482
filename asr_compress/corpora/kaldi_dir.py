"""Kaldi data directories: `wav.scp`, `text`, `utt2spk`, one directory a split.

Audio paths may be absolute, or relative to the corpus folder that holds the directories, to the directory
itself, or to where the command runs, tried in that order.
"""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet

from asr_compress.corpora.text_files import read_table, require_folder
from asr_compress.corpora.utterances import Problem, Utterance, to_cuts
from asr_compress.runtime.errors import InputError


def read_kaldi(
    folder: str | Path,
    *,
    splits: list[str] | None = None,
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> dict[str, CutSet]:
    """Read one data directory, or every data directory in a corpus folder (or in its `data/`).

    Raises:
        InputError: no data directory; a split that is not there; pipes or segments, which are not read;
            duplicate ids; an utterance without a speaker.
    """
    found = _data_directories(require_folder(folder))
    for name in splits or []:
        if name not in found:
            raise InputError(f"{folder}: no split {name!r}; there are {', '.join(sorted(found))}")
    return {name: to_cuts(name, _utterances(found[name]), normalize, problems) for name in splits or sorted(found)}


def _data_directories(folder: Path) -> dict[str, Path]:
    if (folder / "wav.scp").is_file():
        return {folder.absolute().name: folder}
    places = sorted(folder.glob("*/wav.scp")) or sorted(folder.glob("data/*/wav.scp"))
    if not places:
        raise InputError(f"{folder}: no Kaldi data directory; wav.scp is expected in it or one folder below")
    return {place.parent.name: place.parent for place in places}


def _utterances(directory: Path) -> list[Utterance]:
    if (directory / "segments").exists():
        raise InputError(f"{directory / 'segments'}: segments are not read; cut the audio into one file an utterance")
    audio = read_table(directory / "wav.scp")
    texts = read_table(directory / "text")
    speakers = read_table(directory / "utt2spk")
    utterances = []
    for name in audio.keys() | texts.keys():
        # A transcript whose recording is not listed is a failed file, and so points to where it is not.
        listed, where = audio.get(name, (f"{name}.not-in-wav.scp", texts.get(name, ("", ""))[1]))
        if name not in speakers or not speakers[name][0]:
            raise InputError(f"{directory / 'utt2spk'}: no speaker for utterance {name!r} of {where}")
        if listed.endswith("|"):
            raise InputError(f"{where}: a command is not an audio path; run it once and list the files it makes")
        text, source = texts.get(name, (None, where))
        utterances.append(Utterance(name, _locate(listed, directory), text, speakers[name][0], source))
    return utterances


def _locate(listed: str, directory: Path) -> Path:
    path = Path(listed)
    if path.is_absolute():
        return path
    places = [directory.absolute().parent / path, directory / path, path]
    return next((place for place in places if place.is_file()), places[0])
