// One direction of an LSTM over a batch of utterances of unequal length, forward and backward, in float32.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace asr {

// All tensors are [utterances][frames][...]. Frames past an utterance's length are written as zeros and never read.
struct Sequences {
    size_t utterances, frames, hidden;
    const int64_t* lengths;  // [utterances], each at most `frames`
    bool reverse;            // from each utterance's own end to its start
};

// gates [4 * hidden]: from products of the inputs with the biases to activated gates; h and c [hidden] are written.
// `recurrent`: weights of (4 * hidden, hidden).
void train_forward(const Kernels& kernels, const Sequences& s, const DenseF32& recurrent, int threads, float* gates,
                   float* h, float* c);

// From dh [hidden], and `dc` (utterances, hidden) of each utterance's last step, to dgates, the gradients of what
// train_forward was given. `transposed`: the same weights as (hidden, 4 * hidden).
void train_backward(const Kernels& kernels, const Sequences& s, const DenseF32& transposed, int threads,
                    const float* gates, const float* c, const float* dh, const float* dc, float* dgates);

}  // namespace asr
