"""Speech made from text: sentences dealt to espeak-ng voices and spoken into a folder, once.

A voice is an accent with one of espeak-ng's variants of the speaker, such as "en-us+f2". What one voice says in one
split is a block: one process speaks it, into a folder that gets its name only when it is whole, so an interrupted run
goes on where it stopped and the same request always gives the same samples.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet
from rich.progress import track

from asr_compress.corpora.utterances import Problem, Utterance, to_cuts
from asr_compress.runtime.errors import InputError

ACCENTS = ("en-us", "en-gb-x-rp", "en-us-nyc", "en", "en-gb-scotland")

# One of each family of variants that sound alike, none that whispers, croaks or is a robot.
VARIANTS = (
    "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Alicia", "Andrea", "Andy",
    "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Mario", "Michael", "Mike", "Reed",
    "Storm", "adam", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "edward", "grandma",
    "grandpa", "gustave", "ian", "iven", "john", "kaukovalta", "linda", "marcelo", "max", "michel", "miguel",
    "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor",
    "zac",
)  # fmt: skip

_WORDS_PER_MINUTE = (140, 200)
_PITCH = (35, 65)
_VERSION = 1  # of everything here and in espeak.py that decides the samples


@dataclass(frozen=True)
class Block:
    """What one voice says in one split."""

    split: str
    voice: str
    sentences: tuple[str, ...]
    seed: int

    @property
    def task(self) -> dict:
        """What the speaking process is told, but for the folder."""
        randomness = random.Random(f"{self.seed} {self.split} {self.voice}")
        lines = [
            {
                "id": f"{self.split}-{self.voice.replace('+', '-')}-{number:04d}",
                "text": sentence,
                "words_per_minute": randomness.randint(*_WORDS_PER_MINUTE),
                "pitch": randomness.randint(*_PITCH),
            }
            for number, sentence in enumerate(self.sentences)
        ]
        return {"voice": self.voice, "seed": randomness.getrandbits(31), "lines": lines}

    def folder(self, root: Path) -> Path:
        """Where the block is kept; another text, seed or version is another folder."""
        digest = hashlib.sha256(json.dumps([_VERSION, self.task], sort_keys=True).encode()).hexdigest()
        return root / self.split / f"{self.voice}-{digest[:12]}"

    def utterances(self, root: Path) -> list[Utterance]:
        """Its utterances, as they are once it is spoken."""
        place = self.folder(root)
        paths = [(line, place / f"{line['id']}.flac") for line in self.task["lines"]]
        return [Utterance(line["id"], path, line["text"], self.voice, str(path)) for line, path in paths]


def voices(seed: int) -> list[str]:
    """All voices in random order: each variant once, with one accent, so that no two are the same speaker."""
    randomness = random.Random(f"voices {seed}")
    variants = randomness.sample(VARIANTS, len(VARIANTS))
    return [f"{ACCENTS[number % len(ACCENTS)]}+{variant}" for number, variant in enumerate(variants)]


def deal(split: str, sentences: Sequence[str], speakers: Sequence[str], seed: int) -> list[Block]:
    """Share sentences out to voices, one after the other."""
    shares = [tuple(sentences[number :: len(speakers)]) for number in range(len(speakers))]
    return [Block(split, voice, share, seed) for voice, share in zip(speakers, shares, strict=True) if share]


def spoken_splits(
    blocks: Sequence[Block],
    folder: str | Path,
    *,
    jobs: int | None = None,
    normalize: str = "upper",
    problems: list[Problem] | None = None,
) -> dict[str, CutSet]:
    """The cuts of each split; what is not yet in `folder` is spoken first, with a progress bar.

    Args:
        jobs: processes at once; as many as there are cores by default.

    Raises:
        InputError: espeakng-loader is not installed, or espeak-ng fails.
    """
    root = Path(folder).absolute()
    missing = [block for block in blocks if not block.folder(root).is_dir()]
    if missing and importlib.util.find_spec("espeakng_loader") is None:
        raise InputError("synthetic speech needs espeak-ng, which is not installed: pip install 'asr-compress[demo]'")
    with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        futures = [pool.submit(_speak, block, root) for block in missing]
        try:
            for future in track(as_completed(futures), "speaking", len(futures), disable=not missing):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    by_split: dict[str, list[Utterance]] = {}
    for block in blocks:
        by_split.setdefault(block.split, []).extend(block.utterances(root))
    return {split: to_cuts(split, own, normalize, problems) for split, own in by_split.items()}


def _speak(block: Block, root: Path) -> None:
    place = block.folder(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".speaking-", dir=place.parent))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "asr_compress.corpora.espeak"],
            input=json.dumps({**block.task, "folder": str(temporary)}),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise InputError(f"speaking with voice {block.voice!r} into {place.parent}: {last}")
        temporary.chmod(0o755)
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
