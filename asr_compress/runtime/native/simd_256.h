// Sixteen lanes in two registers of 256 bits: what AVX2 does with and without an 8-bit dot product.
#pragma once

#include <immintrin.h>

namespace {

struct F { __m256 a, b; };
struct I { __m256i a, b; };
struct Tile { __m256i a, b; };

constexpr int kSums = 6;  // vectors of sums that the registers hold beside the rest
constexpr int kDenseRows = 3;  // rows of activations that dense weights meet together
constexpr int kFloatDepth = 48;  // columns of float weights that all rows meet before the next
constexpr int kRows = 6;  // rows of activations that weights meet together which come one strip at a time
constexpr int kBlockInt8Rows = kRows;  // the same for blocks of int8
constexpr int kCells = 1;  // sixteens of units whose gates are computed together

inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
inline F load_n(const float* p, size_t n) {
    float lanes[16] = {};
    __builtin_memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
inline void store_n(float* p, F v, size_t n) {
    float lanes[16];
    store(lanes, v);
    __builtin_memcpy(p, lanes, n * sizeof(float));
}
inline F splat(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F multiply_add(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F about_multiply_add(F x, F y, F z) { return multiply_add(x, y, z); }
inline F reciprocal(F x) { return {_mm256_div_ps(_mm256_set1_ps(1.0f), x.a), _mm256_div_ps(_mm256_set1_ps(1.0f), x.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F abs(F x) {
    __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline F within(F x, float limit) { return min(max(x, splat(-limit)), splat(limit)); }
inline float reduce_max(F x) {
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_max_ps(x.a, x.b));
    float largest = lanes[0];
    for (float lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
}

inline I load_i(const int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline I splat_i(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
inline I add_i(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
// Added and subtracted again, 1.5 * 2**23 rounds to whole numbers, half to even; between, the low bits hold them.
inline F split(F x, F& power) {
    power = add(x, splat(0x1.8p23f));
    return sub(x, sub(power, splat(0x1.8p23f)));
}
inline __m256 scale_by_power(__m256 p, __m256 shifted) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}
inline F scale_by_power(F p, F power) {
    return {scale_by_power(p.a, power.a), scale_by_power(p.b, power.b)};
}
inline void store_codes(int8_t* p, F v, uint8_t offset) {
    // Packing works within 128-bit halves; the permutation puts the four quarters in order.
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b));
    words = _mm256_permute4x64_epi64(words, 0xD8);
    __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_xor_si128(codes, _mm_set1_epi8(static_cast<char>(offset))));
}
inline void store_codes(int8_t* p, const F (&v)[4], uint8_t offset) {
    for (int n = 0; n < 4; n++) store_codes(p + 16 * n, v[n], offset);
}

inline Tile load_tile(const void* p) {
    auto bytes = static_cast<const char*>(p);
    return {_mm256_load_si256(reinterpret_cast<const __m256i*>(bytes)),
            _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes + 32))};
}
using Multipliers = I;
inline Multipliers load_multipliers(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}
// Leaves the registers to the sums of a group, to which more is added.
inline void put_away(I& total) { asm volatile("" : "+m"(total.a), "+m"(total.b)); }
inline Tile low_nibbles(Tile w) {
    __m256i mask = _mm256_set1_epi8(0x0F);
    return {_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)};
}
inline Tile high_nibbles(Tile w) {
    return low_nibbles({_mm256_srli_epi16(w.a, 4), _mm256_srli_epi16(w.b, 4)});
}
inline I mul_i(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }

}  // namespace
