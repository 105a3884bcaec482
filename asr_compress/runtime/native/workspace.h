// What one call of Model::run() or push() works in.
#pragma once

#include <algorithm>
#include <vector>

#include "layers.h"

namespace asr {

// Every product moves the mark of its scratch memory, so two threads' must not share a cache line, nor the line beside it,
// which processors fetch along.
class alignas(128) Workspace {
public:
    explicit Workspace(size_t scratch_bytes) : scratch(scratch_bytes) {}
    Scratch scratch;
    std::vector<Buffer> buffers{2};
    Buffer state;
    Buffer codes;
};

// The frames of a batch between two layers, utterance after utterance in one buffer.
struct Frames {
    std::vector<size_t> lengths;
    std::vector<float*> starts;

    Frames(const Layer& layer, const std::vector<size_t>& input_lengths) : lengths(input_lengths) {
        for (size_t& length : lengths) length = layer.output_length(length);
    }
    size_t floats(const Layer& layer) const {
        size_t total = 0;
        for (size_t length : lengths) total += length;
        return product_of(total, layer.outputs);
    }
    void lie_in(float* memory, const Layer& layer) {
        for (size_t length : lengths) {
            starts.push_back(memory);
            memory += length * layer.outputs;
        }
    }
};

// The zeroed recurrent state of each utterance for each direction of a layer.
struct States {
    std::vector<float*> pointers;  // [direction][utterance]
    size_t utterances;

    static size_t floats(const Layer& layer, size_t utterances) {
        size_t total = 0;
        for (int d = 0; d < layer.directions(); d++) total += layer.state_size(d) * utterances;
        return total;
    }
    States(const Layer& layer, size_t utterances, float* memory) : utterances(utterances) {
        std::fill_n(memory, floats(layer, utterances), 0.0f);
        for (int d = 0; d < layer.directions(); d++)
            for (size_t u = 0; u < utterances; u++, memory += layer.state_size(d)) pointers.push_back(memory);
    }
    float* const* of(int direction) const { return pointers.data() + static_cast<size_t>(direction) * utterances; }
};

}  // namespace asr
