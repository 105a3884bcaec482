// Dense products by tiles, part of kernels_amx.cpp. Where weights come from, and whether activations are XORed with an
// offset, is what `Weights` says: it has
//   rows, panels, quads, scales
//   kSigned        activations are int8, else uint8 with an offset that `start` undoes
//   kStepBytes     of a panel in memory, for a tile's depth
//   memory(i)      where panel i begins there
//   panel(i)       its tiles [quads][strips], to be read up to whole depths
//   start(row)     what sums of the four strips from that row on start from
#pragma once

#include "amx_tiles.h"

namespace {

constexpr ptrdiff_t kNearBytes = 1024 * 1024;  // weights up to here stay in the second-level cache

// Sums on their way out: row by row, some strips of weights wide.
struct Sums {
    const int32_t* sums;
    const float *x_scales, *scales, *extra;
    float* out;
    int left;    // rows
    int strips;  // 2 or kStrips, all of them whole

    // The next rows, `most` of them.
    inline __attribute__((always_inline)) void write(int most, const Output& to) {
        strips == 2 ? write_strips<2>(most, to) : write_strips<kStrips>(most, to);
    }
    template <int STRIPS>
    inline __attribute__((always_inline)) void write_strips(int most, const Output& to) {
        int count = left < most ? left : most;
        if (count <= 0) return;
        left -= count;
        __m512 of_strips[STRIPS];
#pragma GCC unroll 4
        for (int s = 0; s < STRIPS; s++) of_strips[s] = _mm512_loadu_ps(scales + s * kLanes);
        for (; count > 0; count--, sums += STRIPS * kLanes, extra += to.add_stride, out += to.stride) {
            const __m512 of_row = _mm512_set1_ps(*x_scales++);
#pragma GCC unroll 4
            for (int s = 0; s < STRIPS; s++) {
                const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + s * kLanes)),
                                                   _mm512_mul_ps(of_row, of_strips[s]));
                _mm512_storeu_ps(out + s * kLanes, _mm512_add_ps(value, _mm512_loadu_ps(extra + s * kLanes)));
            }
        }
    }
};

// Tiles have names, not numbers, so that their instructions must be written out.
#define MULTIPLY(sum, x, w)         \
    if constexpr (Weights::kSigned) \
        _tile_dpbssd(sum, x, w);    \
    else                            \
        _tile_dpbusd(sum, x, w)

template <class Weights>
class DenseTiles {
public:
    DenseTiles(const Weights& w, const Codes& x, const Output& out, const TiledRows& rows)
        : w_(w), x_(x), out_(out), rows_(rows) {}

    void run() {
        const int turns = rows_.tiles;  // that a panel's depths take
        const ptrdiff_t step_bytes = Weights::kStepBytes;
        const bool far = turns > 1 && step_bytes * rows_.depths * w_.panels > kNearBytes;
        lines_ = static_cast<int>(step_bytes / kTileBytes + turns - 1) / turns;
        for (int i = 0; i < w_.panels; i++) {
            const int panel = out_.backwards ? w_.panels - 1 - i : i;
            const int next = out_.backwards ? panel - 1 : panel + 1;
            ahead_ = far && next >= 0 && next < w_.panels ? w_.memory(next) : nullptr;
            tiles_ = w_.panel(panel);
            int tile = 0;
            for (; tile + 2 <= rows_.tiles; tile += 2)
                for (int strip = 0; strip < kStrips && panel * kPanelRows + strip * kLanes < w_.rows; strip += 2)
                    two_by_two(panel, strip, tile);
            if (tile < rows_.tiles) one_by_four(panel, tile);
        }
        waiting_.write(waiting_.left, out_);
    }

private:
    // Weights pass by the nearest cache, which is the activations'. Sums of the tiles before are written meanwhile, a
    // share of them at each step down the columns; all that this needs is held in local variables, which the compiler
    // knows to be nobody else's.
    void two_by_two(int panel, int strip, int tile) {
        const int row = panel * kPanelRows + strip * kLanes;
        const int8_t *weights = tiles_ + strip * kTileBytes, *codes = x_.packed + tile * rows_.tile_bytes();
        const char* ahead = ahead_;
        const int lines = ahead ? lines_ : 0;
        const size_t step = rows_.step_bytes(), second = rows_.tile_bytes();
        const int32_t* start = w_.start(row);
        const Output out = out_;
        Sums before = waiting_;
        const int share = (before.left + rows_.depths - 1) / rows_.depths;
        _tile_loadd(0, start, 0);  // stride 0: the same in all rows
        _tile_loadd(1, start + kLanes, 0);
        _tile_loadd(2, start, 0);
        _tile_loadd(3, start + kLanes, 0);
        for (int d = rows_.depths; d > 0; d--) {
            // The next panel comes into the second-level cache while this one is met.
            for (int i = 0; i < lines; i++, ahead += kTileBytes) __builtin_prefetch(ahead, 0, 2);
            before.write(share, out);
            // Loads first: where another thread shares the core, they do not overlap with products anyway.
            _tile_loadd(4, codes, kTileRowBytes);
            _tile_stream_loadd(6, weights, kNextQuad);
            _tile_loadd(5, codes + second, kTileRowBytes);
            _tile_stream_loadd(7, weights + kTileBytes, kNextQuad);
            MULTIPLY(0, 4, 6);
            MULTIPLY(2, 5, 6);
            MULTIPLY(1, 4, 7);
            MULTIPLY(3, 5, 7);
            codes += step;
            weights += kTileQuads * kNextQuad;
        }
        ahead_ = ahead;
        constexpr size_t stride = 2 * kLanes * sizeof(int32_t);
        int32_t* const below = sums_ + rows_.height * 2 * kLanes;
        _tile_stored(0, sums_, stride);
        _tile_stored(1, sums_ + kLanes, stride);
        _tile_stored(2, below, stride);
        _tile_stored(3, below + kLanes, stride);
        to_write(tile, 2, row, 2);
    }

