"""What is measured: one recognizer on one engine, with everything that its speed and its text depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from asr_compress.evaluation.backends import BACKENDS
from asr_compress.runtime.errors import InputError

DECODERS = ("auto", "greedy", "beam")
FEATURES = ("numpy", "torch")


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes:
        name: what the table calls it; unique in a run, except that seeds of one variant share it.
        bundle: the model file.
        backend: a key of `BACKENDS`.
        device: "cpu" or "cuda".
        threads: what the engine may use.
        batch: utterances recognized together; 1 measures latency.
        decoder: "auto" is what `Recognizer.load` makes of the bundle and the language model, with the bundle's tuned
            weights: beam search where there is a lexicon or a language model, else the best path. "greedy" and
            "beam" insist on one of the two.
        lm: n-gram language model.
        features: "numpy", the definition, on the CPU; or "torch", on the device, for the torch engines.
        seed: which of several trainings of one variant this is; rows of one name are then averaged.

    Raises:
        InputError: a value that is not allowed.
    """

    name: str
    bundle: Path
    backend: str = "native"
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    decoder: str = "auto"
    lm: Path | None = None
    features: str = "numpy"
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundle", Path(self.bundle))
        object.__setattr__(self, "lm", Path(self.lm) if self.lm else None)
        allowances = (
            ("backend", self.backend, tuple(BACKENDS)),
            ("decoder", self.decoder, DECODERS),
            ("features", self.features, FEATURES),
        )
        for what, value, allowed in allowances:
            if value not in allowed:
                raise InputError(f"variant {self.name!r}: {what} is {value!r}; choose one of {', '.join(allowed)}")
        if self.device.partition(":")[0] not in BACKENDS[self.backend].devices:
            raise InputError(
                f"variant {self.name!r}: backend {self.backend!r} runs on {', '.join(BACKENDS[self.backend].devices)}, "
                f"not on {self.device!r}"
            )
        if self.features == "torch" and not self.backend.startswith("torch"):
            raise InputError(f"variant {self.name!r}: features by torch need a torch engine, not {self.backend!r}")
        for what, number in (("threads", self.threads), ("batch", self.batch)):
            if number < 1:
                raise InputError(f"variant {self.name!r}: {what} is {number}; it must be 1 or more")
        if self.lm is not None and self.decoder == "greedy":
            raise InputError(f"variant {self.name!r}: greedy decoding has no use for a language model; leave out one")

    @property
    def key(self) -> str:
        """Unique in a run."""
        return self.name if self.seed is None else f"{self.name}#{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """JSON values, by file name in place of paths: results are published."""
        return {**asdict(self), "bundle": self.bundle.name, "lm": self.lm.name if self.lm else None}


def check_unique(variants: Sequence[Variant]) -> None:
    """Raises InputError where there is nothing to measure, or two variants have one name."""
    if not variants:
        raise InputError("nothing to evaluate: give at least one bundle")
    seen: set[str] = set()
    for variant in variants:
        if variant.key in seen:
            raise InputError(f"two variants are called {variant.key!r}; give them names of their own")
        seen.add(variant.key)


def combinations(
    bundles: dict[str, Path],
    backends: Sequence[str] = ("native",),
    devices: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    **common: Any,
) -> list[Variant]:
    """Every bundle on every engine, device, number of threads and batch size that go together.

    Args:
        bundles: name -> file. What there is more than one of is added to the names.
        common: further attributes of all variants.

    Raises:
        InputError: see `Variant`.
    """
    found = []
    for (name, bundle), backend, device, thread, batch in product(bundles.items(), backends, devices, threads, batches):
        if backend in BACKENDS and device.partition(":")[0] not in BACKENDS[backend].devices:
            continue
        parts = [
            (backend, len(backends) > 1),
            (device, len(devices) > 1),
            (f"{thread} thread{'s' if thread > 1 else ''}", len(threads) > 1),
            (f"batch {batch}", len(batches) > 1),
        ]
        label = ", ".join([name, *(text for text, needed in parts if needed)])
        found.append(Variant(label, bundle, backend, device, thread, batch, **common))
    return found


def file_sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
