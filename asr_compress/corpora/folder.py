"""A folder of audio with transcripts in TSV, CSV or JSON Lines: the shape of most people's own speech.

Each table is a split: one table alone is the split `all`, several are named by their files (`train.tsv`,
`test.tsv`). A table has a header with columns called as below, or, TSV and CSV only, no header and two or
three columns: id or path, text, speaker. Audio is looked for beside the table and in `audio/`, `clips/`
and `wavs/`, with or without its suffix.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from lhotse import CutSet

from asr_compress.corpora.text_files import read_lines, require_folder
from asr_compress.corpora.utterances import AUDIO_SUFFIXES, Problem, Utterance, to_cuts
from asr_compress.runtime.errors import InputError

AUDIO_COLUMNS = ("audio", "path", "file", "audio_filepath", "file_name", "id")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
AUDIO_FOLDERS = ("", "audio", "clips", "wavs")

_SUFFIXES = (".tsv", ".csv", ".jsonl")
_Row = tuple[str, dict[str, str]]  # (file:line, column -> value)


def read_folder(
    folder: str | Path,
    *,
    splits: list[str] | None = None,
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> dict[str, CutSet]:
    """Read every table of transcripts in a folder, one split a table.

    Where a table has no speaker column, all its utterances have one speaker, called after the folder.

    Raises:
        InputError: no table; a split that is not there; columns that are not understood; duplicate ids.
    """
    root = require_folder(folder)
    tables = [path for path in sorted(root.iterdir()) if path.suffix in _SUFFIXES]
    if not tables:
        raise InputError(f"{root}: no table of transcripts; a .tsv, .csv or .jsonl is expected in it")
    by_split = {path.stem: path for path in tables}
    if len(by_split) < len(tables):
        raise InputError(f"{root}: two tables have one name; there are {', '.join(path.name for path in tables)}")
    if len(tables) == 1 and not splits:
        by_split = {"all": tables[0]}
    for name in splits or []:
        if name not in by_split:
            raise InputError(f"{root}: no split {name!r}; there are {', '.join(by_split)}")
    return {name: to_cuts(name, _utterances(by_split[name]), normalize, problems) for name in splits or by_split}


def _utterances(table: Path) -> list[Utterance]:
    rows = _json_rows(table) if table.suffix == ".jsonl" else _delimited_rows(table)
    utterances = []
    for where, row in rows:
        listed = _column(row, AUDIO_COLUMNS)
        if not listed:
            raise InputError(f"{where}: no audio; one of the columns {', '.join(AUDIO_COLUMNS)} is needed")
        name = row.get("id") or Path(listed).name
        for suffix in AUDIO_SUFFIXES:
            name = name.removesuffix(suffix)
        speaker = _column(row, SPEAKER_COLUMNS) or table.absolute().parent.name
        utterances.append(Utterance(name, _locate(listed, table.parent), _column(row, TEXT_COLUMNS), speaker, where))
    return utterances


def _column(row: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((row[name] for name in names if row.get(name)), None)


def _delimited_rows(table: Path) -> Iterator[_Row]:
    lines = read_lines(table)
    # In TSV a quotation mark is a character of the text; in CSV it quotes.
    reader = (
        csv.reader(lines, "excel") if table.suffix == ".csv" else csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE)
    )
    header: list[str] | None = None
    for values in reader:
        where = f"{table}:{reader.line_num}"
        if not any(value.strip() for value in values):
            continue
        if header is None:
            names = [value.strip().lower() for value in values]
            if set(names) & set(TEXT_COLUMNS) and set(names) & set(AUDIO_COLUMNS):
                header = names
                continue
            header = ["id", "text", "speaker"][: len(values)]
            if len(values) not in (2, 3):
                raise InputError(
                    f"{where}: {len(values)} columns and no header; two or three (id, text, speaker) are "
                    f"read without one, otherwise name a column of audio ({', '.join(AUDIO_COLUMNS)}) "
                    f"and one of text ({', '.join(TEXT_COLUMNS)})"
                )
        if len(values) != len(header):
            raise InputError(f"{where}: {len(values)} columns where {len(header)} are expected ({', '.join(header)})")
        yield where, dict(zip(header, (value.strip() for value in values), strict=True))


def _json_rows(table: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_lines(table), start=1):
        where = f"{table}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg}); one object a line is expected") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: {type(row).__name__} where an object is expected")
        yield where, {str(key): str(value) for key, value in row.items() if value is not None}


def _locate(listed: str, folder: Path) -> Path:
    places = [folder / place / f"{listed}{suffix}" for suffix in ("", *AUDIO_SUFFIXES) for place in AUDIO_FOLDERS]
    return next((place for place in places if place.is_file()), places[0])
