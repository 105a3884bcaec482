// What products share, part of kernels_impl.h: rows of activations side by side, the order in which they meet the weights,
// and how sums become outputs.
#pragma once

namespace {

// Writes a strip's sums, ROWS of them, at `row` and on: all 16 rows of weights, or only those below `end`.
template <int ROWS>
inline __attribute__((always_inline)) void finish(const F (&sum)[ROWS], const Output& out, int first, int row, int end) {
    float* y = out.out + first * out.stride + row;
    if (row + kLanes <= end && out.add) {
        const float* extra = out.add + first * out.add_stride + row;
        UNROLL for (int r = 0; r < ROWS; r++, y += out.stride, extra += out.add_stride)
            store(y, add(sum[r], load(extra)));
    } else if (row < end) {
        size_t left = end - row < kLanes ? static_cast<size_t>(end - row) : kLanes;
        const float* extra = out.add ? out.add + first * out.add_stride + row : nullptr;
        UNROLL for (int r = 0; r < ROWS; r++, y += out.stride, extra += out.add_stride)
            store_n(y, extra ? add(sum[r], load_n(extra, left)) : sum[r], left);
    }
}

// `scales`: of the strip's rows of weights.
template <int ROWS>
inline __attribute__((always_inline)) void finish(const I (&sum)[ROWS], const Codes& x, const float* scales,
                                                  const Output& out, int first, int row, int end) {
    F scaled[ROWS];
    UNROLL for (int r = 0; r < ROWS; r++)
        scaled[r] = mul(to_float(sum[r]), mul(splat(x.scales[first + r]), load(scales)));
    finish(scaled, out, first, row, end);
}

// The same for strips side by side that have all their rows, where something is added: row by row, so that the lines
// written follow one another.
template <int STRIPS, int ROWS>
inline __attribute__((always_inline)) void finish_whole(const I (&sum)[STRIPS][ROWS], const Codes& x,
                                                        const float* scales, const Output& out, size_t first,
                                                        size_t row) {
    const float* of_rows = x.scales + first;
    const float* extra = out.add + first * out.add_stride + row;
    float* y = out.out + first * out.stride + row;
    F of_strips[STRIPS];
    UNROLL for (int s = 0; s < STRIPS; s++) of_strips[s] = load(scales + s * kLanes);
    UNROLL for (int r = 0; r < ROWS; r++, y += out.stride, extra += out.add_stride) {
        F of_row = splat(of_rows[r]);
        UNROLL for (int s = 0; s < STRIPS; s++)
            store(y + s * kLanes,
                  add(mul(to_float(sum[s][r]), mul(of_row, of_strips[s])), load(extra + s * kLanes)));
    }
}

// Rows are multiplied a few at a time, to share each load of a weight: tiles of `most` rows at most.
struct Tiles {
    int count, higher, high, low;  // the first `higher` tiles have `high` rows, the others `low`

