// Sixteen lanes as plain loops, which any compiler turns into whatever vectors the target has.
#pragma once

#include <cstring>

namespace {

struct F { float v[16]; };
struct I { int32_t v[16]; };
struct Tile { int8_t v[64]; };
struct Quad { int8_t v[4]; };

constexpr uint8_t kCodeOffset = 0;
constexpr int kSums = 1;  // vectors of sums that the registers hold beside the rest
constexpr int kDenseRows = 1;  // rows of activations that dense weights meet together
constexpr int kFloatDepth = 1 << 30;  // columns of float weights that all rows meet before the next
constexpr int kInt8Rows = 1;  // the same for int8
constexpr int kFewInt8Rows = kDenseRows;  // the same in a recurrence
constexpr int kInt4Rows = kDenseRows;  // the same for int4
constexpr int kRows = 1;  // the same for weights that come one strip at a time
constexpr int kBlockInt8Rows = kRows;  // the same for blocks of int8
constexpr int kCells = 1;  // sixteens of units whose gates are computed together

template <class Result, class Operation>
inline Result lanes(Operation operation) {
    Result result;
    for (int l = 0; l < 16; l++) result.v[l] = operation(l);
    return result;
}
inline F load_n(const float* p, size_t n) {
    F result = {};
    memcpy(result.v, p, n * sizeof(float));
    return result;
}
inline F load(const float* p) { return load_n(p, 16); }
inline void store_n(float* p, const F& v, size_t n) { memcpy(p, v.v, n * sizeof(float)); }
inline void store(float* p, const F& v) { store_n(p, v, 16); }
inline F splat(float v) { return lanes<F>([&](int) { return v; }); }
inline F add(const F& a, const F& b) { return lanes<F>([&](int l) { return a.v[l] + b.v[l]; }); }
inline F sub(const F& a, const F& b) { return lanes<F>([&](int l) { return a.v[l] - b.v[l]; }); }
inline F mul(const F& a, const F& b) { return lanes<F>([&](int l) { return a.v[l] * b.v[l]; }); }
// Rounds once, by the steps of arithmetic.py: the product is exact in double precision, and a sum that fell half way
// between two floats goes to the side that its own rounding came from. That is rare, so it is looked for in all lanes.
inline F multiply_add(const F& a, const F& b, const F& c) {
#ifdef __FP_FAST_FMAF
    return lanes<F>([&](int l) { return __builtin_fmaf(a.v[l], b.v[l], c.v[l]); });
#else
    double product[16], sum[16];
    for (int l = 0; l < 16; l++) product[l] = static_cast<double>(a.v[l]) * b.v[l];
    for (int l = 0; l < 16; l++) sum[l] = product[l] + c.v[l];
    uint32_t words[32], halfway = 0;  // of the doubles; compilers know how to compare these side by side
    memcpy(words, sum, sizeof words);
    for (int w = 0; w < 32; w++) halfway |= (words[w] & 0x1FFFFFFF) == 0x10000000;
    for (int l = 0; halfway && l < 16; l++) {
        uint64_t bits;
        memcpy(&bits, sum + l, sizeof bits);
        if ((bits & 0x1FFFFFFF) != 0x10000000) continue;
        double added = sum[l] - product[l], lost = (product[l] - (sum[l] - added)) + (c.v[l] - added);
        if (lost != 0) bits += (lost > 0) == (sum[l] > 0) ? 1 : -1;
        memcpy(sum + l, &bits, sizeof bits);
    }
    return lanes<F>([&](int l) { return static_cast<float>(sum[l]); });
#endif
}
inline F about_multiply_add(const F& a, const F& b, const F& c) { return add(mul(a, b), c); }  // rounds twice
inline F reciprocal(const F& a) { return lanes<F>([&](int l) { return 1.0f / a.v[l]; }); }
inline F div(const F& a, const F& b) { return lanes<F>([&](int l) { return a.v[l] / b.v[l]; }); }
inline F min(const F& a, const F& b) { return lanes<F>([&](int l) { return a.v[l] < b.v[l] ? a.v[l] : b.v[l]; }); }
inline F max(const F& a, const F& b) { return lanes<F>([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; }); }
inline F abs(const F& a) { return lanes<F>([&](int l) { return __builtin_fabsf(a.v[l]); }); }
inline F within(const F& x, float limit) { return min(max(x, splat(-limit)), splat(limit)); }
inline float reduce_max(const F& a) {
    float largest = a.v[0];
    for (float lane : a.v) largest = lane > largest ? lane : largest;
    return largest;
}

inline I load_i(const int32_t* p) { return lanes<I>([&](int l) { return p[l]; }); }
inline I splat_i(int32_t v) { return lanes<I>([&](int) { return v; }); }
inline I add_i(const I& a, const I& b) { return lanes<I>([&](int l) { return a.v[l] + b.v[l]; }); }
inline F to_float(const I& a) { return lanes<F>([&](int l) { return static_cast<float>(a.v[l]); }); }
// Added and subtracted again, 1.5 * 2**23 rounds to whole numbers, half to even; between, the low bits hold them.
inline F split(const F& x, F& power) {
    power = add(x, splat(0x1.8p23f));
    return sub(x, sub(power, splat(0x1.8p23f)));
}
inline F scale_by_power(const F& p, const F& power) {
    uint32_t value[16], exponent[16];
    memcpy(value, p.v, sizeof value);
    memcpy(exponent, power.v, sizeof exponent);
    for (int l = 0; l < 16; l++) value[l] += exponent[l] << 23;
    F result;
    memcpy(result.v, value, sizeof value);
    return result;
}
inline void store_codes(int8_t* p, const F& v, uint8_t offset) {
    // Adding 1.5 * 2**23 rounds to an integer, half to even, which then stands in the low bits.
    for (int l = 0; l < 16; l++) {
        float shifted = v.v[l] + 12582912.0f;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        p[l] = static_cast<int8_t>(static_cast<uint8_t>(bits) ^ offset);
    }
}
inline void store_codes(int8_t* p, const F (&v)[4], uint8_t offset) {
    for (int n = 0; n < 4; n++) store_codes(p + 16 * n, v[n], offset);
}

inline Tile load_tile(const void* p) {
    Tile result;
    memcpy(result.v, p, 64);
    return result;
}
inline Quad load_quad(const int8_t* p) {
    Quad result;
    memcpy(result.v, p, 4);
    return result;
}
inline I dot(const I& sum, const Quad& x, const Tile& w) {
    return lanes<I>([&](int l) {
        const int8_t* row = w.v + 4 * l;
        return sum.v[l] + x.v[0] * row[0] + x.v[1] * row[1] + x.v[2] * row[2] + x.v[3] * row[3];
    });
}
// Nibbles fit int8.
inline I dot_tile(const I& sum, const Quad& x, const int8_t* tile) { return dot(sum, x, load_tile(tile)); }
inline I dot_unsigned(const I& sum, const Quad& x, const Tile& w) { return dot(sum, x, w); }
using Multipliers = I;
inline Multipliers load_multipliers(const uint8_t* p) { return lanes<I>([&](int l) { return p[l]; }); }
inline I add_scaled(const I& total, const I& sum, const Multipliers& factor) {
    return lanes<I>([&](int l) { return total.v[l] + sum.v[l] * factor.v[l]; });
}
template <class Operation>
inline Tile bytes(Operation operation) {
    Tile result;
    for (int i = 0; i < 64; i++) result.v[i] = static_cast<int8_t>(operation(i));
    return result;
}
inline Tile low_nibbles(const Tile& w) { return bytes([&](int i) { return w.v[i] & 0x0F; }); }
inline Tile high_nibbles(const Tile& w) { return bytes([&](int i) { return (w.v[i] >> 4) & 0x0F; }); }
inline Tile high_scaled(const Tile& w) { return high_nibbles(w); }
inline I unscaled(const I& sum) { return sum; }
// Two's complement nibbles.
inline Tile low_signed(const Tile& w) { return bytes([&](int i) { return ((w.v[i] & 15) ^ 8) - 8; }); }
inline Tile high_signed(const Tile& w) { return bytes([&](int i) { return w.v[i] >> 4; }); }
inline I signed_sum(const I& sum) { return sum; }
inline I mul_i(const I& a, const I& b) { return lanes<I>([&](int l) { return a.v[l] * b.v[l]; }); }
inline void put_away(I&) {}  // there are registers enough for a group's sums and the totals

}  // namespace

#include "simd_sums32.h"
