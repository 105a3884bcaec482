// Sixteen lanes in four registers: AArch64 with the dot-product extension (FEAT_DotProd).
#pragma once

#include <arm_neon.h>

#include <cstring>

namespace {

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
struct Tile { int8x16_t v[4]; };
using Quad = int8x16_t;

constexpr uint8_t kCodeOffset = 0;
constexpr int kSums = 4;  // vectors of sums that the registers hold beside the rest
constexpr int kDenseRows = 4;  // rows of activations that dense weights meet together
constexpr int kFloatDepth = 1 << 30;  // columns of float weights that all rows meet before the next
constexpr int kInt8Rows = 4;  // the same for int8
constexpr int kFewInt8Rows = kDenseRows;  // the same in a recurrence
constexpr int kInt4Rows = kDenseRows;  // the same for int4
constexpr int kRows = 4;  // the same for weights that come one strip at a time
constexpr int kBlockInt8Rows = kRows;  // the same for blocks of int8
constexpr int kCells = 1;  // sixteens of units whose gates are computed together

template <class Result, class Operation>
inline Result parts(Operation operation) {
    return {operation(0), operation(1), operation(2), operation(3)};
}
inline F load(const float* p) { return parts<F>([&](int i) { return vld1q_f32(p + 4 * i); }); }
inline void store(float* p, const F& v) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, v.v[i]);
}
inline F load_n(const float* p, size_t n) {
    float lanes[16] = {};
    memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
inline void store_n(float* p, const F& v, size_t n) {
    float lanes[16];
    store(lanes, v);
    memcpy(p, lanes, n * sizeof(float));
}
inline F splat(float v) { return parts<F>([&](int) { return vdupq_n_f32(v); }); }
inline F add(const F& a, const F& b) { return parts<F>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
inline F sub(const F& a, const F& b) { return parts<F>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
inline F mul(const F& a, const F& b) { return parts<F>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
inline F multiply_add(const F& a, const F& b, const F& c) {
    return parts<F>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F about_multiply_add(const F& a, const F& b, const F& c) { return multiply_add(a, b, c); }
inline F reciprocal(const F& a) { return parts<F>([&](int i) { return vdivq_f32(vdupq_n_f32(1.0f), a.v[i]); }); }
inline F div(const F& a, const F& b) { return parts<F>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); }); }
inline F min(const F& a, const F& b) { return parts<F>([&](int i) { return vminq_f32(a.v[i], b.v[i]); }); }
inline F max(const F& a, const F& b) { return parts<F>([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); }); }
inline F abs(const F& a) { return parts<F>([&](int i) { return vabsq_f32(a.v[i]); }); }
inline F within(const F& x, float limit) { return min(max(x, splat(-limit)), splat(limit)); }
inline float reduce_max(const F& a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}

inline I load_i(const int32_t* p) { return parts<I>([&](int i) { return vld1q_s32(p + 4 * i); }); }
inline I splat_i(int32_t v) { return parts<I>([&](int) { return vdupq_n_s32(v); }); }
inline I add_i(const I& a, const I& b) { return parts<I>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); }); }
inline F to_float(const I& a) { return parts<F>([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }
// Added and subtracted again, 1.5 * 2**23 rounds to whole numbers, half to even; between, the low bits hold them.
inline F split(const F& x, F& power) {
    power = add(x, splat(0x1.8p23f));
    return sub(x, sub(power, splat(0x1.8p23f)));
}
inline F scale_by_power(const F& p, const F& power) {
    return parts<F>([&](int i) {
        int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(power.v[i]), 23);
        return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p.v[i]), exponent));
    });
}
inline void store_codes(int8_t* p, const F& v, uint8_t offset) {
    int16x8_t low = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(v.v[0])), vmovn_s32(vcvtnq_s32_f32(v.v[1])));
    int16x8_t high = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(v.v[2])), vmovn_s32(vcvtnq_s32_f32(v.v[3])));
    int8x16_t codes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
    vst1q_s8(p, veorq_s8(codes, vdupq_n_s8(static_cast<int8_t>(offset))));
}
inline void store_codes(int8_t* p, const F (&v)[4], uint8_t offset) {
    for (int n = 0; n < 4; n++) store_codes(p + 16 * n, v[n], offset);
}

inline Tile load_tile(const void* p) {
    auto bytes = static_cast<const int8_t*>(p);
    return parts<Tile>([&](int i) { return vld1q_s8(bytes + 16 * i); });
}
inline Quad load_quad(const int8_t* p) {
    int32_t v;
    memcpy(&v, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}
inline I dot(const I& sum, Quad x, const Tile& w) {
    return parts<I>([&](int i) { return vdotq_s32(sum.v[i], w.v[i], x); });
}
// Nibbles fit int8.
inline I dot_tile(const I& sum, Quad x, const int8_t* tile) { return dot(sum, x, load_tile(tile)); }
inline I dot_unsigned(const I& sum, Quad x, const Tile& w) { return dot(sum, x, w); }
using Multipliers = I;
inline Multipliers load_multipliers(const uint8_t* p) {
    uint8x16_t bytes = vld1q_u8(p);
    uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
            vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))};
}
inline I add_scaled(const I& total, const I& sum, const Multipliers& factor) {
    return parts<I>([&](int i) { return vmlaq_s32(total.v[i], sum.v[i], factor.v[i]); });
}
inline Tile low_nibbles(const Tile& w) {
    return parts<Tile>([&](int i) { return vandq_s8(w.v[i], vdupq_n_s8(0x0F)); });
}
inline Tile high_nibbles(const Tile& w) {
    return parts<Tile>([&](int i) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(w.v[i]), 4)); });
}
inline Tile high_scaled(const Tile& w) { return high_nibbles(w); }
inline I unscaled(const I& sum) { return sum; }
// Two's complement nibbles.
inline Tile low_signed(const Tile& w) {
    return parts<Tile>([&](int i) { return vshrq_n_s8(vshlq_n_s8(w.v[i], 4), 4); });
}
inline Tile high_signed(const Tile& w) {
    return parts<Tile>([&](int i) { return vshrq_n_s8(w.v[i], 4); });
}
inline I signed_sum(const I& sum) { return sum; }
inline I mul_i(const I& a, const I& b) { return parts<I>([&](int i) { return vmulq_s32(a.v[i], b.v[i]); }); }
inline void put_away(I&) {}  // there are registers enough for a group's sums and the totals

}  // namespace

#include "simd_sums32.h"
