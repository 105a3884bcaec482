// int4 for many rows where there is an 8-bit dot product: a panel at a time as int8. After kernels_impl.h.
#pragma once

#include "multiply_out.h"

namespace {

void group_int4_as_bytes(const GroupInt4& w, const Codes& x, const Output& out) {
    // A recurrence would have its weights multiplied out at each step.
    if (x.count <= kMaxBatch || !w.bytes || w.rows <= kNarrow) return group_int4(w, x, out);
    const int quads = 2 * w.octets;
    const size_t panel_bytes = static_cast<size_t>(quads) * kStrips * kTileBytes;
    const size_t codes = static_cast<size_t>(x.count) * static_cast<size_t>(quads) * kQuad;
    const Tiles tiles = Tiles::of_nearly_equal_height(x.count, kInt8Rows);
    pack(x, tiles, static_cast<size_t>(quads));
    for (size_t i = 0; i < codes; i++) x.packed[i] = static_cast<int8_t>(x.packed[i] ^ kCodeOffset);
    for (int i = 0; i < w.panels; i++) {
        const int panel = out.backwards ? w.panels - 1 - i : i;
        multiply_out(w, panel, x.panel);
        const DenseInt8 bytes{w.rows, w.cols, w.panels, quads, x.panel - static_cast<size_t>(panel) * panel_bytes,
                              w.scales, w.correction};
        each_tile<kInt8Rows>(tiles, DenseInt8Tile<true, false>{bytes, x, out}, panel);
    }
}

void int4_bytes(const GroupInt4& w, int8_t* tiles) {
    const size_t panel_bytes = static_cast<size_t>(2 * w.octets) * kStrips * kTileBytes;
    for (int panel = 0; panel < w.panels; panel++, tiles += panel_bytes) multiply_out(w, panel, tiles);
}

constexpr Kernels int4_as_bytes(Kernels kernels) {
    kernels.panel_bytes = kPanelRows;
    kernels.int4_bytes = int4_bytes;
    kernels.group_int4 = group_int4_as_bytes;
    return kernels;
}

}  // namespace
