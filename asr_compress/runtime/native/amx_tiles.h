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
    TileShapes(int height, int quads) {
        for (int i = 0; i < 8; i++) {
            shapes_.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? quads * kQuad : kTileRowBytes);
            shapes_.rows[i] = static_cast<uint8_t>(i < 6 ? height : quads);
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

// Activations by tiles of `height` rows and `depth` bytes of each: [tiles][depths][height][depth]. Where a tile lacks
// rows or a row lacks columns stand zeros, which add nothing.
struct TiledRows {
    int count, tiles, height, depth, depths;

    TiledRows(int rows, int cols, int depth_of_tile)
        : count(rows), tiles((rows + kTileRows - 1) / kTileRows), height((rows + tiles - 1) / tiles),
          depth(depth_of_tile), depths((cols + depth - 1) / depth) {}
    size_t step_bytes() const { return static_cast<size_t>(height) * depth; }
    size_t tile_bytes() const { return static_cast<size_t>(depths) * step_bytes(); }
    int first(int tile) const { return tile * height; }
    int rows_of(int tile) const { return count - first(tile) < height ? count - first(tile) : height; }

    // `cols`: bytes of a row that are there.
    void pack(const Codes& x, int cols) const {
        const auto mask_of = [](int bytes) { return ~uint64_t{0} >> (64 - bytes); };
        for (int tile = 0, r = 0; tile < tiles; tile++) {
            for (int row = 0; row < height; row++, r++) {
                const int8_t* from = x.codes + static_cast<size_t>(r) * x.stride;
                int8_t* to = x.packed + tile * tile_bytes() + static_cast<size_t>(row) * depth;
                for (int d = 0; d < depths; d++, from += depth, to += step_bytes()) {
                    const int left = cols - d * depth;
                    const __mmask64 there = r < count ? mask_of(left < depth ? left : depth) : 0;
                    _mm512_mask_storeu_epi8(to, mask_of(depth), _mm512_maskz_loadu_epi8(there, from));
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
