// Compiled with -mavx2 -mfma -mavxvnni.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#ifdef __AVXVNNI__
#include "simd_avxvnni.h"
// after the lanes
#include "kernels_impl.h"
// after both
#include "kernels_int4_bytes.h"

const asr::Kernels* asr::avxvnni_kernels() {
    static constexpr Kernels kernels = int4_as_bytes(table("avxvnni"));
    return &kernels;
}
#else
const asr::Kernels* asr::avxvnni_kernels() { return nullptr; }
#endif
