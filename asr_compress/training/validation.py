"""How good a model is on the dev set, cheaply: greedy decoding, no language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import jiwer
import torch
from torch import Tensor, nn

from asr_compress.corpora.batches import Batch
from asr_compress.runtime.tokens import Tokens
from asr_compress.training.objective import ctc


@dataclass(frozen=True)
class DevResult:
    """Greedy decoding of the dev set.

    Attributes:
        error: errors over reference units.
        unit: `word`, or `phone` where words need a lexicon and a language model.
        loss: CTC loss a label.
        blank_rate: share of frames whose best token is the blank; near 1 means that the model says nothing yet.
        sample: one reference and its hypothesis.
    """

    error: float
    unit: str
    loss: float
    blank_rate: float
    sample: tuple[str, str]


@torch.no_grad()
def validate(model: nn.Module, batches: Iterable[Batch], tokens: Tokens, device: torch.device) -> DevResult:
    """Decode all batches greedily. The model is left in the mode that it was in."""
    was_training = model.training
    model.eval()
    references: list[str] = []
    hypotheses: list[str] = []
    loss, labels, blanks, frames = 0.0, 0, 0, 0
    for batch in batches:
        moved = batch.to(device)
        logits, lengths = model(moved.features, moved.feature_lengths)
        loss += float(ctc(logits, lengths, moved))
        labels += int(batch.target_lengths.sum())
        for row, length, target, count in zip(
            logits.argmax(-1).cpu(), lengths.tolist(), batch.targets, batch.target_lengths.tolist(), strict=True
        ):
            best = row[:length]
            blanks += int((best == 0).sum())
            frames += length
            hypotheses.append(tokens.decode(collapse(best)))
            references.append(tokens.decode(target[:count].tolist()))
    model.train(was_training)
    counts = jiwer.process_words(references, hypotheses)
    errors = counts.substitutions + counts.deletions + counts.insertions
    return DevResult(
        error=errors / max(1, counts.hits + counts.substitutions + counts.deletions),
        unit="phone" if tokens.kind == "phone" else "word",
        loss=loss / max(1, labels),
        blank_rate=blanks / max(1, frames),
        sample=(references[len(references) // 2], hypotheses[len(references) // 2]),
    )


def collapse(best: Tensor) -> list[int]:
    """CTC's map from frames `(frames,)` to labels: merge repeats, drop blanks."""
    return [token for token in torch.unique_consecutive(best).tolist() if token != 0]
