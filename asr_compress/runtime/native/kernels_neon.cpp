// Compiled with -march=armv8.2-a+dotprod. Written to the same contract as the others, but no machine at hand could run it.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#ifdef __ARM_FEATURE_DOTPROD
#include "simd_neon.h"
// after the lanes
#include "kernels_impl.h"

const asr::Kernels* asr::neon_kernels() {
    static constexpr Kernels kernels = table("neon");
    return &kernels;
}
#else
const asr::Kernels* asr::neon_kernels() { return nullptr; }
#endif
