"""Hidden-state regression: layers of the student come to hold what layers of the teacher hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from asr_compress.compression.base import Context, Outputs, Params, Pass, Report, auxiliary
from asr_compress.compression.layer_outputs import LayerOutputs, recurrent_layers
from asr_compress.compression.teacher import resample_frames
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch

Number = Annotated[int, Field(ge=0)]


class HiddenRegressionParams(Params):
    """Parameters of hidden-state regression."""

    teacher: Path | None = Field(None, description="a bundle; the one that is compressed if none")
    pairs: tuple[tuple[Number, Number], ...] = Field(
        (), description="LSTM layers by number, of the student and of the teacher; the last of both if none"
    )
    loss: Literal["l2", "cosine"] = Field(
        "l2", description="squared distance, the teacher's deviation being 1; or cosine"
    )
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the loss, a mean over frames, beside CTC")


class HiddenRegression(Pass):
    """A learned linear map brings a student's layer to the width of a teacher's; their distance joins the loss.

    The teacher runs along, on the same frames without masks. Maps and teacher are gone when the stage ends.

    Source: Romero et al. 2015, "FitNets: hints for thin deep nets".
    """

    name = "hidden_regression"
    family = "distillation"
    Params: ClassVar[type[Params]] = HiddenRegressionParams
    trains = "always"
    from_audio = True

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params: HiddenRegressionParams = self.params
        report = Report()
        path = params.teacher or context.start
        if path is None:
            raise InputError(f"{self.name}: no teacher; name a bundle as `teacher`")
        if not isinstance(model, AcousticModel):
            report.unsupported["model"] = f"{type(model).__name__} is no list of layers"
            return report.check(self.name, context.strict)
        self.teacher = from_network(Bundle.load(path).network).eval().requires_grad_(False)
        ours, theirs = recurrent_layers(model), recurrent_layers(self.teacher)
        self.pairs = params.pairs or ((len(ours) - 1, len(theirs) - 1),)
        maps = nn.ModuleDict()
        for student, teacher in self.pairs:
            if student >= len(ours) or teacher >= len(theirs):
                raise InputError(
                    f"{self.name}: pairs: the student has {len(ours)} LSTM layers, the teacher {len(theirs)}"
                )
            maps[f"{student}-{teacher}"] = nn.Linear(ours[student].outputs, theirs[teacher].outputs)
            report.touched[f"LSTM layer {student}"] = {"teacher_layer": teacher}
        self.maps: Any = maps.to(next(model.parameters()).device)
        auxiliary(model)[self.name] = self.maps
        self.outputs = LayerOutputs(model, sorted({student for student, _ in self.pairs}))
        self.targets = LayerOutputs(self.teacher, sorted({teacher for _, teacher in self.pairs}))
        return report.check(self.name, context.strict)

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        with torch.no_grad():
            self.teacher.to(batch.features.device)(batch.features, batch.feature_lengths)
        terms = {}
        for student, teacher in self.pairs:
            hidden, lengths = self.outputs.take(student, len(batch.ids))
            target, target_lengths = self.targets.take(teacher, len(batch.ids))
            target = resample_frames(target, target_lengths, lengths, hidden.shape[1])
            each = self._distance(self.maps[f"{student}-{teacher}"](hidden), target)
            valid = torch.arange(each.shape[1], device=each.device)[None] < lengths.to(each.device)[:, None]
            terms[f"hidden_{student}_{teacher}"] = self.params.weight * each[valid].mean()
        return terms

    def _distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """`(batch, frames)`."""
        if self.params.loss == "cosine":
            return 1 - functional.cosine_similarity(ours, theirs, dim=-1)
        return (ours - theirs).square().mean(-1) / theirs.var().clamp_min(1e-8)

    def finalize(self, model: nn.Module) -> Report:
        self.outputs.close()
        self.targets.close()
        del auxiliary(model)[self.name]
        return Report()
