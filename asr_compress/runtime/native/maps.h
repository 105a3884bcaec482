// A weight format packed for the kernels: what multiplies a few rows of activations.
#pragma once

#include <memory>

#include "kernels.h"
#include "memory.h"

namespace asr {

// Floats from row to row of what an LSTM's maps give. An odd number of cache lines: rows at a power of two would all fall
// on the same few places of the caches.
constexpr size_t gate_stride(size_t rows) { return ((rows + kLanes - 1) / kLanes | 1) * kLanes; }

constexpr size_t kNearWeights = 1024 * 1024;  // of a map, that the second-level cache holds

class Map {
public:
    Map(int rows, int cols) : rows(rows), cols(cols) {}
    virtual ~Map() = default;

    // out[n] = x[n] * transpose(map) + add[n] for `count` rows, each `cols` floats at x[n]. `largest`: their largest
    // magnitudes where the caller knows them, else null.
    virtual void product(const Kernels& kernels, const float* const* x, int count, const Output& out, Scratch& scratch,
                         const float* largest = nullptr) const = 0;
    // Bytes of scratch that either product takes for `count` rows.
    virtual size_t scratch_bytes(int count) const = 0;

    // Of maps that meet activations as int8, dynamically quantized where input_scale is 0.
    struct Quantization {
        float input_scale;
        uint8_t offset;  // XORed to every code
        size_t stride;   // bytes from row to row of codes: the columns, rounded up
        bool operator==(const Quantization& other) const {
            return input_scale == other.input_scale && offset == other.offset && stride == other.stride;
        }
    };
    // Null of maps that meet activations in float.
    virtual const Quantization* quantization() const { return nullptr; }
    // The product of rows that are quantized already.
    virtual void product_of_codes(const Kernels&, const int8_t*, const float*, int, const Output&, Scratch&) const {}

    // The same map with weights that meet a few rows faster, in `scratch` as long as they stay there; null if it has
    // none. To make them takes about as long as a step of a recurrence.
    virtual std::unique_ptr<Map> unpacked(const Kernels&, Scratch&) const { return nullptr; }
    virtual size_t unpacked_bytes() const { return 0; }  // of scratch

    const int rows, cols;
};

// The arrays that come in have been checked for type, not for size: `count` is their number of elements. Functions
// throw std::invalid_argument where an array does not fit or holds what the kernels cannot take.
template <class T>
struct Array {
    const T* data;
    size_t count;
};

// Rows * cols int8 codes within +-127, row by row; one scale a row; input_scale 0 is dynamic quantization.
std::unique_ptr<Map> pack_int8(const Kernels&, WeightMemory&, int rows, int cols, Array<int8_t> codes,
                               Array<float> scales, float input_scale);
// Rows * ceil(cols / 2) bytes, the even column in the low nibble, nibble = code + 8; multipliers for each group.
std::unique_ptr<Map> pack_int4(const Kernels&, WeightMemory&, int rows, int cols, int group, Array<uint8_t> codes,
                               Array<uint8_t> multipliers, Array<float> scales, float input_scale);
// Where the blocks of 16 rows by 4 columns lie. Strips of 16 rows start anew at each section of rows.
struct Blocks {
    int rows, cols;
    Array<uint32_t> sections;  // rows of each section
    Array<uint16_t> counts;    // blocks of each strip
    Array<uint16_t> quads;     // of each block, its first column / 4
};
// 64 codes within +-127 for each block, row by row; one scale a row.
std::unique_ptr<Map> pack_block_int8(const Kernels&, WeightMemory&, const Blocks&, Array<int8_t> codes,
                                     Array<float> scales, float input_scale);
// 32 bytes for each block, the even column in the low nibble, nibble = code + 8. Sixteen multipliers for each group:
// eight consecutive blocks of a strip, or what is left of it.
std::unique_ptr<Map> pack_block_int4(const Kernels&, WeightMemory&, const Blocks&, Array<uint8_t> codes,
                                     Array<uint8_t> multipliers, Array<float> scales, float input_scale);
std::unique_ptr<Map> pack_f32(WeightMemory&, int rows, int cols, Array<float> weights);
// The product of two maps: left * right, the right one first.
std::unique_ptr<Map> low_rank(std::unique_ptr<Map> left, std::unique_ptr<Map> right);

}  // namespace asr
