// Dense int8 where there is no 8-bit dot product. After simd_avx2.h and kernels_impl.h.
//
// vpmaddubsw multiplies unsigned by signed bytes and adds each two products at 16 bits, where it saturates: 255 * 127 * 2
// does not fit, 127 * 128 * 2 does. So activations are parted into magnitudes and signs, 0 or -1, and a weight whose sign
// would change has its bits flipped. That is one operation, on any port, but gives -w - 1 for -w: a sum lacks the
// magnitudes of all negative activations, which is the same for every row of weights, and what sums start from.
#pragma once

namespace {

constexpr int kPairRows = 3;     // rows of activations that two strips meet together: their sums just fit the registers
// How far ahead one row alone fetches weights from the second-level cache, and from beyond.
constexpr int kAheadQuads = 6, kFarQuads = 16;
constexpr size_t kParted = 8;    // bytes of a quad's signs and magnitudes

inline __m256i load_eight(const int8_t* quads, size_t some) {
    if (some >= 8) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quads));
    int8_t bytes[32] = {};
    __builtin_memcpy(bytes, quads, some * kQuad);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

// From quads side by side to parted ones.
inline void part(const int8_t* codes, size_t quads, int8_t* to) {
    for (size_t k = 0; k < quads; k += 8, to += 8 * kParted) {
        size_t some = quads - k < 8 ? quads - k : 8;
        __m256i x = load_eight(codes + k * kQuad, some), magnitudes = _mm256_abs_epi8(x);
        __m256i signs = _mm256_cmpgt_epi8(_mm256_setzero_si256(), x);
        __m256i even = _mm256_unpacklo_epi32(signs, magnitudes), odd = _mm256_unpackhi_epi32(signs, magnitudes);
        __m256i parted[2] = {_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
        __builtin_memcpy(to, parted, some * kParted);
    }
}

// The magnitudes of all negative codes.
inline int32_t negative_total(const int8_t* codes, size_t quads) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i sums = zero;
    for (size_t k = 0; k < quads; k += 8) {
        __m256i below = _mm256_min_epi8(load_eight(codes + k * kQuad, quads - k), zero);
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_sub_epi8(zero, below), zero));
    }
    int64_t lane[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lane), sums);
    return static_cast<int32_t>(lane[0] + lane[1] + lane[2] + lane[3]);
}

// Rows of a tile side by side, packed into the upper half of the scratch and parted from there: what is written,
// [quads][height][kParted], does not catch up with what is read.
inline void prepare(const Codes& x, const Tiles& tiles, size_t quads) {
    Codes whole = x;
    whole.packed += static_cast<size_t>(x.count) * quads * kQuad;
    pack(whole, tiles, quads);
    for (int tile = 0, first = 0; tile < tiles.count; first += tiles.height(tile++)) {
        int height = tiles.height(tile);
        part(packed_tile(whole, first, height, quads), height * quads, x.packed + first * quads * kParted);
    }
    for (int n = 0; n < x.count; n++) x.sums[n] = negative_total(x.codes + n * x.stride, quads);
}

struct Parted { __m256i signs, magnitudes; };

inline Parted load_parted(const int8_t* quad) {
    using Quad4 = const int8_t (*)[kQuad];
    Parted x;
    asm volatile("vpbroadcastd %1, %0" : "=x"(x.signs) : "m"(*reinterpret_cast<Quad4>(quad)));
    asm volatile("vpbroadcastd %1, %0" : "=x"(x.magnitudes) : "m"(*reinterpret_cast<Quad4>(quad + kQuad)));
    return x;
}

#define ADD_FLIPPED(w, sum)                     \
    "vpxor " w ", %[signs], %[t]\n\t"           \
    "vpmaddubsw %[t], %[magnitudes], %[t]\n\t"  \
    "vpmaddwd %[ones], %[t], %[t]\n\t"          \
    "vpaddd %[t], " sum ", " sum "\n\t"

// In assembly: GCC 12 does all products first, and then they do not fit the registers. In order, by `volatile`, or it does
// all prefetches first.
inline __m256i add_flipped(__m256i sum, const Parted& x, const __m256i* w) {
    __m256i t;
    asm volatile(ADD_FLIPPED("%[w]", "%[sum]")
        : [sum] "+x"(sum), [t] "=&x"(t)
        : [w] "m"(*w), [signs] "x"(x.signs), [magnitudes] "x"(x.magnitudes), [ones] "x"(_mm256_set1_epi16(1)));
    return sum;
}
// One quad by two strips at once, for twelve sums and what this needs to fit the registers.
inline __attribute__((always_inline)) void add_flipped(I& one, I& other, const int8_t* quad, const __m256i* w) {
    __m256i signs, magnitudes, t;
    asm("vpbroadcastd %[quad], %[signs]\n\t"
        "vpbroadcastd %[next], %[magnitudes]\n\t"
        ADD_FLIPPED("%[w0]", "%[one_a]") ADD_FLIPPED("%[w1]", "%[one_b]")
        ADD_FLIPPED("%[w2]", "%[other_a]") ADD_FLIPPED("%[w3]", "%[other_b]")
        : [one_a] "+x"(one.a), [one_b] "+x"(one.b), [other_a] "+x"(other.a), [other_b] "+x"(other.b),
          [signs] "=&x"(signs), [magnitudes] "=&x"(magnitudes), [t] "=&x"(t)
        : [quad] "m"(*reinterpret_cast<const int8_t(*)[kQuad]>(quad)),
          [next] "m"(*reinterpret_cast<const int8_t(*)[kQuad]>(quad + kQuad)), [w0] "m"(w[0]), [w1] "m"(w[1]),
          [w2] "m"(w[2]), [w3] "m"(w[3]), [ones] "x"(_mm256_set1_epi16(1)));
}

