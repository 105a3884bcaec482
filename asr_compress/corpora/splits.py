"""Taking parts of a split: dev speakers out of training, a number of hours, a list of utterances.

All choices are made by a seed and by ids, never by the order of files, so they are the same everywhere.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection

from lhotse import CutSet, MonoCut

from asr_compress.runtime.errors import InputError

GROUPS: dict[str, Callable[[MonoCut], str]] = {
    "speaker": lambda cut: cut.supervisions[0].speaker,
    "text": lambda cut: cut.supervisions[0].text,
    # CMU Arctic's ids, `arctic_a0001_<take>`: what was read, whichever take it is.
    "prompt": lambda cut: "_".join(cut.id.split("_")[:2]),
}
"""What must not be on both sides of a split, by name."""


def hold_out(cuts: CutSet, count: int, by: str = "speaker", seed: int = 0) -> tuple[CutSet, CutSet]:
    """Take `count` whole groups (speakers, texts or prompts) out of a split: (what is left, what was taken).

    Raises:
        InputError: unknown kind of group; not enough groups for something to be left.
    """
    if by not in GROUPS:
        raise InputError(f"hold out by {by!r}: unknown; choose one of {', '.join(GROUPS)}")
    groups = sorted({GROUPS[by](cut) for cut in cuts})
    if not 0 < count < len(groups):
        raise InputError(f"hold out {count} of {len(groups)} ({by}): from 1 to {len(groups) - 1} can be taken")
    taken = set(random.Random(seed).sample(groups, count))
    sides: dict[bool, list[MonoCut]] = defaultdict(list)
    for cut in cuts:
        sides[GROUPS[by](cut) in taken].append(cut)
    return CutSet.from_cuts(sides[False]), CutSet.from_cuts(sides[True])


def take_hours(cuts: CutSet, hours: float, seed: int = 0) -> CutSet:
    """A random part of a split of about `hours` (the last utterance may pass it), in the split's order.

    Raises:
        InputError: hours not above zero, or more than there are.
    """
    total = sum(cut.duration for cut in cuts) / 3600
    if not 0 < hours <= total:
        raise InputError(f"{hours} hours: the split has {total:.2f}")
    order = sorted(cuts, key=lambda cut: cut.id)
    random.Random(seed).shuffle(order)
    taken: set[str] = set()
    left_s = hours * 3600
    for cut in order:
        if left_s <= 0:
            break
        taken.add(cut.id)
        left_s -= cut.duration
    return CutSet.from_cuts(cut for cut in cuts if cut.id in taken)


def take_utterances(cuts: CutSet, ids: Collection[str]) -> CutSet:
    """The utterances whose ids are listed, in the split's order; it may be none."""
    wanted = set(ids)
    return CutSet.from_cuts(cut for cut in cuts if cut.id in wanted)
