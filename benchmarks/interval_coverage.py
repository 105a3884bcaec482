"""How often the 95 % intervals contain the truth, by simulation.

    python benchmarks/interval_coverage.py [--sets 1000] [--resamples 1000]

Test sets are drawn from a population whose error rate is known: speakers differ (beta-distributed error rates with the
given standard deviation), utterances of a speaker differ, words fail by chance. Two systems are compared on the same
sets: the second breaks and mends some words, by an amount that may itself differ between speakers. For digit strings a
string's takes have their own error rates, and a take may occur in many strings; the unit is then the take.

Prints a table of coverage (percent of sets whose interval contains the truth) and mean width, against intervals that
ignore the speakers (or takes).
"""

from __future__ import annotations

import argparse

import numpy as np

from asr_compress.evaluation import bootstrap

WORDS = 6
TRUE_RATE = 0.3


def beta(chance: np.random.Generator, mean: float, deviation: float, size: int) -> np.ndarray:
    if deviation == 0:
        return np.full(size, mean)
    total = mean * (1 - mean) / deviation**2 - 1
    return chance.beta(mean * total, (1 - mean) * total, size)


def speaker_set(chance: np.random.Generator, speakers: int, utterances: int, deviation: float, spread: float):
    """Errors of two systems, words and speakers of one simulated test set."""
    owner = np.repeat(np.arange(speakers), utterances)
    first = chance.binomial(WORDS, beta(chance, TRUE_RATE, deviation, speakers)[owner])
    broken = beta(chance, 0.05, spread, speakers)[owner]
    second = first - chance.binomial(first, 0.05) + chance.binomial(WORDS - first, broken)
    return first, second, np.full(len(owner), WORDS), owner


# The second system mends 5 % of the wrong words and breaks 5 % of the right ones.
TRUE_DIFFERENCE = (1 - TRUE_RATE) * 0.05 - TRUE_RATE * 0.05


def take_set(chance: np.random.Generator, speakers: int, takes: int, uses: int, deviation: float):
    """Errors of one system by take, summed over the strings that use it, and by string; 5-word strings."""
    fail = beta(chance, 0.05, deviation, speakers * takes)
    owner = np.repeat(np.arange(speakers), takes)
    strings = [
        chance.permutation(np.repeat(np.flatnonzero(owner == speaker), uses)).reshape(-1, 5)
        for speaker in range(speakers)
    ]
    members = np.concatenate(strings)
    errors = chance.random(members.shape) < fail[members]
    by_take = np.bincount(members.ravel(), weights=errors.ravel(), minlength=len(owner))
    return by_take, np.full(len(owner), uses), owner, errors.sum(axis=1), owner[members[:, 0]]


class Tally:
    def __init__(self) -> None:
        self.hits = self.sets = 0
        self.width = 0.0

    def add(self, interval: bootstrap.Interval, truth: float) -> None:
        self.sets += 1
        self.hits += interval.low <= truth <= interval.high
        self.width += interval.width

    def __str__(self) -> str:
        return f"{100 * self.hits / self.sets:5.1f} % (width {100 * self.width / self.sets:5.2f})"


def speaker_coverage(
    speakers: int, utterances: int, deviation: float, spread: float, sets: int, resamples: int
) -> dict[str, Tally]:
    tallies = {name: Tally() for name in ("rate", "difference", "relative difference", "rate, speakers ignored")}
    for seed in range(sets):
        first, second, words, owner = speaker_set(np.random.default_rng(seed), speakers, utterances, deviation, spread)
        draws = bootstrap.draw([str(o) for o in owner], resamples, seed=seed)
        tallies["rate"].add(bootstrap.rate(first, words, draws), TRUE_RATE)
        tallies["difference"].add(bootstrap.difference(second, first, words, draws, False), TRUE_DIFFERENCE)
        tallies["relative difference"].add(
            bootstrap.difference(second, first, words, draws, True), TRUE_DIFFERENCE / TRUE_RATE
        )
        alone = bootstrap.draw([str(i) for i in range(len(owner))], resamples, seed=seed)
        tallies["rate, speakers ignored"].add(bootstrap.rate(first, words, alone), TRUE_RATE)
    return tallies


def take_coverage(
    speakers: int, takes: int, uses: int, deviation: float, sets: int, resamples: int
) -> dict[str, Tally]:
    tallies = {name: Tally() for name in ("takes resampled", "strings resampled")}
    for seed in range(sets):
        errors, words, owner, string_errors, string_owner = take_set(
            np.random.default_rng(seed), speakers, takes, uses, deviation
        )
        takes_drawn = bootstrap.draw([str(o) for o in owner], resamples, speakers_fixed=True, seed=seed)
        tallies["takes resampled"].add(bootstrap.rate(errors, words, takes_drawn), 0.05)
        strings_drawn = bootstrap.draw([str(o) for o in string_owner], resamples, speakers_fixed=True, seed=seed)
        lengths = np.full(len(string_errors), 5)
        tallies["strings resampled"].add(bootstrap.rate(string_errors, lengths, strings_drawn), 0.05)
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="simulated test sets a row")
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    print("speakers x utterances, deviation of speakers' error rates, of their changes")
    for speakers, utterances in ((85, 20), (20, 10), (5, 30)):
        for deviation, spread in ((0.0, 0.0), (0.05, 0.0), (0.15, 0.0), (0.15, 0.03)):
            tallies = speaker_coverage(speakers, utterances, deviation, spread, options.sets, options.resamples)
            print(f"{speakers} x {utterances}, {deviation}, {spread}")
            for name, tally in tallies.items():
                print(f"    {name:24} {tally}", flush=True)
    print("speakers x takes, uses of a take, deviation of takes' error rates")
    for uses, deviation in ((1, 0.1), (5, 0.0), (5, 0.1), (5, 0.2)):
        print(f"5 x 50, {uses}, {deviation}")
        for name, tally in take_coverage(5, 50, uses, deviation, options.sets, options.resamples).items():
            print(f"    {name:24} {tally}", flush=True)


if __name__ == "__main__":
    main()
