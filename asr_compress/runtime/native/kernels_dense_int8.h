// Dense int8, part of kernels_impl.h.
#pragma once

namespace {

constexpr size_t kNearBytes = 512 * 1024;  // weights up to here stay in the second-level cache
constexpr int kNearQuads = 4;              // how far ahead weights come into the nearest cache

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

static_assert(kFewInt8Rows <= kInt8Rows, "each<kInt8Rows> runs tiles of either height");

void dense_int8(const DenseInt8& w, const Codes& x, const Output& out) {
    constexpr bool roomy = kSums >= 2 * kStrips;  // registers for two sums of each strip
    if (roomy && x.count == 1 && w.rows % kPanelRows == 0 && out.add) return dense_int8_row(w, x, out);
    if (far(w)) {
        Tiles tiles = Tiles::the_first_ones_full(x.count, kInt8Rows);
        pack(x, tiles, static_cast<size_t>(w.quads));
        return each<kInt8Rows>(w.panels, tiles, out.backwards, DenseInt8Tile<true, true>{w, x, out});
    }
    // A recurrence meets its weights once a step; an input product meets them tile after tile.
    Tiles tiles = Tiles::of_nearly_equal_height(x.count, x.count > kMaxBatch ? kInt8Rows : kFewInt8Rows);
    // Where few weights meet the activations, as in convolutions, packing would take longer than it saves.
    if (w.rows <= kNarrow) return each<kInt8Rows>(w.panels, tiles, out.backwards, DenseInt8Tile<false, false>{w, x, out});
    pack(x, tiles, static_cast<size_t>(w.quads));
    each<kInt8Rows>(w.panels, tiles, out.backwards, DenseInt8Tile<true, false>{w, x, out});
}

}  // namespace
