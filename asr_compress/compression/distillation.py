"""Teacher-student distillation, frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from asr_compress.compression.base import Context, Outputs, Params, Pass, Report
from asr_compress.compression.teacher import BLANK, Posteriors, Teacher, at_rate, label_count
from asr_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch


class TeacherParams(Params):
    """What every pass with a teacher takes."""

    teacher: tuple[Path, ...] = Field(
        (), description="bundles whose posteriors are averaged; the bundle compressed if none"
    )
    top_k: Annotated[int, Field(ge=1)] = Field(16, description="tokens of a frame that the cache on disk keeps")
    cache_mb: Annotated[float, Field(ge=0)] = Field(2000.0, description="largest cache of teacher posteriors")
    hard: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight of CTC on the transcripts, where there are any; 0 leaves them to the teacher"
    )


class DistillationParams(TeacherParams):
    """Parameters of frame-wise distillation."""

    loss: Literal["kl", "l2"] = Field("kl", description="KL divergence, or the bounded squared distance of posteriors")
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the frame loss beside CTC, both a label")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="of both softmaxes; gradients are rescaled")
    blank_weight: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of frames in which the teacher says blank: 0 masks them, 1 counts them in full"
    )
    blank_above: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="a frame is blank where the teacher's blank posterior is higher"
    )
    window: Annotated[int, Field(ge=0)] = Field(
        0, description="frames to each side of a non-blank one that count in full"
    )
    delay: Annotated[int, Field(ge=0)] = Field(
        0, description="frames that the student may speak later, for bidirectional to unidirectional"
    )


class TeacherPass(Pass):
    """Shared by the passes that learn from a teacher's posteriors."""

    trains = "always"
    from_audio = True
    family = "distillation"

    def prepare(self, model: nn.Module, context: Context) -> Report:
        params: TeacherParams = self.params
        paths = params.teacher or ((context.start,) if context.start else ())
        if not paths:
            raise InputError(f"{self.name}: no teacher; name one or more bundles as `teacher`")
        limit_bytes = int(params.cache_mb * 1e6)
        self.teacher = Teacher(paths, context.tokens, context.folder / "posteriors", params.top_k, limit_bytes)
        return Report(touched={"loss": {"teachers": [Path(path).name for path in paths]}})

    @property
    def ctc_weight(self) -> float:
        return self.params.hard

    def finalize(self, model: nn.Module) -> Report:
        cache = self.teacher.cache
        return Report(figures={"cached_utterances": len(cache), "cache_bytes": cache.nbytes})


class Distillation(TeacherPass):
    """The student's frame posteriors follow the teacher's, beside CTC on the transcripts.

    CTC's spikes of teacher and student do not align by themselves, and nearly all frames are blank: plain frame KL
    mostly teaches blanks. So blank frames are masked or weighted, and a window around spikes counts in full.

    Sources: Hinton et al. 2015, "Distilling the knowledge in a neural network"; Takashima et al. 2018, "An
    investigation of a knowledge distillation method for CTC acoustic models" (plain frame KL fails); Yoon et al. 2021,
    "TutorNet" (frame weights and the bounded distance).
    """

    name = "distillation"
    Params: ClassVar[type[Params]] = DistillationParams

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        params: DistillationParams = self.params
        heard = self.teacher(batch)
        posteriors = at_rate(heard, outputs.lengths, outputs.logits.shape[1])
        logits, target, valid = delayed(outputs, posteriors, params.delay)
        weights = frame_weights(target, valid, params.blank_weight, params.blank_above, params.window)
        if params.loss == "kl":
            each = soft_kl(logits, target, params.temperature)
        else:
            each = (logits.softmax(-1) - target.exp()).square().sum(-1)
        return {"distillation": params.weight * (each * weights).sum() / label_count(batch, heard)}


def soft_kl(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL divergence of each frame from the teacher to the student, times temperature squared: `(batch, frames)`.

    Args:
        logits: the student's, `(batch, frames, tokens)`.
        target: the teacher's log probabilities, the same shape.
    """
    ours = (logits / temperature).log_softmax(-1)
    theirs = (target / temperature).log_softmax(-1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


def frame_weights(target: Tensor, valid: Tensor, blank_weight: float, blank_above: float, window: int) -> Tensor:
    """How much each frame counts, `(batch, frames)`: 1 near a spike of the teacher, `blank_weight` elsewhere.

    Args:
        target: teacher's log probabilities `(batch, frames, tokens)`.
        valid: bool `(batch, frames)`.
        window: frames to each side of a spike that count as near.
    """
    spike = (target[:, :, BLANK].exp() <= blank_above) & valid
    near = functional.max_pool1d(spike.float()[:, None], 2 * window + 1, 1, window)[:, 0] if window else spike.float()
    return torch.where(near > 0, 1.0, blank_weight) * valid


def delayed(outputs: Outputs, posteriors: Posteriors, delay: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits and teacher log probabilities, the student `delay` frames later, and which frames both have."""
    logits, target, lengths = outputs.logits, posteriors.log_probs, outputs.lengths
    if delay:
        # A batch no longer than the delay keeps a frame that is not valid: `frame_weights` cannot pool over none.
        shift = min(delay, logits.shape[1] - 1)
        logits, target = logits[:, shift:], target[:, : logits.shape[1] - shift]
        lengths = (lengths - delay).clamp_min(0)
    valid = torch.arange(logits.shape[1], device=logits.device)[None] < lengths.to(logits.device)[:, None]
    return logits, target, valid
