"""Word alignment as NIST's sclite makes it, so that its S/D/I can be reported too.

sclite (SCTK) minimizes 4 a substitution and 3 a deletion or insertion, where jiwer minimizes the number of errors.
The totals hardly ever differ; the split does. Ties are broken as sclite breaks them: a match or substitution first,
then an insertion, then a deletion, which a test checks against the program itself.
"""

from __future__ import annotations

from collections.abc import Sequence

_SUBSTITUTION, _GAP = 4, 3


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> str:
    """Alignment letters (`=`, `S`, `D`, `I`) of one utterance, in time and memory reference x hypothesis."""
    costs = [_GAP * j for j in range(len(hypothesis) + 1)]
    moves = [["I"] * (len(hypothesis) + 1)]
    for i, word in enumerate(reference, start=1):
        diagonal, costs[0] = costs[0], _GAP * i
        row = ["D"]
        for j, other in enumerate(hypothesis, start=1):
            move, best = ("=", diagonal) if word == other else ("S", diagonal + _SUBSTITUTION)
            if costs[j - 1] + _GAP < best:
                move, best = "I", costs[j - 1] + _GAP
            if costs[j] + _GAP < best:
                move, best = "D", costs[j] + _GAP
            diagonal, costs[j] = costs[j], best
            row.append(move)
        moves.append(row)
    return _trace(moves, len(reference), len(hypothesis))


def _trace(moves: list[list[str]], i: int, j: int) -> str:
    steps = []
    while i or j:
        move = moves[i][j]
        steps.append(move)
        i -= move != "I"
        j -= move != "D"
    return "".join(reversed(steps))
