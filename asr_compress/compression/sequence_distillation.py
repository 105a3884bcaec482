"""Distillation of whole sequences: the student learns the teacher's N best transcripts, each by its probability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from asr_compress.compression.base import Outputs, Params
from asr_compress.compression.distillation import TeacherParams, TeacherPass
from asr_compress.compression.nbest import Labels, nbest
from asr_compress.compression.teacher import keys_of

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch


class SequenceDistillationParams(TeacherParams):
    """Parameters of sequence distillation."""

    weight: Annotated[float, Field(ge=0)] = Field(0.5, description="weight of the loss beside CTC, both a label")
    count: Annotated[int, Field(ge=1, le=32)] = Field(4, description="sequences of each utterance")
    beam: Annotated[int, Field(ge=1)] = Field(16, description="prefixes kept in the search for them")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="of the sequences' probabilities")


class SequenceDistillation(TeacherPass):
    """CTC on the teacher's N best label sequences, weighted by their posteriors among the N.

    It asks nothing of alignments, so teacher and student may differ in them, as bidirectional and unidirectional do.

    Source: Takashima et al. 2018, "An investigation of a knowledge distillation method for CTC acoustic models".
    """

    name = "sequence_distillation"
    Params: ClassVar[type[Params]] = SequenceDistillationParams

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        params: SequenceDistillationParams = self.params
        rows, targets, weights = [], [], []
        counts = batch.target_lengths.tolist()
        for row, ranked in enumerate(self._ranked(batch)):
            counts[row] = counts[row] or len(ranked[0][0])  # without a transcript, what the teacher hears
            scores = torch.tensor([score for _, score in ranked]) / params.temperature
            for (labels, _), weight in zip(ranked, scores.softmax(0).tolist(), strict=True):
                rows.append(row)
                targets.append(labels)
                weights.append(weight)
        log_probs = outputs.logits.log_softmax(-1)[rows].transpose(0, 1)
        lengths = torch.tensor([len(labels) for labels in targets])
        flat = torch.tensor([label for labels in targets for label in labels], device=log_probs.device)
        each = functional.ctc_loss(
            log_probs, flat, outputs.lengths.cpu()[rows], lengths, blank=0, reduction="none", zero_infinity=True
        )
        total = (each * torch.tensor(weights, device=each.device)).sum() / max(1, sum(counts))
        return {"sequence_distillation": params.weight * total}

    def _ranked(self, batch: Batch) -> list[list[tuple[Labels, float]]]:
        """The N best of each utterance; kept in memory, a few labels each."""
        params: SequenceDistillationParams = self.params
        known: dict[str, list[tuple[Labels, float]]] = self.__dict__.setdefault("_known", {})
        keys = keys_of(batch)
        if any(key not in known for key in keys):
            posteriors = self.teacher(batch)
            for key, frames, length in zip(keys, posteriors.log_probs, posteriors.lengths.tolist(), strict=True):
                if key not in known:
                    known[key] = nbest(frames[:length].cpu().numpy(), params.count, params.beam)
        return [known[key] for key in keys]
