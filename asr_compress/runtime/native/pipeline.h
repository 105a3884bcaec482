// One batch on several threads: the directions of a layer side by side, layers without a state in several parts of the
// time, and successive layers on successive pieces of it. What is computed, and in which order within a layer, is the same as on one thread.
#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "layers.h"
#include "workspace.h"

namespace asr {

class Pipeline {
public:
    // `buffers` are for the frames between layers, as many as it takes.
    Pipeline(const Kernels& kernels, const std::vector<std::unique_ptr<Layer>>& layers, const Utterances& whole,
             size_t threads, std::vector<Buffer>& buffers);

    // Works on as many threads as there are scratch memories, this one included.
    void run(const std::vector<Scratch*>& scratch);

private:
    // One direction of one layer, or one part of a layer without a state: pieces of time that follow one another.
    struct Chain {
        Chain(size_t layer, int direction, size_t from, size_t to)
            : layer(layer), direction(direction), done(from), to(to) {}
        size_t layer;
        int direction;
        size_t done, to;  // output frames of the longest utterance
        bool running = false;
    };
    struct Stage {
        const Layer* layer;
        size_t piece;   // output frames of one task
        size_t length;  // output frames of the longest utterance
        std::vector<Chain> chains;
        std::vector<const float*> in;
        std::vector<size_t> in_length;
        std::unique_ptr<Frames> frames;
        std::unique_ptr<float[]> state_memory;
        std::unique_ptr<States> states;
        size_t done() const;  // output frames that are complete
    };

    void lay_out(const Utterances& whole, std::vector<Buffer>& buffers);
    void work(Scratch& scratch);
    Chain* next_ready();
    bool ready(const Chain& chain) const;
    bool finished() const;

    const Kernels& kernels_;
    std::vector<Stage> stages_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::exception_ptr failure_;
};

}  // namespace asr
