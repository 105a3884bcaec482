"""A context-free grammar in a text file, and random sentences from it.

Lines are `name = alternative | alternative`; `<name>` in an alternative is one alternative of that rule; a line that
begins with a space continues the rule above; `#` begins a comment line.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from asr_compress.runtime.errors import InputError

_PART = re.compile(r"<([^<>]+)>|([^\s<>]+)")
_ATTEMPTS = 200  # draws in a row that give nothing new before the grammar counts as exhausted

# A part is (True, rule name) or (False, word).
_Alternative = tuple[tuple[bool, str], ...]


@dataclass(frozen=True)
class Grammar:
    """Rule name -> alternatives."""

    rules: dict[str, tuple[_Alternative, ...]]

    def words(self) -> set[str]:
        """All words that can be said."""
        return {
            text for rule in self.rules.values() for alternative in rule for is_rule, text in alternative if not is_rule
        }

    def sentence(self, randomness: random.Random, rule: str = "sentence") -> str:
        """One random sentence, every alternative of a rule equally likely."""
        parts = randomness.choice(self.rules[rule])
        return " ".join(self.sentence(randomness, text) if is_rule else text for is_rule, text in parts)

    def sentences(self, count: int, randomness: random.Random) -> list[str]:
        """`count` different sentences.

        Raises:
            InputError: the grammar does not give so many.
        """
        found: dict[str, None] = {}
        misses = 0
        while len(found) < count:
            before = len(found)
            found.setdefault(self.sentence(randomness))
            misses = 0 if len(found) > before else misses + 1
            if misses > _ATTEMPTS:
                raise InputError(f"{count} different sentences: the grammar gives only about {len(found)}")
        return list(found)


def parse_grammar(text: str, source: str) -> Grammar:
    """Read a grammar; `source` names it in errors.

    Raises:
        InputError: a line that is not a rule, a rule that is there twice, is missing, or comes back to itself.
    """
    bodies: dict[str, str] = {}
    name = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace() and name:
            bodies[name] += " " + line
            continue
        name, equals, body = (part.strip() for part in line.partition("="))
        if not equals or not name or name in bodies:
            raise InputError(f"{source}:{number}: {line!r} must be `name = alternatives`, each name once")
        bodies[name] = body
    rules = {
        name: tuple(
            tuple((bool(rule), rule or word) for rule, word in _PART.findall(alternative))
            for alternative in body.split("|")
        )
        for name, body in bodies.items()
    }
    _check(rules, source)
    return Grammar(rules)


def _check(rules: dict[str, tuple[_Alternative, ...]], source: str) -> None:
    if "sentence" not in rules:
        raise InputError(f"{source}: no rule `sentence`")
    finished: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name not in rules:
            raise InputError(f"{source}: rule `{above[-1]}` names <{name}>, which is not there")
        if name in above:
            raise InputError(f"{source}: rule `{name}` comes back to itself")
        if name in finished:
            return
        for alternative in rules[name]:
            if not alternative:
                raise InputError(f"{source}: rule `{name}` has an empty alternative")
            for is_rule, text in alternative:
                if is_rule:
                    visit(text, (*above, name))
        finished.add(name)

    for name in rules:
        visit(name, ())
