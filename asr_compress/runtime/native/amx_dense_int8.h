// Dense int8 by tiles, part of kernels_amx.cpp.
#pragma once

#include "amx_tiles.h"

namespace {

constexpr ptrdiff_t kNearBytes = 1024 * 1024;  // weights up to here stay in the second-level cache
constexpr int kFewestRows = 8;  // of activations: fewer are as fast or faster in the registers of AVX-512

class DenseInt8Tiles {
public:
    DenseInt8Tiles(const DenseInt8& w, const Codes& x, const Output& out, const TiledRows& rows)
        : w_(w), x_(x), out_(out), rows_(rows) {}

    void run() {
        const ptrdiff_t panel_bytes = static_cast<ptrdiff_t>(w_.quads) * kNextQuad;
        const int turns = rows_.tiles;  // that a panel's depths take
        const bool far = turns > 1 && panel_bytes * w_.panels > kNearBytes;
        lines_ = (kTileQuads * kStrips + turns - 1) / turns;
        for (int i = 0; i < w_.panels; i++) {
            const int panel = out_.backwards ? w_.panels - 1 - i : i;
            const int next = out_.backwards ? panel - 1 : panel + 1;
            ahead_ = far && next >= 0 && next < w_.panels ? w_.tiles + next * panel_bytes : nullptr;
            int tile = 0;
            for (; tile + 2 <= rows_.tiles; tile += 2) two_by_two(panel, tile);
            if (tile < rows_.tiles) one_by_four(panel, tile);
        }
        write(rows_.count);
    }

private:
    // Tiles have names, not numbers, so their instructions are written out. Weights pass by the nearest cache, which is
    // the activations'.
    void one_by_four(int panel, int tile) {
        const int row = panel * kPanelRows;
        const int8_t* weights = w_.tiles + static_cast<size_t>(panel) * w_.quads * kNextQuad;
        const int8_t* codes = x_.packed + tile * rows_.tile_bytes();
        const int32_t* start = w_.correction + row;
        _tile_loadd(0, start, 0);  // stride 0: the same in all rows
        _tile_loadd(1, start + kLanes, 0);
        _tile_loadd(2, start + 2 * kLanes, 0);
        _tile_loadd(3, start + 3 * kLanes, 0);
        for (int d = 0; d < rows_.depths; d++) {
            fetch_ahead();
            write(share_);
            _tile_loadd(4, codes, kTileRowBytes);
            _tile_stream_loadd(6, weights, kNextQuad);
            _tile_dpbusd(0, 4, 6);
            _tile_stream_loadd(7, weights + kTileBytes, kNextQuad);
            _tile_dpbusd(1, 4, 7);
            _tile_stream_loadd(6, weights + 2 * kTileBytes, kNextQuad);
            _tile_dpbusd(2, 4, 6);
            _tile_stream_loadd(7, weights + 3 * kTileBytes, kNextQuad);
            _tile_dpbusd(3, 4, 7);
            codes += rows_.step_bytes();
            weights += kTileQuads * kNextQuad;
        }
        write(rows_.count);
        constexpr size_t stride = kPanelRows * sizeof(int32_t);
        _tile_stored(0, sums_, stride);
        _tile_stored(1, sums_ + kLanes, stride);
        _tile_stored(2, sums_ + 2 * kLanes, stride);
        _tile_stored(3, sums_ + 3 * kLanes, stride);
        to_write(tile, 1, kStrips, row);
    }

    void two_by_two(int panel, int tile) {
        for (int strip = 0; strip < kStrips && panel * kPanelRows + strip * kLanes < w_.rows; strip += 2) {
            const int row = panel * kPanelRows + strip * kLanes;
            const int8_t* weights = w_.tiles + static_cast<size_t>(panel) * w_.quads * kNextQuad + strip * kTileBytes;
            const int8_t* codes = x_.packed + tile * rows_.tile_bytes();
            const int32_t* start = w_.correction + row;
            _tile_loadd(0, start, 0);
            _tile_loadd(1, start + kLanes, 0);
            _tile_loadd(2, start, 0);
            _tile_loadd(3, start + kLanes, 0);
            for (int d = 0; d < rows_.depths; d++) {
                fetch_ahead();
                write(share_);
                // Loads first: where another thread shares the core, they do not overlap with products anyway.
                _tile_loadd(4, codes, kTileRowBytes);
                _tile_stream_loadd(6, weights, kNextQuad);
                _tile_loadd(5, codes + rows_.tile_bytes(), kTileRowBytes);
                _tile_stream_loadd(7, weights + kTileBytes, kNextQuad);
                _tile_dpbusd(0, 4, 6);
                _tile_dpbusd(2, 5, 6);
                _tile_dpbusd(1, 4, 7);
                _tile_dpbusd(3, 5, 7);
                codes += rows_.step_bytes();
                weights += kTileQuads * kNextQuad;
            }
            write(rows_.count);
            constexpr size_t stride = 2 * kLanes * sizeof(int32_t);
            int32_t* const second = sums_ + rows_.height * 2 * kLanes;
            _tile_stored(0, sums_, stride);
            _tile_stored(1, sums_ + kLanes, stride);
            _tile_stored(2, second, stride);
            _tile_stored(3, second + kLanes, stride);
            to_write(tile, 2, 2, row);
        }
    }

