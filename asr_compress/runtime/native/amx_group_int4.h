// Dense int4 by tiles, part of kernels_amx.cpp.
#pragma once

#include "amx_tiles.h"

namespace {

// Groups of 32 columns of int4: half a tile deep. Codes of a strip are taken apart once for all rows.
constexpr int kGroupOctets = 4, kGroupQuads = 2 * kGroupOctets, kGroupBytes = kGroupQuads * kTileBytes;
constexpr int kMostGroups = 128;
constexpr int kFewestRowsInt4 = 12;  // of activations, at least
constexpr int kSlots = 8;  // sums of groups that wait: read soon after they were stored, they would stall

class GroupInt4Tiles {
public:
    GroupInt4Tiles(const GroupInt4& w, const Codes& x, const Output& out, const TiledRows& rows)
        : w_(w), x_(x), out_(out), rows_(rows) {}

    void run() {
        for (int i = 0; i < w_.panels; i++) {
            const int panel = out_.backwards ? w_.panels - 1 - i : i;
            for (int strip = 0; strip < kStrips; strip++) {
                const int row = panel * kPanelRows + strip * kLanes;
                if (row >= w_.rows) break;
                take_apart(w_.tiles + (static_cast<size_t>(panel) * w_.octets * kStrips + strip) * kTileBytes);
                const size_t first = (static_cast<size_t>(panel) * w_.groups * kStrips + strip) * kLanes;
                for (int tile = 0; tile < rows_.tiles; tile++) multiply(tile, row, w_.multipliers + first);
            }
        }
    }

private:
    void take_apart(const uint8_t* tile) {
        const __m512i nibble = _mm512_set1_epi8(15), zero = _mm512_set1_epi8(8);
        int8_t* to = codes_;
        for (int k = 0; k < w_.octets; k++, tile += kNextQuad, to += 2 * kTileBytes) {
            const __m512i both = _mm512_load_si512(tile);
            const __m512i low = _mm512_and_si512(both, nibble);
            const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
            _mm512_store_si512(to, _mm512_sub_epi8(low, zero));
            _mm512_store_si512(to + kTileBytes, _mm512_sub_epi8(high, zero));
        }
    }

    // Sums of a group are scaled and added while the tiles of the groups behind it are under way.
    __attribute__((noinline)) void multiply(int tile, int row, const uint8_t* multipliers) {
        const int8_t *codes = x_.packed + tile * rows_.tile_bytes(), *weights = codes_;
        const size_t step = rows_.step_bytes();
        __m512i total[kTileRows];
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; r++) total[r] = _mm512_setzero_si512();
        const auto add = [&](int slot) __attribute__((always_inline)) {
            const __m512i factor = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers)));
            multipliers += kPanelRows;
#pragma GCC unroll 16
            for (int r = 0; r < kTileRows; r++)
                asm("vpdpwssd %2, %1, %0" : "+v"(total[r]) : "v"(factor), "m"(sums_[slot][r]));
        };
#define MULTIPLY(sum, x, w)                    \
    _tile_zero(sum);                           \
    _tile_loadd(x, codes, kGroupQuads* kQuad); \
    _tile_loadd(w, weights, kTileBytes);       \
    _tile_dpbssd(sum, x, w);                   \
    codes += step;                             \
    weights += kGroupBytes
#define STORE(sum) _tile_stored(sum, sums_[stored++ % kSlots], kTileRowBytes)
        int group = 0, stored = 0, added = 0;
        for (; group + 4 <= rows_.depths; group += 4) {
            MULTIPLY(0, 4, 6);
            if (group) STORE(2);
            if (group) add(added++ % kSlots);
            MULTIPLY(1, 5, 7);
            if (group) STORE(3);
            if (group) add(added++ % kSlots);
            MULTIPLY(2, 4, 6);
            STORE(0);
            if (group) add(added++ % kSlots);
            MULTIPLY(3, 5, 7);
            STORE(1);
            if (group) add(added++ % kSlots);
        }
        if (group) {
            STORE(2);
            STORE(3);
        }
        for (; group < rows_.depths; group++) {
            MULTIPLY(0, 4, 6);
            STORE(0);
        }
        for (; added < rows_.depths; added++) add(added % kSlots);
#undef MULTIPLY
#undef STORE
        const int first = rows_.first(tile), count = rows_.rows_of(tile);
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; r++) {
            if (r >= count) break;
            write_row(total[r], x_.scales[first + r], w_.scales, out_, first + r, row, w_.rows);
        }
    }

    const GroupInt4& w_;
    const Codes& x_;
    const Output& out_;
    const TiledRows& rows_;
    alignas(64) int8_t codes_[kMostGroups * kGroupBytes];  // of a strip, less 8: [quads][64]
    alignas(64) int32_t sums_[kSlots][kTileRows][kLanes] = {};
};

void group_int4(const GroupInt4& w, const Codes& x, const Output& out) {
    if (x.count < kFewestRowsInt4 || w.group_octets != kGroupOctets || w.octets < kGroupOctets || w.groups > kMostGroups)
        return avx512_kernels()->group_int4(w, x, out);
    const TiledRows rows(x.count, w.octets * 2 * kQuad, kGroupQuads * kQuad);
    rows.pack(x, w.octets * 2 * kQuad);
    const TileShapes shapes(rows.height, kGroupQuads);
    GroupInt4Tiles(w, x, out, rows).run();
}

}  // namespace
