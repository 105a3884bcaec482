"""A recognizer as ncnn's two files: the graph as text, the weights in the order its LSTM layer reads them.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure, and LSTM::load_model in src/layer/lstm.cpp.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from asr_compress.evaluation.backends.base import Unavailable
from benchmarks.engine_shapes import Recognizer

_FLOAT32_TAG, _INT8_TAG = 0, 0x000D4B38
_BIDIRECTIONAL = 2
_INT8_WEIGHTS = 2  # value of the LSTM's parameter 8


class NcnnModel:
    """A loaded network; batch 1 only, for ncnn knows no batch."""

    def __init__(self, module: Recognizer, threads: int, int8: bool) -> None:
        try:
            import ncnn
        except ModuleNotFoundError:
            raise Unavailable("ncnn is not installed") from None
        if module.lstm.proj_size:
            raise Unavailable("not written for projections here")
        self._ncnn = ncnn
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        self._net.opt.use_vulkan_compute = False
        if not int8:
            self._net.opt.use_fp16_packed = self._net.opt.use_fp16_storage = self._net.opt.use_fp16_arithmetic = False
        with tempfile.TemporaryDirectory() as folder:
            graph, weights = Path(folder) / "model.param", Path(folder) / "model.bin"
            _write(module, graph, weights, int8)
            if self._net.load_param(str(graph)) or self._net.load_model(str(weights)):
                raise Unavailable("ncnn does not read the converted model")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 (1, frames, features) -> (1, frames, tokens)."""
        if len(x) != 1:
            raise Unavailable("ncnn runs one utterance at a time")
        extractor = self._net.create_extractor()
        extractor.input("input", self._ncnn.Mat(np.ascontiguousarray(x[0])))
        failed, logits = extractor.extract("logits")
        if failed:
            raise Unavailable("ncnn failed to run the converted model")
        return np.array(logits)[None]


def _write(module: Recognizer, graph: Path, weights: Path, int8: bool) -> None:
    lstm, linear = module.lstm, module.linear
    directions = 2 if lstm.bidirectional else 1
    lines, last = ["Input input 0 1 input"], "input"
    with weights.open("wb") as file:
        for layer in range(lstm.num_layers):
            names = [f"l{layer}", f"l{layer}_reverse"][:directions]
            inputs = [_gates(lstm, f"weight_ih_{name}") for name in names]
            recurrent = [_gates(lstm, f"weight_hh_{name}") for name in names]
            biases = [_gates(lstm, f"bias_ih_{name}") + _gates(lstm, f"bias_hh_{name}") for name in names]
            size = sum(matrix.size for matrix in inputs)
            kind = f"0={lstm.hidden_size} 1={size} 2={_BIDIRECTIONAL if directions == 2 else 0}"
            lines.append(f"LSTM lstm{layer} 1 1 {last} lstm{layer} {kind}{f' 8={_INT8_WEIGHTS}' if int8 else ''}")
            last = f"lstm{layer}"
            put = _put_int8 if int8 else _put_float32
            input_scales = put(file, inputs)
            _put_float32(file, biases)
            recurrent_scales = put(file, recurrent)
            for scales in (input_scales, recurrent_scales):
                file.write(np.stack(scales).astype("<f4").tobytes() if int8 else b"")
        outputs, cols = linear.weight.shape
        lines.append(f"InnerProduct linear 1 1 {last} logits 0={outputs} 1=1 2={outputs * cols}")
        _put_float32(file, [linear.weight.numpy()])
        file.write(linear.bias.numpy().astype("<f4").tobytes())
    graph.write_text(f"7767517\n{len(lines)} {len(lines)}\n" + "\n".join(lines) + "\n")


def _gates(lstm: object, name: str) -> np.ndarray:
    """Rows in ncnn's order of gates: i, f, o, g."""
    i, f, g, o = np.split(getattr(lstm, name).numpy(), 4)
    return np.concatenate([i, f, o, g])


def _put_float32(file: BinaryIO, arrays: list[np.ndarray]) -> list[np.ndarray]:
    file.write(struct.pack("<I", _FLOAT32_TAG) + np.stack(arrays).astype("<f4").tobytes())
    return []


def _put_int8(file: BinaryIO, matrices: list[np.ndarray]) -> list[np.ndarray]:
    scales = [127 / np.abs(matrix).max(axis=1) for matrix in matrices]
    codes = np.stack([np.round(m * s[:, None]) for m, s in zip(matrices, scales, strict=True)]).astype(np.int8)
    file.write(struct.pack("<I", _INT8_TAG) + codes.tobytes() + b"\0" * (-codes.nbytes % 4))
    return scales
