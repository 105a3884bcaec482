// Every kernel, written once over the sixteen lanes of a simd_*.h, which must be included first.
//
// The order of float operations is that of runtime/arithmetic.py, and each is rounded by itself but where multiply_add
// stands: files that include this must be compiled with -ffp-contract=off. No inline code of the standard library may
// be used here: compiled for a special instruction set, it could be the copy that the linker keeps for everyone.
#pragma once

#include "kernels.h"

namespace {

using namespace asr;

#define UNROLL _Pragma("GCC unroll 32")

// ---- float functions of arithmetic.py ----------------------------------------------------------------------

constexpr float kExpLimit = 29.0f;
constexpr float kLog2E = 1.44269504f;
constexpr float kCodeMax = 127.0f;
constexpr size_t kNearBytes = 512 * 1024;  // weights up to here stay in the second-level cache
constexpr int kNearQuads = 4;              // how far ahead weights come into the nearest cache

// exp(x[n] * factor[n]) with x * factor clamped to +-29, for factors that are plus or minus a power of two. Several at
// once and operation by operation: one alone is a chain of ten, and a processor does not look far enough ahead to
// overlap chains that stand behind each other.
template <int N>
inline __attribute__((always_inline)) void exp_of(F (&x)[N], const float (&factor)[N]) {
    F power[N], p[N];
    UNROLL for (int n = 0; n < N; n++) x[n] = within(x[n], kExpLimit / (factor[n] < 0 ? -factor[n] : factor[n]));
    UNROLL for (int n = 0; n < N; n++) x[n] = mul(x[n], splat(factor[n] * kLog2E));
    UNROLL for (int n = 0; n < N; n++) x[n] = split(x[n], power[n]);
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(splat(0x1.5bfc8ep-10f), x[n], splat(0x1.3cee4cp-7f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(0x1.c6b62ap-5f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(0x1.ebf9b2p-3f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(0x1.62e42cp-1f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(1.0f));
    UNROLL for (int n = 0; n < N; n++) x[n] = scale_by_power(p[n], power[n]);
}

inline F exp_of(F x, float factor) {
    F one[1] = {x};
    const float factors[1] = {factor};
    exp_of(one, factors);
    return one[0];
}

// y[i] = operation(i-th sixteen of x), the last ones fewer. Two at a time: their operations overlap.
template <class Operation>
inline void each_sixteen(size_t cols, float* y, Operation operation) {
    size_t i = 0;
    for (; i + 2 * kLanes <= cols; i += 2 * kLanes) {
        F first = operation([&](const float* p) { return load(p + i); });
        F second = operation([&](const float* p) { return load(p + i + kLanes); });
        store(y + i, first);
        store(y + i + kLanes, second);
    }
    for (; i + kLanes <= cols; i += kLanes) store(y + i, operation([&](const float* p) { return load(p + i); }));
    if (i < cols)
        store_n(y + i, operation([&](const float* p) { return load_n(p + i, cols - i); }), cols - i);
}

// As each_sixteen, for operations that want W sixteens at once: operation(at, y) with at(x, w) the w-th of them.
template <int W, class Operation>
inline void each_sixteens(size_t cols, float* y, const Operation& operation) {
    size_t i = 0;
    for (; i + W * kLanes <= cols; i += W * kLanes) {
        F result[W];
        operation([&](const float* p, int w) { return load(p + i + w * kLanes); }, result);
        UNROLL for (int w = 0; w < W; w++) store(y + i + w * kLanes, result[w]);
    }
    for (; i < cols; i += kLanes) {
        size_t left = cols - i < kLanes ? cols - i : kLanes;
        F result[1];
        operation([&](const float* p, int) { return load_n(p + i, left); }, result);
        store_n(y + i, result[0], left);
    }
}

struct NextCell {
    const float *i, *f, *g, *c;

    template <int W, class At>
    void operator()(At at, F (&y)[W]) const {
        F one = splat(1.0f), e[3 * W];
        float factors[3 * W];
        UNROLL for (int w = 0; w < W; w++) {
            e[w] = at(i, w), e[W + w] = at(f, w), e[2 * W + w] = at(g, w);
            factors[w] = factors[W + w] = -1.0f, factors[2 * W + w] = -2.0f;
        }
        exp_of(e, factors);
        UNROLL for (int w = 0; w < W; w++) {
            F a = mul(add(one, e[w]), add(one, e[2 * W + w])), b = add(one, e[W + w]);
            y[w] = div(add(mul(at(c, w), a), mul(sub(one, e[2 * W + w]), b)), mul(a, b));
        }
    }
};

struct NextOutput {
    const float *o, *c;
    F* largest;  // [kCells] magnitudes of what was put out so far

    template <int W, class At>
    void operator()(At at, F (&y)[W]) const {
        F one = splat(1.0f), e[2 * W];
        float factors[2 * W];
        UNROLL for (int w = 0; w < W; w++) {
            e[w] = at(o, w), e[W + w] = at(c, w);
            factors[w] = -1.0f, factors[W + w] = -2.0f;
        }
        exp_of(e, factors);
        UNROLL for (int w = 0; w < W; w++)
            y[w] = div(sub(one, e[W + w]), mul(add(one, e[w]), add(one, e[W + w])));
        UNROLL for (int w = 0; w < W; w++) largest[w] = max(largest[w], abs(y[w]));
    }
};

// Two passes, because the exponentials of the second need the division of the first.
float lstm_cell(const float* gates, size_t hidden, float* c, float* h) {
    const float *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
    F most[kCells];
    UNROLL for (int w = 0; w < kCells; w++) most[w] = splat(0.0f);
    each_sixteens<kCells>(hidden, c, NextCell{i, f, g, c});
    each_sixteens<kCells>(hidden, h, NextOutput{o, c, most});
    UNROLL for (int w = 1; w < kCells; w++) most[0] = max(most[0], most[w]);
    return reduce_max(most[0]);
}

inline float lane_sum(const float* x, size_t cols, bool squares) {
    F sum = splat(0.0f);
    for (size_t i = 0; i < cols; i += kLanes) {
        F value = i + kLanes <= cols ? load(x + i) : load_n(x + i, cols - i);
        sum = add(sum, squares ? mul(value, value) : value);
    }
    float lane[kLanes];
    store(lane, sum);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

void layer_norm(const float* x, size_t cols, const float* weight, const float* bias, float eps, float* y) {
    F mean = splat(lane_sum(x, cols, false) / static_cast<float>(cols));
    each_sixteen(cols, y, [&](auto at) { return sub(at(x), mean); });
    float variance = lane_sum(y, cols, true) / static_cast<float>(cols);
    F inverse = splat(1.0f / __builtin_sqrtf(variance + eps));
    each_sixteen(cols, y, [&](auto at) { return add(mul(mul(at(y), inverse), at(weight)), at(bias)); });
}

void normalize(const float* x, size_t cols, const float* mean, const float* scale, float* y) {
    each_sixteen(cols, y, [&](auto at) { return mul(sub(at(x), at(mean)), at(scale)); });
}

void clamp(const float* x, size_t count, float low, float high, float* y) {
    each_sixteen(count, y, [&](auto at) { return min(max(at(x), splat(low)), splat(high)); });
}

// The largest magnitude. Four at once, because each alone waits for the comparison before.
float largest(const float* x, size_t cols) {
    F most[4];
    UNROLL for (int n = 0; n < 4; n++) most[n] = splat(0.0f);
    size_t i = 0;
    for (; i + 4 * kLanes <= cols; i += 4 * kLanes) {
        UNROLL for (int n = 0; n < 4; n++) most[n] = max(most[n], abs(load(x + i + n * kLanes)));
    }
    for (; i + kLanes <= cols; i += kLanes) most[0] = max(most[0], abs(load(x + i)));
    if (i < cols) most[1] = max(most[1], abs(load_n(x + i, cols - i)));
    return reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
}

void quantize(const float* x, size_t cols, float fixed_scale, uint8_t offset, int8_t* codes, size_t padded,
              float* scale) {
    if (fixed_scale > 0) {
        *scale = fixed_scale;
    } else {
        *scale = scale_of(largest(x, cols));
    }
    F inverse = splat(1.0f / *scale);
    size_t i = 0;
    for (; i + 4 * kLanes <= cols; i += 4 * kLanes) {
        F scaled[4];
        UNROLL for (int n = 0; n < 4; n++) scaled[n] = within(mul(load(x + i + n * kLanes), inverse), kCodeMax);
        store_codes(codes + i, scaled, offset);
    }
    for (; i + kLanes <= cols; i += kLanes)
        store_codes(codes + i, within(mul(load(x + i), inverse), kCodeMax), offset);
    if (i == padded) return;
    int8_t last[kLanes];
    store_codes(last, within(mul(load_n(x + i, cols - i), inverse), kCodeMax), offset);
    for (size_t l = 0; i < padded; i++, l++) codes[i] = l < kLanes ? last[l] : static_cast<int8_t>(offset);
}

// ---- products ------------------------------------------------------------------------------------------------

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

// Runs every tile of rows against every unit of weights (a panel or a strip): unit after unit, so that weights come
// from far away once. Units are visited from either end.
template <int MOST, class Body>
inline void each(int units, const Tiles& tiles, bool backwards, const Body& body) {
    int unit = backwards ? units - 1 : 0, step = backwards ? -1 : 1;
    if (tiles.count == 1 && tiles.low == 1) {
        for (int left = units; left > 0; left--, unit += step) body.template run<1>(unit, 0);
        return;
    }
    for (int left = units; left > 0; left--, unit += step)
        for (int tile = 0, first = 0; tile < tiles.count; first += tiles.height(tile++))
            with_height<MOST>(tiles.height(tile), body, unit, first);
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

// Whether a map's weights come from beyond the second-level cache each time.
inline bool far(const DenseInt8& w) {
    return static_cast<size_t>(w.panels) * w.quads * kStrips * kTileBytes >= kNearBytes;
}

// Each row's quad of activations against the quads of weights below each other: four of a row's products.
template <int ROWS, int STRIPS>
inline __attribute__((always_inline)) void step(I (&sum)[STRIPS][ROWS], const int8_t* quad, size_t across,
                                                const int8_t* tile) {
    Tile weights[STRIPS];
    UNROLL for (int s = 0; s < STRIPS; s++) weights[s] = load_tile(tile + s * kTileBytes);
    UNROLL for (int r = 0; r < ROWS; r++) {
        Quad activations = load_quad(quad + r * across);
        UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = dot(sum[s][r], activations, weights[s]);
    }
}

// PACKED: the activations stand side by side, see packed_tile; else row by row. FAR: see far.
template <bool PACKED, bool FAR>
struct DenseInt8Tile {
    const DenseInt8 w;  // copies, which stay in registers
    const Codes x;
    const Output out;

    template <int ROWS>
    void run(int panel, int first) const {
        each_group<strips_for(ROWS)>(w.rows - panel * kPanelRows, [&](auto strips, int strip) {
            if constexpr (FAR && ROWS == kInt8Rows && strips.count > 1) {
                if (const int8_t* ahead = next_panel(panel, first / ROWS)) {
                    ahead += strip / 2 * (static_cast<size_t>(w.quads) * kTileBytes);
                    return this->template down<ROWS, strips.count, true>(panel, strip, first, ahead);
                }
            }
            this->template down<ROWS, strips.count, false>(panel, strip, first, nullptr);
        });
    }

    // The half of the next panel that is fetched while the second or third rows meet this one, which is near by then;
    // null in other turns.
    const int8_t* next_panel(int panel, int turn) const {
        int next = out.backwards ? panel - 1 : panel + 1;
        if ((turn != 1 && turn != 2) || next < 0 || next >= w.panels) return nullptr;
        size_t half = static_cast<size_t>(w.quads) * kStrips * kTileBytes / 2;
        return w.tiles + (static_cast<size_t>(next) * 2 + turn - 1) * half;
    }

    template <int ROWS, int STRIPS, bool AHEAD>
    void down(int panel, int strip, int first, const int8_t* ahead) const {
        constexpr int chains = 2 * ROWS * STRIPS <= kSums ? 2 : 1;  // too few sums do not hide the latency
        const int8_t* tile = w.tiles + (static_cast<size_t>(panel) * w.quads * kStrips + strip) * kTileBytes;
        const int8_t* quad = PACKED ? packed_tile(x, first, ROWS, w.quads) : x.codes + first * x.stride;
        const size_t across = PACKED ? kQuad : x.stride, onward = PACKED ? ROWS * kQuad : kQuad;
        int row = panel * kPanelRows + strip * kLanes;
        I sum[chains][STRIPS][ROWS];
        UNROLL for (int s = 0; s < STRIPS; s++) {
            I start = load_i(w.correction + row + s * kLanes);
            UNROLL for (int r = 0; r < ROWS; r++) {
                sum[0][s][r] = start;
                if constexpr (chains > 1) sum[1][s][r] = splat_i(0);
            }
        }
        int k = 0;
        // Many steps a turn: a processor foresees the end of a loop of few turns only.
        constexpr int turn = ROWS == 1 ? 8 : 2;
        for (; k + turn <= w.quads; k += turn) {
            UNROLL for (int i = 0; i < turn; i++) {
                step(sum[i % chains], quad, across, tile);
                // From the second-level cache to the nearest: half a panel of a large map does not stay there.
                if constexpr (FAR && STRIPS == 2) {
                    UNROLL for (int p = 0; p < STRIPS; p++)
                        __builtin_prefetch(tile + kNearQuads * kStrips * kTileBytes + p * kTileBytes, 0, 3);
                }
                if constexpr (AHEAD) {
                    UNROLL for (int p = 0; p < STRIPS / 2; p++) __builtin_prefetch(ahead + p * kTileBytes, 0, 2);
                    ahead += STRIPS / 2 * kTileBytes;
                }
                quad += onward;
                tile += kStrips * kTileBytes;
            }
        }
        for (; k < w.quads; k++, quad += onward, tile += kStrips * kTileBytes) step(sum[0], quad, across, tile);
        if constexpr (chains > 1) {
            UNROLL for (int s = 0; s < STRIPS; s++)
                UNROLL for (int r = 0; r < ROWS; r++) sum[0][s][r] = add_i(sum[0][s][r], sum[1][s][r]);
        }
        if (out.add && row + STRIPS * kLanes <= w.rows)
            return finish_whole(sum[0], x, w.scales + row, out, static_cast<size_t>(first), static_cast<size_t>(row));
        UNROLL for (int s = 0; s < STRIPS; s++)
            finish(sum[0][s], x, w.scales + row + s * kLanes, out, first, row + s * kLanes, w.rows);
    }
};

// One row alone and whole panels, as most recurrences have them. Nothing stands between the panels that the stream of
// weights would have to wait for.
__attribute__((noinline)) void dense_int8_row(const DenseInt8& w, const Codes& x, const Output& out) {
    constexpr int turn = 8;  // see DenseInt8Tile::down
    const F scale = splat(x.scales[0]);
    const int8_t* const codes = x.codes;
    const size_t quads = static_cast<size_t>(w.quads);
    const ptrdiff_t onward = out.backwards ? -1 : 1;
    size_t panel = out.backwards ? static_cast<size_t>(w.panels) - 1 : 0;
    for (int left = w.panels; left > 0; left--, panel += static_cast<size_t>(onward)) {
        const size_t row = panel * kPanelRows;
        const int8_t *tile = w.tiles + row * quads * kQuad, *quad = codes;
        I even[kStrips][1], odd[kStrips][1];
        UNROLL for (int s = 0; s < kStrips; s++) {
            even[s][0] = load_i(w.correction + row + s * kLanes);
            odd[s][0] = splat_i(0);
        }
        size_t k = 0;
        for (; k + turn <= quads; k += turn, tile += turn * kStrips * kTileBytes, quad += turn * kQuad) {
            UNROLL for (int i = 0; i < turn; i++)
                step(i % 2 ? odd : even, quad + i * kQuad, kQuad, tile + i * kStrips * kTileBytes);
        }
        for (; k < quads; k++, tile += kStrips * kTileBytes, quad += kQuad)
            step(even, quad, kQuad, tile);
        UNROLL for (int s = 0; s < kStrips; s++) {
            F sum = to_float(add_i(even[s][0], odd[s][0]));
            store(out.out + row + s * kLanes,
                  add(mul(sum, mul(scale, load(w.scales + row + s * kLanes))), load(out.add + row + s * kLanes)));
        }
    }
}

static_assert(kDenseRows <= kInt8Rows, "each<kInt8Rows> runs tiles of either height");

void dense_int8(const DenseInt8& w, const Codes& x, const Output& out) {
    constexpr bool roomy = kSums >= 2 * kStrips;  // registers for two sums of each strip
    if (roomy && x.count == 1 && w.rows % kPanelRows == 0 && out.add) return dense_int8_row(w, x, out);
    if (far(w)) {
        Tiles tiles = Tiles::the_first_ones_full(x.count, kInt8Rows);
        pack(x, tiles, static_cast<size_t>(w.quads));
        return each<kInt8Rows>(w.panels, tiles, out.backwards, DenseInt8Tile<true, true>{w, x, out});
    }
    // A recurrence meets its weights once a step; an input product meets them tile after tile.
    Tiles tiles = Tiles::of_nearly_equal_height(x.count, x.count > kMaxBatch ? kInt8Rows : kDenseRows);
    // Where few weights meet the activations, as in convolutions, packing would take longer than it saves.
    if (w.rows <= kNarrow) return each<kInt8Rows>(w.panels, tiles, out.backwards, DenseInt8Tile<false, false>{w, x, out});
    pack(x, tiles, static_cast<size_t>(w.quads));
    each<kInt8Rows>(w.panels, tiles, out.backwards, DenseInt8Tile<true, false>{w, x, out});
}

struct BlockInt8Tile {
    const BlockInt8 w;
    const Codes x;
    const Output out;
    const size_t quads;

    template <int ROWS>
    void run(int number, int first) const {
        const BlockStrip& strip = w.strips[number];
        const int8_t* packed = packed_tile(x, first, ROWS, quads);
        I sum[ROWS];
        I start = load_i(strip.correction);
        UNROLL for (int r = 0; r < ROWS; r++) sum[r] = start;
        const uint16_t* quad = w.quads + strip.start;
        const uint16_t* end = quad + strip.blocks;
        const int8_t* tile = w.tiles + static_cast<size_t>(strip.start) * kTileBytes;
        // Where the next activations lie is found out one block ahead, so that no product waits for it.
        const int8_t* next = packed + static_cast<size_t>(*quad) * (ROWS * kQuad);
        for (; quad < end; tile += kTileBytes) {
            const int8_t* activations = next;
            next = packed + static_cast<size_t>(*++quad) * (ROWS * kQuad);
            step<ROWS>(sum, activations, tile);
        }
        finish(sum, x, strip.scales, out, first, strip.row, strip.end);
    }

    template <int ROWS>
    static inline __attribute__((always_inline)) void step(I (&sum)[ROWS], const int8_t* quad, const int8_t* tile) {
        Tile weights = load_tile(tile);
        UNROLL for (int r = 0; r < ROWS; r++) sum[r] = dot(sum[r], load_quad(quad + r * kQuad), weights);
    }
};

// One row alone, as a recurrence has it: a strip's few blocks take no longer than the work around them, so that is kept
// small. Two independent sums are enough, because the processor works on several strips at once. PLAIN: every strip has
// sixteen rows, and something to be added to.
template <bool PLAIN>
void block_int8_row(const BlockInt8& w, const Codes& x, const Output& out) {
    const F scale = splat(x.scales[0]);
    const int8_t* const codes = x.codes;
    float* const y = out.out;
    const float* const extra = out.add;
    const ptrdiff_t onward = out.backwards ? -1 : 1;
    const BlockStrip* strip = w.strips + (out.backwards ? w.count - 1 : 0);
    const uint16_t* const quads = w.quads;
    const int8_t* const tiles = w.tiles;
    for (int left = w.count; left > 0; left--, strip += onward) {
        const uint16_t* quad = quads + strip->start;
        const int8_t* tile = tiles + static_cast<size_t>(strip->start) * kTileBytes;
        const uint16_t* const end = quad + strip->blocks;
        I even = load_i(strip->correction), odd = splat_i(0);
        for (; quad + 3 < end; quad += 4, tile += 4 * kTileBytes) {
            uint64_t four;
            __builtin_memcpy(&four, quad, sizeof four);
            even = dot_tile(even, load_quad(codes + (four & 0xFFFF) * kQuad), tile);
            odd = dot_tile(odd, load_quad(codes + (four >> 16 & 0xFFFF) * kQuad), tile + kTileBytes);
            even = dot_tile(even, load_quad(codes + (four >> 32 & 0xFFFF) * kQuad), tile + 2 * kTileBytes);
            odd = dot_tile(odd, load_quad(codes + (four >> 48) * kQuad), tile + 3 * kTileBytes);
        }
        for (; quad + 1 < end; quad += 2, tile += 2 * kTileBytes) {
            even = dot_tile(even, load_quad(codes + size_t{quad[0]} * kQuad), tile);
            odd = dot_tile(odd, load_quad(codes + size_t{quad[1]} * kQuad), tile + kTileBytes);
        }
        if (quad < end) even = dot_tile(even, load_quad(codes + size_t{quad[0]} * kQuad), tile);
        F sum = mul(to_float(add_i(even, odd)), mul(scale, load(strip->scales)));
        size_t row = static_cast<size_t>(strip->row);
        if constexpr (PLAIN) {
            store(y + row, add(sum, load(extra + row)));
            continue;
        }
        size_t rows = static_cast<size_t>(strip->end) - row;
        if (rows >= kLanes)
            store(y + row, extra ? add(sum, load(extra + row)) : sum);
        else
            store_n(y + row, extra ? add(sum, load_n(extra + row, rows)) : sum, rows);
    }
}

void block_int8(const BlockInt8& w, const Codes& x, const Output& out) {
    if (x.count == 1 && w.whole && out.add) return block_int8_row<true>(w, x, out);
    if (x.count == 1) return block_int8_row<false>(w, x, out);
    size_t quads = static_cast<size_t>(w.cols + kQuad - 1) / kQuad;
    Tiles tiles = Tiles::of_nearly_equal_height(x.count, kRows);
    pack(x, tiles, quads);
    each_tile_first<kRows>(w.count, tiles, out.backwards, BlockInt8Tile{w, x, out, quads});
}

struct BlockInt4Tile {
    const BlockInt4 w;
    const Codes x;
    const Output out;
    const size_t quads;

    template <int ROWS>
    void run(int strip, int first) const {
        constexpr int chains = ROWS == 1 ? 2 : 1;
        const int8_t* packed = packed_tile(x, first, ROWS, quads);
        const uint8_t* multipliers = w.multipliers + static_cast<size_t>(w.groups[strip]) * kLanes;
        I total[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) total[r] = load_i(w.correction + strip * kLanes);
        uint32_t pair = w.starts[strip], end = w.starts[strip + 1];
        for (; pair < end; multipliers += kLanes) {
            I sum[chains][ROWS];
            UNROLL for (int chain = 0; chain < chains; chain++) {
                UNROLL for (int r = 0; r < ROWS; r++) sum[chain][r] = splat_i(0);
            }
            uint32_t group_end = pair + kGroupPairs < end ? pair + kGroupPairs : end;
            for (; pair < group_end; pair++) {
                Tile both = load_tile(w.tiles + static_cast<size_t>(pair) * kTileBytes);
                Tile low = low_signed(both), high = high_signed(both);
                const int8_t* even = packed + static_cast<size_t>(w.quads[2 * pair]) * (ROWS * kQuad);
                const int8_t* odd = packed + static_cast<size_t>(w.quads[2 * pair + 1]) * (ROWS * kQuad);
                UNROLL for (int r = 0; r < ROWS; r++) {
                    sum[0][r] = dot(sum[0][r], load_quad(even + r * kQuad), low);
                    sum[chains - 1][r] = dot(sum[chains - 1][r], load_quad(odd + r * kQuad), high);
                }
            }
            Multipliers factor = load_multipliers(multipliers);
            UNROLL for (int r = 0; r < ROWS; r++) {
                I group = chains > 1 ? add_i(sum[0][r], sum[chains - 1][r]) : sum[0][r];
                total[r] = add_i(total[r], mul_i(signed_sum(group), factor));
            }
        }
        finish(total, x, w.scales + strip * kLanes, out, first, w.first_rows[strip], w.first_rows[strip + 1]);
    }
};

void block_int4(const BlockInt4& w, const Codes& x, const Output& out) {
    size_t quads = static_cast<size_t>(w.cols + kQuad - 1) / kQuad;
    Tiles tiles = Tiles::of_nearly_equal_height(x.count, kRows);
    pack(x, tiles, quads);
    each<kRows>(w.strips, tiles, out.backwards, BlockInt4Tile{w, x, out, quads});
}

constexpr int kGroupOctets = 4;  // as groups have them unless a format says otherwise: their loop unrolls

inline int octets_of(const GroupInt4& w, int group) {
    int left = w.octets - group * w.group_octets;
    return left < w.group_octets ? left : w.group_octets;
}

// One row alone. Taking nibbles apart is then most of the work, so high ones are summed apart, where they are.
struct GroupInt4Row {
    static constexpr int strips = strips_for(3);  // each has two sums of the group and a total
    const GroupInt4 w;
    const Codes x;
    const Output out;

    template <int ROWS>
    void run(int panel, int row) const {
        for (int strip = 0; strip < kStrips; strip += strips) down(panel, strip, row);
    }

    void down(int panel, int strip, int row) const {
        const uint8_t* tile = w.tiles + (static_cast<size_t>(panel) * w.octets * kStrips + strip) * kTileBytes;
        const uint8_t* multipliers = w.multipliers + (static_cast<size_t>(panel) * w.groups * kStrips + strip) * kLanes;
        const int32_t* starts = x.sums + static_cast<size_t>(row) * w.groups;
        const int8_t* quad = x.codes + static_cast<size_t>(row) * x.stride;
        I total[strips][1];
        GroupSum low[strips], high[strips];
        UNROLL for (int s = 0; s < strips; s++) total[s][0] = splat_i(0);
        auto octet = [&]() __attribute__((always_inline)) {
            Quad even = load_quad(quad), odd = load_quad(quad + kQuad);
            UNROLL for (int s = 0; s < strips; s++) {
                Tile both = load_tile(tile + s * kTileBytes);
                low[s] = dot_unsigned(low[s], even, low_nibbles(both));
                high[s] = dot_unsigned(high[s], odd, high_scaled(both));
            }
            quad += 2 * kQuad;
            tile += kStrips * kTileBytes;
        };
        for (int group = 0; group < w.groups; group++, multipliers += kPanelRows) {
            UNROLL for (int s = 0; s < strips; s++) low[s] = group_start(starts[group]), high[s] = group_start(0);
            int octets = octets_of(w, group);
            if (octets == kGroupOctets) {
                UNROLL for (int k = 0; k < kGroupOctets; k++) octet();
            } else {
                for (int k = octets; k > 0; k--) octet();
            }
            UNROLL for (int s = 0; s < strips; s++)
                total[s][0] = add_scaled(total[s][0], add_groups(low[s], unscaled(high[s])),
                                         load_group_multipliers(multipliers + s * kLanes));
        }
        UNROLL for (int s = 0; s < strips; s++) {
            int start = panel * kPanelRows + (strip + s) * kLanes;
            finish(total[s], x, w.scales + start, out, row, start, w.rows);
        }
    }
};

struct GroupInt4Tile {
    const GroupInt4 w;
    const Codes x;
    const Output out;

    template <int ROWS>
    void run(int panel, int first) const {
        // Each has a sum of the group and a total.
        constexpr int strips = ROWS == 1 ? kStrips : strips_for(2 * ROWS);
        for (int strip = 0; strip < kStrips; strip += strips) down<ROWS, strips>(panel, strip, first);
    }

    template <int ROWS, int STRIPS>
    void down(int panel, int strip, int first) const {
        size_t quads = static_cast<size_t>(w.octets) * 2;
        const uint8_t* tile = w.tiles + (static_cast<size_t>(panel) * w.octets * kStrips + strip) * kTileBytes;
        const uint8_t* multipliers = w.multipliers + (static_cast<size_t>(panel) * w.groups * kStrips + strip) * kLanes;
        const int8_t* quad = packed_tile(x, first, ROWS, quads);
        const int32_t* starts = x.sums + static_cast<size_t>(first) * w.groups;
        I total[STRIPS][ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            UNROLL for (int s = 0; s < STRIPS; s++) total[s][r] = splat_i(0);
        }
        for (int group = 0; group < w.groups; group++, multipliers += kPanelRows, starts += ROWS) {
            GroupSum sum[STRIPS][ROWS];
            UNROLL for (int r = 0; r < ROWS; r++) {
                GroupSum start = group_start(starts[r]);
                UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = start;
            }
            UNROLL for (int s = 0; s < STRIPS; s++)
                UNROLL for (int r = 0; r < ROWS; r++) put_away(total[s][r]);
            auto octet = [&]() __attribute__((always_inline)) {
                step(sum, quad, tile);
                quad += 2 * ROWS * kQuad;
                tile += kStrips * kTileBytes;
            };
            int octets = octets_of(w, group);
            if (octets == kGroupOctets) {
                UNROLL for (int k = 0; k < kGroupOctets; k++) octet();
            } else {
                for (int k = octets; k > 0; k--) octet();
            }
            UNROLL for (int s = 0; s < STRIPS; s++) {
                Multipliers factor = load_group_multipliers(multipliers + s * kLanes);
                UNROLL for (int r = 0; r < ROWS; r++) total[s][r] = add_scaled(total[s][r], sum[s][r], factor);
            }
        }
        int row = panel * kPanelRows + strip * kLanes;
        UNROLL for (int s = 0; s < STRIPS; s++) {
            int start = row + s * kLanes;
            finish(total[s], x, w.scales + start, out, first, start, w.rows);
        }
    }

    template <int ROWS, int STRIPS>
    static inline __attribute__((always_inline)) void step(GroupSum (&sum)[STRIPS][ROWS], const int8_t* quad,
                                                           const uint8_t* tile) {
        if constexpr (ROWS == 1) {
            Quad even = load_quad(quad), odd = load_quad(quad + kQuad);
            UNROLL for (int s = 0; s < STRIPS; s++) {
                Tile both = load_tile(tile + s * kTileBytes);
                sum[s][0] = dot_unsigned(sum[s][0], even, low_nibbles(both));
                sum[s][0] = dot_unsigned(sum[s][0], odd, high_nibbles(both));
            }
            return;
        }
        Tile low[STRIPS], high[STRIPS];
        UNROLL for (int s = 0; s < STRIPS; s++) {
            Tile both = load_tile(tile + s * kTileBytes);
            low[s] = low_nibbles(both);
            high[s] = high_nibbles(both);
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            Quad x = load_quad(quad + r * kQuad);
            UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = dot_unsigned(sum[s][r], x, low[s]);
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            Quad x = load_quad(quad + (ROWS + r) * kQuad);
            UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = dot_unsigned(sum[s][r], x, high[s]);
        }
    }
};

// What each group's sum starts from: what the 8 in nibble = code + 8 will add to it, negated. A tile after the other,
// [groups][height].
inline void sum_groups(const GroupInt4& w, const Codes& x, const Tiles& tiles) {
    size_t group_cols = static_cast<size_t>(w.group_octets) * 8, cols = static_cast<size_t>(w.octets) * 8;
    const int8_t* codes = x.codes;
    int32_t* sums = x.sums;
    for (int tile = 0; tile < tiles.count; sums += static_cast<size_t>(tiles.height(tile++)) * w.groups) {
        const int height = tiles.height(tile);
        for (int r = 0; r < height; r++, codes += x.stride) {
            int32_t* to = sums + r;
            for (size_t start = 0; start < cols; start += group_cols, to += height) {
                size_t end = start + group_cols < cols ? start + group_cols : cols;
                int32_t sum = 0;
                for (size_t k = start; k < end; k++) sum += codes[k];
                *to = group_start_of(-8 * sum);
            }
        }
    }
}

void group_int4(const GroupInt4& w, const Codes& x, const Output& out) {
    Tiles tiles = Tiles::of_nearly_equal_height(x.count, kInt4Rows);
    sum_groups(w, x, tiles);
    if (kHighApart && x.count <= 1) return each<1>(w.panels, tiles, out.backwards, GroupInt4Row{w, x, out});
    pack(x, tiles, static_cast<size_t>(w.octets) * 2);
    each<kInt4Rows>(w.panels, tiles, out.backwards, GroupInt4Tile{w, x, out});
}

// Some columns of a panel: few enough to stay in the nearest cache while all rows meet them.
struct DenseF32Tile {
    const DenseF32 w;
    const float* const* const x;
    const Output out;
    float (*const sums)[kPanelRows];  // of the columns before, a row of activations after the other
    const int from, to;

    template <int ROWS>
    void run(int panel, int first) const {
        each_group<strips_for(ROWS)>(w.rows - panel * kPanelRows, [&](auto strips, int strip) {
            this->template down<ROWS, strips.count>(panel, strip, first);
        });
    }

    template <int ROWS, int STRIPS>
    void down(int panel, int strip, int first) const {
        const float* tile = w.tiles + ((static_cast<size_t>(panel) * w.cols + from) * kStrips + strip) * kLanes;
        const float* rows[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) rows[r] = x[first + r];
        F sum[STRIPS][ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            UNROLL for (int s = 0; s < STRIPS; s++)
                sum[s][r] = from ? load(sums[first + r] + (strip + s) * kLanes) : splat(0.0f);
        }
        for (int k = from; k < to; k++, tile += kPanelRows) {
            F weights[STRIPS];
            UNROLL for (int s = 0; s < STRIPS; s++) weights[s] = load(tile + s * kLanes);
            UNROLL for (int r = 0; r < ROWS; r++) {
                F value = splat(rows[r][k]);
                UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = multiply_add(value, weights[s], sum[s][r]);
            }
        }
        if (to < w.cols) {
            UNROLL for (int r = 0; r < ROWS; r++) {
                UNROLL for (int s = 0; s < STRIPS; s++) store(sums[first + r] + (strip + s) * kLanes, sum[s][r]);
            }
            return;
        }
        int row = panel * kPanelRows + strip * kLanes;
        UNROLL for (int s = 0; s < STRIPS; s++) finish(sum[s], out, first, row + s * kLanes, w.rows);
    }
};

constexpr int kFloatMost = 48;  // rows of activations that meet a panel together

void dense_f32(const DenseF32& w, const float* const* x, int count, const Output& out) {
    if (count > kFloatMost) {
        Output others = out;
        others.out += kFloatMost * out.stride;
        if (out.add) others.add += kFloatMost * out.add_stride;
        dense_f32(w, x + kFloatMost, count - kFloatMost, others);
        count = kFloatMost;
    }
    alignas(64) float sums[kFloatMost][kPanelRows];
    const Tiles tiles = Tiles::of_nearly_equal_height(count, kDenseRows);
    const int depth = tiles.count > 1 ? kFloatDepth : w.cols;
    for (int i = 0; i < w.panels; i++) {
        int from = 0;
        do {
            int to = w.cols - from > depth ? from + depth : w.cols;
            DenseF32Tile body{w, x, out, sums, from, to};
            for (int tile = 0, first = 0; tile < tiles.count; first += tiles.height(tile++))
                with_height<kDenseRows>(tiles.height(tile), body, out.backwards ? w.panels - 1 - i : i, first);
            from = to;
        } while (from < w.cols);
    }
}

// ---- probes of the machine -----------------------------------------------------------------------------------

int32_t lane_total(I a) {
    int32_t lane[kLanes], total = 0;
    __builtin_memcpy(lane, &a, sizeof lane);
    for (int32_t value : lane) total = static_cast<int32_t>(static_cast<uint32_t>(total) + static_cast<uint32_t>(value));
    return total;
}

int32_t probe_read(const int8_t* bytes, size_t count) {
    size_t skip = (kTileBytes - reinterpret_cast<uintptr_t>(bytes) % kTileBytes) % kTileBytes;  // whole cache lines
    bytes += skip;
    count = count > skip ? count - skip : 0;
    I sum[4];
    UNROLL for (int s = 0; s < 4; s++) sum[s] = splat_i(0);
    for (size_t i = 0; i + 4 * kTileBytes <= count; i += 4 * kTileBytes) {
        UNROLL for (int s = 0; s < 4; s++)
            sum[s] = add_i(sum[s], load_i(reinterpret_cast<const int32_t*>(bytes + i + s * kTileBytes)));
    }
    return lane_total(add_i(add_i(sum[0], sum[1]), add_i(sum[2], sum[3])));
}

int32_t probe_int8(size_t dots, size_t* macs) {
    constexpr int chains = kSums;
    alignas(64) int8_t bytes[kTileBytes];
    for (int i = 0; i < kTileBytes; i++) bytes[i] = static_cast<int8_t>(i - 32);
    Tile weights = load_tile(bytes);
    Quad activations = load_quad(bytes);
    I sum[chains];
    UNROLL for (int s = 0; s < chains; s++) sum[s] = splat_i(s);
    size_t rounds = dots / chains;
    for (size_t i = 0; i < rounds; i++) {
        UNROLL for (int s = 0; s < chains; s++) sum[s] = dot(sum[s], activations, weights);
    }
    I total = sum[0];
    UNROLL for (int s = 1; s < chains; s++) total = add_i(total, sum[s]);
    *macs = rounds * chains * kTileBytes;
    return lane_total(total);
}

}  // namespace

#include "kernels_mel.h"
#include "kernels_train.h"

namespace {

constexpr Kernels table(const char* name) {
    return {name,       kCodeOffset, 1,           0,           quantize,      largest,   dense_int8, block_int8,
            group_int4, block_int4,  dense_f32,   lstm_cell,   layer_norm,    normalize, clamp,
            add_product, cell_forward, cell_backward, log_mel, probe_read,    probe_int8};
}

}  // namespace
