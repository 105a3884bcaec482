// The kernels' view of packed weights and quantized activations, and the table that each instruction set fills.
//
// All matrices are (rows, cols) and are multiplied as out = x * transpose(matrix). Rows are cut into strips of 16,
// one strip filling one vector of 32-bit accumulators; four strips are a panel. Columns are cut into quads of 4, the
// depth of one 8-bit dot product. A tile is one strip by one quad: 16 x 4 int8, row by row, 64 bytes.
// Rows and columns that do not fill the last strip, panel or quad are zero.
#pragma once

#include <cstddef>
#include <cstdint>

namespace asr {

constexpr int kLanes = 16;
constexpr int kStrips = 4;
constexpr int kPanelRows = kLanes * kStrips;
constexpr int kQuad = 4;
constexpr int kTileBytes = kLanes * kQuad;
constexpr int kMaxBatch = 16;  // rows of one recurrent product
constexpr int kPanelCols = 64;
constexpr int kNarrow = 2 * kLanes;  // rows of a map, at most, for which activations are not packed

struct DenseInt8 {
    int rows, cols, panels, quads;
    const int8_t* tiles;        // [panels][quads][strips in panel]
    const float* scales;        // [panels * 64]
    const int32_t* correction;  // [panels * 64]: what undoes the offset of the activations, see Kernels::code_offset
};

// Strips start anew at each gate, so that the last strip of a gate may have fewer rows. What belongs to a strip stands
// together: sparse strips are so short that finding it in several arrays takes a noticeable part of their time.
struct alignas(64) BlockStrip {
    int32_t correction[kLanes];
    float scales[kLanes];
    int32_t row, end;         // its rows
    uint32_t start, blocks;   // its blocks in `quads` and `tiles`
};
struct BlockInt8 {
    int rows, cols, count;
    const BlockStrip* strips;  // [count]
    const uint16_t* quads;     // [blocks + 1]: column of each block, in quads; the last may be read, but is not used
    const int8_t* tiles;       // [blocks]
    bool whole;                // all strips have 16 rows
};

// Up to here a nibble * its multiplier fits eight bits, and a code * its multiplier fits int8.
constexpr int kByteMultiplier = 15;

// Two quads share a tile's bytes: the low nibbles are the even quad, the high nibbles the odd one; nibble = code + 8.
// A weight is code * multiplier of its group * scale of its row. A group has at most 32 columns: its sum fits int16.
struct GroupInt4 {
    int rows, cols, panels, octets;
    int group_octets, groups;    // a multiplier covers this many octets of columns
    bool bytes;                  // no multiplier is beyond kByteMultiplier
    const uint8_t* tiles;        // [panels][octets][strips in panel]
    const uint8_t* multipliers;  // [panels][groups][64]
    const float* scales;         // [panels * 64]
    const int32_t* correction;   // [panels * 64]: as that of DenseInt8, for the weights as int8 if they are `bytes`
    int octets_of(int group) const {
        int left = octets - group * group_octets;
        return left < group_octets ? left : group_octets;
    }
};

// As BlockInt8, but two consecutive blocks share a tile's bytes: low nibbles the first, high nibbles the second; a
// nibble is a two's complement code. An odd block is paired with zeros. Four pairs, or what is left of a strip,
// share a multiplier for each row.
constexpr int kGroupPairs = 4;
struct BlockInt4 {
    int rows, cols, strips;
    const int32_t* first_rows;    // [strips + 1]
    const uint32_t* starts;       // [strips + 1]: a strip's pairs
    const uint16_t* quads;        // [pairs][2]
    const uint8_t* tiles;         // [pairs]
    const uint32_t* groups;       // [strips]: a strip's first group
    const uint8_t* multipliers;   // [groups][16]
    const float* scales;          // [strips * 16]
    const int32_t* correction;    // [strips * 16]
};

struct DenseF32 {
    int rows, cols, panels;
    const float* tiles;  // [panels][cols][64]
};

// `count` quantized rows. `packed` is scratch of at least count * stride bytes; for DenseInt8 and GroupInt4 see Kernels.
struct Codes {
    int count;
    const int8_t* codes;  // [count][stride], stride a multiple of 8 that covers the columns
    size_t stride;
    const float* scales;  // [count]
    int8_t* packed;
    int32_t* sums;  // scratch: count * groups for GroupInt4; for DenseInt8 see Kernels
    int8_t* panel;  // scratch for GroupInt4 if it is `bytes`, see Kernels
};

// out[n][row] = product + add[n][row]; `add_stride` 0 adds the same vector to every row; `add` may be null.
struct Output {
    float* out;
    size_t stride;
    const float* add;
    size_t add_stride;
    bool backwards;  // visit panels from the last to the first
};

// What turns windows of a waveform into log-mel energies; runtime/features.py makes the tables.
struct MelBank {
    size_t length, shift;         // samples in a window, and from one window to the next
    size_t fft_length;            // a power of two that covers a window
    size_t bins;
    float preemphasis, complement;  // complement: 1 - preemphasis, rounded once
    const float* window;          // [length], the first of them 0
    const float* circle;          // [fft_length][2]: exp(-2 pi i k / fft_length)
    const uint32_t* first;        // [bins]: first spectrum bin under each triangle
    const uint32_t* count;        // [bins]: spectrum bins under it
    const float* weights;         // [sum of count]
    float floor;                  // of the energies, before the logarithm
    size_t scratch() const { return kLanes * (3 * fft_length + bins); }  // numbers that log_mel works on
};

// The activation scale of a row whose largest magnitude that is.
inline float scale_of(float largest) { return largest < 0x1p-100f ? 1.0f : largest * (1.0f / 127.0f); }

struct Kernels {
    const char* name;
    // int8 kernels take activation codes XOR this: 0x80 turns int8 into uint8 with zero point 128, which vpdpbusd wants.
    uint8_t code_offset;
    // For every row of activations: strides of `packed` that dense_int8 and group_int4 want, numbers of `sums` that
    // dense_int8 wants.
    int packed_strides, sums;
    // Bytes of `panel` that group_int4 wants for every column of weights, of which whole kPanelCols count.
    size_t panel_bytes;

