"""The other engines of the benchmark, each at the settings its documentation recommends for this use.

A peer is made from a `Recognizer` and a number of threads, and is a function from float32 (batch, frames, features)
to logits. One that cannot run here raises `Unavailable` with the reason.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from asr_compress.evaluation.backends.base import Unavailable
from asr_compress.evaluation.backends.onnx_runtime import quantized
from asr_compress.evaluation.environment import instruction_sets
from asr_compress.export.onnx import to_onnx
from asr_compress.runtime.formats import Float32
from benchmarks.engine_ncnn import NcnnModel
from benchmarks.engine_shapes import FEATURES, Recognizer, to_network

Run = Callable[[np.ndarray], np.ndarray]


def torch_float32(module: Recognizer, threads: int) -> Run:
    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


def torch_bfloat16(module: Recognizer, threads: int) -> Run:
    if not {"avx512_bf16", "amx_bf16", "bf16"} & set(instruction_sets()):
        raise Unavailable("this processor has no bfloat16 arithmetic")
    half = copy.deepcopy(module).bfloat16()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return half(torch.from_numpy(x).bfloat16()).float().numpy()

    return run


def torch_int8(engine: str) -> Callable[[Recognizer, int], Run]:
    """`quantize_dynamic` with one of torch's quantized engines."""

    def make(module: Recognizer, threads: int) -> Run:
        if engine not in torch.backends.quantized.supported_engines:
            raise Unavailable(f"this build of torch has no quantized engine {engine}")
        if module.lstm.proj_size:
            raise Unavailable("quantize_dynamic's LSTM has no projection: its forward raises")
        torch.backends.quantized.engine = engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantized: Any = torch.ao.quantization.quantize_dynamic(module, {nn.LSTM, nn.Linear}, dtype=torch.qint8)

        def run(x: np.ndarray) -> np.ndarray:
            torch.backends.quantized.engine = engine
            with torch.inference_mode():
                return quantized(torch.from_numpy(x)).numpy()

        return run

    return make


def _onnx_model(module: Recognizer) -> Any:
    # ONNX's LSTM has no projection; this export folds it into the recurrent map, as ONNX requires.
    return to_onnx(to_network(module, Float32.encode, Float32.encode), FEATURES)


def _onnx_session(model: bytes, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(x: np.ndarray) -> np.ndarray:
        lengths = np.full(len(x), x.shape[1], np.int64)
        return session.run(["logits"], {"features": x, "lengths": lengths})[0]

    return run


def onnx_float32(module: Recognizer, threads: int) -> Run:
    return _onnx_session(_onnx_model(module).SerializeToString(), threads)


def onnx_int8(module: Recognizer, threads: int) -> Run:
    """DynamicQuantizeLSTM."""
    return _onnx_session(quantized(_onnx_model(module), per_channel=False), threads)


def openvino(precision: str) -> Callable[[Recognizer, int], Run]:
    """OpenVINO in f32 or bf16."""

    def make(module: Recognizer, threads: int) -> Run:
        try:
            import openvino as ov
        except ModuleNotFoundError:
            raise Unavailable("openvino is not installed") from None
        core = ov.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unavailable("this processor has no bfloat16 arithmetic")
        model = core.read_model(_onnx_model(module).SerializeToString())
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        compiled = core.compile_model(model, "CPU", settings)
        if compiled.get_property("INFERENCE_NUM_THREADS") != threads:
            raise Unavailable("OpenVINO does not keep to the number of threads")
        request = compiled.create_infer_request()

        def run(x: np.ndarray) -> np.ndarray:
            lengths = np.full(len(x), x.shape[1], np.int64)
            return request.infer({"features": x, "lengths": lengths})[compiled.output("logits")].copy()

        return run

    return make


def ncnn(int8: bool) -> Callable[[Recognizer, int], Run]:
    """ncnn in float32, or with its int8 LSTM."""

    def make(module: Recognizer, threads: int) -> Run:
        return NcnnModel(module, threads, int8)

    return make


PEERS: dict[str, Callable[[Recognizer, int], Run]] = {
    "torch float32": torch_float32,
    "torch bfloat16": torch_bfloat16,
    "torch int8 x86": torch_int8("x86"),
    "torch int8 fbgemm": torch_int8("fbgemm"),
    "torch int8 onednn": torch_int8("onednn"),
    "torch int8 qnnpack": torch_int8("qnnpack"),
    "ONNX Runtime float32": onnx_float32,
    "ONNX Runtime int8": onnx_int8,
    "OpenVINO f32": openvino("f32"),
    "OpenVINO bf16": openvino("bf16"),
    "ncnn float32": ncnn(False),
    "ncnn int8": ncnn(True),
}
