"""The one statement of the engine's numbers: what is rounded, where, and in which order.

The numpy reference calls these functions. The native kernels repeat them operation by operation, in float32
(binary32), every operation rounded on its own (no reassociation, and fused only where `multiply_add` stands), so that
the reference and every instruction set agree bit for bit. The fake-quantizer of training rounds by `quantize_rows` too.

In short, for a row x of activations and an integer weight matrix w:

    scale  = max|x| * (1/127)                    one number a row, 1 where the row is (nearly) zero
    q      = clip(rint(x * (1/scale)), +-127)    int8, half to even
    sum    = sum of w * q                        int32, exact
    y      = float(sum) * (scale * weight_scale)

and for an LSTM step, gates in the order i, f, g, o:

    gates = product(recurrent_map, h) + (product(input_map, x) + bias)
    c, h  = lstm_cell(gates, c)

Inputs must be finite. A NaN or an infinity gives unspecified numbers (never unsafe memory access).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = np.float32
Floats = NDArray[np.float32]

QUANTIZED_MAX = 127  # -128 is never used, so that |q| fits seven bits and negation is exact
NEARLY_ZERO = F32(2.0**-100)  # below it, 1/scale would leave the range of normal float32 numbers
_INVERSE_MAX = F32(1 / QUANTIZED_MAX)

EXP_LIMIT = F32(29.0)  # the product of three (1 + exp) in `lstm_cell` stays below the largest float32
LOG2_E = F32(1.44269504)
# Minimax polynomial of 2**f on [-1/2, 1/2], constant term exactly 1, relative error 8e-8.
EXP2_COEFFICIENTS = tuple(F32(float.fromhex(c)) for c in (
    "0x1.62e42cp-1", "0x1.ebf9b2p-3", "0x1.c6b62ap-5", "0x1.3cee4cp-7", "0x1.5bfc8ep-10",
))  # fmt: skip

LANES = 16  # width of the partial sums in `lane_sum`


def activation_scales(x: Floats) -> Floats:
    """Scale of each row of x (n, cols): max|x| * float32(1/127), or 1 where max|x| < 2**-100. Shape (n,)."""
    if x.shape[1] == 0:
        return np.ones(x.shape[0], F32)
    largest = np.abs(x).max(axis=1)
    return np.where(largest < NEARLY_ZERO, F32(1), largest * _INVERSE_MAX).astype(F32)


def quantize_rows(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantize each row of activations to int8, symmetric, by its own largest magnitude.

    Args:
        x: float32 (n, cols), finite.

    Returns:
        q int8 (n, cols) in [-127, 127] and the scales float32 (n,): x is about q * scale.
    """
    x = np.asarray(x, F32)
    return _quantize(x, activation_scales(x))


def quantize_static(x: Floats, scale: float) -> tuple[NDArray[np.int8], Floats]:
    """As `quantize_rows`, by one fixed (calibrated) positive scale; values beyond 127 * scale are clipped."""
    x = np.asarray(x, F32)
    return _quantize(x, np.full(x.shape[0], scale, F32))


def _quantize(x: Floats, scales: Floats) -> tuple[NDArray[np.int8], Floats]:
    scaled = x * (F32(1) / scales)[:, None]
    return np.clip(np.rint(scaled), -QUANTIZED_MAX, QUANTIZED_MAX).astype(np.int8), scales


def dequantize(sums: NDArray[np.int32], scales: Floats, weight_scales: Floats) -> Floats:
    """Sums (n, rows) of rows with activation `scales` (n,) and weights with `weight_scales` (rows,): float32."""
    return sums.astype(F32) * (scales[:, None] * weight_scales)


def f32_product(x: Floats, weights: Floats) -> Floats:
    """Product of x (n, cols) with float32 weights (rows, cols): float32 (n, rows).

    Columns are added one after the other, each by `multiply_add`: the order does not depend on how many rows are
    computed together. (`x @ weights.T` equals it to rounding and is much faster.)
    """
    total = np.zeros((x.shape[0], weights.shape[0]), F32)
    for column in range(weights.shape[1]):
        total = multiply_add(x[:, column, None], weights[:, column], total)
    return total


