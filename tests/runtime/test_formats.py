"""Every weight format: what is stored comes back, the product is the stated one, bytes and work are honest."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.runtime import arithmetic
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import (
    FORMATS,
    Binary,
    BlockSparseFloat32,
    BlockSparseInt4,
    BlockSparseInt8,
    Codebook,
    CodebookInt8,
    Float16,
    Float32,
    Int4,
    Int4Float,
    Int8,
    IntegerFormat,
    LowRank,
    SparseFloat,
    SparseInt8,
    Ternary,
    Tiling,
    WeightFormat,
    decode,
)
from asr_compress.runtime.formats.base import exact_dtype
from asr_compress.runtime.formats.block_sparse import as_blocks
from asr_compress.runtime.formats.codebook import kmeans
from asr_compress.runtime.formats.nibbles import pack_nibbles, unpack_nibbles
from asr_compress.runtime.formats.sparse import BITMAP, CSR, TILES


def matrix(rows: int, cols: int, seed: int = 0, zeros: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    weights = random.normal(size=(rows, cols)).astype(np.float32) * random.uniform(0.1, 3, (rows, 1)).astype(np.float32)
    weights[random.random((rows, cols)) < zeros] = 0
    return weights


def halves(weights: np.ndarray) -> np.ndarray:
    """Two sections of rows, of unequal size."""
    return (weights.shape[0] // 3, weights.shape[0] - weights.shape[0] // 3)


def some_blocks(weights: np.ndarray) -> np.ndarray:
    strips, _, across, _ = as_blocks(weights, halves(weights)).shape
    return np.random.default_rng(5).random((strips, across)) < 0.4


def some_tiles(weights: np.ndarray, tile: tuple[int, int]) -> dict:
    if weights.ndim != 2:
        return {}
    tiling = Tiling(tile, halves(weights), weights.shape[1])
    return {"keep": tiling.expand(np.random.default_rng(6).random(tiling.shape) < 0.4), "tiling": tiling}


def low_rank(inner):
    return lambda weights: LowRank.encode(weights, max(1, min(weights.shape) // 2), inner)


ENCODERS = {
    "float32": Float32.encode,
    "float16": Float16.encode,
    "int8": Int8.encode,
    "int8 static": lambda weights: Int8.encode(weights, input_scale=0.02),
    "int4": Int4.encode,
    "int4 by 8": lambda weights: Int4.encode(weights, group=8),
    "int4_float": Int4Float.encode,
    "ternary": Ternary.encode,
    "binary": Binary.encode,
    "sparse_float": SparseFloat.encode,
    "sparse_float half": lambda weights: SparseFloat.encode(weights, np.abs(weights) > 2, half=True),
    "sparse_int8": lambda weights: SparseInt8.encode(weights, np.abs(weights) > 0.5),
    "sparse_float tiles": lambda weights: SparseFloat.encode(weights, **some_tiles(weights, (8, 1))),
    "sparse_int8 tiles": lambda weights: SparseInt8.encode(weights, **some_tiles(weights, (3, 7))),
    "codebook": Codebook.encode,
    "codebook of 40": lambda weights: Codebook.encode(weights, 40),
    "codebook_int8": CodebookInt8.encode,
    "low_rank": low_rank(Float32.encode),
    "low_rank of int8": low_rank(Int8.encode),
    **{
        f"block_sparse_{name}": lambda weights, kind=kind: kind.encode(
            weights, some_blocks(weights) if weights.ndim == 2 else None, halves(weights)
        )
        for name, kind in (("float32", BlockSparseFloat32), ("int8", BlockSparseInt8), ("int4", BlockSparseInt4))
    },
}
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.0, 0.5, 1.0]))


def test_every_kind_is_tested():
    assert {encode(matrix(5, 5)).kind for encode in ENCODERS.values()} == set(FORMATS)


@pytest.mark.parametrize("name", ENCODERS)
@given(size=SIZES, count=st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_what_is_stored_comes_back(name, size, count):
    rows, cols, zeros = size
    weights = matrix(rows, cols, zeros=zeros)
    stored = ENCODERS[name](weights)
    meta = json.loads(json.dumps(stored.meta(), allow_nan=False))
    again = decode(stored.kind, meta, stored.tensors())
    assert again.shape == stored.shape == (rows, cols)
    assert again.meta() == stored.meta()
    assert again.dense().dtype == np.float32
    assert np.array_equal(again.dense(), stored.dense())
    x = matrix(count, cols, seed=1)
    assert np.array_equal(again.product(x), stored.product(x))
    assert stored.nbytes == sum(len(tensor.tobytes()) for tensor in stored.tensors().values())


@pytest.mark.parametrize("name", ENCODERS)
@given(size=SIZES)
@settings(max_examples=12, deadline=None)
def test_the_product_is_the_stated_one(name, size):
    rows, cols, zeros = size
    stored = ENCODERS[name](matrix(rows, cols, zeros=zeros))
    x = matrix(4, cols, seed=1)
    y = stored.product(x)
    assert y.dtype == np.float32
    assert y.shape == (4, rows)
    if isinstance(stored, IntegerFormat):
        # Sums by plain integer arithmetic, then the two float operations.
        scale = stored.input_scale
        codes, scales = arithmetic.quantize_rows(x) if scale is None else arithmetic.quantize_static(x, scale)
        sums = codes.astype(np.int64) @ stored.integers().astype(np.int64).T
        assert np.array_equal(y, arithmetic.dequantize(sums.astype(np.int32), scales, stored.scales))
        assert np.array_equal(stored.sums(codes), sums)
        assert np.abs(sums).max(initial=0) < 2**31
    elif isinstance(stored, LowRank):
        assert np.array_equal(y, stored.left.product(stored.right.product(x)))
    else:
        np.testing.assert_allclose(y, x @ stored.dense().T, rtol=1e-5, atol=1e-5 * cols**0.5)


@pytest.mark.parametrize("name", ENCODERS)
@given(size=SIZES)
@settings(max_examples=6, deadline=None)
def test_each_frame_by_itself_gives_the_same(name, size):
    rows, cols, zeros = size
    stored = ENCODERS[name](matrix(rows, cols, zeros=zeros))
    x = matrix(5, cols, seed=2)
    assert np.array_equal(stored.product(x), np.concatenate([stored.product(row[None]) for row in x]))


@pytest.mark.parametrize("name", ENCODERS)
def test_products_approximate_the_float_product(name):
    weights = matrix(64, 96)
    stored = ENCODERS[name](weights)
    x = matrix(20, 96, seed=3) / 4
    wanted = x @ stored.dense().T
    error = np.square(stored.product(x) - wanted).mean() / np.square(wanted).mean()
    assert error < 1e-3


@pytest.mark.parametrize(
    ("name", "largest"),
    # Squared error of normally distributed weights. The least possible is known (Max 1960, table I): 0.0095 for 16
    # levels, 0.190 for 3, 0.363 for 2.
    [("float16", 1e-7), ("int8", 1e-4), ("int4", 0.008), ("int4 by 8", 0.005), ("codebook", 0.0105),
     ("codebook_int8", 0.0105), ("ternary", 0.195), ("binary", 0.365)],
)  # fmt: skip
def test_errors_are_of_the_size_that_the_bits_allow(name, largest):
    weights = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    error = np.square(ENCODERS[name](weights).dense() - weights).mean()
    assert largest / 20 < error < largest


@pytest.mark.parametrize("name", ENCODERS)
def test_a_matrix_of_zeros_stays_zeros(name):
    stored = ENCODERS[name](np.zeros((17, 9), np.float32))
    assert not stored.dense().any()
    assert not stored.product(matrix(2, 9)).any()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("bad", [np.zeros(3), np.full((2, 2), np.nan), np.full((2, 2), np.inf), np.zeros((1, 2, 3))])
def test_what_is_no_matrix_is_refused(name, bad):
    with pytest.raises(InputError):
        ENCODERS[name](bad)


@pytest.mark.parametrize("name", ENCODERS)
def test_input_of_another_width_is_refused(name):
    with pytest.raises(InputError, match=r"takes \(n, 9\)"):
        ENCODERS[name](matrix(17, 9)).product(matrix(2, 8))


@pytest.mark.parametrize("name", ENCODERS)
def test_damaged_tensors_are_refused(name):
    stored = ENCODERS[name](matrix(17, 9))
    for key, tensor in stored.tensors().items():
        others = {k: v for k, v in stored.tensors().items() if k != key}
        for damaged in (tensor.astype(np.float64), tensor[None]):
            with pytest.raises(InputError):
                decode(stored.kind, stored.meta(), {**others, key: damaged})
        with contextlib.suppress(InputError):  # a row less shows only where another tensor tells how many there are
            assert decode(stored.kind, stored.meta(), {**others, key: tensor[:-1]}).shape != stored.shape
        with pytest.raises(InputError):
            decode(stored.kind, stored.meta(), others)
        with pytest.raises(InputError):
            decode(stored.kind, stored.meta(), {**stored.tensors(), key + "x": tensor})
        if tensor.dtype.kind == "f":
            with pytest.raises(InputError, match="NaN"):
                decode(stored.kind, stored.meta(), {**others, key: np.full_like(tensor, np.nan)})


@pytest.mark.parametrize("name", ENCODERS)
@given(value=st.one_of(st.none(), st.integers(-3, 300), st.text(max_size=3), st.just([]), st.just({}), st.just(True)))
@settings(max_examples=25, deadline=None)
def test_damaged_settings_are_refused_or_harmless(name, value):
    stored = ENCODERS[name](matrix(17, 9))
    for key in stored.meta():
        try:
            again = decode(stored.kind, {**stored.meta(), key: value}, stored.tensors())
        except InputError:
            continue
        assert again.product(matrix(2, again.shape[1])).shape == (2, again.shape[0])


@given(data=st.data(), name=st.sampled_from([name for name in ENCODERS if "sparse" in name]))
@settings(max_examples=60, deadline=None)
def test_damaged_indices_are_refused_or_harmless(data, name):
    stored = ENCODERS[name](matrix(40, 37, zeros=0.8))
    tensors = stored.tensors()
    key = data.draw(st.sampled_from([key for key in ("counts", "columns", "bits") if key in tensors]))
    damaged = tensors[key].copy()
    at = data.draw(st.integers(0, damaged.size - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        again = decode(stored.kind, stored.meta(), {**tensors, key: damaged})
    except InputError:
        return
    assert again.dense().shape == (40, 37)


def test_unknown_kinds_are_refused_by_name():
    with pytest.raises(InputError, match="'int3' is unknown; known are binary"):
        decode("int3", {}, {})


@given(st.integers(0, 33), st.integers(1, 5))
def test_nibbles_come_back(cols, rows):
    values = np.random.default_rng(cols).integers(0, 16, (rows, cols), dtype=np.uint8)
    packed = pack_nibbles(values)
    assert packed.shape == (rows, (cols + 1) // 2)
    assert np.array_equal(unpack_nibbles(packed, cols), values)


def test_int8_by_hand():
    stored = Int8.encode(np.array([[1.0, -127.0, 0.5, 1.5], [0, 0, 0, 0]], np.float32))
    assert stored.codes.tolist() == [[1, -127, 0, 2], [0, 0, 0, 0]]  # halves go to the even neighbor
    assert stored.scales.tolist() == [1, 1]


@given(SIZES)
@settings(deadline=None, max_examples=30)
def test_int8_is_off_by_half_a_step_at_most(size):
    rows, cols, zeros = size
    weights = matrix(rows, cols, zeros=zeros)
    stored = Int8.encode(weights)
    assert (np.abs(stored.dense() - weights) <= stored.scales[:, None] * 0.5001).all()
    assert (stored.dense()[weights == 0] == 0).all()


@pytest.mark.parametrize("encode", [Int8.encode, Int4.encode, Binary.encode, Ternary.encode, CodebookInt8.encode])
@pytest.mark.parametrize("magnitude", [1e-42, 1e-30, 1e30])
def test_extreme_ranges_stay_finite(encode, magnitude):
    stored = encode(matrix(5, 40) * np.float32(magnitude))
    assert np.isfinite(stored.dense()).all()
    assert np.isfinite(stored.product(matrix(2, 40))).all()


def test_int4_is_better_in_groups_than_by_rows():
    weights = matrix(32, 512)
    step = np.abs(weights).max(axis=1, keepdims=True) / 7
    by_rows = np.clip(np.rint(weights / step), -8, 7) * step
    error = np.square(by_rows - weights).sum()
    errors = [np.square(Int4.encode(weights, group).dense() - weights).sum() for group in (8, 16, 32)]
    assert errors[0] < errors[1] < errors[2] < 0.6 * error
    assert Int4.encode(weights).nbytes == 32 * (256 + 16 + 4)


def test_sums_of_a_group_of_int4_fit_int16():
    for group in (8, 16, 32):
        assert group * 8 * arithmetic.QUANTIZED_MAX < 2**15
    with pytest.raises(InputError, match="group"):
        Int4.encode(matrix(4, 4), group=64)


def test_integers_too_large_for_an_accumulator_are_refused():
    cols = 8400
    codes = np.zeros((1, cols // 2), np.uint8)  # every weight -8
    multipliers = np.full((1, -(-cols // 32)), 255, np.uint8)
    with pytest.raises(InputError, match="accumulator"):
        Int4(codes, multipliers, np.ones(1, np.float32), cols)
    fitting = Int4(codes, multipliers // 2, np.ones(1, np.float32), cols)
    x = np.full((1, cols), 127, np.int8)
    assert fitting.sums(x)[0, 0] == -8 * 127 * 127 * cols


def test_exact_sums_take_the_wide_type_where_they_must():
    assert exact_dtype(np.full((1, 1000), 127, np.int16)) is np.float32
    assert exact_dtype(np.full((1, 1100), 127, np.int16)) is np.float64


@given(st.integers(1, 30), st.integers(1, 30))
@settings(deadline=None, max_examples=25)
def test_full_rank_is_the_original_and_the_error_is_the_tail_of_the_spectrum(rows, cols):
    weights = matrix(rows, cols)
    spectrum = np.linalg.svd(weights.astype(np.float64), compute_uv=False)
    for rank in range(1, min(rows, cols) + 1):
        stored = LowRank.encode(weights, rank)
        error = np.sqrt(np.square(stored.dense().astype(np.float64) - weights).sum())
        np.testing.assert_allclose(error, np.sqrt(np.square(spectrum[rank:]).sum()), atol=1e-4)
        assert stored.rank == rank
        assert stored.macs == stored.parameters == rank * (rows + cols)


def test_low_rank_of_low_rank_and_wrong_ranks_are_refused():
    with pytest.raises(InputError, match="rank is 0"):
        LowRank.encode(matrix(4, 4), 0)
    with pytest.raises(InputError, match="rank is 5"):
        LowRank.encode(matrix(4, 6), 5)
    with pytest.raises(InputError, match="agree"):
        LowRank(Float32.encode(matrix(4, 2)), Float32.encode(matrix(3, 4)))
    stored = LowRank.encode(matrix(4, 4), 2)
    with pytest.raises(InputError, match="low_rank"):
        LowRank(stored, stored)


@given(rows=st.integers(1, 50), cols=st.integers(1, 30), zeros=st.floats(0, 1), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_sparse_keeps_exactly_what_it_should_and_takes_the_cheaper_index(rows, cols, zeros, seed):
    weights = matrix(rows, cols, seed, zeros)
    stored = SparseFloat.encode(weights)
    assert np.array_equal(stored.dense(), weights)
    count = np.count_nonzero(weights)
    bitmap, csr = -(-rows * cols // 8), 2 * rows + count
    assert stored.nbytes == 4 * count + min(bitmap, csr)
    assert stored.pattern.index == (CSR if csr < bitmap else BITMAP)
    assert stored.nonzeros == count
    assert stored.macs == stored.parameters == rows * cols  # it is multiplied as a dense map


@given(
    tile=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sections=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    cols=st.integers(1, 25),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=60)
def test_tiles_are_cut_anew_at_sections_and_smaller_at_edges(tile, sections, cols, seed):
    rows, rng = sum(sections), np.random.default_rng(seed)
    tiling = Tiling(tile, tuple(sections), cols)
    # Which tile each weight belongs to, weight by weight.
    strip_of_row, strips = [], 0
    for size in sections:
        strip_of_row += [strips + row // tile[0] for row in range(size)]
        strips += -(-size // tile[0])
    assert tiling.shape == (strips, -(-cols // tile[1]))
    keep = rng.random(tiling.shape) < 0.5
    mask = np.array([[keep[s, col // tile[1]] for col in range(cols)] for s in strip_of_row]).reshape(rows, cols)
    assert np.array_equal(tiling.expand(keep), mask)
    assert tiling.sizes.sum() == rows * cols
    values = rng.integers(0, 9, (rows, cols))
    sums = np.zeros(tiling.shape, np.int64)
    for row, strip in enumerate(strip_of_row):
        np.add.at(sums[strip], np.arange(cols) // tile[1], values[row])
    assert np.array_equal(tiling.sums(values), sums)
    # The index has a bit a tile, and every weight of a kept tile is stored, zeros too.
    stored = SparseFloat.encode(matrix(rows, cols, seed, zeros=0.3), mask.astype(np.bool_), tiling=tiling)
    assert stored.pattern.index == TILES
    assert stored.nbytes == 4 * int(mask.sum()) + -(-keep.size // 8)
    assert np.array_equal(stored.dense(), matrix(rows, cols, seed, zeros=0.3) * mask)


def test_a_tiling_that_does_not_fit_is_not_used():
    keep = np.zeros((6, 6), np.bool_)
    keep[0, 0] = True
    assert SparseFloat.encode(matrix(6, 6), keep, tiling=Tiling((2, 2), (6,), 6)).pattern.index != TILES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": [0, 1]}, "tile is 0"),
        ({"tile": [1]}, "its rows and its columns"),
        ({"sections": [5]}, "tiles are of 5 x 9; the matrix is 17 x 9"),
        ({"sections": 17}, "must be a list"),
        ({"tile": [1, 1]}, "bits has shape"),
    ],
)
def test_damaged_tilings(change, message):
    stored = ENCODERS["sparse_float tiles"](matrix(17, 9))
    with pytest.raises(InputError, match=message):
        decode(stored.kind, {**stored.meta(), **change}, stored.tensors())


def test_wide_sparse_rows_take_two_byte_columns():
    weights = np.zeros((3, 4000), np.float32)
    weights[1, 3999] = 2
    stored = SparseFloat.encode(weights)
    assert stored.pattern.index == CSR
    assert stored.tensors()["columns"].dtype == np.uint16
    assert np.array_equal(stored.dense(), weights)


@pytest.mark.parametrize("kind", [BlockSparseFloat32, BlockSparseInt8, BlockSparseInt4])
@given(sections=st.lists(st.integers(0, 40), min_size=1, max_size=4), cols=st.integers(1, 45), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_blocks_are_kept_where_they_should_be(kind, sections, cols, seed):
    rows = sum(sections)
    weights = matrix(rows, cols, seed)
    blocks = as_blocks(weights, sections)
    keep = np.random.default_rng(seed).random(blocks.shape[::2]) < 0.3
    stored = kind.encode(weights, keep, sections)
    # The mask, weight by weight, without the format's own index arithmetic.
    mask = np.zeros((rows, cols), bool)
    strip = first = 0
    for size in sections:
        for begin in range(0, size, 16):
            for block in np.flatnonzero(keep[strip]):
                end = min(begin + 16, size)
                mask[first + begin : first + end, 4 * block : 4 * block + 4] = True
            strip += 1
        first += size
    assert not stored.dense()[~mask].any()
    assert stored.macs == mask.sum()
    assert stored.parameters == rows * cols
    step = {BlockSparseFloat32: 0, BlockSparseInt8: 1 / 250, BlockSparseInt4: 0.31}[kind]
    largest = np.abs(weights * mask).max(axis=1, initial=0)[:, None]
    assert (np.abs(stored.dense() - weights * mask) <= step * largest).all()


@pytest.mark.parametrize("kind", [BlockSparseFloat32, BlockSparseInt8, BlockSparseInt4])
def test_blocks_of_zeros_are_left_out(kind):
    weights = matrix(40, 33)
    weights[16:32, 4:20] = 0
    stored = kind.encode(weights)
    assert stored.pattern.blocks == 3 * 9 - 4
    assert not stored.dense()[16:32, 4:20].any()


def test_all_blocks_of_int4_are_dense_int4():
    weights = matrix(32, 64)
    assert np.array_equal(BlockSparseInt4.encode(weights).dense(), Int4.encode(weights).dense())


def test_all_blocks_of_int8_are_dense_int8():
    weights = matrix(37, 30)
    assert np.array_equal(BlockSparseInt8.encode(weights).dense(), Int8.encode(weights).dense())


def test_bytes_of_blocks_by_hand():
    weights = matrix(64, 64)
    keep = np.zeros((4, 16), bool)
    keep[:, :4] = True  # a quarter: 16 blocks, 4 in each strip
    index = 4 * 2 + 16
    assert BlockSparseFloat32.encode(weights, keep).nbytes == index + 16 * 256
    assert BlockSparseInt8.encode(weights, keep).nbytes == index + 16 * 64 + 64 * 4
    assert BlockSparseInt4.encode(weights, keep).nbytes == index + 16 * 32 + 4 * 16 + 64 * 4


def test_sections_must_add_up():
    with pytest.raises(InputError, match="sections"):
        BlockSparseInt8.encode(matrix(20, 8), sections=(10, 9))
    with pytest.raises(InputError, match="keep"):
        BlockSparseInt8.encode(matrix(20, 8), np.ones((2, 3), bool))


@given(SIZES, st.integers(1, 20))
@settings(deadline=None, max_examples=25)
def test_a_codebook_has_the_entries_asked_for_and_keeps_zeros(size, entries):
    rows, cols, zeros = size
    weights = matrix(rows, cols, zeros=zeros)
    stored = Codebook.encode(weights, entries)
    assert 1 <= len(stored.table) <= entries
    assert set(np.unique(stored.dense())) <= set(stored.table)
    if entries > 1:
        assert (stored.dense()[weights == 0] == 0).all()
    assert stored.nbytes == 4 * len(stored.table) + rows * (-(-cols // 2) if len(stored.table) <= 16 else cols)


def test_kmeans_finds_clusters_and_is_a_fixed_point():
    random = np.random.default_rng(0)
    centers = np.array([-2.0, -0.5, 1.0, 3.0])
    weights = (centers[random.integers(0, 4, 4000)] + random.normal(size=4000) * 0.01).reshape(40, 100)
    table = kmeans(weights, 4)
    np.testing.assert_allclose(table, centers, atol=0.01)
    nearest = np.abs(weights.reshape(-1, 1) - table).argmin(axis=1)
    np.testing.assert_allclose(table, [weights.reshape(-1)[nearest == k].mean() for k in range(4)], rtol=1e-5)


def test_ternary_and_binary_weights_are_stored_exactly():
    random = np.random.default_rng(0)
    scales = np.array([[0.5], [3.0], [0.25]], np.float32)
    signs = random.integers(-1, 2, (3, 21))
    assert np.array_equal(Ternary.encode(scales * signs.astype(np.float32)).dense(), scales * signs)
    signs = random.choice([-1, 1], (3, 21))
    assert np.array_equal(Binary.encode(scales * signs.astype(np.float32)).dense(), scales * signs)
    assert Ternary.encode(matrix(3, 21)).nbytes == 3 * 6 + 3 * 4
    assert Binary.encode(matrix(3, 21)).nbytes == 3 * 3 + 3 * 4


def test_formats_are_read_only_and_leave_the_callers_array_alone():
    weights = matrix(4, 4)
    stored = Float32.encode(weights)
    with pytest.raises(ValueError, match="read-only"):
        stored.weights[0, 0] = 1
    weights[0, 0] = 1
    assert isinstance(stored, WeightFormat)


def test_the_documentation_has_every_kind_with_its_tensors():
    text = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for encode in ENCODERS.values():
        stored = encode(matrix(40, 40, zeros=0.5))
        for name in {key.split(".")[0] for key in stored.tensors()} - {"bits"}:
            assert name in rows[stored.kind], f"{stored.kind}: {name}"