    static Tiles of_nearly_equal_height(int rows, int most) {
        int count = (rows + most - 1) / most, low = count ? rows / count : 0;
        return {count, rows - low * count, low + 1, low};
    }
    // Weights come from afar while the first tile meets them: it shall have enough to do meanwhile.
    static Tiles the_first_ones_full(int rows, int most) {
        return {(rows + most - 1) / most, rows / most, most, rows % most};
    }
    int height(int tile) const { return tile < higher ? high : low; }
};

// Where the quads of a tile's rows stand side by side, so that they are read in order: [quads][height][4].
inline int8_t* packed_tile(const Codes& x, int first, int height, size_t quads) {
    return height == 1 ? const_cast<int8_t*>(x.codes) + first * x.stride : x.packed + first * quads * kQuad;
}

using Four = int32_t __attribute__((vector_size(16)));
// Elements i and i + 1 of both vectors, in turn or one vector's after the other's. Written as initializers, GCC 12 moves
// them one by one.
#if defined(__clang__)
#define INTERLEAVED(x, y, i) __builtin_shufflevector(x, y, i, i + 4, i + 1, i + 5)
#define HALVES(x, y, i) __builtin_shufflevector(x, y, i, i + 1, i + 4, i + 5)
#else
#define INTERLEAVED(x, y, i) __builtin_shuffle(x, y, Four{i, i + 4, i + 1, i + 5})
#define HALVES(x, y, i) __builtin_shuffle(x, y, Four{i, i + 1, i + 4, i + 5})
#endif

// Four rows, four quads at a time: a transposition of 32-bit numbers.
inline void pack_four(const int8_t* rows, size_t stride, size_t quads, int8_t* packed, int height, int r) {
    size_t k = 0;
    for (; k + 4 <= quads; k += 4) {
        Four a, b, c, d;
        __builtin_memcpy(&a, rows + k * kQuad, sizeof a);
        __builtin_memcpy(&b, rows + stride + k * kQuad, sizeof b);
        __builtin_memcpy(&c, rows + 2 * stride + k * kQuad, sizeof c);
        __builtin_memcpy(&d, rows + 3 * stride + k * kQuad, sizeof d);
        Four ab_low = INTERLEAVED(a, b, 0), ab_high = INTERLEAVED(a, b, 2);
        Four cd_low = INTERLEAVED(c, d, 0), cd_high = INTERLEAVED(c, d, 2);
        Four columns[4] = {HALVES(ab_low, cd_low, 0), HALVES(ab_low, cd_low, 2), HALVES(ab_high, cd_high, 0),
                           HALVES(ab_high, cd_high, 2)};
        for (int i = 0; i < 4; i++)
            __builtin_memcpy(packed + ((k + i) * height + r) * kQuad, &columns[i], sizeof columns[i]);
    }
    for (; k < quads; k++)
        for (int i = 0; i < 4; i++)
            __builtin_memcpy(packed + (k * height + r + i) * kQuad, rows + i * stride + k * kQuad, kQuad);
}

inline void pack(const Codes& x, const Tiles& tiles, size_t quads) {
    for (int tile = 0, first = 0; tile < tiles.count; first += tiles.height(tile++)) {
        int height = tiles.height(tile);
        if (height == 1) continue;
        int8_t* packed = packed_tile(x, first, height, quads);
        int r = 0;
        for (; r + 4 <= height; r += 4) pack_four(x.codes + (first + r) * x.stride, x.stride, quads, packed, height, r);
        if (r > 0 && r < height) {  // some of them once more: less work than one by one
            r = height - 4;
            pack_four(x.codes + (first + r) * x.stride, x.stride, quads, packed, height, r);
            continue;
        }
        for (; r < height; r++) {
            const int8_t* row = x.codes + (first + r) * x.stride;
            for (size_t k = 0; k < quads; k++)
                __builtin_memcpy(packed + (k * height + r) * kQuad, row + k * kQuad, kQuad);
        }
    }
}

// Calls body.run<height>(unit, first) for a height known only at run time.
template <int MOST, class Body>
inline void with_height(int height, const Body& body, int unit, int first) {
    if constexpr (MOST > 1) {
        if (height != MOST) return with_height<MOST - 1>(height, body, unit, first);
    }
    body.template run<MOST>(unit, first);
}

template <int MOST, class Body>
inline void each_tile(const Tiles& tiles, const Body& body, int unit) {
    for (int tile = 0, first = 0; tile < tiles.count; first += tiles.height(tile++))
        with_height<MOST>(tiles.height(tile), body, unit, first);
}

// Runs every tile of rows against every unit of weights (a panel or a strip): unit after unit, so that weights come
// from far away once. Units are visited from either end.
template <int MOST, class Body>
inline void each(int units, const Tiles& tiles, bool backwards, const Body& body) {
    int unit = backwards ? units - 1 : 0, step = backwards ? -1 : 1;
    if (tiles.count == 1 && tiles.low == 1) {
        for (int left = units; left > 0; left--, unit += step) body.template run<1>(unit, 0);
        return;
    }
    for (int left = units; left > 0; left--, unit += step) each_tile<MOST>(tiles, body, unit);
}

// The same, tile after tile: for strips of few blocks, whose weights are read in order and so come fast from further
// away, while a tile's activations are read here and there and must stay near.
template <int MOST, class Body>
inline void each_tile_first(int units, const Tiles& tiles, bool backwards, const Body& body) {
    for (int tile = 0, first = 0; tile < tiles.count; first += tiles.height(tile++))
        for (int i = 0; i < units; i++)
            with_height<MOST>(tiles.height(tile), body, backwards ? units - 1 - i : i, first);
}

// How many strips of a panel so many rows go down at once, for their sums to just fit the registers.
constexpr int strips_for(int rows) {
    int strips = kSums / rows;
    return strips >= kStrips ? kStrips : strips >= 2 ? 2 : 1;
}

template <int COUNT>
struct Together {
    static constexpr int count = COUNT;
};

// Calls body for a panel's strips, MOST together, and for those that are left one by one: the last panel of a map, or
// the only one of a convolution with few channels, has not four. `rows` are left from the panel's first on.
template <int MOST, class Body>
inline __attribute__((always_inline)) void each_group(int rows, const Body& body) {
    int live = rows >= kPanelRows ? kStrips : (rows + kLanes - 1) / kLanes, strip = 0;
    for (; strip + MOST <= live + MOST / 4; strip += MOST) body(Together<MOST>(), strip);  // three count as four
    if constexpr (MOST > 1) {
        for (; strip < live; strip++) body(Together<1>(), strip);
    }
}

}  // namespace
