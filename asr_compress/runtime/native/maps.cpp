#include "maps.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace asr {
namespace {

int ceil_div(int a, int b) { return a / b + (a % b != 0); }

void expect(const char* what, size_t got, size_t wanted) {
    if (got != wanted)
        throw std::invalid_argument(std::string(what) + " has " + std::to_string(got) + " elements; it must have " +
                                    std::to_string(wanted));
}

void expect_shape(int rows, int cols) {
    // Beyond this, sums of int8 products could leave int32.
    constexpr int most = 1 << 17;
    if (rows < 0 || cols < 0 || rows > (1 << 24) || cols >= most)
        throw std::invalid_argument("a map of " + std::to_string(rows) + " x " + std::to_string(cols) +
                                    " is too large for the kernels");
}

void expect_scale(float input_scale) {
    if (!(input_scale == 0 || (input_scale > 1e-30f && input_scale < 1e30f)))
        throw std::invalid_argument("input_scale must be a positive number, or 0 for dynamic quantization");
}

float* panel_scales(WeightMemory& memory, Array<float> scales, int rows, int panels) {
    expect("scales", scales.count, static_cast<size_t>(rows));
    float* result = memory.take<float>(static_cast<size_t>(panels) * kPanelRows);
    std::copy_n(scales.data, rows, result);
    return result;
}

// Activations are quantized before they meet integer weights; the kernels want them in whole octets.
class IntegerMap : public Map {
public:
    // What a kernel wants for each row: codes XORed with an offset, and scratch.
    struct Needs {
        uint8_t offset;
        int packed_strides = 1;
        int sums = 0;
        size_t panel = 0;  // for all rows together
    };

    IntegerMap(int rows, int cols, float input_scale, const Needs& needs)
        : Map(rows, cols), quantization_{input_scale, needs.offset, static_cast<size_t>(ceil_div(cols, 8)) * 8},
          packed_bytes_(quantization_.stride * static_cast<size_t>(needs.packed_strides)),
          sums_(static_cast<size_t>(needs.sums)), panel_(needs.panel) {}
    const Quantization* quantization() const override { return &quantization_; }

    size_t scratch_bytes(int count) const override {
        size_t n = static_cast<size_t>(count);
        return scratch_for<int8_t>(n * quantization_.stride) + scratch_for<int8_t>(n * packed_bytes_) +
               scratch_for<float>(n) + scratch_for<int32_t>(n * sums_) + scratch_for<int8_t>(panel_);
    }

    void product(const Kernels& kernels, const float* const* x, int count, const Output& out, Scratch& scratch,
                 const float* largest) const override {
        Scratch::Frame frame(scratch);
        size_t n = static_cast<size_t>(count);
        const auto [input_scale, offset, stride] = quantization_;
        int8_t* codes = scratch.take<int8_t>(n * stride);
        float* scales = scratch.take<float>(n);
        for (size_t i = 0; i < n; i++) {
            float scale = input_scale == 0 && largest ? scale_of(largest[i]) : input_scale;
            kernels.quantize(x[i], static_cast<size_t>(cols), scale, offset, codes + i * stride, stride, scales + i);
        }
        product_of_codes(kernels, codes, scales, count, out, scratch);
    }

    void product_of_codes(const Kernels& kernels, const int8_t* codes, const float* scales, int count,
                          const Output& out, Scratch& scratch) const override {
        Scratch::Frame frame(scratch);
        size_t n = static_cast<size_t>(count), stride = quantization_.stride;
        multiply(kernels,
                 Codes{count, codes, stride, scales, scratch.take<int8_t>(n * packed_bytes_),
                       scratch.take<int32_t>(n * sums_), scratch.take<int8_t>(panel_)},
                 out);
    }

private:
    virtual void multiply(const Kernels& kernels, const Codes& x, const Output& out) const = 0;
    Quantization quantization_;
    size_t packed_bytes_, sums_, panel_;
};

IntegerMap::Needs int8_needs(const Kernels& kernels) {
    return {kernels.code_offset, kernels.packed_strides, kernels.sums};
}

template <class Packed, void (*Kernels::*kernel)(const Packed&, const Codes&, const Output&)>
class PackedMap final : public IntegerMap {
public:
    PackedMap(const Packed& packed, float input_scale, const Needs& needs)
        : IntegerMap(packed.rows, packed.cols, input_scale, needs), packed_(packed) {}

private:
    void multiply(const Kernels& kernels, const Codes& x, const Output& out) const override {
        (kernels.*kernel)(packed_, x, out);
    }
    Packed packed_;
};

class Int4Map final : public IntegerMap {
public:
    Int4Map(const GroupInt4& packed, float input_scale, const Needs& needs)
        : IntegerMap(packed.rows, packed.cols, input_scale, needs), packed_(packed) {}

