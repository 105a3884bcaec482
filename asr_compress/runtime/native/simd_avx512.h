// Sixteen lanes in one register: AVX-512 F, BW, VL, DQ and VNNI.
#pragma once

#include <immintrin.h>

namespace {

using F = __m512;     // 16 float32
using I = __m512i;    // 16 int32
using Tile = __m512i; // 16 x 4 int8
using Quad = __m512i; // 4 int8 of one activation row, repeated

constexpr uint8_t kCodeOffset = 0x80;
constexpr int kSums = 24;  // vectors of sums that the registers hold beside the rest
constexpr int kDenseRows = 6;  // rows of activations that dense weights meet together
constexpr int kFloatDepth = 1 << 30;  // columns of float weights that all rows meet before the next
constexpr int kInt8Rows = 12;  // the same for many rows and int8: two strips at a time, so half the stream of weights
constexpr int kFewInt8Rows = kDenseRows;  // the same in a recurrence
constexpr int kInt4Rows = kDenseRows;  // the same for int4
constexpr int kRows = 12;  // the same for weights that come one strip at a time
constexpr int kBlockInt8Rows = 20;  // the same for blocks of int8, which take one sum a row
constexpr int kCells = 4;  // sixteens of units whose gates are computed together

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load_n(const float* p, size_t n) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline void store_n(float* p, F v, size_t n) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
inline F splat(float v) { return _mm512_set1_ps(v); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // rounds once
inline F about_multiply_add(F a, F b, F c) { return multiply_add(a, b, c); }
// 1 / a, good to the last bits but not rounded: for training only.
inline F reciprocal(F a) {
    F guess = _mm512_rcp14_ps(a);
    return _mm512_mul_ps(guess, _mm512_fnmadd_ps(a, guess, _mm512_set1_ps(2.0f)));
}
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
// x held within +-limit: the smaller magnitude, with the sign of x.
inline F within(F x, float limit) { return _mm512_range_ps(x, _mm512_set1_ps(limit), 2); }
inline float reduce_max(F a) { return _mm512_reduce_max_ps(a); }

inline I load_i(const int32_t* p) { return _mm512_loadu_si512(p); }
inline I splat_i(int32_t v) { return _mm512_set1_epi32(v); }
inline I add_i(I a, I b) { return _mm512_add_epi32(a, b); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
// x less the nearest whole number n, which `power` keeps for scale_by_power: p * 2**n.
inline F split(F x, F& power) {
    F rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT);
    power = sub(x, rest);
    return rest;
}
inline F scale_by_power(F p, F power) { return _mm512_scalef_ps(p, power); }
// The low bytes of rounded values that lie within +-127.
inline void store_codes(int8_t* p, F v, uint8_t offset) {
    __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_xor_si128(codes, _mm_set1_epi8(static_cast<char>(offset))));
}

// Sixty-four of them: packing works within quarters of 128 bits, and the permutation puts the quarters in order.
inline void store_codes(int8_t* p, const F (&v)[4], uint8_t offset) {
    I low = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
    I high = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
    I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    I codes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
    _mm512_storeu_si512(p, _mm512_xor_si512(codes, _mm512_set1_epi8(static_cast<char>(offset))));
}

inline Tile load_tile(const void* p) { return _mm512_load_si512(p); }
inline Quad load_quad(const int8_t* p) {
    int32_t v;
    __builtin_memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}
// Inline assembly, because GCC 12 spills arrays of accumulators around the intrinsic.
inline I dot(I sum, Quad x, Tile w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
}
inline I dot_tile(I sum, Quad x, const int8_t* tile) {
    using Bytes = const int8_t (*)[64];
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "m"(*reinterpret_cast<Bytes>(tile)));
    return sum;
}
// The weights unsigned, the activations signed.
inline I dot_unsigned(I sum, Quad x, Tile w) { return dot(sum, w, x); }
// total + sum * multiplier, for sums that fit int16: their low halves are multiplied, the high halves by zero.
using Multipliers = __m512i;
inline Multipliers load_multipliers(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline I add_scaled(I total, I sum, Multipliers factor) {
    asm("vpdpwssd %2, %1, %0" : "+v"(total) : "v"(sum), "v"(factor));
    return total;
}
inline Tile low_nibbles(Tile w) { return _mm512_and_si512(w, _mm512_set1_epi8(0x0F)); }
inline Tile high_nibbles(Tile w) { return _mm512_and_si512(_mm512_srli_epi16(w, 4), _mm512_set1_epi8(0x0F)); }
// What turns nibbles into weights: nibble * multiplier - 8 * multiplier. Two bytes at a time, for a nibble times its
// multiplier fits eight bits and nothing is carried from one to the other.
struct ByteMultipliers { __m512i pairs, eights; };
inline ByteMultipliers load_byte_multipliers(const uint8_t* p) {
    const I of_rows = load_multipliers(p), pairs = _mm512_or_si512(of_rows, _mm512_slli_epi32(of_rows, 16));
    return {pairs, _mm512_slli_epi16(_mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 8)), 3)};
}
inline Tile weights_of(Tile nibbles, const ByteMultipliers& m) {
    return _mm512_sub_epi8(_mm512_mullo_epi16(nibbles, m.pairs), m.eights);
}
inline void store_tile(void* p, Tile w) { _mm512_store_si512(p, w); }
// High nibbles where they are, 16 times their value, which unscaled takes off a sum: an operation less for each.
inline Tile high_scaled(Tile w) { return _mm512_and_si512(w, _mm512_set1_epi8(static_cast<char>(0xF0))); }
inline I unscaled(I sum) { return _mm512_srai_epi32(sum, 4); }
// Two's complement nibbles, left in the upper half of each byte: 16 times their value, which signed_sum takes off.
inline Tile low_signed(Tile w) {
    return _mm512_and_si512(_mm512_slli_epi16(w, 4), _mm512_set1_epi8(static_cast<char>(0xF0)));
}
inline Tile high_signed(Tile w) { return _mm512_and_si512(w, _mm512_set1_epi8(static_cast<char>(0xF0))); }
inline I signed_sum(I sum) { return _mm512_srai_epi32(sum, 4); }
inline I mul_i(I a, I b) { return _mm512_mullo_epi32(a, b); }
inline void put_away(I&) {}  // there are registers enough for a group's sums and the totals

}  // namespace

#include "simd_sums32.h"
