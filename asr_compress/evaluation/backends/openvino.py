"""OpenVINO as an engine, from the exported ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asr_compress.evaluation.backends.base import Unavailable, cut, pad
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.network import is_streaming


class OpenVinoEngine:
    """See `base.Model`. Its backward LSTM begins in the padding whatever the lengths say (2026.4), so with one in the
    network only utterances of equal length share a batch."""

    def __init__(self, compiled: Any, pads: bool) -> None:
        self.compiled, self.pads = compiled, pads

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `base.Model.run`."""
        if self.pads:
            return self._run(batch)
        logits: list[np.ndarray] = [np.empty(0)] * len(batch)
        for length in {len(x) for x in batch}:
            rows = [i for i, x in enumerate(batch) if len(x) == length]
            for row, result in zip(rows, self._run([batch[i] for i in rows]), strict=True):
                logits[row] = result
        return logits

    def _run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        features, lengths = pad(batch)
        results = self.compiled({"features": features, "lengths": lengths})
        return cut(results[self.compiled.output("logits")], results[self.compiled.output("logit_lengths")])


def float32(bundle: Bundle, device: str, threads: int) -> OpenVinoEngine:
    """float32 arithmetic; OpenVINO's default on recent processors is bfloat16."""
    return _load(bundle, threads, "f32")


def bfloat16(bundle: Bundle, device: str, threads: int) -> OpenVinoEngine:
    """bfloat16 arithmetic. Raises Unavailable where the processor has none."""
    return _load(bundle, threads, "bf16")


def _load(bundle: Bundle, threads: int, precision: str) -> OpenVinoEngine:
    try:
        import openvino

        from asr_compress.export.onnx import to_onnx
    except ModuleNotFoundError as error:
        raise Unavailable(f"OpenVINO is not installed ({error}); install asr-compress[peers]") from None
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Unavailable("this processor has no bfloat16 arithmetic")
    model = core.read_model(to_onnx(bundle.network, bundle.features.bins).SerializeToString())
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return OpenVinoEngine(core.compile_model(model, "CPU", settings), pads=is_streaming(bundle.network))
