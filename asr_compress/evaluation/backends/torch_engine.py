"""torch as an engine: float32, half precision, and dynamic int8."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from asr_compress.evaluation.backends.base import Unavailable, cut, pad
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.formats import Float32
from asr_compress.runtime.network import Bidirectional, LSTMLayer, Network, replace_maps, walk

if TYPE_CHECKING:
    import torch


class TorchEngine:
    """See `base.Model`. `module` is an `AcousticModel` on `device`; weights and activations after the normalization
    are of `dtype`, since log-mel energies less their mean are small where the energies themselves are not."""

    def __init__(self, module: torch.nn.Module, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.module = module.eval().to(device)
        layers: Any = self.module.layers
        self.first, self.rest = layers[0], layers[1:].to(dtype)

    def run(self, batch: Sequence[Any]) -> list[np.ndarray]:
        """See `base.Model.run`; features may also be tensors on the device."""
        import torch

        with torch.inference_mode():
            if isinstance(batch[0], torch.Tensor):
                x = torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True)
                lengths = torch.tensor([len(item) for item in batch])
            else:
                padded, counts = pad(batch)
                x, lengths = torch.from_numpy(padded), torch.from_numpy(counts)
            x, lengths = self.first(x.to(self.device), lengths.to(self.device))
            x = x.to(self.dtype)
            for layer in self.rest:
                x, lengths = layer(x, lengths)
            return cut(x.float().cpu().numpy(), lengths.cpu().numpy())


def float32(bundle: Bundle, device: str, threads: int) -> TorchEngine:
    """As trained; on a GPU through cuDNN."""
    return _load(bundle, device, "float32")


def bfloat16(bundle: Bundle, device: str, threads: int) -> TorchEngine:
    """bfloat16 weights and activations."""
    return _load(bundle, device, "bfloat16")


def float16(bundle: Bundle, device: str, threads: int) -> TorchEngine:
    """float16 weights and activations. Raises Unavailable on a CPU, for which torch has no float16 LSTM."""
    if device == "cpu":
        raise Unavailable("torch has no float16 LSTM for a CPU")
    return _load(bundle, device, "float16")


def int8(bundle: Bundle, device: str, threads: int) -> TorchEngine:
    """`quantize_dynamic`: int8 weights, activations quantized at run time. Raises Unavailable where that cannot be."""
    if _has_projection(bundle.network):
        raise Unavailable("torch's dynamic int8 LSTM cannot run a projection")
    engine = _load(bundle, device, "float32")
    from asr_compress.evaluation.backends.torch_int8 import quantized

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated, and says so in several ways
        try:
            engine.rest = quantized(engine.rest)
        except RuntimeError as error:
            raise Unavailable(f"torch cannot quantize this model here: {error}") from None
    return engine


def _load(bundle: Bundle, device: str, dtype: str) -> TorchEngine:
    try:
        import torch

        from asr_compress.models.convert import from_network
    except ModuleNotFoundError as error:
        raise Unavailable(f"torch is not installed ({error})") from None
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable("torch sees no CUDA device here")
    # As plain float32: from other formats torch would make masks and fake quantizers and compute those at every call.
    plain = replace_maps(bundle.network, {name: Float32.encode(map_.dense()) for name, map_ in walk(bundle.network)})
    return TorchEngine(_baked(from_network(plain)), device, getattr(torch, dtype))


def _baked(module: Any) -> Any:
    from torch.nn.utils import parametrize

    for part in module.modules():
        for name in list(getattr(part, "parametrizations", {})):
            parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    return module


def _has_projection(network: Network) -> bool:
    directions: list[LSTMLayer] = []
    for layer in network:
        if isinstance(layer, LSTMLayer):
            directions.append(layer)
        elif isinstance(layer, Bidirectional):
            directions += [layer.forward, layer.backward]
    return any(direction.projection is not None for direction in directions)
