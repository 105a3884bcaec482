"""A language of tones: a waveform for each token, and a network that hears which tone sounds."""

from __future__ import annotations

import numpy as np

from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.features import FeatureConfig, log_mel
from asr_compress.runtime.formats import Float32
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.network import Activation, FrameStack, Linear, Normalize
from asr_compress.runtime.tokens import Tokens

RATE_HZ = 16000
FEATURES = FeatureConfig(bins=40)
STACK = 3
FLOOR = 7.0  # of the log-mel energies
TONE_S, GAP_S = 0.12, 0.06


def tone(token: int, tokens: Tokens) -> np.ndarray:
    """The sound of a token: between 300 and 6000 Hz, evenly spaced in log frequency, swelling and fading."""
    hz = 300 * 20 ** ((token - 1) / max(1, len(tokens) - 2))
    times = np.arange(round(TONE_S * RATE_HZ)) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * hz * times) * np.hanning(len(times))).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def say(text: str, tokens: Tokens, lexicon: Lexicon | None = None) -> np.ndarray:
    """A waveform of a text: its tokens' tones, with short gaps, (samples,) float32 at 16 kHz."""
    parts = [silence(GAP_S)]
    for token in tokens.encode(text, lexicon):
        parts += [tone(token, tokens), silence(GAP_S)]
    return np.concatenate(parts)


def tone_bundle(tokens: Tokens, lexicon: Lexicon | None = None) -> Bundle:
    """A network that gives each token the closeness of a frame's shape to that of its tone, and blanks to silence."""
    shapes = np.stack([log_mel(tone(token, tokens), FEATURES)[3:-3].mean(axis=0) for token in range(1, len(tokens))])
    # Frames and shapes are taken as they stand above -60 dB or so, where the tones' skirts are gone. A token's logit is
    # half the squared distance, less the part that all tokens share: x . shape - |shape|^2 / 2. Silence is zero.
    shapes = np.concatenate([np.zeros((1, FEATURES.bins)), np.maximum(0, (shapes - FLOOR) / 10)])
    weights = np.tile(shapes, (1, STACK)) / STACK
    network = (
        Normalize(np.full(FEATURES.bins, FLOOR, np.float32), np.full(FEATURES.bins, 0.1, np.float32)),
        Activation("relu"),
        FrameStack(STACK, STACK),
        Linear(Float32.encode((9 * weights).astype(np.float32)), (-4.5 * (shapes**2).sum(axis=1)).astype(np.float32)),
    )
    return Bundle(network, FEATURES, tokens, lexicon)