    // The next panel comes into the second-level cache while this one is met.
    void fetch_ahead() {
        if (!ahead_) return;
        for (int i = 0; i < lines_; i++) __builtin_prefetch(ahead_ + i * kTileBytes, 0, 2);
        ahead_ += lines_ * kTileBytes;
    }

    // Sums are written while the next ones are under way, a share of them at each step down the columns.
    void to_write(int tile, int tiles, int strips, int row) {
        next_ = rows_.first(tile);
        end_ = next_ + rows_.height * tiles < rows_.count ? next_ + rows_.height * tiles : rows_.count;
        share_ = (end_ - next_ + rows_.depths - 1) / rows_.depths;
        strips_ = strips;
        row_ = row;
        from_ = sums_;
    }
    void write(int most) { strips_ == 2 ? write_strips<2>(most) : write_strips<kStrips>(most); }

    template <int STRIPS>
    void write_strips(int most) {
        const int end = end_ - next_ < most ? end_ : next_ + most;
        if (out_.add && row_ + STRIPS * kLanes <= w_.rows) return write_whole<STRIPS>(end);
        for (; next_ < end; next_++, from_ += STRIPS * kLanes) {
            __m512i sum[STRIPS];
#pragma GCC unroll 4
            for (int s = 0; s < STRIPS; s++) sum[s] = _mm512_load_si512(from_ + s * kLanes);
            write_row(sum, x_.scales[next_], w_.scales, out_, next_, row_, w_.rows);
        }
    }

    // As write_row, where nothing is missing: a third of the instructions, and they share the core with the tiles'.
    template <int STRIPS>
    void write_whole(int end) {
        __m512 scales[STRIPS];
#pragma GCC unroll 4
        for (int s = 0; s < STRIPS; s++) scales[s] = _mm512_loadu_ps(w_.scales + row_ + s * kLanes);
        const float* extra = out_.add + static_cast<size_t>(next_) * out_.add_stride + row_;
        float* y = out_.out + static_cast<size_t>(next_) * out_.stride + row_;
        const int32_t* from = from_;
        for (int n = next_; n < end; n++, from += STRIPS * kLanes, extra += out_.add_stride, y += out_.stride) {
            const __m512 of_row = _mm512_set1_ps(x_.scales[n]);
#pragma GCC unroll 4
            for (int s = 0; s < STRIPS; s++) {
                const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(from + s * kLanes)),
                                                   _mm512_mul_ps(of_row, scales[s]));
                _mm512_storeu_ps(y + s * kLanes, _mm512_add_ps(value, _mm512_loadu_ps(extra + s * kLanes)));
            }
        }
        next_ = end > next_ ? end : next_;
        from_ = from;
    }

    const DenseInt8& w_;
    const Codes& x_;
    const Output& out_;
    const TiledRows& rows_;
    const int8_t* ahead_ = nullptr;
    int lines_ = 0;
    // What is to be written: rows of activations from next_ to end_, some strips of the weights from row_ on.
    int next_ = 0, end_ = 0, share_ = 0, strips_ = 2, row_ = 0;
    const int32_t* from_ = nullptr;
    alignas(64) int32_t sums_[kTileRows * kPanelRows];
};

void dense_int8(const DenseInt8& w, const Codes& x, const Output& out) {
    if (x.count < kFewestRows || w.quads < kTileQuads || w.rows <= kNarrow)
        return avx512_kernels()->dense_int8(w, x, out);
    const TiledRows rows(x.count, w.quads * kQuad, kTileRowBytes);
    rows.pack(x, w.quads * kQuad);
    const TileShapes shapes(rows.height, kTileQuads);
    DenseInt8Tiles(w, x, out, rows).run();
}

}  // namespace
