// Dense int8 by tiles, part of kernels_amx.cpp.
#pragma once

#include "amx_dense.h"

namespace {

constexpr int kFewestRows = 8;  // of activations: fewer are as fast or faster in the registers of AVX-512

// They lie in memory as tiles want them.
struct Int8Weights {
    static constexpr bool kSigned = false;
    static constexpr ptrdiff_t kStepBytes = kTileQuads * kNextQuad;
    const int rows, panels, quads;
    const float* const scales;
    const int8_t* const tiles;
    const int32_t* const correction;

    explicit Int8Weights(const DenseInt8& w)
        : rows(w.rows), panels(w.panels), quads(w.quads), scales(w.scales), tiles(w.tiles), correction(w.correction) {}
    const int8_t* panel(int i) const { return tiles + static_cast<size_t>(i) * quads * kNextQuad; }
    const char* memory(int i) const { return reinterpret_cast<const char*>(panel(i)); }
    const int32_t* start(int row) const { return correction + row; }
};

void dense_int8(const DenseInt8& w, const Codes& x, const Output& out) {
    if (x.count < kFewestRows || w.quads < kTileQuads || w.rows <= kNarrow)
        return avx512_kernels()->dense_int8(w, x, out);
    multiply_by_tiles(Int8Weights(w), x, out);
}

}  // namespace
