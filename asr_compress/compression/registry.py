"""All passes by name, and what each takes."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from asr_compress.compression.base import Pass
from asr_compress.compression.blank_bias import BlankBias
from asr_compress.compression.distillation import Distillation
from asr_compress.compression.gate_pruning import GatePruning
from asr_compress.compression.guided_ctc import GuidedCtc
from asr_compress.compression.hidden_regression import HiddenRegression
from asr_compress.compression.intermediate_ctc import IntermediateCtc
from asr_compress.compression.joint_low_rank import JointLowRank
from asr_compress.compression.layer_removal import LayerRemoval
from asr_compress.compression.low_rank import SVD
from asr_compress.compression.pruning import BlockPruning, Pruning
from asr_compress.compression.quantization import DynamicInt8, Quantization
from asr_compress.compression.regularization import Regularization
from asr_compress.compression.sequence_distillation import SequenceDistillation
from asr_compress.compression.structured import StructuredPruning
from asr_compress.runtime.errors import InputError

_ALL: tuple[type[Pass], ...] = (
    Pruning,
    BlockPruning,
    Regularization,
    GatePruning,
    StructuredPruning,
    LayerRemoval,
    SVD,
    JointLowRank,
    DynamicInt8,
    Quantization,
    Distillation,
    SequenceDistillation,
    GuidedCtc,
    IntermediateCtc,
    HiddenRegression,
    BlankBias,
)
PASSES: dict[str, type[Pass]] = {chosen.name: chosen for chosen in _ALL}


def make_pass(name: str, params: dict[str, Any] | None = None) -> Pass:
    """A pass by its name in recipes.

    Raises:
        InputError: there is no such pass, an unknown key, a wrong value.
    """
    if name not in PASSES:
        raise InputError(f"no pass is called {name!r}; allowed: {', '.join(sorted(PASSES))}")
    chosen = PASSES[name]
    try:
        return chosen(chosen.Params(**(params or {})))
    except ValidationError as error:
        raise InputError(f"{name}: {problem(error)}") from None


def describe_passes() -> list[dict[str, Any]]:
    """Every pass with its parameters and their defaults, as JSON values."""
    return [_describe(chosen) for chosen in PASSES.values()]


def _describe(chosen: type[Pass]) -> dict[str, Any]:
    schema = chosen.Params.model_json_schema()
    defaults = {name: _plain(field.get_default()) for name, field in chosen.Params.model_fields.items()}
    return {
        "name": chosen.name,
        "family": chosen.family,
        "what": " ".join((chosen.__doc__ or "").split("\n\n")[0].split()),
        "trains": chosen.trains,
        "from_audio": chosen.from_audio,
        "leaves": sorted(chosen.leaves),
        "cannot_follow": dict(chosen.refuses),
        "parameters": {
            name: {
                "what": value.get("description", ""),
                "type": _type(value),
                "default": defaults[name],
            }
            for name, value in schema["properties"].items()
        },
    }


def _plain(value: Any) -> Any:
    """A default as a JSON value."""
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words: "number >= 0", "one of map, strip", "list of string", "list of (integer, integer)"."""
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "prefixItems" in schema:
        return f"({', '.join(_type(part) for part in schema['prefixItems'])})"
    if schema.get("type") == "object":
        keys = _type(schema.get("propertyNames", {"type": "name"}))
        return f"mapping of {keys} to {_type(schema['additionalProperties'])}"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return " ".join([schema.get("type", "any"), *limits])


def problem(error: ValidationError) -> str:
    """The first problem of a pydantic error on one line."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    got = f", got {first['input']!r}" if first["type"] not in ("missing", "value_error") else ""
    return f"{place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}{got}"
