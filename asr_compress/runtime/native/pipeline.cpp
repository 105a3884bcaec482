#include "pipeline.h"

#include <algorithm>
#include <thread>

namespace asr {
namespace {

// Steps that a thread takes before others may go on with what it made: few, for the deepest layer's thread waits for
// all before it, but enough for whole input products.
size_t piece_of(size_t utterances) { return std::clamp<size_t>(96 / std::max<size_t>(utterances, 1), 6, 32); }

bool any_reverse(const Layer& layer) {
    for (int d = 0; d < layer.directions(); d++)
        if (layer.reverse(d)) return true;
    return false;
}

}  // namespace

Pipeline::Pipeline(const Kernels& kernels, const std::vector<std::unique_ptr<Layer>>& layers, const Utterances& whole)
    : kernels_(kernels) {
    size_t count = static_cast<size_t>(whole.count);
    std::vector<size_t> lengths(whole.in_length, whole.in_length + count);
    std::vector<const float*> in(whole.in, whole.in + count);
    for (size_t l = 0; l < layers.size(); l++) {
        Stage stage;
        const Layer& layer = *layers[l];
        stage.layer = &layer;
        stage.in = in;
        stage.in_length = lengths;
        stage.frames = std::make_unique<Frames>(layer, lengths);
        if (l + 1 == layers.size()) {
            stage.frames->starts.assign(whole.out, whole.out + count);
        } else {
            stage.memory.reset(new float[stage.frames->floats(layer)]);
            stage.frames->lie_in(stage.memory.get(), layer);
        }
        stage.length = stage.frames->lengths[0];
        // Nobody can use a part of what runs backwards, so it is done in one piece.
        stage.piece = any_reverse(layer) ? std::max<size_t>(stage.length, 1) : piece_of(count);
        stage.state_memory.reset(new float[States::floats(layer, count)]);
        stage.states = std::make_unique<States>(layer, count, stage.state_memory.get());
        for (int d = 0; d < layer.directions(); d++) stage.chains.push_back({l, d});
        lengths = stage.frames->lengths;
        in.assign(stage.frames->starts.begin(), stage.frames->starts.end());
        stages_.push_back(std::move(stage));
    }
}

size_t Pipeline::Stage::done() const {
    size_t least = length;
    for (const Chain& chain : chains)
        // A backward direction's first frames are the utterance's last ones.
        least = std::min(least, layer->reverse(chain.direction) && chain.done < length ? 0 : chain.done);
    return least;
}

bool Pipeline::finished() const {
    return failure_ || std::all_of(stages_.begin(), stages_.end(), [](const Stage& s) { return s.done() == s.length; });
}

bool Pipeline::ready(const Chain& chain) const {
    const Stage& stage = stages_[chain.layer];
    if (chain.running || chain.done >= stage.length) return false;
    if (chain.layer == 0) return true;
    const Stage& before = stages_[chain.layer - 1];
    size_t available = before.done();
    if (available == before.length) return true;
    if (stage.layer->reverse(chain.direction)) return false;
    size_t to = std::min(chain.done + stage.piece, stage.length);
    return to <= stage.layer->ready(available);
}

// The deepest layer first: what it reads is still in the caches, and the last layer's end is the end of all.
Pipeline::Chain* Pipeline::next_ready() {
    for (size_t l = stages_.size(); l-- > 0;)
        for (Chain& chain : stages_[l].chains)
            if (ready(chain)) return &chain;
    return nullptr;
}

void Pipeline::work(Scratch& scratch) {
    std::unique_lock lock(mutex_);
    while (!finished()) {
        Chain* chain = next_ready();
        if (!chain) {
            changed_.wait(lock);
            continue;
        }
        Stage& stage = stages_[chain->layer];
        size_t from = chain->done, to = std::min(from + stage.piece, stage.length);
        chain->running = true;
        lock.unlock();
        std::exception_ptr failure;
        try {
            Utterances part{static_cast<int>(stage.in.size()), stage.in.data(),           stage.in_length.data(), 0,
                            stage.frames->starts.data(),       stage.frames->lengths.data(), 0};
            stage.layer->run(kernels_, chain->direction, part, from, to, stage.states->of(chain->direction), scratch);
        } catch (...) {
            failure = std::current_exception();
        }
        lock.lock();
        if (failure) failure_ = failure;
        chain->running = false;
        chain->done = to;
        changed_.notify_all();
    }
}

void Pipeline::run(const std::vector<Scratch*>& scratch) {
    std::vector<std::thread> threads;
    try {
        for (size_t t = 1; t < scratch.size(); t++) threads.emplace_back([this, s = scratch[t]] { work(*s); });
    } catch (const std::system_error&) {
        // No more threads to be had: those that there are do all the work.
    }
    work(*scratch[0]);
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
}

}  // namespace asr