    size_t unpacked_bytes() const override {
        const size_t bytes = static_cast<size_t>(packed_.panels) * packed_.octets * 2 * kStrips * kTileBytes;
        return packed_.bytes && bytes <= kNearWeights ? scratch_for<int8_t>(bytes + kReadAhead) : 0;
    }
    std::unique_ptr<Map> unpacked(const Kernels& kernels, Scratch& scratch) const override {
        if (!kernels.int4_bytes || !unpacked_bytes()) return nullptr;
        auto tiles = scratch.take<int8_t>(unpacked_bytes());
        kernels.int4_bytes(packed_, tiles);
        const DenseInt8 bytes{rows, cols, packed_.panels, 2 * packed_.octets, tiles, packed_.scales, packed_.correction};
        return std::make_unique<PackedMap<DenseInt8, &Kernels::dense_int8>>(
            bytes, quantization()->input_scale, int8_needs(kernels));
    }

private:
    static constexpr size_t kReadAhead = 4096;  // kernels read whole tiles, of up to 16 quads
    void multiply(const Kernels& kernels, const Codes& x, const Output& out) const override {
        kernels.group_int4(packed_, x, out);
    }
    GroupInt4 packed_;
};

class FloatMap final : public Map {
public:
    explicit FloatMap(const DenseF32& packed) : Map(packed.rows, packed.cols), packed_(packed) {}
    size_t scratch_bytes(int) const override { return 0; }
    void product(const Kernels& kernels, const float* const* x, int count, const Output& out, Scratch&,
                 const float*) const override {
        kernels.dense_f32(packed_, x, count, out);
    }

private:
    DenseF32 packed_;
};

class LowRankMap final : public Map {
public:
    LowRankMap(std::unique_ptr<Map> left, std::unique_ptr<Map> right)
        : Map(left->rows, right->cols), left_(std::move(left)), right_(std::move(right)) {}

    size_t scratch_bytes(int count) const override {
        size_t n = static_cast<size_t>(count);
        return scratch_for<float>(n * right_->rows) + scratch_for<const float*>(n) +
               std::max(left_->scratch_bytes(count), right_->scratch_bytes(count));
    }
    void product(const Kernels& kernels, const float* const* x, int count, const Output& out, Scratch& scratch,
                 const float* largest) const override {
        through(kernels, count, out, scratch, [&](const Output& middle) {
            right_->product(kernels, x, count, middle, scratch, largest);
        });
    }
    const Quantization* quantization() const override { return right_->quantization(); }
    void product_of_codes(const Kernels& kernels, const int8_t* codes, const float* scales, int count,
                          const Output& out, Scratch& scratch) const override {
        through(kernels, count, out, scratch, [&](const Output& middle) {
            right_->product_of_codes(kernels, codes, scales, count, middle, scratch);
        });
    }

private:
    // `right` puts the right factor's product where it is told; the left factor meets that.
    template <class Right>
    void through(const Kernels& kernels, int count, const Output& out, Scratch& scratch, const Right& right) const {
        Scratch::Frame frame(scratch);
        size_t rank = static_cast<size_t>(right_->rows), n = static_cast<size_t>(count);
        float* middle = scratch.take<float>(n * rank);
        auto rows = scratch.take<const float*>(n);
        for (size_t i = 0; i < n; i++) rows[i] = middle + i * rank;
        right(Output{middle, rank, nullptr, 0, out.backwards});
        left_->product(kernels, rows, count, out, scratch);
    }
    std::unique_ptr<Map> left_, right_;
};

}  // namespace

