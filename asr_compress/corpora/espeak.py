"""The process that speaks: sentences in, FLAC files of an espeak-ng voice out.

Run as `python -m asr_compress.corpora.espeak` with one JSON object on standard input; `spoken.py` does. A process of
its own for each voice, because libespeak-ng keeps state from one sentence to the next (the phase of its flutter, the
random numbers of its noise): only the same sentences in the same order, from a fresh start, give the same samples.
The library is used through ctypes (espeak-ng's speak_lib.h and espeak_ng.h). It is GPL and comes with the `demo` extra.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

import numpy as np
import soundfile

from asr_compress.runtime.audio import resample

SAMPLE_RATE_HZ = 16000

# From speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH = 1, 3
_NOISE_DB = (-65.0, -45.0)  # of full scale; a room is never silent
_PEAK_DB = (-18.0, -2.0)

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer:
    """One voice of libespeak-ng, which is global: at most one Synthesizer a process.

    Raises:
        RuntimeError: the library does not start, or has no such voice.
    """

    def __init__(self, voice: str, seed: int) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
        self.rate_hz = self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), _DONT_EXIT)
        if self.rate_hz <= 0:
            # Its buffer for the path has 160 bytes.
            raise RuntimeError(f"espeak-ng does not start with its data at {data}; is the path too long for it?")
        self._pieces: list[np.ndarray] = []
        self._callback = _Callback(self._receive)  # kept, or it would be collected while the library holds it
        self._library.espeak_SetSynthCallback(self._callback)
        # A variant that is not there it takes for none, without a word.
        known = (data / "voices" / "!v" / voice.partition("+")[2]).is_file()
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._library.espeak_ng_SetRandSeed(seed)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: int) -> int:
        if samples and count:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768)
        return 0

    def speak(self, text: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """Say a sentence: (samples,) float32 at `rate_hz`. `pitch` is espeak's, 0 to 99 around 50."""
        self._pieces.clear()
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        status = self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        if status != 0 or not self._pieces:
            raise RuntimeError(f"espeak-ng does not say {text!r} (status {status})")
        return np.concatenate(self._pieces)


def speak_all(voice: str, seed: int, lines: list[dict], folder: Path) -> None:
    """Say every line ({"id", "text", "words_per_minute", "pitch"}) into `<folder>/<id>.flac`, 16 kHz."""
    synthesizer = Synthesizer(voice, seed)
    for number, line in enumerate(lines):
        clean = synthesizer.speak(line["text"].lower(), line["words_per_minute"], line["pitch"])
        samples = _as_recorded(resample(clean, synthesizer.rate_hz, SAMPLE_RATE_HZ), seed, number)
        with (folder / f"{line['id']}.flac").open("wb") as file:
            soundfile.write(file, samples, SAMPLE_RATE_HZ, format="FLAC")
            file.flush()
            os.fsync(file.fileno())


def _as_recorded(samples: np.ndarray, seed: int, number: int) -> np.ndarray:
    """The sentence at a level and over a noise of its own."""
    randomness = np.random.default_rng([seed, number])
    peak, noise = (10 ** (randomness.uniform(*bounds) / 20) for bounds in (_PEAK_DB, _NOISE_DB))
    scaled = samples * (peak / max(float(np.abs(samples).max()), 1e-6))
    return np.clip(scaled + randomness.normal(0, noise, len(samples)), -1, 1)


def main() -> None:
    """Do what standard input says; a failure is one line on standard error and exit code 1."""
    task = json.load(sys.stdin)
    try:
        speak_all(task["voice"], task["seed"], task["lines"], Path(task["folder"]))
    except (RuntimeError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
