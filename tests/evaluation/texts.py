"""Made-up texts for tests."""

from __future__ import annotations

import random


def random_pairs(count: int, words: int, length: int, rate: float, seed: int) -> list[tuple[str, str]]:
    """References of random words and hypotheses with deletions, substitutions and insertions at `rate`."""
    chance = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(words)]
    made = []
    for _ in range(count):
        reference = chance.choices(vocabulary, k=chance.randint(1, length))
        hypothesis: list[str] = []
        for word in reference:
            draw = chance.random() / rate
            if draw > 1:
                hypothesis.append(word)
            elif draw > 2 / 3:
                hypothesis += [word, chance.choice(vocabulary)]
            elif draw > 1 / 3:
                hypothesis.append(chance.choice(vocabulary))
        made.append((" ".join(reference), " ".join(hypothesis)))
    return made