std::unique_ptr<Map> pack_int8(const Kernels& kernels, WeightMemory& memory, int rows, int cols, Array<int8_t> codes,
                               Array<float> scales, float input_scale) {
    expect_shape(rows, cols);
    expect_scale(input_scale);
    expect("codes", codes.count, product_of(static_cast<size_t>(rows), static_cast<size_t>(cols)));
    int panels = ceil_div(rows, kPanelRows), quads = ceil_div(cols, kQuad);
    size_t panel_bytes = static_cast<size_t>(quads) * kStrips * kTileBytes;
    int8_t* tiles = memory.take<int8_t>(product_of(static_cast<size_t>(panels), panel_bytes));
    int32_t* correction = memory.take<int32_t>(static_cast<size_t>(panels) * kPanelRows);
    for (int r = 0; r < rows; r++) {
        const int8_t* row = codes.data + static_cast<size_t>(r) * cols;
        int8_t* strip = tiles + (r / kPanelRows) * panel_bytes + (r % kPanelRows) * kQuad;
        for (int c = 0; c < cols; c++) {
            if (row[c] == -128) throw std::invalid_argument("codes contain -128; the least is -127");
            strip[static_cast<size_t>(c / kQuad) * kStrips * kTileBytes + c % kQuad] = row[c];
            correction[r] -= row[c] * kernels.code_offset;
        }
    }
    float* padded = panel_scales(memory, scales, rows, panels);
    DenseInt8 packed{rows, cols, panels, quads, tiles, padded, correction};
    return std::make_unique<PackedMap<DenseInt8, &Kernels::dense_int8>>(
        packed, input_scale, int8_needs(kernels));
}

std::unique_ptr<Map> pack_int4(const Kernels& kernels, WeightMemory& memory, int rows, int cols, int group,
                               Array<uint8_t> codes, Array<uint8_t> multipliers, Array<float> scales,
                               float input_scale) {
    expect_shape(rows, cols);
    expect_scale(input_scale);
    if (group != 8 && group != 16 && group != 32) throw std::invalid_argument("group must be 8, 16 or 32");
    size_t row_bytes = static_cast<size_t>(ceil_div(cols, 2));
    int groups = ceil_div(cols, group), panels = ceil_div(rows, kPanelRows), octets = ceil_div(cols, 8);
    expect("codes", codes.count, product_of(static_cast<size_t>(rows), row_bytes));
    expect("multipliers", multipliers.count, product_of(static_cast<size_t>(rows), static_cast<size_t>(groups)));
    const uint8_t* end = multipliers.data + multipliers.count;
    const bool bytes = std::all_of(multipliers.data, end, [](uint8_t m) { return m <= kByteMultiplier; });
    size_t panel_bytes = static_cast<size_t>(octets) * kStrips * kTileBytes;
    size_t panel_multipliers = static_cast<size_t>(groups) * kPanelRows;
    uint8_t* tiles = memory.take<uint8_t>(product_of(static_cast<size_t>(panels), panel_bytes));
    uint8_t* factors = memory.take<uint8_t>(product_of(static_cast<size_t>(panels), panel_multipliers));
    int32_t* correction = memory.take<int32_t>(static_cast<size_t>(panels) * kPanelRows);
    std::memset(tiles, 0x88, product_of(static_cast<size_t>(panels), panel_bytes));  // code 0 everywhere
    for (int r = 0; r < rows; r++) {
        const uint8_t* row = codes.data + r * row_bytes;
        const uint8_t* row_multipliers = multipliers.data + static_cast<size_t>(r) * groups;
        uint8_t* strip = tiles + (r / kPanelRows) * panel_bytes + (r % kPanelRows) * kQuad;
        for (int c = 0; c < cols; c++) {
            int nibble = row[c / 2] >> (c % 2 * 4) & 15, shift = c / kQuad % 2 * 4;
            uint8_t& byte = strip[static_cast<size_t>(c / 8) * kStrips * kTileBytes + c % kQuad];
            byte = static_cast<uint8_t>((byte & ~(15 << shift)) | nibble << shift);
            if (bytes) correction[r] -= (nibble - 8) * row_multipliers[c / group] * kernels.code_offset;
        }
        int64_t largest = 0;
        for (int g = 0; g < groups; g++) {
            factors[(r / kPanelRows) * panel_multipliers + static_cast<size_t>(g) * kPanelRows + r % kPanelRows] =
                row_multipliers[g];
            largest += int64_t{127} * 8 * group * row_multipliers[g];
        }
        if (largest > INT32_MAX) throw std::invalid_argument("the multipliers of a row could overflow an int32 sum");
    }
    float* padded = panel_scales(memory, scales, rows, panels);
    const size_t panel = bytes ? kernels.panel_bytes * static_cast<size_t>(ceil_div(cols, kPanelCols)) * kPanelCols : 0;
    GroupInt4 packed{rows, cols, panels, octets, group / 8, groups, bytes, tiles, factors, padded, correction};
    return std::make_unique<Int4Map>(packed, input_scale,
                                     IntegerMap::Needs{0, kernels.packed_strides, groups, panel});
}

