"""A trained recognizer as a teacher: its posteriors for a batch, kept on disk so that each is computed once."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import Tokens

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch


BLANK = 0


@dataclass(frozen=True)
class Posteriors:
    """What the teacher says of a batch.

    Attributes:
        log_probs: float32 `(batch, frames', tokens)` log probabilities; unspecified past each length.
        lengths: int64 `(batch,)`.
    """

    log_probs: Tensor
    lengths: Tensor


class Cache:
    """Top-k log probabilities by utterance and content, appended to one file.

    A frame is k token ids and k float16 log probabilities; the mass that is left is spread evenly over the other
    tokens. The key holds a checksum of the frames, so that another playing speed or any other augmentation of an
    utterance is another entry. An interrupted write loses that entry alone, and is noticed.
    """

    def __init__(self, folder: Path, tokens: int, top_k: int, limit_bytes: int) -> None:
        """
        Args:
            folder: of one set of teachers; made if need be.
            tokens: size of the teacher's output.
            top_k: tokens kept a frame.
            limit_bytes: size at which no more entries are added.
        """
        self.tokens, self.top_k, self.limit_bytes = tokens, min(top_k, tokens), limit_bytes
        id_type = np.uint8 if tokens <= 256 else np.uint16
        self.frame = np.dtype([("ids", id_type, self.top_k), ("log_probs", np.float16, self.top_k)])
        folder.mkdir(parents=True, exist_ok=True)
        self._data_path, self._index_path = folder / f"top{self.top_k}.bin", folder / f"top{self.top_k}.jsonl"
        self._entries = self._read_index()

    @property
    def nbytes(self) -> int:
        """Bytes of all entries, the index left out."""
        return sum(frames for _, frames, _ in self._entries.values()) * self.frame.itemsize

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> np.ndarray | None:
        """float32 `(frames, tokens)` log probabilities, or None."""
        if key not in self._entries:
            return None
        offset, frames, checksum = self._entries[key]
        packed = np.fromfile(self._data_path, self.frame, count=frames, offset=offset)
        if zlib.crc32(packed.tobytes()) != checksum:  # written when the machine went down
            del self._entries[key]
            return None
        return unpack(packed, self.tokens)

    def put(self, key: str, log_probs: np.ndarray) -> None:
        """Keep float32 `(frames, tokens)`, unless the cache is full."""
        packed = pack(log_probs, self.frame)
        if key in self._entries or self.nbytes + packed.nbytes > self.limit_bytes:
            return
        with self._data_path.open("ab", buffering=0) as file:
            file.write(packed.tobytes())
            offset = file.tell() - packed.nbytes  # right even if another process appends too
        entry = (offset, len(packed), zlib.crc32(packed.tobytes()))
        with self._index_path.open("a") as file:
            file.write("\n" + json.dumps([key, *entry]))  # the line before may have been cut short
        self._entries[key] = entry

    def _read_index(self) -> dict[str, tuple[int, int, int]]:
        entries = {}
        for line in self._index_path.read_text().splitlines() if self._index_path.exists() else ():
            with suppress(ValueError):  # an empty line, or one that an interrupt cut short
                key, offset, frames, checksum = json.loads(line)
                entries[key] = (offset, frames, checksum)
        return entries


def pack(log_probs: np.ndarray, frame: np.dtype) -> np.ndarray:
    """float32 `(frames, tokens)` -> `(frames,)` of `frame`: the most probable tokens, ascending by id."""
    top_k = frame["ids"].shape[0]
    ids = np.sort(np.argpartition(-log_probs, top_k - 1, axis=1)[:, :top_k], axis=1)
    packed = np.zeros(len(log_probs), frame)
    packed["ids"] = ids
    packed["log_probs"] = np.maximum(np.take_along_axis(log_probs, ids, axis=1), np.finfo(np.float16).min)
    return packed


def unpack(packed: np.ndarray, tokens: int) -> np.ndarray:
    """The inverse of `pack`, normalized: float32 `(frames, tokens)` log probabilities."""
    ids, log_probs = packed["ids"].astype(np.int64), packed["log_probs"].astype(np.float32)
    rest = tokens - ids.shape[1]
    left = np.maximum(1 - np.exp(log_probs).sum(axis=1, keepdims=True), 1e-6 * (rest > 0))
    full = np.full((len(packed), tokens), -np.inf, np.float32)
    if rest:
        full[:] = np.log(left / rest)
    np.put_along_axis(full, ids, log_probs, axis=1)
    return (full - np.log(np.exp(full).sum(axis=1, keepdims=True))).astype(np.float32)


class Teacher:
    """One recognizer, or several whose posteriors are averaged."""

    def __init__(self, paths: Sequence[Path], tokens: Tokens | None, cache: Path, top_k: int, limit_bytes: int) -> None:
        """
        Args:
            paths: bundles.
            tokens: the student's; None does not compare them.
            cache: folder under which posteriors are kept.
            top_k: tokens kept a frame.
            limit_bytes: largest size of the cache.

        Raises:
            InputError: a bundle that cannot be read, or whose tokens differ from the student's.
        """
        self.models: list[AcousticModel] = []
        digest = 0
        size = 0
        for path in paths:
            bundle = Bundle.load(path)
            if tokens is not None and bundle.tokens != tokens:
                raise InputError(f"{path}: the teacher has other tokens than the student; train them on the same ones")
            self.models.append(from_network(bundle.network).eval().requires_grad_(False))
            digest = zlib.crc32(Path(path).read_bytes(), digest)
            size = len(bundle.tokens)
        if len({model.stride for model in self.models}) > 1:
            raise InputError(
                "teachers of different frame rates cannot be averaged; use one, or distil from each in turn"
            )
        self.cache = Cache(cache / f"teacher-{digest:08x}", size, top_k, limit_bytes)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Posteriors:
        """Log probabilities for the frames of `batch`, which are not masked."""
        keys = keys_of(batch)
        found = {key: self.cache.get(key) for key in keys}
        if any(value is None for value in found.values()):
            computed = self._compute(batch)
            for row, key in enumerate(keys):
                if found[key] is None:
                    length = int(computed.lengths[row])
                    exact = computed.log_probs[row, :length].cpu().numpy()
                    self.cache.put(key, exact)
                    # What comes from the cache later is what training sees now, so that runs repeat.
                    found[key] = unpack(pack(exact, self.cache.frame), self.cache.tokens)
        parts = [torch.from_numpy(np.asarray(found[key])) for key in keys]
        log_probs = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        lengths = torch.tensor([len(part) for part in parts])
        device = batch.features.device
        return Posteriors(log_probs.to(device), lengths.to(device))

    def _compute(self, batch: Batch) -> Posteriors:
        total, lengths = None, batch.feature_lengths
        for model in self.models:
            model.to(batch.features.device)
            logits, lengths = model(batch.features, batch.feature_lengths)
            probs = logits.float().softmax(-1)
            total = probs if total is None else total + probs
        assert total is not None
        return Posteriors((total / len(self.models)).clamp_min(1e-30).log(), lengths)


def label_count(batch: Batch, posteriors: Posteriors) -> int:
    """Labels that `batch` holds, at least 1, to bring losses to a scale: those of the transcripts, and for utterances
    without one those that the teacher hears, greedily decoded."""
    counts = batch.target_lengths.tolist()
    best = posteriors.log_probs.argmax(-1).cpu()
    for row, length in enumerate(posteriors.lengths.tolist()):
        if counts[row] == 0:
            counts[row] = int((torch.unique_consecutive(best[row, :length]) != BLANK).sum())
    return max(1, sum(counts))


def keys_of(batch: Batch) -> list[str]:
    """Name and content of each utterance: the same audio played faster is another key."""
    rows = zip(batch.ids, batch.features, batch.feature_lengths.tolist(), strict=True)
    return [_key(name, frames[:length]) for name, frames, length in rows]


def _key(utterance: str, frames: Tensor) -> str:
    content = np.ascontiguousarray(frames.cpu().numpy())
    return f"{utterance} {len(content)} {zlib.crc32(content.tobytes()):08x}"


def at_rate(posteriors: Posteriors, lengths: Tensor, frames: int) -> Posteriors:
    """The teacher's posteriors at the student's frame rate, by `resample_frames`.

    Args:
        posteriors: `(batch, frames', tokens)`.
        lengths: int64 `(batch,)`, the student's output lengths; the same audio as the teacher's.
        frames: the student's padded length.
    """
    if torch.equal(posteriors.lengths, lengths):
        return Posteriors(fit(posteriors.log_probs, frames), lengths)
    probs = resample_frames(posteriors.log_probs.exp(), posteriors.lengths, lengths, frames)
    return Posteriors(probs.clamp_min(1e-30).log(), lengths)


def resample_frames(values: Tensor, theirs: Tensor, ours: Tensor, frames: int) -> Tensor:
    """Frames of one rate at another: `(batch, frames', features)` to `(batch, frames, features)`.

    A new frame gets the mean of the old ones that begin in it, or, where the new rate is faster, the one it lies in.

    Args:
        theirs, ours: int64 `(batch,)`, lengths before and after.
    """
    if torch.equal(theirs.cpu(), ours.cpu()):
        return fit(values, frames)
    out = values.new_zeros(len(values), frames, values.shape[2])
    for row, (old, new) in enumerate(zip(theirs.tolist(), ours.tolist(), strict=True)):
        edges = [index * old // new for index in range(new + 1)]
        for index in range(new):
            start = min(edges[index], old - 1)
            out[row, index] = values[row, start : max(start + 1, edges[index + 1])].mean(dim=0)
    return out


def fit(values: Tensor, frames: int) -> Tensor:
    """`(batch, frames', features)` cut or padded with zeros to `frames`."""
    short = frames - values.shape[1]
    return torch.nn.functional.pad(values, (0, 0, 0, short)) if short > 0 else values[:, :frames]
