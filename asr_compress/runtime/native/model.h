// A whole network: whole utterances, batches of them, and streams, all over one set of packed weights.
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

    // ---- streams, for networks that read no utterance backwards ----
    bool can_stream() const;
    size_t state_bytes() const;
    void start(char* state) const;
    // Output frames that the next push() of `frames` will give. Throws if the state is not one of this model's.
    size_t push_length(const char* state, size_t frames, bool last) const;
    void push(char* state, const float* in, size_t frames, bool last, float* out) const;

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
