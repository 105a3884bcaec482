"""Padded batches of frames and token ids, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from torch import Tensor

from asr_compress.corpora.cache import FeatureCache


@dataclass(frozen=True)
class Batch:
    """Utterances side by side.

    Attributes:
        features: float32 `(batch, frames, bins)`, zero past each length.
        feature_lengths: int64 `(batch,)`.
        targets: int64 `(batch, labels)`, zero past each length.
        target_lengths: int64 `(batch,)`.
        ids: utterance ids.
        texts: reference transcripts.
    """

    features: Tensor
    feature_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    ids: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def audio_s(self) -> float:
        """Seconds of audio at 10 ms a frame, padding left out."""
        return float(self.feature_lengths.sum()) * 0.01

    def to(self, device: torch.device | str) -> Batch:
        tensors = ("features", "feature_lengths", "targets", "target_lengths")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in tensors})

    def rows(self, first: int, step: int) -> Batch:
        """Every `step`-th utterance from `first` on: one process's part of the batch."""
        return Batch(
            self.features[first::step],
            self.feature_lengths[first::step],
            self.targets[first::step],
            self.target_lengths[first::step],
            self.ids[first::step],
            self.texts[first::step],
        )


class Batches:
    """The batches of a split, epoch by epoch.

    Utterances of like duration go together (lhotse's dynamic buckets). Each epoch plays each utterance at one speed
    drawn from `caches`. The same seed and epoch give the same batches, so a resumed run skips what it has seen.
    """

    def __init__(
        self,
        cuts: CutSet,
        caches: dict[float, FeatureCache],
        labels: dict[str, list[int]],
        batch_s: float,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        """
        Args:
            cuts: utterances; those without an entry in `labels` are left out.
            caches: frames by playing speed.
            labels: token ids by utterance id.
            batch_s: seconds of audio in a batch, at most.
        """
        self.cuts = CutSet.from_cuts(cut for cut in cuts if cut.id in labels)
        self.caches, self.labels, self.batch_s, self.seed, self.shuffle = caches, labels, batch_s, seed, shuffle

    def epoch(self, number: int, shortest_first: bool = False, skip: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number`, from batch `skip` on.

        Args:
            shortest_first: in ascending order of duration; CTC finds its first alignments on short utterances.
        """
        chooser = random.Random(f"{self.seed} {number}")
        for position, cuts in enumerate(self._groups(number, shortest_first)):
            speeds = [chooser.choice(sorted(self.caches)) if self.shuffle else 1.0 for _ in cuts]
            if position >= skip:
                yield self.collate(cuts, speeds)

    def collate(self, cuts: list[Cut], speeds: list[float]) -> Batch:
        """Load and pad `cuts`, each at its speed."""
        frames = [self.caches[speed][cut.id] for cut, speed in zip(cuts, speeds, strict=True)]
        labels = [self.labels[cut.id] for cut in cuts]
        return Batch(
            features=_pad(frames, torch.float32),
            feature_lengths=torch.tensor([len(part) for part in frames]),
            targets=_pad([np.asarray(part, np.int64) for part in labels], torch.int64),
            target_lengths=torch.tensor([len(part) for part in labels]),
            ids=tuple(cut.id for cut in cuts),
            texts=tuple(cut.supervisions[0].text or "" for cut in cuts),
        )

    def longest(self) -> Batch:
        """A batch of the longest utterances: what a step can cost at most."""
        cuts = sorted(self.cuts, key=lambda cut: -cut.duration)
        count = max(1, int(self.batch_s // cuts[0].duration))
        return self.collate(cuts[:count], [1.0] * len(cuts[:count]))

    def hours(self) -> float:
        """Audio of one epoch at speed 1."""
        return sum(cut.duration for cut in self.cuts) / 3600

    def steps(self) -> int:
        """Batches in an epoch; epochs differ by a few."""
        return sum(1 for _ in self._groups(0, False))

    def _groups(self, number: int, shortest_first: bool) -> Iterator[list[Cut]]:
        if shortest_first or not self.shuffle:
            yield from self._in_order()
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an eager CutSet saves no memory; ours is small
            sampler = DynamicBucketingSampler(
                self.cuts,
                max_duration=self.batch_s,
                num_buckets=_buckets(len(self.cuts)),
                shuffle=True,
                seed=self.seed,
                world_size=1,
                rank=0,  # each process takes rows of every batch
            )
        sampler.set_epoch(number)
        for group in sampler:
            yield list(group)

    def _in_order(self) -> Iterator[list[Cut]]:
        group: list[Cut] = []
        for cut in sorted(self.cuts, key=lambda cut: (cut.duration, cut.id)):
            if group and cut.duration * (len(group) + 1) > self.batch_s:
                yield group
                group = []
            group.append(cut)
        if group:
            yield group


def _buckets(utterances: int) -> int:
    return max(2, min(30, utterances // 20))  # lhotse wants at least two


def _pad(parts: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    longest = max(len(part) for part in parts)
    padded = torch.zeros((len(parts), longest, *parts[0].shape[1:]), dtype=dtype)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = torch.from_numpy(part)
    return padded
