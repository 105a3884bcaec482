// Probes of the machine for its roofline, part of kernels_impl.h.
#pragma once

namespace {

int32_t lane_total(I a) {
    int32_t lane[kLanes], total = 0;
    __builtin_memcpy(lane, &a, sizeof lane);
    for (int32_t value : lane) total = static_cast<int32_t>(static_cast<uint32_t>(total) + static_cast<uint32_t>(value));
    return total;
}

int32_t probe_read(const int8_t* bytes, size_t count) {
    I sum[4];
    UNROLL for (int s = 0; s < 4; s++) sum[s] = splat_i(0);
    for (size_t i = 0; i + 4 * kTileBytes <= count; i += 4 * kTileBytes) {
        UNROLL for (int s = 0; s < 4; s++)
            sum[s] = add_i(sum[s], load_i(reinterpret_cast<const int32_t*>(bytes + i + s * kTileBytes)));
    }
    return lane_total(add_i(add_i(sum[0], sum[1]), add_i(sum[2], sum[3])));
}

int32_t probe_int8(size_t dots, size_t* macs) {
    constexpr int chains = kSums;
    alignas(64) int8_t bytes[kTileBytes];
    for (int i = 0; i < kTileBytes; i++) bytes[i] = static_cast<int8_t>(i - 32);
    Tile weights = load_tile(bytes);
    Quad activations = load_quad(bytes);
    I sum[chains];
    UNROLL for (int s = 0; s < chains; s++) sum[s] = splat_i(s);
    size_t rounds = dots / chains;
    for (size_t i = 0; i < rounds; i++) {
        UNROLL for (int s = 0; s < chains; s++) sum[s] = dot(sum[s], activations, weights);
    }
    I total = sum[0];
    UNROLL for (int s = 1; s < chains; s++) total = add_i(total, sum[s]);
    *macs = rounds * chains * kTileBytes;
    return lane_total(total);
}

}  // namespace