namespace {

// The checked pattern of a block-sparse map.
struct Strips {
    int count = 0;
    std::vector<int32_t> first_rows;  // [count + 1]
    std::vector<uint32_t> starts;     // [count + 1], blocks

    explicit Strips(const Blocks& b) {
        expect_shape(b.rows, b.cols);
        int64_t row = 0;
        for (size_t s = 0; s < b.sections.count; s++) {
            int64_t end = row + b.sections.data[s];
            if (end > b.rows) throw std::invalid_argument("the sections have more rows than the map");
            for (; row < end; row = std::min<int64_t>(row + kLanes, end)) first_rows.push_back(static_cast<int32_t>(row));
        }
        if (row != b.rows) throw std::invalid_argument("the sections have fewer rows than the map");
        count = static_cast<int>(first_rows.size());
        first_rows.push_back(b.rows);
        expect("counts", b.counts.count, static_cast<size_t>(count));
        starts.push_back(0);
        for (int s = 0; s < count; s++) {
            if (b.counts.data[s] > ceil_div(b.cols, kQuad))
                throw std::invalid_argument("a strip has more blocks than the map has columns for");
            starts.push_back(starts.back() + b.counts.data[s]);
        }
        expect("columns", b.quads.count, starts.back());
        for (size_t i = 0; i < b.quads.count; i++)
            if (b.quads.data[i] >= ceil_div(b.cols, kQuad))
                throw std::invalid_argument("a block lies beyond the map's columns");
    }
    int rows(int strip) const { return first_rows[strip + 1] - first_rows[strip]; }
    uint32_t blocks(int strip) const { return starts[strip + 1] - starts[strip]; }
};

template <class T>
T* copied(WeightMemory& memory, const T* from, size_t count) {
    return std::copy_n(from, count, memory.take<T>(count)) - count;
}

float* strip_scales(WeightMemory& memory, const Strips& strips, Array<float> scales) {
    expect("scales", scales.count, static_cast<size_t>(strips.first_rows.back()));
    float* result = memory.take<float>(static_cast<size_t>(strips.count) * kLanes);
    for (int s = 0; s < strips.count; s++)
        std::copy_n(scales.data + strips.first_rows[s], strips.rows(s), result + s * kLanes);
    return result;
}

}  // namespace

std::unique_ptr<Map> pack_block_int8(const Kernels& kernels, WeightMemory& memory, const Blocks& blocks,
                                     Array<int8_t> codes, Array<float> scales, float input_scale) {
    Strips strips(blocks);
    expect_scale(input_scale);
    expect("codes", codes.count, product_of(blocks.quads.count, kTileBytes));
    expect("scales", scales.count, static_cast<size_t>(blocks.rows));
    // Strips of as many blocks stand together: the processor foresees where their loops end (3 % of a step at 90 %
    // sparsity).
    std::vector<int> order(static_cast<size_t>(strips.count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return strips.blocks(a) > strips.blocks(b); });
    auto packed_strips = memory.take<BlockStrip>(static_cast<size_t>(strips.count));
    auto quads = memory.take<uint16_t>(blocks.quads.count + 1);
    auto tiles = memory.take<int8_t>(codes.count);
    uint32_t next = 0;
    for (size_t place = 0; place < order.size(); place++) {
        int s = order[place];
        BlockStrip& strip = packed_strips[place];
        strip.row = strips.first_rows[s];
        strip.end = strips.first_rows[s + 1];
        strip.start = next;
        strip.blocks = strips.blocks(s);
        next += strip.blocks;
        std::copy_n(scales.data + strip.row, strips.rows(s), strip.scales);
        std::copy_n(blocks.quads.data + strips.starts[s], strip.blocks, quads + strip.start);
        const int8_t* from = codes.data + size_t{strips.starts[s]} * kTileBytes;
        std::copy_n(from, size_t{strip.blocks} * kTileBytes, tiles + size_t{strip.start} * kTileBytes);
        for (size_t i = 0; i < size_t{strip.blocks} * kTileBytes; i++) {
            if (from[i] == -128) throw std::invalid_argument("codes contain -128; the least is -127");
            strip.correction[i % kTileBytes / kQuad] -= from[i] * kernels.code_offset;
        }
    }
    BlockInt8 packed{blocks.rows,
                     blocks.cols,
                     strips.count,
                     packed_strips,
                     quads,
                     tiles,
                     std::all_of(order.begin(), order.end(), [&](int s) { return strips.rows(s) == kLanes; })};
    return std::make_unique<PackedMap<BlockInt8, &Kernels::block_int8>>(packed, input_scale,
                                                                        IntegerMap::Needs{kernels.code_offset});
}

