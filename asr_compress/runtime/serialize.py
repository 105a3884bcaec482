"""A network as JSON and named tensors, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from asr_compress.runtime import formats, network
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import WeightFormat
from asr_compress.runtime.network import Layer, Network

_PARTS = {
    part.__name__: part
    for part in (
        network.Normalize,
        network.FrameStack,
        network.Conv,
        network.Activation,
        network.LSTMLayer,
        network.Bidirectional,
        network.LayerNorm,
        network.Linear,
        network.ConstantGates,
    )
}
_LAYERS = set(_PARTS) - {"ConstantGates"}


def describe(layers: Network) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """JSON values, one a layer, and all tensors, named "LAYER.PART.FIELD" as `network.walk` names maps."""
    tensors: dict[str, np.ndarray] = {}
    return [_describe_part(str(index), layer, tensors) for index, layer in enumerate(layers)], tensors


def _describe_part(prefix: str, part: Any, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    described: dict[str, Any] = {"type": type(part).__name__}
    for field in dataclasses.fields(part):
        name, value = f"{prefix}.{field.name}", getattr(part, field.name)
        if isinstance(value, np.ndarray):
            tensors[name] = value
        elif isinstance(value, WeightFormat):
            described[field.name] = {"kind": value.kind, **value.meta()}
            tensors.update({f"{name}.{key}": tensor for key, tensor in value.tensors().items()})
        elif dataclasses.is_dataclass(value):
            described[field.name] = _describe_part(name, value, tensors)
        else:
            described[field.name] = list(value) if isinstance(value, tuple) else value
    return described


def restore(described: Any, tensors: Mapping[str, np.ndarray]) -> Network:
    """The inverse of `describe`.

    Raises InputError, naming layer and field, for anything that a network cannot be, and for tensors that no
    layer uses.
    """
    if not isinstance(described, list):
        raise InputError("layers must be a list")
    unused = dict(tensors)
    layers: list[Layer] = []
    for index, layer in enumerate(described):
        if not isinstance(layer, dict) or layer.get("type") not in _LAYERS:
            kind = layer.get("type") if isinstance(layer, dict) else layer
            raise InputError(f"layer {index} is {kind!r}; it must be one of {', '.join(sorted(_LAYERS))}")
        layers.append(_restore_part(str(index), layer, unused))
    if unused:
        raise InputError(f"{len(unused)} tensors belong to no layer, among them {min(unused)!r}")
    return tuple(layers)


def _restore_part(name: str, described: Any, unused: dict[str, np.ndarray]) -> Any:
    if not isinstance(described, dict) or described.get("type") not in _PARTS:
        raise InputError(f"layer {name} is {described!r}; it must be an object with a known type")
    part = _PARTS[described["type"]]
    fields = {field.name: str(field.type) for field in dataclasses.fields(part)}
    wanted = {"type"} | {field for field, kind in fields.items() if kind != "np.ndarray"}
    if set(described) != wanted:
        raise InputError(f"layer {name} ({part.__name__}) has {sorted(described)}; it must have {sorted(wanted)}")
    arguments = {
        field: _restore_field(f"{name}.{field}", kind, described.get(field), unused) for field, kind in fields.items()
    }
    try:
        return part(**arguments)
    except InputError as error:
        raise InputError(f"layer {name} ({part.__name__}): {error}") from None


def _restore_field(name: str, kind: str, value: Any, unused: dict[str, np.ndarray]) -> Any:
    if kind == "np.ndarray":
        if name not in unused:
            raise InputError(f"tensor {name!r} is missing")
        return unused.pop(name)
    if value is None and kind.endswith("| None"):
        return None
    if kind.startswith("WeightFormat"):
        return _restore_map(name, value, unused)
    if kind.startswith(("LSTMLayer", "ConstantGates")):
        if not isinstance(value, dict) or value.get("type") != kind.removesuffix(" | None"):
            raise InputError(f"layer {name} must be {kind}")
        return _restore_part(name, value, unused)
    return tuple(value) if isinstance(value, list) else value


def _restore_map(name: str, described: Any, unused: dict[str, np.ndarray]) -> WeightFormat:
    if not isinstance(described, dict) or "kind" not in described:
        raise InputError(f"map {name} is {described!r}; it must be an object with a kind")
    meta = {key: value for key, value in described.items() if key != "kind"}
    prefix = f"{name}."
    tensors = {key.removeprefix(prefix): unused.pop(key) for key in list(unused) if key.startswith(prefix)}
    try:
        return formats.decode(described["kind"], meta, tensors)
    except InputError as error:
        raise InputError(f"map {name}: {error}") from None
