"""Guided CTC: the student puts its spikes where the teacher does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from asr_compress.compression.base import Outputs, Params
from asr_compress.compression.distillation import TeacherParams, TeacherPass, delayed
from asr_compress.compression.teacher import BLANK, at_rate, label_count

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch


class GuidedCtcParams(TeacherParams):
    """Parameters of guided CTC."""

    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the loss beside CTC, both a label")
    top_k: Annotated[int, Field(ge=1)] = Field(2, description="tokens of a frame that the cache on disk keeps")
    delay: Annotated[int, Field(ge=0)] = Field(0, description="frames that the student may speak later")


class GuidedCtc(TeacherPass):
    """Raise the student's posterior of the teacher's best token wherever that is not blank.

    The mask is 1 at the teacher's non-blank argmax and 0 elsewhere; the loss is minus the posteriors under the mask. It
    aligns spikes, so that posteriors of several students can be averaged, or frame-wise distillation can follow.

    Source: Kurata and Audhkhasi 2019, "Guiding CTC posterior spike timings for improved posterior fusion and knowledge
    distillation", equation 3.
    """

    name = "guided_ctc"
    Params: ClassVar[type[Params]] = GuidedCtcParams

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        params: GuidedCtcParams = self.params
        heard = self.teacher(batch)
        posteriors = at_rate(heard, outputs.lengths, outputs.logits.shape[1])
        logits, target, valid = delayed(outputs, posteriors, params.delay)
        best = target.argmax(-1)
        guided = logits.softmax(-1).gather(-1, best[:, :, None])[:, :, 0]
        mask = (best != BLANK) & valid
        return {"guided_ctc": -params.weight * (guided * mask).sum() / label_count(batch, heard)}
