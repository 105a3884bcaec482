// Compiled with -mavx2 -mfma.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#ifdef __AVX2__
#include "simd_avx2.h"
// after the lanes
#include "kernels_impl.h"

const asr::Kernels* asr::avx2_kernels() {
    static constexpr Kernels kernels = table("avx2");
    return &kernels;
}
#else
const asr::Kernels* asr::avx2_kernels() { return nullptr; }
#endif
