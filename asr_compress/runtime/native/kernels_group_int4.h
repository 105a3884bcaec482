// Dense int4 whose groups of columns have multipliers, part of kernels_impl.h.
#pragma once

namespace {

constexpr int kGroupOctets = 4;  // as groups have them unless a format says otherwise: their loop unrolls

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
            int octets = w.octets_of(group);
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
            int octets = w.octets_of(group);
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

}  // namespace
