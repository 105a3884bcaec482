// Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni.
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#ifdef __AVX512VNNI__
#include "simd_avx512.h"
// after the lanes
#include "kernels_impl.h"
// after both
#include "kernels_int4_bytes.h"

const asr::Kernels* asr::avx512_kernels() {
    static constexpr Kernels kernels = int4_as_bytes(table("avx512"));
    return &kernels;
}
#else
const asr::Kernels* asr::avx512_kernels() { return nullptr; }
#endif
