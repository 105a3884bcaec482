// Every kernel, written once over the sixteen lanes of a simd_*.h, which must be included first.
//
// The order of float operations is that of runtime/arithmetic.py, and each is rounded by itself: files that include
// this must be compiled with -ffp-contract=off. No inline code of the standard library may be used here: compiled
// for a special instruction set, it could be the copy that the linker keeps for everyone.
#pragma once

#include "kernels.h"

namespace {

using namespace asr;

// ---- float functions of arithmetic.py ----------------------------------------------------------------------

constexpr float kExpLimit = 29.0f;
constexpr float kLog2E = 1.44269504f;
constexpr float kNearlyZero = 0x1p-100f;
constexpr float kCodeMax = 127.0f;
constexpr float kRounder = 12582912.0f;  // 1.5 * 2**23: added and subtracted again, it rounds half to even

// exp(x * factor) with x * factor clamped to +-29, for a factor that is plus or minus a power of two.
inline F exp_of(F x, float factor) {
    float limit = kExpLimit / (factor < 0 ? -factor : factor);
    F t = mul(within(x, limit), splat(factor * kLog2E));
    F shifted = add(t, splat(kRounder));
    F f = sub(t, sub(shifted, splat(kRounder)));
    F f2 = mul(f, f);
    F p = add(mul(splat(0x1.5bfc8ep-10f), f), splat(0x1.3cee4cp-7f));
    p = add(mul(p, f2), add(mul(splat(0x1.c6b62ap-5f), f), splat(0x1.ebf9b2p-3f)));
    p = add(mul(p, f2), add(mul(splat(0x1.62e42cp-1f), f), splat(1.0f)));
    return scale_by_power(p, shifted);
}

inline F next_cell(F i, F f, F g, F c) {
    F one = splat(1.0f), e_g = exp_of(g, -2.0f);
    F a = mul(add(one, exp_of(i, -1.0f)), add(one, e_g));
    F b = add(one, exp_of(f, -1.0f));
    return div(add(mul(c, a), mul(sub(one, e_g), b)), mul(a, b));
}

inline F next_output(F o, F c) {
    F one = splat(1.0f), e_c = exp_of(c, -2.0f);
    return div(sub(one, e_c), mul(add(one, exp_of(o, -1.0f)), add(one, e_c)));
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

// Two passes: each is a chain of operations short enough for the processor to overlap several sixteens of units.
void lstm_cell(const float* gates, size_t hidden, float* c, float* h) {
    const float *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
    each_sixteen(hidden, c, [&](auto at) { return next_cell(at(i), at(f), at(g), at(c)); });
    each_sixteen(hidden, h, [&](auto at) { return next_output(at(o), at(c)); });
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

void quantize(const float* x, size_t cols, float fixed_scale, uint8_t offset, int8_t* codes, size_t padded,
              float* scale) {
    if (fixed_scale > 0) {
        *scale = fixed_scale;
    } else {
        F largest = splat(0.0f);
        size_t i = 0;
        for (; i + kLanes <= cols; i += kLanes) largest = max(largest, abs(load(x + i)));
        if (i < cols) largest = max(largest, abs(load_n(x + i, cols - i)));
        float top = reduce_max(largest);
        *scale = top < kNearlyZero ? 1.0f : top * (1.0f / kCodeMax);
    }
    F inverse = splat(1.0f / *scale);
    size_t i = 0;
    for (; i + kLanes <= cols; i += kLanes)
        store_codes(codes + i, within(mul(load(x + i), inverse), kCodeMax), offset);
    int8_t last[kLanes];
    store_codes(last, within(mul(load_n(x + i, cols - i), inverse), kCodeMax), offset);
    for (size_t l = 0; i < padded; i++, l++) codes[i] = l < kLanes ? last[l] : static_cast<int8_t>(offset);
}

// ---- products ------------------------------------------------------------------------------------------------

#define UNROLL _Pragma("GCC unroll 32")

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

// Rows are multiplied a few at a time, to share each load of a weight: tiles of nearly equal height, `most` at most.
struct Tiles {
    int count, low, higher;  // the first `higher` tiles have low + 1 rows, the others low

    Tiles(int rows, int most) : count((rows + most - 1) / most) {
        low = count ? rows / count : 0;
        higher = rows - low * count;
    }
    int height(int tile) const { return low + (tile < higher); }
};

// Where the quads of a tile's rows stand side by side, so that they are read in order: [quads][height][4].
inline int8_t* packed_tile(const Codes& x, int first, int height, size_t quads) {
    return height == 1 ? const_cast<int8_t*>(x.codes) + first * x.stride : x.packed + first * quads * kQuad;
}

// Four rows, four quads at a time: a transposition of 32-bit numbers.
inline void pack_four(const int8_t* rows, size_t stride, size_t quads, int8_t* packed, int height, int r) {
    using Four = int32_t __attribute__((vector_size(16)));
    size_t k = 0;
    for (; k + 4 <= quads; k += 4) {
        Four a, b, c, d;
        __builtin_memcpy(&a, rows + k * kQuad, sizeof a);
        __builtin_memcpy(&b, rows + stride + k * kQuad, sizeof b);
        __builtin_memcpy(&c, rows + 2 * stride + k * kQuad, sizeof c);
        __builtin_memcpy(&d, rows + 3 * stride + k * kQuad, sizeof d);
        Four ab_low = {a[0], b[0], a[1], b[1]}, ab_high = {a[2], b[2], a[3], b[3]};
        Four cd_low = {c[0], d[0], c[1], d[1]}, cd_high = {c[2], d[2], c[3], d[3]};
        Four columns[4] = {{ab_low[0], ab_low[1], cd_low[0], cd_low[1]},
                           {ab_low[2], ab_low[3], cd_low[2], cd_low[3]},
                           {ab_high[0], ab_high[1], cd_high[0], cd_high[1]},
                           {ab_high[2], ab_high[3], cd_high[2], cd_high[3]}};
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

// How many strips of a panel so many rows go down at once, for their sums to just fit the registers.
constexpr int strips_for(int rows) {
    int strips = kSums / rows;
    return strips >= kStrips ? kStrips : strips >= 2 ? 2 : 1;
}

struct DenseInt8Tile {
    const DenseInt8 w;  // copies, which stay in registers
    const Codes x;
    const Output out;

    template <int ROWS>
    void run(int panel, int first) const {
        constexpr int strips = strips_for(ROWS);
        for (int strip = 0; strip < kStrips; strip += strips) down<ROWS, strips>(panel, strip, first);
    }

    template <int ROWS, int STRIPS>
    void down(int panel, int strip, int first) const {
        constexpr int chains = 4 * ROWS * STRIPS <= kSums ? 2 : 1;  // too few sums do not hide the latency
        const int8_t* tile = w.tiles + (static_cast<size_t>(panel) * w.quads * kStrips + strip) * kTileBytes;
        const int8_t* quad = packed_tile(x, first, ROWS, w.quads);
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
        for (; k + chains <= w.quads; k += chains) {
            UNROLL for (int chain = 0; chain < chains; chain++) {
                step(sum[chain], quad, tile);
                quad += ROWS * kQuad;
                tile += kStrips * kTileBytes;
            }
        }
        if (chains > 1 && k < w.quads) step(sum[0], quad, tile);
        UNROLL for (int s = 0; s < STRIPS; s++) {
            if constexpr (chains > 1) {
                UNROLL for (int r = 0; r < ROWS; r++) sum[0][s][r] = add_i(sum[0][s][r], sum[1][s][r]);
            }
            int start = row + s * kLanes;
            finish(sum[0][s], x, w.scales + start, out, first, start, w.rows);
        }
    }

    template <int ROWS, int STRIPS>
    static inline __attribute__((always_inline)) void step(I (&sum)[STRIPS][ROWS], const int8_t* quad,
                                                           const int8_t* tile) {
        Tile weights[STRIPS];
        UNROLL for (int s = 0; s < STRIPS; s++) weights[s] = load_tile(tile + s * kTileBytes);
        UNROLL for (int r = 0; r < ROWS; r++) {
            Quad activations = load_quad(quad + r * kQuad);
            UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = dot(sum[s][r], activations, weights[s]);
        }
    }
};

void dense_int8(const DenseInt8& w, const Codes& x, const Output& out) {
    Tiles tiles(x.count, kDenseRows);
    pack(x, tiles, static_cast<size_t>(w.quads));
    each<kDenseRows>(w.panels, tiles, out.backwards, DenseInt8Tile{w, x, out});
}

struct BlockInt8Tile {
    const BlockInt8 w;
    const Codes x;
    const Output out;
    const size_t quads;

    template <int ROWS>
    void run(int number, int first) const {
        constexpr int chains = ROWS == 1 ? kBlockChains : 1;
        const BlockStrip& strip = w.strips[number];
        const int8_t* packed = packed_tile(x, first, ROWS, quads);
        I sum[chains][ROWS];
        I start = load_i(strip.correction);
        UNROLL for (int chain = 0; chain < chains; chain++) {
            UNROLL for (int r = 0; r < ROWS; r++) sum[chain][r] = chain == 0 ? start : splat_i(0);
        }
        const uint16_t* quad = w.quads + strip.start;
        const uint16_t* end = quad + strip.blocks;
        const int8_t* tile = w.tiles + static_cast<size_t>(strip.start) * kTileBytes;
        for (; quad + chains <= end; quad += chains, tile += chains * kTileBytes) {
            UNROLL for (int chain = 0; chain < chains; chain++)
                step<ROWS>(sum[chain], packed + static_cast<size_t>(quad[chain]) * (ROWS * kQuad),
                           tile + chain * kTileBytes);
        }
        for (; quad < end; quad++, tile += kTileBytes)
            step<ROWS>(sum[0], packed + static_cast<size_t>(*quad) * (ROWS * kQuad), tile);
        UNROLL for (int chain = 1; chain < chains; chain++) {
            UNROLL for (int r = 0; r < ROWS; r++) sum[0][r] = add_i(sum[0][r], sum[chain][r]);
        }
        finish(sum[0], x, strip.scales, out, first, strip.row, strip.end);
    }

    template <int ROWS>
    static inline __attribute__((always_inline)) void step(I (&sum)[ROWS], const int8_t* quad, const int8_t* tile) {
        Tile weights = load_tile(tile);
        UNROLL for (int r = 0; r < ROWS; r++) sum[r] = dot(sum[r], load_quad(quad + r * kQuad), weights);
    }
};

void block_int8(const BlockInt8& w, const Codes& x, const Output& out) {
    size_t quads = static_cast<size_t>(w.cols + kQuad - 1) / kQuad;
    Tiles tiles(x.count, kRows);
    pack(x, tiles, quads);
    each<kRows>(w.count, tiles, out.backwards, BlockInt8Tile{w, x, out, quads});
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
    Tiles tiles(x.count, kRows);
    pack(x, tiles, quads);
    each<kRows>(w.strips, tiles, out.backwards, BlockInt4Tile{w, x, out, quads});
}

struct GroupInt4Tile {
    const GroupInt4 w;
    const Codes x;
    const Output out;

    template <int ROWS>
    void run(int panel, int first) const {
        constexpr int strips = strips_for(2 * ROWS);  // each has a sum of the group and a total
        for (int strip = 0; strip < kStrips; strip += strips) down<ROWS, strips>(panel, strip, first);
    }

    template <int ROWS, int STRIPS>
    void down(int panel, int strip, int first) const {
        size_t quads = static_cast<size_t>(w.octets) * 2;
        const uint8_t* tile = w.tiles + (static_cast<size_t>(panel) * w.octets * kStrips + strip) * kTileBytes;
        const uint8_t* multipliers = w.multipliers + (static_cast<size_t>(panel) * w.groups * kStrips + strip) * kLanes;
        const int8_t* quad = packed_tile(x, first, ROWS, quads);
        I total[STRIPS][ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            UNROLL for (int s = 0; s < STRIPS; s++) total[s][r] = splat_i(0);
        }
        for (int group = 0; group < w.groups; group++, multipliers += kPanelRows) {
            I sum[STRIPS][ROWS];
            UNROLL for (int r = 0; r < ROWS; r++) {
                I start = splat_i(x.sums[static_cast<size_t>(first + r) * w.groups + group]);
                UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = start;
            }
            int left = w.octets - group * w.group_octets;
            for (int k = left < w.group_octets ? left : w.group_octets; k > 0; k--) {
                step(sum, quad, tile);
                quad += 2 * ROWS * kQuad;
                tile += kStrips * kTileBytes;
            }
            UNROLL for (int s = 0; s < STRIPS; s++) {
                Multipliers factor = load_multipliers(multipliers + s * kLanes);
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
    static inline __attribute__((always_inline)) void step(I (&sum)[STRIPS][ROWS], const int8_t* quad,
                                                           const uint8_t* tile) {
        UNROLL for (int s = 0; s < STRIPS; s++) {
            Tile both = load_tile(tile + s * kTileBytes);
            Tile low = low_nibbles(both), high = high_nibbles(both);
            UNROLL for (int r = 0; r < ROWS; r++)
                sum[s][r] = dot_unsigned(sum[s][r], quad + r * kQuad, low);
            UNROLL for (int r = 0; r < ROWS; r++)
                sum[s][r] = dot_unsigned(sum[s][r], quad + (ROWS + r) * kQuad, high);
        }
    }
};

// What the 8 in nibble = code + 8 would add to the sum of each group, negated.
inline void sum_groups(const GroupInt4& w, const Codes& x) {
    size_t group_cols = static_cast<size_t>(w.group_octets) * 8, cols = static_cast<size_t>(w.octets) * 8;
    for (int n = 0; n < x.count; n++) {
        const int8_t* codes = x.codes + n * x.stride;
        int32_t* sums = x.sums + static_cast<size_t>(n) * w.groups;
        for (size_t start = 0; start < cols; start += group_cols) {
            size_t end = start + group_cols < cols ? start + group_cols : cols;
            int32_t sum = 0;
            for (size_t k = start; k < end; k++) sum += codes[k];
            *sums++ = -8 * sum;
        }
    }
}

void group_int4(const GroupInt4& w, const Codes& x, const Output& out) {
    sum_groups(w, x);
    Tiles tiles(x.count, kRows);
    pack(x, tiles, static_cast<size_t>(w.octets) * 2);
    each<kRows>(w.panels, tiles, out.backwards, GroupInt4Tile{w, x, out});
}

struct DenseF32Tile {
    const DenseF32 w;
    const float* const* const x;
    const Output out;

    template <int ROWS>
    void run(int panel, int first) const {
        constexpr int strips = strips_for(ROWS);
        for (int strip = 0; strip < kStrips; strip += strips) down<ROWS, strips>(panel, strip, first);
    }

    template <int ROWS, int STRIPS>
    void down(int panel, int strip, int first) const {
        const float* tile = w.tiles + (static_cast<size_t>(panel) * w.cols * kStrips + strip) * kLanes;
        const float* rows[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) rows[r] = x[first + r];
        F sum[STRIPS][ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = splat(0.0f);
        }
        for (int k = 0; k < w.cols; k++, tile += kPanelRows) {
            F weights[STRIPS];
            UNROLL for (int s = 0; s < STRIPS; s++) weights[s] = load(tile + s * kLanes);
            UNROLL for (int r = 0; r < ROWS; r++) {
                F value = splat(rows[r][k]);
                UNROLL for (int s = 0; s < STRIPS; s++)
                    sum[s][r] = add(sum[s][r], mul(value, weights[s]));
            }
        }
        int row = panel * kPanelRows + strip * kLanes;
        UNROLL for (int s = 0; s < STRIPS; s++) finish(sum[s], out, first, row + s * kLanes, w.rows);
    }
};

void dense_f32(const DenseF32& w, const float* const* x, int count, const Output& out) {
    each<kDenseRows>(w.panels, Tiles(count, kDenseRows), out.backwards, DenseF32Tile{w, x, out});
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
    return {name,      kCodeOffset, quantize,  dense_int8, block_int8,  group_int4,   block_int4,    dense_f32,
            lstm_cell, layer_norm,  normalize, clamp,      add_product, cell_forward, cell_backward, log_mel,
            probe_read, probe_int8};
}

}  // namespace
