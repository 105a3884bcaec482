"""Between a trained weight with its parametrizations and a weight format; both ways."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr_compress.models.maps import Map, factors_of
from asr_compress.models.parametrizations import LowRank, Mask, as_matrix, from_matrix, kept, layout_of, tiling_of
from asr_compress.models.quantizers import Quantized, Quantizer, SharedWeights
from asr_compress.models.storage import Layout, store
from asr_compress.runtime import formats
from asr_compress.runtime.formats import WeightFormat


def encode(item: Map) -> WeightFormat:
    """The map in the format that its parametrizations say; where the LSTM has constant gates, without their rows."""
    if any(isinstance(part, LowRank) for part in item.chain):
        left, right = factors_of(item)
        return formats.LowRank(encode(left), encode(right))
    matrix = float_matrix(item)
    quantizer = item.quantizer()
    if quantizer is not None:
        return quantizer.encode(matrix)
    masks, live = item.masks(), item.live
    keep = kept(masks)
    if live is not None:
        matrix, keep = np.ascontiguousarray(matrix[live]), None if keep is None else keep[live]
    tiling = tiling_of(masks, item.sections, matrix.shape[1])
    return store(matrix, "float32", layout_of(masks), keep, item.sections, tiling=tiling)


def float_matrix(item: Map) -> np.ndarray:
    """float32 (rows, cols): the map before any quantizer, masks applied."""
    weight = item.trained.detach()
    with torch.no_grad():
        for part in item.chain:
            if isinstance(part, Quantizer):
                break
            weight = part(weight)
    return matrix_of(weight)


def matrix_of(weight: Tensor) -> np.ndarray:
    """A weight as numpy float32 (rows, cols) in a network's order."""
    return np.ascontiguousarray(as_matrix(weight.detach()).cpu().float().numpy())


def decode_into(item: Map, stored: WeightFormat) -> None:
    """Give the map the weight that `stored` means, and the parametrizations that keep its form in training.

    Where the LSTM has constant gates, the masks that make them must be there already.
    """
    shape, live = item.weight.shape, item.live
    if isinstance(stored, formats.LowRank):
        start = torch.zeros(shape[0], stored.rank), torch.zeros(stored.rank, stored.shape[1])  # filled below
        item.install(LowRank(stored.rank, shape, start))
        left, right = factors_of(item)
        decode_into(left, stored.left)
        decode_into(right, stored.right)
        return
    rows = slice(None) if live is None else live
    matrix = np.zeros((shape[0], stored.shape[1]), np.float32)
    matrix[rows] = stored.dense()
    with torch.no_grad():
        item.trained.copy_(from_matrix(torch.from_numpy(matrix), shape))
    layout = stored_layout(stored)
    if layout != "dense":
        keep = np.zeros(matrix.shape, np.bool_)
        keep[rows] = kept_weights(stored)
        mask = from_matrix(torch.from_numpy(keep), shape)
        tiling = stored.pattern.tiling if isinstance(stored, formats.SparseFloat | formats.SparseInt8) else None
        unit = "block" if layout == "blocks" else "weight" if tiling is None else "tile"
        item.install(Mask(mask, unit, tile=None if tiling is None else tiling.tile))
    numbers = stored_numbers(stored)
    if isinstance(stored, formats.Codebook):
        item.install(
            SharedWeights(item.weight, len(stored.table), stored, masks=item.masks(), gates=item.gates, live=live)
        )
    elif numbers != "float32":
        scale = getattr(stored, "input_scale", None)
        item.install(Quantized(numbers, item.masks(), item.gates, scale, live, source=stored))


def stored_layout(stored: WeightFormat) -> Layout:
    if isinstance(stored, formats.SparseFloat | formats.SparseInt8):
        return "sparse"
    return "blocks" if hasattr(stored, "pattern") else "dense"


def kept_weights(stored: WeightFormat) -> np.ndarray:
    """bool (rows, cols): the weights that a format in blocks or with weights left out holds."""
    if isinstance(stored, formats.SparseFloat | formats.SparseInt8):
        return stored.pattern.keep
    pattern = stored.pattern  # type: ignore[attr-defined]
    return pattern.scatter(np.ones((pattern.blocks, 16, 4), np.bool_))


def stored_numbers(stored: WeightFormat) -> str:
    """The key of `storage.NUMBERS` that a format holds."""
    if isinstance(stored, formats.SparseFloat):
        return "float16" if stored.values.dtype == np.float16 else "float32"
    return stored.kind.removeprefix("block_sparse_").removeprefix("sparse_")
