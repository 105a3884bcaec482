"""Writing an n-gram model as an ARPA file, the text form that KenLM and everything else reads."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np

from asr_compress.corpora.ngram import NgramModel
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.files import atomic_write

_ROWS_AT_ONCE = 1 << 16


def write_arpa(model: NgramModel, path: str | Path) -> None:
    """Write `model` to a `.arpa` or `.arpa.gz` file, whole or not at all; equal models, equal bytes.

    Raises:
        InputError: another suffix.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".arpa", ".arpa.gz")):
        raise InputError(f"{path}: a language model's file name must end in .arpa or .arpa.gz")
    with atomic_write(path) as temporary, temporary.open("wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as packed:
                _write(model, packed)
        else:
            _write(model, raw)


def _write(model: NgramModel, file: io.IOBase | gzip.GzipFile) -> None:
    counts = "".join(f"ngram {k}={len(table.word)}\n" for k, table in enumerate(model.tables, start=1))
    file.write(f"\\data\\\n{counts}".encode())
    vocabulary = np.array(model.words, dtype=object)
    histories = np.array([""], dtype=object)  # "w1 w2 " for every row of the table below
    for k, table in enumerate(model.tables, start=1):
        file.write(f"\n\\{k}-grams:\n".encode())
        ngrams = histories[table.prefix] + vocabulary[table.word]
        for begin in range(0, len(ngrams), _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            values = zip(table.log10_prob[rows].tolist(), ngrams[rows], table.log10_backoff[rows].tolist(), strict=True)
            if k < model.order:
                lines = [f"{probability:.6f}\t{ngram}\t{backoff:.6f}\n" for probability, ngram, backoff in values]
            else:
                lines = [f"{probability:.6f}\t{ngram}\n" for probability, ngram, _ in values]
            file.write("".join(lines).encode())
        histories = ngrams + " "
    file.write(b"\n\\end\\\n")
