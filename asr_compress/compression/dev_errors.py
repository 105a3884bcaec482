"""Errors of greedy decoding by kind, from log probabilities that are there already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from asr_compress.compression.base import outputs_of
from asr_compress.evaluation.wer import Counts
from asr_compress.runtime.tokens import Tokens

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch

BLANK = 0


@dataclass(frozen=True)
class Utterance:
    """Log probabilities float32 `(frames, tokens)` and the label ids that were said."""

    log_probs: np.ndarray
    labels: tuple[int, ...]


@dataclass(frozen=True)
class DevErrors:
    """Substitutions, deletions and insertions in words (phones, for phone tokens), and the share of blank frames."""

    counts: Counts
    blank_rate: float

    @property
    def error(self) -> float:
        return self.counts.rate

    def to_json(self) -> dict[str, Any]:
        return {"error": self.error, **asdict(self.counts), "blank_rate": self.blank_rate}


def utterances(model: nn.Module, batches: Iterable[Batch]) -> list[Utterance]:
    """Every utterance of `batches` through `model`."""
    found = []
    for batch, logits, lengths in outputs_of(model, batches):
        log_probs = logits.float().log_softmax(-1).cpu().numpy()
        targets, counts = batch.targets.cpu(), batch.target_lengths.tolist()
        for row, length in enumerate(lengths.tolist()):
            labels = tuple(targets[row, : counts[row]].tolist())
            found.append(Utterance(log_probs[row, :length].copy(), labels))
    return found


def dev_errors(items: Sequence[Utterance], tokens: Tokens, blank_bias: float = 0.0) -> DevErrors:
    """Greedy decoding, `blank_bias` added to every logit of the blank."""
    import jiwer

    references, hypotheses, blanks, frames = [], [], 0, 0
    for item in items:
        scores = item.log_probs
        if blank_bias:
            scores = scores.copy()
            scores[:, BLANK] += blank_bias
        best = scores.argmax(axis=1)
        blanks, frames = blanks + int((best == BLANK).sum()), frames + len(best)
        collapsed = torch.unique_consecutive(torch.from_numpy(best)).tolist()
        hypotheses.append(tokens.decode([token for token in collapsed if token != BLANK]))
        references.append(tokens.decode(list(item.labels)))
    found = jiwer.process_words(references, hypotheses)
    counts = Counts(found.hits, found.substitutions, found.deletions, found.insertions)
    return DevErrors(counts, blanks / max(1, frames))
