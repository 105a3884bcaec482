// Sums of int4's groups in 32 bits, as the dot products of most instruction sets give them; simd_avx2.h has 16.
// Included by the lanes of such a set, after their own.
#pragma once

namespace {

constexpr bool kHighApart = true;  // whether a single row's high nibbles are summed apart
using GroupSum = I;
inline int32_t group_start_of(int32_t v) { return v; }
inline GroupSum group_start(int32_t v) { return splat_i(v); }
inline GroupSum add_groups(const GroupSum& x, const GroupSum& y) { return add_i(x, y); }
inline Multipliers load_group_multipliers(const uint8_t* p) { return load_multipliers(p); }

}  // namespace