std::unique_ptr<Map> pack_block_int4(const Kernels& kernels, WeightMemory& memory, const Blocks& blocks,
                                     Array<uint8_t> codes, Array<uint8_t> multipliers, Array<float> scales,
                                     float input_scale) {
    constexpr int group_blocks = 2 * kGroupPairs;
    Strips strips(blocks);
    expect_scale(input_scale);
    expect("codes", codes.count, product_of(blocks.quads.count, kTileBytes / 2));
    std::vector<uint32_t> pairs{0}, groups{0};
    for (int s = 0; s < strips.count; s++) {
        pairs.push_back(pairs.back() + (blocks.counts.data[s] + 1) / 2);
        groups.push_back(groups.back() + (blocks.counts.data[s] + group_blocks - 1) / group_blocks);
    }
    expect("multipliers", multipliers.count, product_of(groups.back(), kLanes));
    auto quads = memory.take<uint16_t>(size_t{2} * pairs.back());
    auto tiles = memory.take<uint8_t>(size_t{pairs.back()} * kTileBytes);
    auto correction = memory.take<int32_t>(static_cast<size_t>(strips.count) * kLanes);
    for (int s = 0; s < strips.count; s++) {
        int64_t largest[kLanes] = {}, corrections[kLanes] = {};
        for (uint32_t b = 0; b < blocks.counts.data[s]; b++) {
            size_t from = size_t{strips.starts[s]} + b, to = size_t{2} * pairs[s] + b;
            const uint8_t* factors = multipliers.data + (size_t{groups[s]} + b / group_blocks) * kLanes;
            quads[to] = blocks.quads.data[from];
            for (int i = 0; i < kTileBytes; i++) {
                int code = (codes.data[from * kTileBytes / 2 + i / 2] >> (i % 2 * 4) & 15) - 8, row = i / kQuad;
                tiles[to / 2 * kTileBytes + i] |= static_cast<uint8_t>((code & 15) << (to % 2 * 4));
                corrections[row] -= int64_t{code} * factors[row] * kernels.code_offset;
                largest[row] += int64_t{127} * 8 * factors[row];
            }
        }
        for (int row = 0; row < kLanes; row++) {
            if (largest[row] > INT32_MAX) throw std::invalid_argument("the multipliers of a row could overflow a sum");
            correction[s * kLanes + row] = static_cast<int32_t>(corrections[row]);  // sums are modulo 2**32
        }
    }
    BlockInt4 packed{blocks.rows,
                     blocks.cols,
                     strips.count,
                     copied(memory, strips.first_rows.data(), strips.first_rows.size()),
                     copied(memory, pairs.data(), pairs.size()),
                     quads,
                     tiles,
                     copied(memory, groups.data(), groups.size()),
                     copied(memory, multipliers.data, multipliers.count),
                     strip_scales(memory, strips, scales),
                     correction};
    return std::make_unique<PackedMap<BlockInt4, &Kernels::block_int4>>(packed, input_scale,
                                                                        IntegerMap::Needs{kernels.code_offset});
}

std::unique_ptr<Map> pack_f32(WeightMemory& memory, int rows, int cols, Array<float> weights) {
    expect_shape(rows, cols);
    expect("weights", weights.count, product_of(static_cast<size_t>(rows), static_cast<size_t>(cols)));
    int panels = ceil_div(rows, kPanelRows);
    size_t panel_floats = static_cast<size_t>(cols) * kPanelRows;
    float* tiles = memory.take<float>(product_of(static_cast<size_t>(panels), panel_floats));
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            tiles[(r / kPanelRows) * panel_floats + static_cast<size_t>(c) * kPanelRows + r % kPanelRows] =
                weights.data[static_cast<size_t>(r) * cols + c];
    return std::make_unique<FloatMap>(DenseF32{rows, cols, panels, tiles});
}

std::unique_ptr<Map> low_rank(std::unique_ptr<Map> left, std::unique_ptr<Map> right) {
    if (left->cols != right->rows) throw std::invalid_argument("the factors of a low-rank map do not fit each other");
    return std::make_unique<LowRankMap>(std::move(left), std::move(right));
}

}  // namespace asr
