// Compiled with -mavx2 -mfma.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#ifdef __AVX2__
#include "simd_avx2.h"
// after the lanes
#include "kernels_impl.h"
// after both
#include "kernels_pairs.h"

namespace {

constexpr Kernels in_pairs(Kernels kernels) {
    kernels.packed_strides = 2;
    kernels.sums = 1;
    kernels.dense_int8 = dense_int8_in_pairs;
    kernels.probe_int8 = probe_int8_in_pairs;
    return kernels;
}

}  // namespace

const asr::Kernels* asr::avx2_kernels() {
    static constexpr Kernels kernels = in_pairs(table("avx2"));
    return &kernels;
}
#else
const asr::Kernels* asr::avx2_kernels() { return nullptr; }
#endif
