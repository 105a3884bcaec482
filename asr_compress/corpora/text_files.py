"""Reading the text files of a corpus, with errors that name the file and the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asr_compress.runtime.errors import InputError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file (a byte-order mark is dropped), without line ends.

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_table(path: Path) -> dict[str, tuple[str, str]]:
    """A Kaldi-style file of ``key rest of the line``: key -> (rest, 'file:line').

    Raises:
        InputError: the file cannot be read; a key is there twice.
    """
    table: dict[str, tuple[str, str]] = {}
    for number, key, rest in _keyed(path):
        where = f"{path}:{number}"
        if key in table:
            raise InputError(f"{where}: {key!r} is there twice (also {table[key][1]}); keys must be unique")
        table[key] = (rest, where)
    return table


def _keyed(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            key, _, rest = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
            yield number, key, rest.strip()


def require_folder(path: str | Path) -> Path:
    """The path, if it is a folder that can be listed.

    Raises:
        InputError: it is not.
    """
    folder = Path(path)
    try:
        if folder.is_dir():
            next(folder.iterdir(), None)
            return folder
    except OSError as error:
        raise InputError(f"{folder}: folder cannot be read ({error.strerror})") from None
    raise InputError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
