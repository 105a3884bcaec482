"""Quantization with scales from the data at hand: int8 and fewer bits, in training through fake quantizers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from asr_compress.compression.base import Context, Params, Pass, Report
from asr_compress.compression.order import QUANTIZED
from asr_compress.models.encode import encode
from asr_compress.models.maps import Map, maps_of, unknown_parts
from asr_compress.models.parametrizations import Quantized
from asr_compress.runtime.errors import InputError

Numbers = Literal["int8", "int4", "float16", "ternary", "binary"]


class DynamicInt8Params(Params):
    """Parameters of dynamic int8."""

    include: tuple[str, ...] = Field(("*",), description="maps, by kind or name pattern")
    exclude: tuple[str, ...] = Field((), description="maps to leave in float, by kind or name pattern")


class DynamicInt8(Pass):
    """Weights in int8 with one scale a row; the engine quantizes activations frame by frame and sums in int32.

    In a stage that trains, the weights pass through their quantizer all the while (straight-through estimator,
    Bengio et al. 2013).
    """

    name = "dynamic_int8"
    family = "quantization"
    Params: ClassVar[type[Params]] = DynamicInt8Params
    leaves = frozenset({QUANTIZED})
    refuses: ClassVar[dict[str, str]] = {
        QUANTIZED: "quantizing integers again only adds error; start from the float model"
    }

    def prepare(self, model: nn.Module, context: Context) -> Report:
        report = Report(unsupported=unknown_parts(model))
        self.items = maps_of(model, self.params.include, self.params.exclude)
        chosen = {item.name for item in self.items}
        report.skipped |= {m.name: "not chosen by include and exclude" for m in maps_of(model) if m.name not in chosen}
        for item in self.items:
            numbers = self.numbers(item)
            try:
                item.install(Quantized(numbers, item.masks(), item.gates, live=item.live))
            except InputError as error:
                report.unsupported[item.name] = str(error)
                continue
            report.touched[item.name] = {"numbers": numbers}
        return report.check(self.name, context.strict)

    def numbers(self, item: Map) -> str:
        """What a map is stored as."""
        return "int8"

    def finalize(self, model: nn.Module) -> Report:
        return stored_sizes([item for item in self.items if item.quantizer() is not None])


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
