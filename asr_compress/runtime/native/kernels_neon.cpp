// Compiled with -march=armv8.2-a+dotprod. scripts/emulate_arm.sh runs the tests of it on other machines.
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
