"""The project's own engine: compiled kernels, and the numpy reference that defines their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr_compress.evaluation.backends.base import Unavailable
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError


class OwnEngine:
    """See `base.Model`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `base.Model.run`."""
        return self.engine.run_batch(batch)


def native(bundle: Bundle, device: str, threads: int) -> OwnEngine:
    """The compiled engine. Raises Unavailable where it was not built."""
    try:
        engine = Engine(bundle.network, "native", threads)
    except InputError as error:
        raise Unavailable(str(error)) from None
    if engine.backend != "native":
        raise Unavailable("the native engine was not built here; install with a C++ compiler")
    return OwnEngine(engine)


def reference(bundle: Bundle, device: str, threads: int) -> OwnEngine:
    """The numpy reference."""
    return OwnEngine(Engine(bundle.network, "reference", threads))
