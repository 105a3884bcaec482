// The layers of runtime/network.py over whole utterances, pieces of them, or streams.
#pragma once

#include <memory>
#include <vector>

#include "maps.h"

namespace asr {

// All input frames of a batch as codes, for the directions of a layer to share: of utterance u, frame t is at
// codes[u] + t * stride and has the scale scales[u][t].
struct SharedCodes {
    std::vector<const int8_t*> codes;
    std::vector<const float*> scales;
};

// Frames of up to kMaxBatch utterances, longest first. in[u] and out[u] are an utterance's first frames. in_first is
// the number of the frame at in[u] and in_length the number of frames from 0 on that exist: those before
// in_first are no longer needed, those from in_length on are zeros to the layers that look there.
struct Utterances {
    int count;
    const float* const* in;
    const size_t* in_length;
    size_t in_first;
    float* const* out;         // frame 0 of the output is at out[u]
    const size_t* out_length;  // frames of output in all
    size_t out_first;          // the number of the frame at out[u]
    const SharedCodes* shared = nullptr;  // `in`, quantized as the layer's shared_quantization says
};

// Rows of one product over time: of an LSTM's inputs, of a linear layer. More of them share each load of the weights;
// fewer stay in the nearest cache beside a panel of them. Weights from afar are read for as many as possible at once.
constexpr size_t kInputRows = 60, kMostInputRows = 120;  // whole tiles of 3, 12 or 15 rows
inline size_t input_rows(const Map& map) {
    return static_cast<size_t>(map.rows) * static_cast<size_t>(map.cols) > kNearWeights ? kMostInputRows : kInputRows;
}

class Layer {
public:
    Layer(size_t inputs, size_t outputs) : inputs(inputs), outputs(outputs) {}
    virtual ~Layer() = default;

    // Directions that can run at the same time.
    virtual int directions() const { return 1; }
    virtual bool reverse(int) const { return false; }
    virtual size_t outputs_of(int) const { return outputs; }  // of one direction
    // Floats of recurrent state of one direction of one utterance.
    virtual size_t state_size(int) const { return 0; }
    virtual size_t scratch_bytes() const { return 0; }
    // How several directions quantize their inputs, if all do it alike.
    virtual const Map::Quantization* shared_quantization() const { return nullptr; }
    virtual const Map* map() const { return nullptr; }  // of a layer that is one map, for the probes

    // How output frames follow from input frames: output t reads inputs [t * stride - before, t * stride - before + span).
    virtual size_t stride() const { return 1; }
    virtual size_t before() const { return 0; }
    virtual size_t span() const { return 1; }

    // Compute output frames [from, to) of every utterance that has them, in the direction's own order, which for a
    // reverse direction counts from each utterance's end. state[u]: as the frame before left it; updated.
    virtual void run(const Kernels&, int direction, const Utterances&, size_t from, size_t to, float* const* state,
                     Scratch&) const = 0;

    // All frames of one direction by itself, whose outputs do not stand beside those of another.
    virtual void run_alone(const Kernels& kernels, int direction, const Utterances& u, float* const* state,
                           Scratch& scratch) const {
        run(kernels, direction, u, 0, u.out_length[0], state, scratch);
    }

    size_t output_length(size_t frames) const { return frames / stride() + (frames % stride() != 0); }
    // Output frames that `frames` of input allow when more may follow.
    size_t ready(size_t frames) const {
        return frames + before() < span() ? 0 : (frames + before() - span()) / stride() + 1;
    }

    const size_t inputs, outputs;
};

std::unique_ptr<Layer> normalize_layer(std::vector<float> mean, std::vector<float> scale);
std::unique_ptr<Layer> layer_norm_layer(std::vector<float> weight, std::vector<float> bias, float eps);
std::unique_ptr<Layer> clamp_layer(size_t features, float low, float high);
std::unique_ptr<Layer> linear_layer(std::unique_ptr<Map> map, std::vector<float> bias);
std::unique_ptr<Layer> frame_stack_layer(size_t features, size_t stack, size_t stride);

struct ConvShape {
    size_t kernel_time, kernel_bins, stride_time, stride_bins, dilation_time, dilation_bins, in_channels, bins;
};
std::unique_ptr<Layer> conv_layer(std::unique_ptr<Map> map, std::vector<float> bias, const ConvShape& shape);

struct Direction {
    std::unique_ptr<Map> input_map, recurrent_map, projection;  // projection may be null
    std::vector<float> bias;
    std::vector<uint32_t> constant_rows;  // ascending
    std::vector<float> constant_values;
    bool reverse;
};
// One direction or two, whose outputs stand side by side.
std::unique_ptr<Layer> lstm_layer(std::vector<Direction> directions);

}  // namespace asr
