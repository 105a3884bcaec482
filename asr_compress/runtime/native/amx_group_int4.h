// Dense int4 by tiles, part of kernels_amx.cpp.
#pragma once

#include "amx_dense.h"
#include "simd_avx512.h"
// after the lanes
#include "multiply_out.h"

namespace {

constexpr int kFewestRowsInt4 = 12;  // of activations, at least

// They become int8, which `room` holds a panel of.
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
        multiply_out(w_, i, room_);
        return room_;
    }

private:
    const GroupInt4& w_;
    int8_t* const room_;
};

void group_int4(const GroupInt4& w, const Codes& x, const Output& out) {
    if (x.count < kFewestRowsInt4 || !w.bytes || 2 * w.octets < kTileQuads || w.rows <= kNarrow)
        return avx512_kernels()->group_int4(w, x, out);
    multiply_by_tiles(Int4Weights(w, x.panel), x, out);
}

}  // namespace
