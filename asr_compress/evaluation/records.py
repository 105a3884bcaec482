"""The results file: JSON lines that any number of runs, on any number of machines, append to.

A run writes, in this order, lines of these kinds:

    run        what was asked, on what test set, where: schema, id, key, mode, settings, test_set, environment
    reference  an utterance: id, speaker, duration_s, text, takes, broken
    variant    a recognizer: variant (name, backend ...), cost, footprint, agreement, history, or unavailable: why
    timed      one utterance recognized once: variant, round, id, text, features_s, model_s, decode_s, failed
    throughput one sweep over all utterances: variant, order, round, audio_s, seconds, padding
    stream     one utterance streamed once: variant, id, text, chunk_s, chunks_s, finish_s
    done       the run is complete: wall_s, timed_s, read_s

Every line has `kind` and `run`, the id of its run. Lines are only ever appended, so a run that was interrupted is gone
on with where it stopped; a last line that was cut off is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asr_compress.runtime.errors import InputError

SCHEMA = "asr_compress.results/1"
KINDS = ("run", "reference", "variant", "timed", "throughput", "stream", "done")


class Journal:
    """Appends lines of one run to a results file."""

    def __init__(self, path: Path, run: str) -> None:
        """Open for appending; a line that was cut off at the end is closed first.

        Raises:
            InputError: the file cannot be written.
        """
        self.path, self.run = path, run
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _close_last_line(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another results file") from None

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines and see them on disk: what was measured for minutes must not be lost."""
        text = "".join(json.dumps({**line, "run": self.run}, ensure_ascii=False) + "\n" for line in lines)
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a results file.

    Raises:
        InputError: no such file, or a line that is no record (the last one may be cut off).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such results file; make one with `asr-compress evaluate`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a results file ({error})") from None
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                return  # cut off while it was written
            raise InputError(f"{path}:{number}: not JSON; a results file has one record a line") from None
        if not isinstance(record, dict) or record.get("kind") not in KINDS or "run" not in record:
            raise InputError(f"{path}:{number}: not a results record; `kind` must be one of {', '.join(KINDS)}")
        yield record


def _close_last_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        # Drop the broken line: a newline behind it would leave a broken line in the middle.
        file.seek(0)
        kept = file.read().rpartition(b"\n")
        file.truncate(len(kept[0]) + len(kept[1]))
