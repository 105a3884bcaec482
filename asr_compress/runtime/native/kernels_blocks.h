// Block-sparse int8 and int4, part of kernels_impl.h.
#pragma once

namespace {

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
    Tiles tiles = Tiles::of_nearly_equal_height(x.count, kBlockInt8Rows);
    pack(x, tiles, quads);
    each_tile_first<kBlockInt8Rows>(w.count, tiles, out.backwards, BlockInt8Tile{w, x, out, quads});
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

}  // namespace
