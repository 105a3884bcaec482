// For instruction sets whose dot products take activations as they are: what kernels_impl.h asks of those that cannot,
// see simd_avx2.h. Included by the lanes of such a set, after their own.
#pragma once

namespace {

constexpr bool kParted = false;
constexpr bool kHighApart = true;
using Parted = Quad;
using TileAt = Tile;
inline Parted load_parted(const int8_t* p) { return load_quad(p); }
inline TileAt tile_at(const int8_t* p) { return load_tile(p); }
inline I dot_flipped(const I& sum, const Parted& x, const TileAt& w) { return dot(sum, x, w); }
inline void part(const int8_t*, size_t, int8_t*) {}
inline int32_t negative_total(const int8_t*, size_t) { return 0; }

using GroupSum = I;
inline GroupSum group_start(int32_t v) { return splat_i(v); }
inline GroupSum add_groups(const GroupSum& x, const GroupSum& y) { return add_i(x, y); }
inline void put_away(I&) {}
inline Multipliers load_group_multipliers(const uint8_t* p) { return load_multipliers(p); }

}  // namespace