    // Quantize one row as arithmetic.quantize_rows (fixed_scale == 0) or quantize_static; pads with zeros to `padded`.
    void (*quantize)(const float* x, size_t cols, float fixed_scale, uint8_t offset, int8_t* codes, size_t padded,
                     float* scale);
    float (*largest)(const float* x, size_t cols);  // magnitude
    void (*dense_int8)(const DenseInt8&, const Codes&, const Output&);
    void (*block_int8)(const BlockInt8&, const Codes&, const Output&);
    void (*group_int4)(const GroupInt4&, const Codes&, const Output&);  // codes without offset
    // All weights as int8, as DenseInt8 has them, where they are `bytes`; null where the product gains nothing.
    void (*int4_bytes)(const GroupInt4&, int8_t* tiles);
    void (*block_int4)(const BlockInt4&, const Codes&, const Output&);
    void (*dense_f32)(const DenseF32&, const float* const* x, int count, const Output&);  // x: pointers to rows

    // gates [4 * hidden] in the order i, f, g, o; c is updated, h written. Returns the largest magnitude in h.
    float (*lstm_cell)(const float* gates, size_t hidden, float* c, float* h);
    void (*layer_norm)(const float* x, size_t cols, const float* weight, const float* bias, float eps, float* y);
    void (*normalize)(const float* x, size_t cols, const float* mean, const float* scale, float* y);
    void (*clamp)(const float* x, size_t count, float low, float high, float* y);

    // For training. out[n][row] += product, rows of both by their addresses.
    void (*add_product)(const DenseF32&, const float* const* x, int count, bool backwards, float* const* out);
    // gates [4 * hidden], i, f, g, o: activated in place. `before`: the cells of the step before, null for zeros.
    void (*cell_forward)(float* gates, size_t hidden, const float* before, float* c, float* h);
    // From activated gates and the gradients of h and c to those of the gates' inputs; dc becomes the step before's.
    void (*cell_backward)(const float* gates, size_t hidden, const float* before, const float* c, const float* dh,
                          float* dc, float* dgates);

    // samples in [-1, 1), enough for `frames` windows; out [frames][bins].
    void (*log_mel)(const MelBank&, const float* samples, size_t frames, float* scratch, float* out);

    // For the roofline: read bytes once and sum them; run that many multiply-accumulates on registers. And the fastest
    // that takes weights from memory once, with activations that are near, and writes nothing; null where registers
    // alone are no faster.
    int32_t (*probe_read)(const int8_t* bytes, size_t count);
    int32_t (*probe_int8)(size_t dots, size_t* macs);
    int32_t (*probe_loaded)(const int8_t* weights, size_t count, size_t* macs);
};

// Null where this build or this machine has not the instructions.
const Kernels* amx_kernels();
const Kernels* avx512_kernels();
const Kernels* avxvnni_kernels();
const Kernels* avx2_kernels();
const Kernels* neon_kernels();
const Kernels* portable_kernels();

// The fastest this machine has, or the one that is named ("amx", "avx512", "avxvnni", "avx2", "neon",
// "portable").
// Null where the name is unknown or the machine has not the instructions.
const Kernels* select_kernels(const char* name);

}  // namespace asr
