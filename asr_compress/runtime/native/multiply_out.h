// int4 as int8: codes times the multipliers of their groups. After a simd_*.h with ByteMultipliers.
#pragma once

#include "kernels.h"

namespace {

// A panel's tiles, [quads][strips], before many rows meet it: then a sum over groups is an ordinary one. (As QServe does,
// Lin et al. 2024, https://arxiv.org/abs/2405.04532, section 4.1.) Only for weights that are `bytes`.
inline void multiply_out(const asr::GroupInt4& w, int panel, int8_t* tiles) {
    using namespace asr;
    constexpr size_t next = kStrips * kTileBytes;  // quad or octet
    const uint8_t* packed = w.tiles + static_cast<size_t>(panel) * w.octets * next;
    const uint8_t* multipliers = w.multipliers + static_cast<size_t>(panel) * w.groups * kPanelRows;
    for (int strip = 0; strip < kStrips; strip++, packed += kTileBytes, tiles += kTileBytes, multipliers += kLanes) {
        const uint8_t *from = packed, *of_group = multipliers;
        int8_t* to = tiles;
        for (int group = 0; group < w.groups; group++, of_group += kPanelRows) {
            const ByteMultipliers factors = load_byte_multipliers(of_group);
            for (int k = w.octets_of(group); k > 0; k--, from += next, to += 2 * next) {
                const Tile both = load_tile(from);
                store_tile(to, weights_of(low_nibbles(both), factors));
                store_tile(to + next, weights_of(high_nibbles(both), factors));
            }
        }
    }
}

}  // namespace
