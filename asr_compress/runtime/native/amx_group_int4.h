// Dense int4 by tiles, part of kernels_amx.cpp.
#pragma once

#include "amx_dense.h"

namespace {

constexpr int kFewestRowsInt4 = 12;  // of activations, at least

// Codes times multipliers fit int8 and become so, a panel at a time, before the rows meet it: then a sum over groups is
// an ordinary one. (As QServe does, Lin et al. 2024, https://arxiv.org/abs/2405.04532, section 4.1.)
class Int4Weights {
public:
    static constexpr bool kSigned = true;
    static constexpr ptrdiff_t kStepBytes = kTileQuads / 2 * kNextQuad;
    const int rows, panels, quads;
    const float* const scales;

    Int4Weights(const GroupInt4& w, int8_t* room)
        : rows(w.rows), panels(w.panels), quads(2 * w.octets), scales(w.scales), w_(w), room_(room) {}
    const char* memory(int i) const {
        return reinterpret_cast<const char*>(w_.tiles) + static_cast<size_t>(i) * w_.octets * kNextQuad;
    }
    const int32_t* start(int) const {
        alignas(64) static const int32_t zeros[kPanelRows] = {};
        return zeros;
    }
    const int8_t* panel(int i) const {
        const uint8_t* tiles = w_.tiles + static_cast<size_t>(i) * w_.octets * kNextQuad;
        const uint8_t* multipliers = w_.multipliers + static_cast<size_t>(i) * w_.groups * kPanelRows;
        for (int strip = 0; strip < kStrips; strip++)
            multiply_out(tiles + strip * kTileBytes, multipliers + strip * kLanes, room_ + strip * kTileBytes);
        return room_;
    }

private:
    // Two bytes at a time: a nibble times its multiplier fits eight bits, so nothing is carried from one to the other.
    void multiply_out(const uint8_t* tile, const uint8_t* multipliers, int8_t* to) const {
        const __m512i nibble = _mm512_set1_epi8(15);
        for (int left = w_.octets; left > 0; left -= w_.group_octets, multipliers += kPanelRows) {
            const __m512i of_rows = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(multipliers)));
            const __m512i factor = _mm512_or_si512(of_rows, _mm512_slli_epi32(of_rows, 16));
            const __m512i eights = _mm512_slli_epi16(_mm512_or_si512(factor, _mm512_slli_epi16(factor, 8)), 3);
            for (int k = left < w_.group_octets ? left : w_.group_octets; k > 0; k--) {
                const __m512i both = _mm512_load_si512(tile);
                const __m512i low = _mm512_and_si512(both, nibble);
                const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
                _mm512_store_si512(to, _mm512_sub_epi8(_mm512_mullo_epi16(low, factor), eights));
                _mm512_store_si512(to + kNextQuad, _mm512_sub_epi8(_mm512_mullo_epi16(high, factor), eights));
                tile += kNextQuad;
                to += 2 * kNextQuad;
            }
        }
    }

    const GroupInt4& w_;
    int8_t* const room_;
};

void group_int4(const GroupInt4& w, const Codes& x, const Output& out) {
    if (x.count < kFewestRowsInt4 || !w.bytes || 2 * w.octets < kTileQuads || w.rows <= kNarrow)
        return avx512_kernels()->group_int4(w, x, out);
    multiply_by_tiles(Int4Weights(w, x.panel), x, out);
}

}  // namespace
