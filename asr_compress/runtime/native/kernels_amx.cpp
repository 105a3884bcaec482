// Compiled with the flags of kernels_avx512.cpp and -mamx-tile -mamx-int8.
//
// One instruction of AMX multiplies up to 16 rows of 64 codes by 64 columns of 16 rows of weights and adds to a tile of
// 16 x 16 sums. Sixteen quads of a strip are such a tile of weights as they lie. A row alone is as fast without, for
// then reading the weights takes all the time; and all that is no dense product is AVX-512's.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__)
#include "tiles_amx.h"

namespace {

constexpr ptrdiff_t kNearBytes = 1024 * 1024;  // weights up to here stay in the second-level cache
// Rows of activations, at least: fewer meet weights faster in the registers of AVX-512, if those come from far away much
// faster.
constexpr int kFewestRows = 5, kFewestRowsFar = 9, kFewestRowsInt4 = 12;

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
    }

private:
    // Tiles have names, not numbers, so their instructions are written out.
    void one_by_four(int panel, int tile) {
        alignas(64) int32_t sums[kTileRows * kPanelRows];
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
            _tile_loadd(4, codes, kTileRowBytes);
            _tile_loadd(6, weights, kNextQuad);
            _tile_dpbusd(0, 4, 6);
            _tile_loadd(7, weights + kTileBytes, kNextQuad);
            _tile_dpbusd(1, 4, 7);
            _tile_loadd(6, weights + 2 * kTileBytes, kNextQuad);
            _tile_dpbusd(2, 4, 6);
            _tile_loadd(7, weights + 3 * kTileBytes, kNextQuad);
            _tile_dpbusd(3, 4, 7);
            codes += rows_.step_bytes();
            weights += kTileQuads * kNextQuad;
        }
        constexpr size_t stride = kPanelRows * sizeof(int32_t);
        _tile_stored(0, sums, stride);
        _tile_stored(1, sums + kLanes, stride);
        _tile_stored(2, sums + 2 * kLanes, stride);
        _tile_stored(3, sums + 3 * kLanes, stride);
        write<kStrips>(sums, tile, row);
    }

    void two_by_two(int panel, int tile) {
        alignas(64) int32_t sums[2][kTileRows * 2 * kLanes];
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
                _tile_loadd(4, codes, kTileRowBytes);
                _tile_loadd(6, weights, kNextQuad);
                _tile_dpbusd(0, 4, 6);
                _tile_loadd(5, codes + rows_.tile_bytes(), kTileRowBytes);
                _tile_dpbusd(2, 5, 6);
                _tile_loadd(7, weights + kTileBytes, kNextQuad);
                _tile_dpbusd(1, 4, 7);
                _tile_dpbusd(3, 5, 7);
                codes += rows_.step_bytes();
                weights += kTileQuads * kNextQuad;
            }
            constexpr size_t stride = 2 * kLanes * sizeof(int32_t);
            _tile_stored(0, sums[0], stride);
            _tile_stored(1, sums[0] + kLanes, stride);
            _tile_stored(2, sums[1], stride);
            _tile_stored(3, sums[1] + kLanes, stride);
            write<2>(sums[0], tile, row);
            write<2>(sums[1], tile + 1, row);
        }
    }

    // The next panel comes into the second-level cache while this one is met.
    void fetch_ahead() {
        if (!ahead_) return;
        for (int i = 0; i < lines_; i++) __builtin_prefetch(ahead_ + i * kTileBytes, 0, 2);
        ahead_ += lines_ * kTileBytes;
    }

    template <int STRIPS>
    void write(const int32_t* sums, int tile, int row) const {
        const int first = rows_.first(tile), end = first + rows_.rows_of(tile);
        for (int n = first; n < end; n++, sums += STRIPS * kLanes) {
            __m512i sum[STRIPS];
#pragma GCC unroll 4
            for (int s = 0; s < STRIPS; s++) sum[s] = _mm512_load_si512(sums + s * kLanes);
            write_row(sum, x_.scales[n], w_.scales, out_, n, row, w_.rows);
        }
    }

    const DenseInt8& w_;
    const Codes& x_;
    const Output& out_;
    const TiledRows& rows_;
    const int8_t* ahead_ = nullptr;
    int lines_ = 0;
};

void dense_int8(const DenseInt8& w, const Codes& x, const Output& out) {
    const bool far = static_cast<ptrdiff_t>(w.panels) * w.quads * static_cast<ptrdiff_t>(kNextQuad) > kNearBytes;
    if (x.count < (far ? kFewestRowsFar : kFewestRows) || w.quads < kTileQuads || w.rows <= kNarrow)
        return avx512_kernels()->dense_int8(w, x, out);
    const TiledRows rows(x.count, w.quads * kQuad, kTileRowBytes);
    rows.pack(x, w.quads * kQuad);
    const TileShapes shapes(rows.height, kTileQuads);
    DenseInt8Tiles(w, x, out, rows).run();
}

// Groups of 32 columns of int4: half a tile deep. Codes of a strip are taken apart once for all rows.
constexpr int kGroupOctets = 4, kGroupQuads = 2 * kGroupOctets, kGroupBytes = kGroupQuads * kTileBytes;
constexpr int kMostGroups = 128;
constexpr int kSlots = 8, kLate = 3;  // sums are read long after they were stored: sooner, the reads would wait

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
                for (int tile = 0; tile < rows_.tiles; tile++)
                    multiply(tile, row, w_.multipliers + (static_cast<size_t>(panel) * w_.groups * kStrips + strip) * kLanes);
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
            if (group > kLate) add(added++ % kSlots);
            MULTIPLY(1, 5, 7);
            if (group) STORE(3);
            if (group > kLate) add(added++ % kSlots);
            MULTIPLY(2, 4, 6);
            STORE(0);
            if (group > kLate) add(added++ % kSlots);
            MULTIPLY(3, 5, 7);
            STORE(1);
            if (group > kLate) add(added++ % kSlots);
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
            const __m512i sum[1] = {total[r]};
            write_row(sum, x_.scales[first + r], w_.scales, out_, first + r, row, w_.rows);
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

int32_t probe_int8(size_t dots, size_t* macs) {
    const TileShapes shapes(kTileRows, kTileQuads);
    alignas(64) int32_t sums[kTileRows * kLanes];
    for (int i = 0; i < kTileRows * kLanes; i++) sums[i] = i;
    _tile_loadd(4, sums, kTileRowBytes);
    _tile_loadd(5, sums, kTileRowBytes);
    _tile_loadd(6, sums, kTileRowBytes);
    _tile_loadd(7, sums, kTileRowBytes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    constexpr size_t once = 4 * kTileRows * kTileQuads;  // dots of one turn
    const size_t turns = dots / once;
    for (size_t i = 0; i < turns; i++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
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
        result.packed_strides = 2;  // TiledRows of at least 64 columns
        result.dense_int8 = dense_int8;
        result.group_int4 = group_int4;
        result.probe_int8 = probe_int8;
        return result;
    }();
    return &kernels;
}
#else
const asr::Kernels* asr::amx_kernels() { return nullptr; }
#endif
