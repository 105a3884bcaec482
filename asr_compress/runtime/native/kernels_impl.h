// Every kernel, written once over the sixteen lanes of a simd_*.h, which must be included first.
//
// The order of float operations is that of runtime/arithmetic.py, and each is rounded by itself but where multiply_add
// stands: files that include this must be compiled with -ffp-contract=off. No inline code of the standard library may
// be used here: compiled for a special instruction set, it could be the copy that the linker keeps for everyone.
#pragma once

#include "kernels.h"

namespace {

using namespace asr;

}  // namespace

#define UNROLL _Pragma("GCC unroll 32")

#include "kernels_float.h"
#include "kernels_tiling.h"
// after both
#include "kernels_blocks.h"
#include "kernels_dense_f32.h"
#include "kernels_dense_int8.h"
#include "kernels_group_int4.h"
#include "kernels_mel.h"
#include "kernels_probes.h"
#include "kernels_train.h"

namespace {

constexpr Kernels table(const char* name) {
    return {name,       kCodeOffset, 1,          0,          0,         quantize,    largest,      dense_int8,
            block_int8, group_int4,  nullptr,    block_int4, dense_f32, lstm_cell,   layer_norm,   normalize,
            clamp,      add_product, cell_forward, cell_backward, log_mel, probe_read, probe_int8, nullptr};
}

}  // namespace
