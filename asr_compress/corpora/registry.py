"""The corpus readers by name: what `asr-compress prepare CORPUS DIR` chooses from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lhotse import CutSet

from asr_compress.corpora.demo import read_demo
from asr_compress.corpora.folder import read_folder
from asr_compress.corpora.fsdd import read_fsdd
from asr_compress.corpora.kaldi_dir import read_kaldi
from asr_compress.corpora.librispeech import read_librispeech
from asr_compress.corpora.read_aloud import read_aloud
from asr_compress.corpora.splits import take_hours, take_utterances
from asr_compress.corpora.utterances import is_training
from asr_compress.runtime.errors import InputError

READERS: dict[str, Callable[..., dict[str, CutSet]]] = {
    "aloud": read_aloud,
    "demo": read_demo,
    "folder": read_folder,
    "fsdd": read_fsdd,
    "kaldi": read_kaldi,
    "librispeech": read_librispeech,
}


def read_corpus(
    kind: str,
    folder: str | Path,
    *,
    hours: float | None = None,
    utterances: Collection[str] | None = None,
    seed: int = 0,
    audio_dir: str | Path | None = None,
    **options: Any,
) -> dict[str, CutSet]:
    """Read a corpus: split name -> cuts (a `MonoCut` an utterance: normalized text, speaker, absolute path).

    Args:
        kind: name of a reader.
        folder: where the corpus is; for `demo` where to keep it, for `aloud` the text file.
        hours: keep about so many hours of each training split, chosen by `seed`.
        audio_dir: where a reader that makes audio (`fsdd`, `aloud`) writes it.
        utterances: keep only these ids; a split that has none of them is left out.
        options: the reader's own, see `READERS[kind]`; all take `splits`, `normalize` and `problems`.

    Raises:
        InputError: unknown kind or option; a corpus that is not as its layout says.
    """
    if kind not in READERS:
        raise InputError(f"corpus {kind!r}: unknown; choose one of {', '.join(sorted(READERS))}")
    reader = READERS[kind]
    parameters = inspect.signature(reader).parameters
    allowed = [name for name, it in parameters.items() if it.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in allowed:
            raise InputError(f"corpus {kind!r}: no option {name!r}; it takes {', '.join(allowed)}")
    common = {"seed": seed, "audio_dir": audio_dir, "hours": hours}
    splits = reader(folder, **options, **{name: value for name, value in common.items() if name in allowed})
    if utterances is not None:
        splits = {name: take_utterances(cuts, utterances) for name, cuts in splits.items()}
        splits = {name: cuts for name, cuts in splits.items() if len(cuts)}
        found = sum(len(cuts) for cuts in splits.values())
        if found < len(set(utterances)):
            raise InputError(f"{folder}: {found} of the {len(set(utterances))} listed utterances are there")
    if hours is not None and "hours" not in allowed:
        splits = {name: take_hours(cuts, hours, seed) if is_training(name) else cuts for name, cuts in splits.items()}
    return splits
