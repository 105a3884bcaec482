#include "pipeline.h"

#include <algorithm>
#include <thread>

namespace asr {
namespace {

// Steps that a thread takes before others may go on with what it made: few of all, for the deepest layer's thread waits
// for all before it; but many, to read a large layer's weights from afar seldom; and whole input products, of which a
// small one at the end of each piece would take as long as a large one.
size_t piece_of(size_t utterances, size_t length) {
    constexpr size_t fewest_pieces = 6, pieces = 12, most = 48, fewest_rows = 12;
    size_t count = std::max<size_t>(utterances, 1), product = std::min((kInputRows + count - 1) / count, most);
    while (product * fewest_pieces > length && product * count >= 2 * fewest_rows) product = (product + 1) / 2;
    return product * std::max<size_t>(std::min(length / pieces, most) / product, 1);
}

bool any_reverse(const Layer& layer) {
    for (int d = 0; d < layer.directions(); d++)
        if (layer.reverse(d)) return true;
    return false;
}

}  // namespace

Pipeline::Pipeline(const Kernels& kernels, const std::vector<std::unique_ptr<Layer>>& layers, const Utterances& whole,
                   size_t threads, std::vector<Buffer>& buffers)
    : kernels_(kernels) {
    size_t count = static_cast<size_t>(whole.count);
    std::vector<size_t> lengths(whole.in_length, whole.in_length + count);
    for (size_t l = 0; l < layers.size(); l++) {
        Stage stage;
        const Layer& layer = *layers[l];
        stage.layer = &layer;
        stage.in_length = lengths;
        stage.frames = std::make_unique<Frames>(layer, lengths);
        lengths = stage.frames->lengths;
        stage.length = lengths[0];
        // Nobody can use a part of what runs backwards, so it is done in one piece.
        stage.piece = any_reverse(layer) ? std::max<size_t>(stage.length, 1) : piece_of(count, stage.length);
        stage.state_memory.reset(new float[States::floats(layer, count)]);
        stage.states = std::make_unique<States>(layer, count, stage.state_memory.get());
        size_t parts = States::floats(layer, 1) == 0 ? threads : 1;
        for (int d = 0; d < layer.directions(); d++)
            for (size_t p = 0; p < parts; p++)
                stage.chains.emplace_back(l, d, stage.length * p / parts, stage.length * (p + 1) / parts);
        stages_.push_back(std::move(stage));
    }
    lay_out(whole, buffers);
}

// Where the frames between layers lie. A layer that runs backwards starts when all before it is done, so that from then
// on only the frames that it reads are still needed, and all other buffers may be written again.
void Pipeline::lay_out(const Utterances& whole, std::vector<Buffer>& buffers) {
    std::vector<size_t> chosen, floats, free;  // floats: the most that each buffer has to hold
    for (size_t l = 0; l + 1 < stages_.size(); l++) {
        if (any_reverse(*stages_[l].layer)) {
            free.clear();
            for (size_t b = 0; b < floats.size(); b++)
                if (chosen.empty() || b != chosen.back()) free.push_back(b);
        }
        if (free.empty()) {
            free.push_back(floats.size());
            floats.push_back(0);
        }
        chosen.push_back(free.back());
        free.pop_back();
        floats[chosen.back()] = std::max(floats[chosen.back()], stages_[l].frames->floats(*stages_[l].layer));
    }
    if (buffers.size() < floats.size()) buffers.resize(floats.size());
    std::vector<const float*> in(whole.in, whole.in + whole.count);
    for (size_t l = 0; l < stages_.size(); l++) {
        Stage& stage = stages_[l];
        stage.in = in;
        if (l + 1 == stages_.size())
            stage.frames->starts.assign(whole.out, whole.out + whole.count);
        else
            stage.frames->lie_in(buffers[chosen[l]].reserve(floats[chosen[l]]), *stage.layer);
        in.assign(stage.frames->starts.begin(), stage.frames->starts.end());
    }
}

size_t Pipeline::Stage::done() const {
    size_t least = length;
    for (const Chain& chain : chains) {
        if (chain.done == chain.to) continue;
        // A backward direction's first frames are the utterance's last ones.
        least = std::min(least, layer->reverse(chain.direction) ? 0 : chain.done);
    }
    return least;
}

bool Pipeline::finished() const {
    return failure_ || std::all_of(stages_.begin(), stages_.end(), [](const Stage& s) { return s.done() == s.length; });
}

bool Pipeline::ready(const Chain& chain) const {
    const Stage& stage = stages_[chain.layer];
    if (chain.running || chain.done >= chain.to) return false;
    if (chain.layer == 0) return true;
    const Stage& before = stages_[chain.layer - 1];
    size_t available = before.done();
    if (available == before.length) return true;
    if (stage.layer->reverse(chain.direction)) return false;
    size_t to = std::min(chain.done + stage.piece, chain.to);
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
        size_t from = chain->done, to = std::min(from + stage.piece, chain->to);
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