// FAR: weights come from beyond the second-level cache.
template <bool FAR>
struct DenseInPairs {
    const DenseInt8 w;
    const Codes x;
    const Output out;

    template <int ROWS>
    void run(int panel, int first) const {
        each_group<ROWS == 1 ? kStrips : 2>(w.rows - panel * kPanelRows, [&](auto strips, int strip) {
            this->template down<ROWS, strips.count>(panel, strip, first);
        });
    }

    template <int ROWS, int STRIPS>
    __attribute__((noinline)) void down(int panel, int strip, int first) const {
        const size_t quads = static_cast<size_t>(w.quads);
        const int8_t* tile = w.tiles + (panel * quads * kStrips + strip) * kTileBytes;
        const int8_t* quad = x.packed + first * quads * kParted;
        I sum[STRIPS][ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = splat_i(x.sums[first + r]);
        }
        size_t k = 0;
        constexpr size_t turn = ROWS == 1 ? 8 : 2;  // see DenseInt8Tile
        for (; k + turn <= quads; k += turn) {
            UNROLL for (size_t i = 0; i < turn; i++) {
                step(sum, quad, tile);
                quad += ROWS * kParted;
                tile += kStrips * kTileBytes;
            }
        }
        for (; k < quads; k++, quad += ROWS * kParted, tile += kStrips * kTileBytes) step(sum, quad, tile);
        const int row = panel * kPanelRows + strip * kLanes;
        if (out.add && row + STRIPS * kLanes <= w.rows)
            return finish_whole(sum, x, w.scales + row, out, static_cast<size_t>(first), static_cast<size_t>(row));
        UNROLL for (int s = 0; s < STRIPS; s++)
            finish(sum[s], x, w.scales + row + s * kLanes, out, first, row + s * kLanes, w.rows);
    }

    template <int ROWS, int STRIPS>
    static inline __attribute__((always_inline)) void step(I (&sum)[STRIPS][ROWS], const int8_t* quad, const int8_t* tile) {
        auto w = reinterpret_cast<const __m256i*>(tile);
        UNROLL for (int r = 0; r < ROWS; r++, quad += kParted) {
            if constexpr (STRIPS == 2) {
                add_flipped(sum[0][r], sum[1][r], quad, w);
            } else {
                Parted x = load_parted(quad);
                UNROLL for (int s = 0; s < STRIPS; s++) {
                    sum[s][r].a = add_flipped(sum[s][r].a, x, w + 2 * s);
                    sum[s][r].b = add_flipped(sum[s][r].b, x, w + 2 * s + 1);
                }
            }
        }
        if constexpr (FAR || ROWS == 1) {
            constexpr int ahead = ROWS > 1 ? kNearQuads : FAR ? kFarQuads : kAheadQuads;
            UNROLL for (int s = 0; s < STRIPS; s++)
                __builtin_prefetch(tile + (ahead * kStrips + s) * kTileBytes, 0, 3);
        }
    }
};

void dense_int8_in_pairs(const DenseInt8& w, const Codes& x, const Output& out) {
    if (w.rows <= kNarrow) return dense_int8(w, x, out);  // preparing would take longer than it saves
    Tiles tiles = Tiles::of_nearly_equal_height(x.count, kPairRows);
    prepare(x, tiles, static_cast<size_t>(w.quads));
    if (far(w)) return each<kPairRows>(w.panels, tiles, out.backwards, DenseInPairs<true>{w, x, out});
    each<kPairRows>(w.panels, tiles, out.backwards, DenseInPairs<false>{w, x, out});
}

int32_t probe_int8_in_pairs(size_t dots, size_t* macs) {
    constexpr int chains = 8;
    alignas(64) int8_t bytes[kTileBytes];
    for (int i = 0; i < kTileBytes; i++) bytes[i] = static_cast<int8_t>(i - 32);
    const Parted x = load_parted(bytes + 32);
    const __m256i weights = load_parted(bytes).signs;
    __m256i sum[chains], t;
    UNROLL for (int s = 0; s < chains; s++) sum[s] = _mm256_set1_epi32(s);
    size_t rounds = dots / chains;
    for (size_t i = 0; i < rounds; i++) {
        UNROLL for (int s = 0; s < chains; s++)
            asm(ADD_FLIPPED("%[w]", "%[sum]")
                : [sum] "+x"(sum[s]), [t] "=&x"(t)
                : [w] "x"(weights), [signs] "x"(x.signs), [magnitudes] "x"(x.magnitudes),
                  [ones] "x"(_mm256_set1_epi16(1)));
    }
    __m256i total = sum[0];
    UNROLL for (int s = 1; s < chains; s++) total = _mm256_add_epi32(total, sum[s]);
    *macs = rounds * chains * kTileBytes / 2;
    return lane_total({total, total});
}

#undef ADD_FLIPPED

}  // namespace
