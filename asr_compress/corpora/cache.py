"""Log-mel frames of a whole split, computed once per playing speed and kept on disk.

Decoding Opus costs more than a training step on the frames, so frames are cached; float16 holds log-mel energies to
better than 1 % of their deviation at half the size.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from rich.console import Console
from rich.progress import track

from asr_compress.corpora.utterances import is_broken
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig, log_mel
from asr_compress.runtime.files import atomic_write


class FeatureCache:
    """Frames by utterance id, read through a memory map.

    Attributes:
        frames: float16 `(all frames, bins)`.
        spans: first frame and end frame of each utterance.
    """

    def __init__(self, frames: np.ndarray, spans: dict[str, tuple[int, int]]) -> None:
        self.frames, self.spans = frames, spans

    def __getitem__(self, utterance: str) -> np.ndarray:
        """float32 `(frames, bins)`."""
        start, end = self.spans[utterance]
        return np.asarray(self.frames[start:end], dtype=np.float32)

    def length(self, utterance: str) -> int:
        start, end = self.spans[utterance]
        return end - start


def cache_features(
    cuts: CutSet, config: FeatureConfig, folder: str | Path, speed: float = 1.0, jobs: int | None = None
) -> FeatureCache:
    """Open the cache of `cuts` at `speed` in `folder`, computing it first where it is not there yet.

    Args:
        cuts: single-utterance cuts; those whose audio is known to be broken are left out.
        speed: factor of lhotse's `perturb_speed` (tempo and pitch together).
        jobs: processes that decode and compute; all processors when None.

    Raises:
        InputError: audio that cannot be read.
    """
    items = [cut for cut in cuts if not is_broken(cut)]
    path = Path(folder) / f"{_key(items, config, speed)}.npy"
    index = path.with_suffix(".json")
    if not (path.exists() and index.exists()):
        _compute(items, config, speed, path, index, jobs or len(os.sched_getaffinity(0)))
    spans = {name: (start, end) for name, start, end in json.loads(index.read_text())}
    return FeatureCache(np.load(path, mmap_mode="r"), spans)


def statistics(cache: FeatureCache, utterances: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over all frames of `utterances`, float32 `(bins,)` each."""
    total = np.zeros(cache.frames.shape[1])
    squares = np.zeros_like(total)
    count = 0
    for name in utterances:
        frames = cache[name].astype(np.float64)
        total += frames.sum(axis=0)
        squares += (frames**2).sum(axis=0)
        count += len(frames)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 1e-10))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _key(items: Sequence[Cut], config: FeatureConfig, speed: float) -> str:
    digest = hashlib.sha256(json.dumps([config.to_json(), speed]).encode())
    for cut in items:
        digest.update(json.dumps(cut.to_dict(), sort_keys=True).encode())
    return digest.hexdigest()[:20]


def _compute(items: list[Cut], config: FeatureConfig, speed: float, path: Path, index: Path, jobs: int) -> None:
    spans, parts, start = [], [], 0
    tasks = [(cut, config, speed) for cut in items]
    console = Console(stderr=True)  # standard output is for results
    shown = track(_in_processes(tasks, jobs), f"features x{speed:g}", len(items), console=console)
    for cut, frames in zip(items, shown, strict=True):
        spans.append((cut.id, start, start + len(frames)))
        start += len(frames)
        parts.append(frames)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(parts) if parts else np.empty((0, config.bins), np.float16))
    with atomic_write(index) as temporary:
        temporary.write_text(json.dumps(spans))


def _in_processes(tasks: list[tuple[Cut, FeatureConfig, float]], jobs: int) -> Iterator[np.ndarray]:
    if jobs == 1 or len(tasks) < 100:  # starting processes costs as much as a hundred utterances
        yield from map(_frames, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_frames, tasks, chunksize=32)


def _frames(task: tuple[Cut, FeatureConfig, float]) -> np.ndarray:
    cut, config, speed = task
    if cut.sampling_rate != config.sample_rate_hz:
        cut = cut.resample(config.sample_rate_hz)
    if speed != 1.0:
        cut = cut.perturb_speed(speed)
    try:
        samples = cut.load_audio()[0]
    except Exception as error:  # lhotse's readers raise what they like
        raise InputError(_unreadable(cut, error)) from None
    return log_mel(samples, config).astype(np.float16)


def _unreadable(cut: Cut, error: Exception) -> str:
    sources = cut.recording.sources if cut.has_recording else []
    for file in (str(source.source) for source in sources if source.type == "file"):
        if not Path(file).exists():
            return f"{cut.id}: {file} is not there; if the audio has moved, prepare the manifest again"
    return f"{cut.id}: audio cannot be read ({' '.join(str(error).split())[:200]})"
