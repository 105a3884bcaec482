"""Intermediate CTC: lower layers learn to spell too, through heads that training alone has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from asr_compress.compression.base import Context, Outputs, Params, Pass, Report, auxiliary
from asr_compress.compression.layer_outputs import LayerOutputs, recurrent_layers
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import LayerNorm, Linear

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch


class IntermediateCtcParams(Params):
    """Parameters of intermediate CTC."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="LSTM layers by number; the middle one if none"
    )
    weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="share of the intermediate losses, the mean of all heads; CTC at the end keeps the rest"
    )


class IntermediateCtc(Pass):
    """CTC on the outputs of lower LSTM layers, each through a layer norm and a linear head of its own.

    It regularizes, and prepares a model for losing its upper layers.

    Source: Lee and Watanabe 2021, "Intermediate loss regularization for CTC-based speech recognition".
    """

    name = "intermediate_ctc"
    family = "distillation"
    Params: ClassVar[type[Params]] = IntermediateCtcParams
    trains = "always"

    def prepare(self, model: nn.Module, context: Context) -> Report:
        report = Report()
        if not isinstance(model, AcousticModel) or not isinstance(model.layers[-1], Linear):
            report.unsupported["model"] = f"{type(model).__name__} is no list of layers that ends in a linear one"
            return report.check(self.name, context.strict)
        found = recurrent_layers(model)
        chosen = self.params.layers or ((len(found) - 1) // 2,)
        tokens = len(model.layers[-1].weight)
        heads = nn.ModuleDict()
        for number in chosen:
            if number >= len(found):
                report.unsupported[f"LSTM layer {number}"] = f"there are {len(found)}"
                continue
            width = found[number].outputs
            heads[str(number)] = nn.Sequential(LayerNorm(width), Linear(width, tokens))
            report.touched[f"LSTM layer {number}"] = {"width": width}
        report.check(self.name, context.strict)
        auxiliary(model)[self.name] = heads.to(model.layers[-1].weight.device)
        self.heads: Any = heads
        self.outputs = LayerOutputs(model, [int(number) for number in heads])
        return report

    @property
    def ctc_weight(self) -> float:
        return 1 - self.params.weight

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        from asr_compress.training.objective import ctc

        labels = max(1, int(batch.target_lengths.sum()))
        share = self.params.weight / len(self.heads)
        terms = {}
        for number, head in self.heads.items():
            hidden, lengths = self.outputs.take(int(number), len(batch.ids))
            logits = head[1].map(head[0].map(hidden))
            terms[f"intermediate_ctc_{number}"] = share * ctc(logits, lengths, batch) / labels
        return terms

    def finalize(self, model: nn.Module) -> Report:
        self.outputs.close()
        del auxiliary(model)[self.name]
        return Report()
