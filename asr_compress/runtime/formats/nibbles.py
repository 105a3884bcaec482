"""Two 4-bit values a byte: the even column in the low half, the odd one in the high half."""

from __future__ import annotations

import numpy as np


def pack_nibbles(values: np.ndarray) -> np.ndarray:
    """Integers 0 to 15, (..., cols) -> uint8 (..., ceil(cols / 2)). The half that is left over is 0."""
    values = values.astype(np.uint8)
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    return values[..., 0::2] | (values[..., 1::2] << 4)


def unpack_nibbles(packed: np.ndarray, cols: int) -> np.ndarray:
    """The inverse: uint8 (..., ceil(cols / 2)) -> uint8 (..., cols)."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1)
    return halves.reshape(*packed.shape[:-1], 2 * packed.shape[-1])[..., :cols]
