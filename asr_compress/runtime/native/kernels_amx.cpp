// Compiled with the flags of kernels_avx512.cpp and -mamx-tile -mamx-int8.
//
// One instruction of AMX multiplies up to 16 rows of 64 codes by 64 columns of 16 rows of weights and adds to a tile of
// 16 x 16 sums. Sixteen quads of a strip are such a tile of weights as they lie. A row alone is as fast without, for
// then reading the weights takes all the time; and all that is no dense product is AVX-512's.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__)
#include "amx_dense_int8.h"
#include "amx_group_int4.h"

namespace {

constexpr int kProbeDepths = 16;  // tiles of a row

// Pairs of tiles of weights against pairs of activations, as DenseInt8Tiles does.
int32_t probe_loaded(const int8_t* weights, size_t count, size_t* macs) {
    const TileShapes shapes(kTileRows);
    constexpr size_t tile = kTileQuads * kTileBytes;
    alignas(64) static const int8_t activations[2 * kProbeDepths * kTileRows * kTileRowBytes] = {};
    alignas(64) int32_t sums[kTileRows * kLanes];
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const size_t pairs = count / (2 * tile);
    for (size_t i = 0; i < pairs; i++, weights += 2 * tile) {
        const int8_t* codes = activations + i % kProbeDepths * 2 * kTileRows * kTileRowBytes;
        _tile_loadd(4, codes, kTileRowBytes);
        _tile_stream_loadd(6, weights, kTileBytes);
        _tile_loadd(5, codes + kTileRows * kTileRowBytes, kTileRowBytes);
        _tile_stream_loadd(7, weights + tile, kTileBytes);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(0, sums, kTileRowBytes);
    *macs = pairs * 4 * kTileRows * kTileQuads * kTileBytes;
    return sums[0];
}

int32_t probe_int8(size_t dots, size_t* macs) {
    const TileShapes shapes(kTileRows);
    alignas(64) int32_t sums[kTileRows * kLanes];
    for (int i = 0; i < kTileRows * kLanes; i++) sums[i] = i;
    _tile_loadd(6, sums, kTileRowBytes);
    _tile_loadd(7, sums, kTileRowBytes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    constexpr size_t once = 6 * kTileRows * kTileQuads;  // dots of one turn; fewer sums would wait for each other
    const size_t turns = dots / once;
    for (size_t i = 0; i < turns; i++) {
        _tile_dpbusd(0, 6, 7);
        _tile_dpbusd(1, 6, 7);
        _tile_dpbusd(2, 6, 7);
        _tile_dpbusd(3, 6, 7);
        _tile_dpbusd(4, 6, 7);
        _tile_dpbusd(5, 6, 7);
    }
    _tile_stored(0, sums, kTileRowBytes);
    *macs = turns * once * kTileBytes;
    return sums[0];
}

}  // namespace

const asr::Kernels* asr::amx_kernels() {
    static const Kernels kernels = [] {
        Kernels result = *avx512_kernels();
        result.name = "amx";
        result.packed_strides = 2;  // whole tiles of rows and of a tile's columns or more are less than twice as large
        result.panel_bytes = kPanelRows;
        result.dense_int8 = dense_int8;
        result.group_int4 = group_int4;
        result.probe_int8 = probe_int8;
        result.probe_loaded = probe_loaded;
        return result;
    }();
    return &kernels;
}
#else
const asr::Kernels* asr::amx_kernels() { return nullptr; }
#endif
