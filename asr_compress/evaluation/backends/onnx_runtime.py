"""ONNX Runtime as an engine: float32, and its own dynamic int8 of LSTM and matrix products."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_compress.evaluation.backends.base import Unavailable, cut, pad
from asr_compress.evaluation.environment import instruction_sets
from asr_compress.runtime.bundle import Bundle


class OnnxEngine:
    """See `base.Model`."""

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `base.Model.run`."""
        features, lengths = pad(batch)
        logits, counts = self.session.run(None, {"features": features, "lengths": lengths})
        return cut(logits, counts)


def float32(bundle: Bundle, device: str, threads: int) -> OnnxEngine:
    """The exported graph as it is."""
    return OnnxEngine(_exported(bundle).SerializeToString(), threads)


def int8(bundle: Bundle, device: str, threads: int) -> OnnxEngine:
    """`quantize_dynamic`, a scale a channel, which makes DynamicQuantizeLSTM of every LSTM."""
    return OnnxEngine(quantized(_exported(bundle), per_channel=True), threads)


def quantized(model: Any, per_channel: bool) -> bytes:
    """An exported graph after ONNX Runtime's `quantize_dynamic`, serialized.

    Weights have 7 bits where the processor has no 8-bit dot product, as ONNX Runtime's documentation advises: its sums
    of two products saturate at 16 bits there, and with 8 bits the logits of a stack of LSTMs are off by a fifth.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    saturates = not any("vnni" in name or name in ("asimddp", "amx_int8") for name in instruction_sets())
    noisy = logging.getLogger()
    before = noisy.level
    noisy.setLevel(logging.ERROR)  # it advises on the root logger to run a preprocessing that changes nothing here
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(model, path, per_channel=per_channel, reduce_range=saturates, weight_type=QuantType.QInt8)
            return path.read_bytes()
    finally:
        noisy.setLevel(before)


def _exported(bundle: Bundle) -> Any:
    try:
        import onnxruntime  # noqa: F401

        from asr_compress.export.onnx import to_onnx
    except ModuleNotFoundError as error:
        raise Unavailable(f"ONNX Runtime is not installed ({error}); install asr-compress[peers]") from None
    return to_onnx(bundle.network, bundle.features.bins)
