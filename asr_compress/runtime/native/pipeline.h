// One batch on several threads: the directions of a layer side by side, and successive layers on successive pieces of
// time. What is computed, and in which order within a layer, is the same as on one thread.
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
    Pipeline(const Kernels& kernels, const std::vector<std::unique_ptr<Layer>>& layers, const Utterances& whole);

    // Works on as many threads as there are scratch memories, this one included.
    void run(const std::vector<Scratch*>& scratch);

private:
    // One direction of one layer: pieces of time that follow one another.
    struct Chain {
        size_t layer;
        int direction;
        size_t done = 0;  // output frames of the longest utterance
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
        std::unique_ptr<float[]> memory, state_memory;
        std::unique_ptr<States> states;
        size_t done() const;  // output frames that are complete
    };

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
