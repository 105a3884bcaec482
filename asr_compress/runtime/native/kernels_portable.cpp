#include <stddef.h>
#include <stdint.h>

#include "simd_portable.h"
// after the lanes
#include "kernels_impl.h"

const asr::Kernels* asr::portable_kernels() {
    static constexpr Kernels kernels = table("portable");
    return &kernels;
}
