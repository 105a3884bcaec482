// Sixteen lanes in two registers: AVX2 and AVX-VNNI, as processors have it that lack AVX-512.
#pragma once

#include "simd_256.h"

namespace {

using Quad = __m256i;  // 4 int8 of one activation row, repeated

constexpr uint8_t kCodeOffset = 0x80;
constexpr int kInt8Rows = 6;  // rows of activations that dense int8 meets together
constexpr int kFewInt8Rows = kInt8Rows;  // the same in a recurrence
constexpr int kInt4Rows = 4;  // the same for int4

inline Quad load_quad(const int8_t* p) {
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}
// Inline assembly as in simd_avx512.h, and for the encoding, which without a word is that of AVX-512.
inline __m256i add_dots(__m256i sum, __m256i x, __m256i w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "xm"(w));
    return sum;
}
inline I dot(I sum, Quad x, Tile w) { return {add_dots(sum.a, x, w.a), add_dots(sum.b, x, w.b)}; }
inline I dot_tile(I sum, Quad x, const int8_t* tile) {
    using Half = const int8_t (*)[32];
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.a) : "x"(x), "m"(*reinterpret_cast<Half>(tile)));
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.b) : "x"(x), "m"(*reinterpret_cast<Half>(tile + 32)));
    return sum;
}
// The weights unsigned, the activations signed.
inline I dot_unsigned(I sum, Quad x, Tile w) { return {add_dots(sum.a, w.a, x), add_dots(sum.b, w.b, x)}; }
// total + sum * multiplier, for sums that fit int16: their low halves are multiplied, the high halves by zero.
inline __m256i add_words(__m256i total, __m256i sum, __m256i factor) {
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(total) : "x"(sum), "x"(factor));
    return total;
}
inline I add_scaled(I total, I sum, Multipliers factor) {
    return {add_words(total.a, sum.a, factor.a), add_words(total.b, sum.b, factor.b)};
}
// What turns nibbles into weights, see simd_avx512.h.
struct ByteMultipliers { Tile pairs, eights; };
inline ByteMultipliers load_byte_multipliers(const uint8_t* p) {
    const I of_rows = load_multipliers(p);
    const auto twice = [](__m256i x) { return _mm256_or_si256(x, _mm256_slli_epi32(x, 16)); };
    const auto eight = [](__m256i x) { return _mm256_slli_epi16(_mm256_or_si256(x, _mm256_slli_epi16(x, 8)), 3); };
    const Tile pairs{twice(of_rows.a), twice(of_rows.b)};
    return {pairs, {eight(pairs.a), eight(pairs.b)}};
}
inline Tile weights_of(Tile nibbles, const ByteMultipliers& m) {
    return {_mm256_sub_epi8(_mm256_mullo_epi16(nibbles.a, m.pairs.a), m.eights.a),
            _mm256_sub_epi8(_mm256_mullo_epi16(nibbles.b, m.pairs.b), m.eights.b)};
}
inline void store_tile(void* p, Tile w) {
    auto bytes = static_cast<char*>(p);
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), w.a);
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes + 32), w.b);
}
// High nibbles where they are, 16 times their value, which unscaled takes off a sum: an operation less for each.
inline Tile high_scaled(Tile w) {
    __m256i mask = _mm256_set1_epi8(static_cast<char>(0xF0));
    return {_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)};
}
inline I unscaled(I sum) { return {_mm256_srai_epi32(sum.a, 4), _mm256_srai_epi32(sum.b, 4)}; }
// Two's complement nibbles, left in the upper half of each byte: 16 times their value, which signed_sum takes off.
inline Tile low_signed(Tile w) { return high_scaled({_mm256_slli_epi16(w.a, 4), _mm256_slli_epi16(w.b, 4)}); }
inline Tile high_signed(Tile w) { return high_scaled(w); }
inline I signed_sum(I sum) { return unscaled(sum); }

}  // namespace

#include "simd_sums32.h"
