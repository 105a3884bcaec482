"""Any torch module as a network, where it is a plain stack of layers: found by running it, and proven so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from asr_compress.models.adopt import adopt
from asr_compress.models.convert import from_network, to_lstm_layer, to_recurrent_layer
from asr_compress.models.encode import encode
from asr_compress.models.layers import CLIP
from asr_compress.models.lstm import LSTM
from asr_compress.models.maps import Map
from asr_compress.runtime import network
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import Layer, Network

TOLERANCE = 1e-4


@torch.no_grad()
def network_of(module: nn.Module, example: Tensor) -> Network:
    """The layers that `module` runs, in the order in which it runs them, as a network of logits.

    LSTMs (adopted or not), `nn.Linear`, `nn.LayerNorm`, `nn.BatchNorm1d`, `nn.ReLU` and `nn.Hardtanh(0, 20)` convert;
    dropout and a softmax at the end vanish. The result is run on `example` and must give what the module gives, so
    whatever a module does beside its layers is noticed.

    Args:
        example: what the module takes: `(batch, frames, features)`, or `(frames, batch, features)` where its first LSTM
            is not batch-first. Random values, at least two frames and two utterances.

    Raises:
        InputError: a layer that a network does not have, or a module that is no plain stack.
    """
    module = adopt(module, copy=True).eval()
    called: list[tuple[str, nn.Module]] = []
    hooks = [leaf.register_forward_hook(_record(called, name)) for name, leaf in _leaves(module)]
    try:
        expected = module(example)
    finally:
        for hook in hooks:
            hook.remove()
    layers: list[Layer] = []
    for name, leaf in called:
        try:
            layers += _to_layers(leaf)
        except InputError as error:
            raise InputError(f"{name} ({type(leaf).__name__}): {error}") from None
    found = tuple(layers)
    first = next((leaf for _, leaf in called if isinstance(leaf, LSTM)), None)
    if first is None:
        raise InputError(f"{type(module).__name__}: no LSTM was run")
    _prove(found, example, expected[0] if isinstance(expected, tuple) else expected, first.batch_first)
    return found


def _leaves(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules that compute by themselves; what is inside LSTMs and parametrizations belongs to them."""
    parts = [(key, child) for key, child in module.named_children() if key != "parametrizations"]
    if isinstance(module, LSTM) or not parts:
        yield name, module
        return
    for key, child in parts:
        yield from _leaves(child, f"{name}.{key}" if name else key)


def _record(called: list[tuple[str, nn.Module]], name: str) -> Callable[..., None]:
    def record(leaf: nn.Module, arguments: object, result: object) -> None:
        called.append((name, leaf))

    return record


def _to_layers(leaf: nn.Module) -> list[Layer]:
    match leaf:
        case LSTM():
            return _lstm_layers(leaf)
        case nn.Linear():
            rows = leaf.out_features
            bias = np.zeros(rows, np.float32) if leaf.bias is None else _array(leaf.bias)
            return [network.Linear(encode(Map("map", leaf, "weight", "linear")), bias)]
        case nn.LayerNorm():
            if len(leaf.normalized_shape) != 1 or leaf.weight is None:
                raise InputError("only a layer norm over the features of a frame, with weights, converts")
            bias = np.zeros_like(_array(leaf.weight)) if leaf.bias is None else _array(leaf.bias)
            return [network.LayerNorm(_array(leaf.weight), bias, leaf.eps)]
        case nn.BatchNorm1d():
            return [_batch_norm(leaf)]
        case nn.ReLU():
            return [network.Activation("relu")]
        case nn.Hardtanh() if (leaf.min_val, leaf.max_val) == (0.0, CLIP):
            return [network.Activation("clipped_relu")]
        case nn.Dropout() | nn.Identity() | nn.LogSoftmax() | nn.Softmax():
            return []
    raise InputError("a network has no such layer")


def _lstm_layers(lstm: LSTM) -> list[Layer]:
    if any(direction.output_places is not None for direction in lstm.layer(lstm.num_layers - 1)):
        raise InputError("units were removed from its last layer; convert first, then remove units")
    return [
        to_recurrent_layer([to_lstm_layer(direction) for direction in lstm.layer(index)])
        for index in range(lstm.num_layers)
    ]


def _batch_norm(norm: nn.BatchNorm1d) -> Layer:
    """In evaluation, batch normalization is an affine map of each feature."""
    if norm.running_mean is None or norm.running_var is None:
        raise InputError("a batch norm without running statistics depends on the batch")
    scale = 1 / (norm.running_var + norm.eps).sqrt()
    mean = norm.running_mean.clone()
    if norm.weight is not None:
        if bool((norm.weight == 0).any()):
            raise InputError("a batch norm with a weight of zero has no mean that a network's could be")
        scale = scale * norm.weight
        mean = mean - norm.bias / scale
    return network.Normalize(_array(mean), _array(scale))


def _prove(found: Network, example: Tensor, expected: Tensor, batch_first: bool) -> None:
    x = example if batch_first else example.transpose(0, 1)
    try:
        model = from_network(found).eval()
        logits, _ = model(x, torch.full((len(x),), x.shape[1]))
    except (InputError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the module is no plain stack: its layers do not fit in the order they run ({reason})"
        ) from None
    for candidate in (expected, expected.transpose(0, 1) if expected.dim() == 3 else expected):
        if candidate.shape == logits.shape:
            same = (logits, logits.log_softmax(-1), logits.softmax(-1))
            if any(torch.allclose(option, candidate, rtol=0, atol=TOLERANCE) for option in same):
                return
    raise InputError(
        "the module is no plain stack: its layers in a row do not give what it gives; write it as one, or compress it "
        "as a torch module"
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy().copy()
