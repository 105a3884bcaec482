"""Letter-to-sound for English words outside the dictionary, with the weights of the g2p-en package.

The package itself cannot be imported without a download (its nltk data), and it goes one word at a time; its
network is small enough to state here. Park and Kim, g2pE, 2019: a GRU reads the letters, a second one writes
phones from its last state, greedily. Trained on CMUdict.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr_compress.runtime.lexicon import Pronunciation
from asr_compress.runtime.tokens import ARPABET

Array = NDArray[np.float32]

_LETTERS = {letter: i for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ", start=3)}
_END_OF_WORD, _START, _END = 2, 2, 3  # the reader's end; the writer's start and end
_MAX_PHONES = 20  # the length that the network was trained for
_VOWELS = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}


def _phone_of_output() -> list[str | None]:
    """The network's outputs: four marks, then the phones in order, each vowel with stress 0, 1, 2 (UW also without)."""
    outputs: list[str | None] = [None] * 4
    for phone in ARPABET:
        outputs += [phone] * ((3 if phone in _VOWELS else 1) + (phone == "UW"))
    return outputs


@dataclass(frozen=True)
class LetterToSound:
    """The network's tensors under the names they have in the package's checkpoint."""

    weights: dict[str, Array]

    @classmethod
    def load(cls) -> LetterToSound:
        """Read the checkpoint from the installed g2p-en, without importing it.

        Raises:
            ImportError: g2p-en is not installed.
        """
        package = importlib.util.find_spec("g2p_en")
        if package is None or package.origin is None:
            raise ImportError("words outside CMUdict need the package g2p-en: install asr_compress[train]")
        with np.load(Path(package.origin).with_name("checkpoint20.npz"), allow_pickle=False) as checkpoint:
            return cls({name: checkpoint[name] for name in checkpoint})

    def pronounce(self, words: list[str]) -> list[Pronunciation]:
        """Phones without stress for upper-case words, all at once; apostrophes are silent.

        A word for which the network writes nothing gets its letters' plainest sound, the first vowel `AH`.
        """
        letters = [[_LETTERS[letter] for letter in word if letter != "'"] + [_END_OF_WORD] for word in words]
        outputs = self._write(self._read(letters))
        phone_of = _phone_of_output()
        spoken = []
        for row in outputs:
            phones = [phone_of[i] for i in row[: _length(row)]]
            spoken.append(tuple(phone for phone in phones if phone is not None) or ("AH",))
        return spoken

    def _read(self, letters: list[list[int]]) -> Array:
        """Last state of the reading GRU, (words, 128); a word's state stops changing after its last letter."""
        state = np.zeros((len(letters), self.weights["enc_w_hh"].shape[1]), np.float32)
        for t in range(max(map(len, letters), default=0)):
            active = np.array([len(word) > t for word in letters])
            inputs = self.weights["enc_emb"][[word[t] for word in letters if len(word) > t]]
            state[active] = self._step("enc", inputs, state[active])
        return state

    def _write(self, state: Array) -> NDArray[np.intp]:
        """Outputs of the writing GRU, (words, 20); what follows the end mark has no meaning."""
        previous = np.full(len(state), _START)
        outputs = np.full((len(state), _MAX_PHONES), _END)
        for t in range(_MAX_PHONES):
            state = self._step("dec", self.weights["dec_emb"][previous], state)
            previous = (state @ self.weights["fc_w"].T + self.weights["fc_b"]).argmax(axis=1)
            outputs[:, t] = previous
        return outputs

    def _step(self, name: str, x: Array, state: Array) -> Array:
        """One step of a GRU (gate order reset, update, candidate), x and state (words, features)."""
        units = state.shape[1]
        from_input = x @ self.weights[f"{name}_w_ih"].T + self.weights[f"{name}_b_ih"]
        from_state = state @ self.weights[f"{name}_w_hh"].T + self.weights[f"{name}_b_hh"]
        gates = 1 / (1 + np.exp(-(from_input + from_state)[:, : 2 * units]))
        reset, update = gates[:, :units], gates[:, units:]
        candidate = np.tanh(from_input[:, 2 * units :] + reset * from_state[:, 2 * units :])
        return np.asarray((1 - update) * candidate + update * state, np.float32)


def _length(row: NDArray[np.intp]) -> int:
    ends = np.flatnonzero(row == _END)
    return int(ends[0]) if len(ends) else len(row)
