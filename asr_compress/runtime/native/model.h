// A whole network: whole utterances, batches of them, and pieces of layers, all over one set of packed weights.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "layers.h"

namespace asr {

class Workspace;

// Immutable once built, but for a pool of working memory behind a lock: any number of threads may run it at once.
class Model {
public:
    // Throws std::invalid_argument if a layer does not take what the one before gives.
    Model(const Kernels& kernels, std::unique_ptr<WeightMemory> weights, std::vector<std::unique_ptr<Layer>> layers);
    ~Model();

    size_t inputs() const { return layers_.front()->inputs; }
    size_t outputs() const { return layers_.back()->outputs; }
    const Kernels& kernels() const { return kernels_; }
    size_t weight_bytes() const { return weights_->bytes(); }
    size_t output_length(size_t frames) const;

    // in[u]: lengths[u] * inputs() floats. out[u]: output_length(lengths[u]) * outputs() floats.
    void run(size_t count, const float* const* in, const size_t* lengths, float* const* out, int threads) const;

    // ---- pieces of one layer, for streams: their state is the caller's ----
    const Layer& layer(size_t index) const { return *layers_.at(index); }
    // Frames in order of time, or reversed for a reverse direction, to as many output frames. `state`: of an LSTM's
    // direction, h and then c; updated.
    void run_frames(size_t index, int direction, const float* in, size_t frames, float* state, float* out) const;
    // Output frame t from input frames [t * stride, t * stride + span); zeros beyond those that are given.
    void run_windows(size_t index, const float* in, size_t frames, float* out, size_t windows) const;

    // For benchmarks: the bare product of a linear layer with `rows` rows of constants, quantized already where the map
    // wants that, so many times.
    void probe_product(size_t index, int rows, int repeats) const;

private:
    struct Borrowed;
    void run_together(Utterances whole, int threads) const;
    void run_in_order(Workspace& workspace, const Utterances& whole) const;
    void run_in_parallel(const Utterances& whole, int threads) const;
    std::unique_ptr<Workspace> borrow() const;
    void give_back(std::unique_ptr<Workspace> workspace) const;

    const Kernels& kernels_;
    std::unique_ptr<WeightMemory> weights_;
    std::vector<std::unique_ptr<Layer>> layers_;
    size_t scratch_bytes_ = 0;
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace asr
