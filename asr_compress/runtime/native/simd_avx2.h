// Sixteen lanes in two registers: AVX2. Without vpdpbusd, dot products go through 16 bits, exactly:
// |x| * (w with x's sign) keeps pair sums within 2 * 127 * 127 = 32258. Dense weights: kernels_pairs.h.
#pragma once

#include "simd_256.h"

namespace {

struct Quad { __m256i codes, magnitudes; };  // 4 int8 of one activation row, repeated
struct GroupSum { __m256i a, b; };           // two int16 for each of 16 rows

constexpr uint8_t kCodeOffset = 0;
constexpr int kInt8Rows = 4;  // rows of activations that narrow int8 maps meet together; others: kernels_pairs.h
constexpr int kFewInt8Rows = kDenseRows;  // the same in a recurrence
constexpr int kInt4Rows = 4;  // the same for int4
constexpr bool kHighApart = false;  // whether a single row's high nibbles are summed apart

inline Quad load_quad(const int8_t* p) {
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    __m256i x = _mm256_set1_epi32(v);
    return {x, _mm256_abs_epi8(x)};
}
inline __m256i add_signed(__m256i sum, Quad x, __m256i w) {
    __m256i pairs = _mm256_maddubs_epi16(x.magnitudes, _mm256_sign_epi8(w, x.codes));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline I dot(I sum, Quad x, Tile w) { return {add_signed(sum.a, x, w.a), add_signed(sum.b, x, w.b)}; }
inline I dot_tile(I sum, Quad x, const int8_t* tile) { return dot(sum, x, load_tile(tile)); }

// Nibbles with whole activations: a group's sums, at most 32 columns and what they start from, fit 16 bits.
inline int32_t group_start_of(int32_t v) { return v & 0xFFFF; }
inline GroupSum group_start(int32_t start) { return {_mm256_set1_epi32(start), _mm256_set1_epi32(start)}; }
inline GroupSum add_groups(GroupSum x, GroupSum y) {
    return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)};
}
inline __m256i add_pairs(__m256i sum, __m256i x, __m256i w) {
    __m256i t;
    asm("vpmaddubsw %[x], %[w], %[t]\n\t"
        "vpaddw %[t], %[sum], %[sum]"
        : [sum] "+x"(sum), [t] "=&x"(t)
        : [w] "x"(w), [x] "x"(x));
    return sum;
}
inline GroupSum dot_unsigned(GroupSum sum, Quad x, Tile w) {
    return {add_pairs(sum.a, x.codes, w.a), add_pairs(sum.b, x.codes, w.b)};
}
// The multiplier of each of a row's two sums: a byte of sixteen, twice. In assembly, for the tables to stay in memory.
alignas(64) constexpr int8_t kTwice[64] = {
    0,  -1, 0,  -1, 1,  -1, 1,  -1, 2,  -1, 2,  -1, 3,  -1, 3,  -1, 4,  -1, 4,  -1, 5,  -1, 5,  -1,
    6,  -1, 6,  -1, 7,  -1, 7,  -1, 8,  -1, 8,  -1, 9,  -1, 9,  -1, 10, -1, 10, -1, 11, -1, 11, -1,
    12, -1, 12, -1, 13, -1, 13, -1, 14, -1, 14, -1, 15, -1, 15, -1};
inline Multipliers load_group_multipliers(const uint8_t* p) {
    using Half = const int8_t (*)[32];
    __m256i sixteen = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    Multipliers factor;
    asm("vpshufb %2, %1, %0" : "=x"(factor.a) : "x"(sixteen), "m"(*reinterpret_cast<Half>(kTwice)));
    asm("vpshufb %2, %1, %0" : "=x"(factor.b) : "x"(sixteen), "m"(*reinterpret_cast<Half>(kTwice + 32)));
    return factor;
}
inline I add_scaled(I total, GroupSum sum, Multipliers factor) {
    return add_i(total, {_mm256_madd_epi16(sum.a, factor.a), _mm256_madd_epi16(sum.b, factor.b)});
}
inline Tile high_scaled(Tile w) { return high_nibbles(w); }
inline GroupSum unscaled(GroupSum sum) { return sum; }
// Two's complement nibbles, by a table of sixteen bytes.
inline Tile low_signed(Tile w) {
    __m256i values = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
    Tile low = low_nibbles(w);
    return {_mm256_shuffle_epi8(values, low.a), _mm256_shuffle_epi8(values, low.b)};
}
inline Tile high_signed(Tile w) { return low_signed({_mm256_srli_epi16(w.a, 4), _mm256_srli_epi16(w.b, 4)}); }
inline I signed_sum(I sum) { return sum; }

}  // namespace