def multiply_add(a: Floats, b: Floats, c: Floats | F32) -> Floats:
    """a * b + c rounded once, as processors do it: float32, shapes broadcast, for results of normal size.

    The product is exact in float64. The sum is rounded there and again to float32; the two roundings differ from one
    only where the first ends half way between two float32, and then the way it came from decides.
    """
    product = a.astype(np.float64) * b
    total = product + c
    halfway = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    if halfway.any():
        added = total - product
        lost = (product - (total - added)) + (c - added)  # exact (Knuth's two-sum)
        total = np.where(halfway & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return total.astype(F32)


def exp(x: Floats) -> Floats:
    """e**x with x clamped to [-29, 29]; relative error below 2e-6 (below 3e-7 for |x| < 1).

    2**f on [-1/2, 1/2] is a polynomial of degree 5 by Horner's rule, multiplication and addition rounded together.
    """
    t = np.clip(np.asarray(x, F32), -EXP_LIMIT, EXP_LIMIT) * LOG2_E
    whole = np.rint(t)
    f = t - whole  # exact
    p = np.full_like(f, EXP2_COEFFICIENTS[-1])
    for coefficient in (*EXP2_COEFFICIENTS[-2::-1], F32(1)):
        p = multiply_add(p, f, coefficient)
    return np.ldexp(p, whole.astype(np.int32)).astype(F32)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), float32, any shape."""
    return F32(1) / (F32(1) + exp(-np.asarray(x, F32)))


def tanh(x: Floats) -> Floats:
    """(1 - e) / (1 + e) with e = exp(-(x + x)), float32, any shape."""
    x = np.asarray(x, F32)
    e = exp(-(x + x))
    return (F32(1) - e) / (F32(1) + e)


def lstm_cell(gates: Floats, c: Floats) -> tuple[Floats, Floats]:
    """The LSTM's cell update, its sigmoids and tanhs on common denominators: two divisions in place of five.

    With e_i = exp(-i), e_f = exp(-f), e_g = exp(-(g + g)), e_o = exp(-o):

        a  = (1 + e_i) * (1 + e_g)         b = 1 + e_f
        c' = (c * a + (1 - e_g) * b) / (a * b)                 = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = (1 - e_c) / ((1 + e_o) * (1 + e_c))               = sigmoid(o) tanh(c'),  e_c = exp(-(c' + c'))

    Args:
        gates: float32 (n, 4H), pre-activations i, f, g, o.
        c: float32 (n, H), cell state.

    Returns:
        the new c and h, float32 (n, H) each.
    """
    one = F32(1)
    i, f, g, o = np.split(np.asarray(gates, F32), 4, axis=1)
    e_i, e_f, e_g, e_o = exp(-i), exp(-f), exp(-(g + g)), exp(-o)
    a = (one + e_i) * (one + e_g)
    b = one + e_f
    c = np.asarray((c * a + (one - e_g) * b) / (a * b), F32)
    e_c = exp(-(c + c))
    return c, np.asarray((one - e_c) / ((one + e_o) * (one + e_c)), F32)


def lane_sum(x: Floats) -> Floats:
    """Sum of each row of x (n, cols) in a stated order, float32 (n,).

    Sixteen partial sums, the l-th over columns l, l+16, l+32 ... one after the other, then lanes l and l+8 are
    added, then l and l+4, l+2, l+1.
    """
    n, cols = x.shape
    padded = np.zeros((n, -(-cols // LANES) * LANES), F32)
    padded[:, :cols] = x
    partial = np.zeros((n, LANES), F32)
    for start in range(0, padded.shape[1], LANES):
        partial = partial + padded[:, start : start + LANES]
    while partial.shape[1] > 1:
        half = partial.shape[1] // 2
        partial = partial[:, :half] + partial[:, half:]
    return partial[:, 0]


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    """Layer normalization of each row: ((x - mean) * (1 / sqrt(variance + eps))) * weight + bias.

    mean = lane_sum(x) / cols, variance = lane_sum((x - mean)**2) / cols, float32. x (n, cols) -> (n, cols).
    """
    cols = F32(x.shape[1])
    centered = x - (lane_sum(x) / cols)[:, None]
    variance = lane_sum(centered * centered) / cols
    inverse = F32(1) / np.sqrt(variance + F32(eps))
    return centered * inverse[:, None] * weight + bias
