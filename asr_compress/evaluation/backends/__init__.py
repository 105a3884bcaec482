"""The engines that a recognizer can be measured on, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from asr_compress.evaluation.backends import onnx_runtime, openvino, own, torch_engine
from asr_compress.evaluation.backends.base import Model, Unavailable
from asr_compress.runtime.bundle import Bundle


@dataclass(frozen=True)
class Backend:
    """One engine.

    Attributes:
        load: (bundle, device, threads) -> a model ready to run; raises `Unavailable` with the reason.
        runs: kinds of weight formats that it runs as what they are. Any other is run as dense float32, so its
            speed says nothing about the format. None: all of them.
        devices: where it runs.
        timed: False for the reference, which defines numbers and is not meant to be fast.
        exact: whether it computes in float32 (or as the format says), so that its logits must be the reference's.
    """

    load: Callable[[Bundle, str, int], Model]
    runs: frozenset[str] | None = frozenset({"float32"})
    devices: tuple[str, ...] = ("cpu",)
    timed: bool = True
    exact: bool = False

    def runs_as_stored(self, kinds: Iterable[str]) -> bool:
        """Whether it runs these kinds of formats as what they are."""
        return self.runs is None or self.runs.issuperset(kinds)


BACKENDS: dict[str, Backend] = {
    "native": Backend(own.native, runs=None, exact=True),
    "reference": Backend(own.reference, runs=None, timed=False),
    "torch": Backend(torch_engine.float32, devices=("cpu", "cuda"), exact=True),
    "torch-bf16": Backend(torch_engine.bfloat16, devices=("cpu", "cuda")),
    "torch-fp16": Backend(torch_engine.float16, devices=("cpu", "cuda")),
    "torch-int8": Backend(torch_engine.int8, frozenset({"float32", "int8"})),
    "onnx": Backend(onnx_runtime.float32, exact=True),
    "onnx-int8": Backend(onnx_runtime.int8, frozenset({"float32", "int8"})),
    "openvino": Backend(openvino.float32, exact=True),
    "openvino-bf16": Backend(openvino.bfloat16),
}

__all__ = ["BACKENDS", "Backend", "Model", "Unavailable"]
