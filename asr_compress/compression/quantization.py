"""Quantization: integers of eight bits and fewer, with scales from the weights, from speech, or learned in training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.calibration import Method, activation_ranges
from asr_compress.compression.order import QUANTIZED
from asr_compress.models.activations import ActivationQuantizer, Activations
from asr_compress.models.encode import encode
from asr_compress.models.maps import Map, directions_of, map_of, maps_of, unknown_parts
from asr_compress.models.quantizers import LEARNED, LearnedStep, Quantized, Quantizer, SharedWeights
from asr_compress.runtime.errors import InputError

Numbers = Literal["int8", "int4", "int4_float", "float16", "ternary", "binary", "codebook", "codebook_int8"]
NARROW = ("int4", "int4_float", "ternary", "binary", "codebook", "codebook_int8")  # fewer than eight bits a weight
FLOAT = ("float16", "int4_float", "codebook")  # met by activations in float


class DynamicInt8Params(Params):
    """Parameters of dynamic int8."""

    include: tuple[str, ...] = Field(("*",), description="maps, by kind or name pattern")
    exclude: tuple[str, ...] = Field((), description="maps to leave in float, by kind or name pattern")


class QuantizationParams(DynamicInt8Params):
    """Parameters of quantization."""

    numbers: Numbers = Field(
        "int8",
        description="what weights are stored as; int4_float, float16 and codebook are met by activations in float",
    )
    maps: dict[str, Numbers] = Field(
        {}, description="other numbers for maps, by kind or name pattern; the last match holds"
    )
    edges: Literal["int8", "same"] = Field(
        "int8", description="what the first and the last layer get where `numbers` has fewer than eight bits"
    )
    steps: Literal["weights", "learned"] = Field(
        "weights", description="scales follow the weights, or are trained with them (learned step size)"
    )
    entries: Annotated[int, Field(ge=2, le=256)] = Field(16, description="values of a codebook")
    activations: Literal["dynamic", "static"] = Field(
        "dynamic", description="activations by each frame's own maximum, or by a fixed scale from calibration"
    )
    calibration: Method = Field("mse", description="how a fixed scale is chosen")
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(99.99, description="for percentile calibration")
    simulate: bool = Field(
        False, description="quantize activations in training too, step by step as the engine does; several times slower"
    )


class Quantization(Pass):
    """Store weights as integers; the engine quantizes activations to int8 and sums in int32.

    A stage that trains is quantization-aware: weights pass through their quantizer all the while, with straight-through
    gradients (Bengio et al. 2013) or learned steps (Esser et al. 2020). What is stored is what was trained.
    """

    name = "quantization"
    family = "quantization"
    Params: ClassVar[type[Params]] = QuantizationParams
    leaves = frozenset({QUANTIZED})
    refuses: ClassVar[dict[str, str]] = {
        QUANTIZED: "quantizing integers again only adds error; start from the float model"
    }

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.settings = QuantizationParams.model_validate(self.params.model_dump(exclude_unset=True))

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params = self.settings
        report = Report.of_unsupported(unknown_parts(model), params.exclude)
        self.items = maps_of(model, params.include, params.exclude)
        chosen = {item.name for item in self.items}
        report.skipped |= {m.name: "not chosen by include and exclude" for m in maps_of(model) if m.name not in chosen}
        seen = activation_ranges(model, context.speech(self.name)) if params.activations == "static" else {}
        edges = _edges(model)
        for item in self.items:
            numbers = self._numbers(item, model)
            if item.name in edges and numbers in NARROW and params.edges == "int8":
                numbers = "int8"
            static = numbers not in FLOAT and item.name in seen
            scale = seen[item.name].scale(params.calibration, params.percentile) if static else None
            try:
                item.install(self._quantizer(item, numbers, scale))
            except InputError as error:
                report.unsupported[item.name] = str(error)
                continue
            report.touched[item.name] = {"numbers": numbers, **({"input_scale": scale} if scale else {})}
        self.removals = [] if not params.simulate else _simulate(model, self.items, report)
        return report.check(self.name, context.strict)

    def _numbers(self, item: Map, model: nn.Module) -> str:
        numbers: str = self.settings.numbers
        for pattern, other in self.settings.maps.items():
            if item.name in {match.name for match in maps_of(model, [pattern])}:
                numbers = other
        return numbers

    def _quantizer(self, item: Map, numbers: str, scale: float | None) -> Quantizer:
        details: dict[str, Any] = {"masks": item.masks(), "gates": item.gates, "live": item.live, "input_scale": scale}
        if numbers == "codebook":
            return SharedWeights(item.weight, self.settings.entries, **details)
        if self.settings.steps == "learned" and numbers in LEARNED:
            return LearnedStep(item.weight, numbers, **details)
        return Quantized(numbers, **details)

    def finalize(self, model: nn.Module) -> Report:
        for remove in self.removals:
            remove()
        return stored_sizes([item for item in self.items if item.quantizer() is not None])


class DynamicInt8(Quantization):
    """Weights in int8 with one scale a row; the engine quantizes activations frame by frame and sums in int32."""

    name = "dynamic_int8"
    Params: ClassVar[type[Params]] = DynamicInt8Params


def _edges(model: nn.Module) -> set[str]:
    """Names of the maps that read the features, and of the one that gives the logits."""
    names = [item.name for item in maps_of(model)]
    if not names:
        return set()
    first = names[0].rsplit(".", 2)[0] if names[0].endswith(".input") else names[0]
    reads = {name for name in names if name == first or (name.startswith(f"{first}.") and ".input" in name)}
    last = names[-1].removesuffix(".right")
    return reads | {name for name in names if name == last or name.startswith(f"{last}.")}


def stored_sizes(items: list[Map]) -> Report:
    """The format and the bytes of each map as it is stored, and what float32 would take."""
    report = Report()
    total = whole = 0
    for item in items:
        stored = encode(item)
        report.touched[item.name] = {"format": stored.kind, "bytes": stored.nbytes}
        total, whole = total + stored.nbytes, whole + 4 * stored.shape[0] * stored.shape[1]
    report.figures = {"bytes": total, "float32_bytes": whole}
    return report


def _simulate(model: nn.Module, items: list[Map], report: Report) -> list[Any]:
    """Quantize what the maps meet; calls that undo it. Factorized maps and convolutions are left out."""
    removals: list[Any] = []
    quantizers = {(id(item.owner), item.tensor): item.quantizer() for item in items}

    def made(item: Map) -> nn.Module:
        found = quantizers.get((id(item.owner), item.tensor))
        return nn.Identity() if found is None or found.numbers in FLOAT else ActivationQuantizer(found.input_scale)

    for direction in directions_of(model).values():
        maps = [map_of(direction, tensor) for tensor in ("weight_ih", "weight_hh")]
        last = made(map_of(direction, "weight_hr")) if direction.weight_hr is not None else nn.Identity()
        direction.activations = Activations(made(maps[0]), made(maps[1]), last)
        removals.append(lambda direction=direction: setattr(direction, "activations", None))
    for item in items:
        if item.kind == "linear" and not item.factor:
            hook = item.owner.register_forward_pre_hook(_quantize_input(made(item)))
            removals.append(hook.remove)
        elif item.kind == "conv" or item.factor:
            report.skipped[f"{item.name} (activations)"] = "not simulated for convolutions and factors"
    return removals


def _quantize_input(quantizer: nn.Module) -> Any:
    def quantize(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (quantizer(arguments[0]), *arguments[1:])

    return quantize
