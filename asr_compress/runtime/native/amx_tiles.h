// What the products of kernels_amx.cpp share: the shapes of tiles, activations by tiles, and how sums are written.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace {

using namespace asr;

constexpr int kTileRows = 16;                  // of activations
constexpr int kTileRowBytes = 64;
constexpr int kTileQuads = kTileRowBytes / kQuad;
constexpr size_t kNextQuad = kStrips * kTileBytes;  // from a strip's quad to its next one

// The processor's tiles: 0 to 3 hold sums, 4 and 5 activations, `height` rows of them, 6 and 7 weights.
class TileShapes {
public:
    explicit TileShapes(int height) {
        for (int i = 0; i < 8; i++) {
            shapes_.row_bytes[i] = kTileRowBytes;
            shapes_.rows[i] = static_cast<uint8_t>(i < 6 ? height : kTileQuads);
        }
        _tile_loadconfig(&shapes_);
    }
    ~TileShapes() { _tile_release(); }
    TileShapes(const TileShapes&) = delete;

private:
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    } shapes_;
};

// Activations by tiles of `height` rows and 64 bytes of each: [tiles][depths][height][64]. Where a tile lacks rows or a
// row lacks columns stand zeros, which add nothing.
struct TiledRows {
    int count, tiles, height, depths;

    TiledRows(int rows, int cols)
        : count(rows), tiles((rows + kTileRows - 1) / kTileRows), height((rows + tiles - 1) / tiles),
          depths((cols + kTileRowBytes - 1) / kTileRowBytes) {}
    size_t step_bytes() const { return static_cast<size_t>(height) * kTileRowBytes; }
    size_t tile_bytes() const { return static_cast<size_t>(depths) * step_bytes(); }
    int first(int tile) const { return tile * height; }

    // `cols`: bytes of a row that are there.
    void pack(const Codes& x, int cols) const {
        for (int tile = 0, r = 0; tile < tiles; tile++) {
            for (int row = 0; row < height; row++, r++) {
                const int8_t* from = x.codes + static_cast<size_t>(r) * x.stride;
                int8_t* to = x.packed + tile * tile_bytes() + static_cast<size_t>(row) * kTileRowBytes;
                for (int d = 0; d < depths; d++, from += kTileRowBytes, to += step_bytes()) {
                    const int left = cols - d * kTileRowBytes;
                    const __mmask64 whole = ~uint64_t{0} >> (left < kTileRowBytes ? kTileRowBytes - left : 0);
                    _mm512_storeu_si512(to, _mm512_maskz_loadu_epi8(r < count ? whole : 0, from));
                }
            }
        }
    }
};

// One row of a product: the strip of it from `row` of the weights on, of `rows`.
inline __attribute__((always_inline)) void write_row(__m512i sum, float x_scale, const float* scales, const Output& out,
                                                     int n, int row, int rows) {
    const int left = rows - row;
    const __mmask16 live = static_cast<__mmask16>(left >= kLanes ? 0xFFFF : left > 0 ? (1u << left) - 1 : 0);
    __m512 value =
        _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_set1_ps(x_scale), _mm512_loadu_ps(scales + row)));
    if (out.add) {
        const float* extra = out.add + static_cast<size_t>(n) * out.add_stride + row;
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(live, extra));
    }
    _mm512_mask_storeu_ps(out.out + static_cast<size_t>(n) * out.stride + row, live, value);
}

}  // namespace