    void one_by_four(int panel, int tile) {
        const int row = panel * kPanelRows;
        const int8_t *weights = tiles_, *codes = x_.packed + tile * rows_.tile_bytes();
        const char* ahead = ahead_;
        const int lines = ahead ? lines_ : 0;
        const size_t step = rows_.step_bytes();
        const int32_t* start = w_.start(row);
        const Output out = out_;
        Sums before = waiting_;
        const int share = (before.left + rows_.depths - 1) / rows_.depths;
        _tile_loadd(0, start, 0);
        _tile_loadd(1, start + kLanes, 0);
        _tile_loadd(2, start + 2 * kLanes, 0);
        _tile_loadd(3, start + 3 * kLanes, 0);
        for (int d = rows_.depths; d > 0; d--) {
            for (int i = 0; i < lines; i++, ahead += kTileBytes) __builtin_prefetch(ahead, 0, 2);
            before.write(share, out);
            _tile_loadd(4, codes, kTileRowBytes);
            _tile_stream_loadd(6, weights, kNextQuad);
            MULTIPLY(0, 4, 6);
            _tile_stream_loadd(7, weights + kTileBytes, kNextQuad);
            MULTIPLY(1, 4, 7);
            _tile_stream_loadd(6, weights + 2 * kTileBytes, kNextQuad);
            MULTIPLY(2, 4, 6);
            _tile_stream_loadd(7, weights + 3 * kTileBytes, kNextQuad);
            MULTIPLY(3, 4, 7);
            codes += step;
            weights += kTileQuads * kNextQuad;
        }
        ahead_ = ahead;
        constexpr size_t stride = kPanelRows * sizeof(int32_t);
        _tile_stored(0, sums_, stride);
        _tile_stored(1, sums_ + kLanes, stride);
        _tile_stored(2, sums_ + 2 * kLanes, stride);
        _tile_stored(3, sums_ + 3 * kLanes, stride);
        to_write(tile, 1, row, kStrips);
    }

    // What sums_ holds now: `tiles` of activations, `strips` of weights from `row` on.
    void to_write(int tile, int tiles, int row, int strips) {
        const int first = rows_.first(tile), left = rows_.count - first;
        const int count = left < rows_.height * tiles ? left : rows_.height * tiles;
        const size_t n = static_cast<size_t>(first);
        if (out_.add && row + strips * kLanes <= w_.rows) {
            waiting_ = {sums_, x_.scales + n, w_.scales + row, out_.add + n * out_.add_stride + row,
                        out_.out + n * out_.stride + row, count, strips};
            return;
        }
        waiting_.left = 0;
        for (int r = 0; r < count; r++)
            for (int s = 0; s < strips; s++) {
                const __m512i sum = _mm512_load_si512(sums_ + (r * strips + s) * kLanes);
                write_row(sum, x_.scales[first + r], w_.scales, out_, first + r, row + s * kLanes, w_.rows);
            }
    }

    const Weights& w_;
    const Codes& x_;
    const Output& out_;
    const TiledRows& rows_;
    const int8_t* tiles_ = nullptr;  // of the panel
    const char* ahead_ = nullptr;
    int lines_ = 0;
    Sums waiting_ = {};
    alignas(64) int32_t sums_[kTileRows * kPanelRows];
};

#undef MULTIPLY

template <class Weights>
void multiply_by_tiles(const Weights& w, const Codes& x, const Output& out) {
    const TiledRows rows(x.count, w.quads * kQuad);
    rows.pack(x, w.quads * kQuad);
    const TileShapes shapes(rows.height);
    DenseTiles<Weights>(w, x, out, rows).run();
}

}  // namespace
