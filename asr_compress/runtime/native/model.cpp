#include "model.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "pipeline.h"
#include "workspace.h"

namespace asr {

Model::Model(const Kernels& kernels, std::unique_ptr<WeightMemory> weights, std::vector<std::unique_ptr<Layer>> layers)
    : kernels_(kernels), weights_(std::move(weights)), layers_(std::move(layers)) {
    if (layers_.empty()) throw std::invalid_argument("a network has at least one layer");
    for (size_t i = 0; i < layers_.size(); i++) {
        if (i && layers_[i]->inputs != layers_[i - 1]->outputs)
            throw std::invalid_argument("layer " + std::to_string(i) + " takes " + std::to_string(layers_[i]->inputs) +
                                        " features, but the one before gives " + std::to_string(layers_[i - 1]->outputs));
        scratch_bytes_ = std::max(scratch_bytes_, layers_[i]->scratch_bytes());
    }
}

Model::~Model() = default;

size_t Model::output_length(size_t frames) const {
    for (const auto& layer : layers_) frames = layer->output_length(frames);
    return frames;
}

std::unique_ptr<Workspace> Model::borrow() const {
    {
        std::lock_guard lock(mutex_);
        if (!idle_.empty()) {
            auto workspace = std::move(idle_.back());
            idle_.pop_back();
            return workspace;
        }
    }
    return std::make_unique<Workspace>(scratch_bytes_);
}

void Model::give_back(std::unique_ptr<Workspace> workspace) const {
    std::lock_guard lock(mutex_);
    idle_.push_back(std::move(workspace));
}

// A workspace for as long as this stands.
struct Model::Borrowed {
    explicit Borrowed(const Model& model) : model(model), workspace(model.borrow()) {}
    ~Borrowed() { model.give_back(std::move(workspace)); }
    const Model& model;
    std::unique_ptr<Workspace> workspace;
};

void Model::run(size_t count, const float* const* in, const size_t* lengths, float* const* out, int threads) const {
    if (threads < 1 || threads > 256) throw std::invalid_argument("threads must lie between 1 and 256");
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return lengths[a] > lengths[b]; });
    for (size_t first = 0; first < count; first += kMaxBatch) {
        size_t n = std::min<size_t>(kMaxBatch, count - first);
        const float* batch_in[kMaxBatch];
        float* batch_out[kMaxBatch];
        size_t in_length[kMaxBatch], out_length[kMaxBatch];
        for (size_t i = 0; i < n; i++) {
            size_t u = order[first + i];
            batch_in[i] = in[u];
            batch_out[i] = out[u];
            in_length[i] = lengths[u];
            out_length[i] = output_length(lengths[u]);
        }
        run_together({static_cast<int>(n), batch_in, in_length, 0, batch_out, out_length, 0}, threads);
    }
}

void Model::run_together(Utterances whole, int threads) const {
    if (whole.out_length[0] == 0) return;  // the longest has no frames
    if (threads > 1) return run_in_parallel(whole, threads);
    Borrowed borrowed(*this);
    run_in_order(*borrowed.workspace, whole);
}

// Layer after layer over all frames, so that one layer's weights stay in the caches.
void Model::run_in_order(Workspace& workspace, const Utterances& whole) const {
    size_t count = static_cast<size_t>(whole.count);
    std::vector<size_t> lengths(whole.in_length, whole.in_length + count);
    std::vector<const float*> in(whole.in, whole.in + count);
    for (size_t l = 0; l < layers_.size(); l++) {
        const Layer& layer = *layers_[l];
        Frames frames(layer, lengths);
        if (l + 1 == layers_.size())
            frames.starts.assign(whole.out, whole.out + count);
        else
            frames.lie_in(workspace.buffers[l % 2].reserve(frames.floats(layer)), layer);
        States states(layer, count, workspace.state.reserve(States::floats(layer, count)));
        Utterances part{whole.count, in.data(), lengths.data(), 0, frames.starts.data(), frames.lengths.data(), 0};
        for (int d = 0; d < layer.directions(); d++)
            layer.run(kernels_, d, part, 0, frames.lengths[0], states.of(d), workspace.scratch);
        lengths = frames.lengths;
        in.assign(frames.starts.begin(), frames.starts.end());
    }
}

void Model::run_in_parallel(const Utterances& whole, int threads) const {
    Pipeline pipeline(kernels_, layers_, whole);
    std::vector<std::unique_ptr<Borrowed>> borrowed;
    std::vector<Scratch*> scratch;
    for (int t = 0; t < threads; t++) {
        borrowed.push_back(std::make_unique<Borrowed>(*this));
        scratch.push_back(&borrowed.back()->workspace->scratch);
    }
    pipeline.run(scratch);
}

// ---- streams -------------------------------------------------------------------------------------------------

namespace {

constexpr uint64_t kMagic = 0x3153504d4f435341;  // "ASCOMPS1"
constexpr uint64_t kMostFrames = uint64_t{1} << 48;

struct StateHeader {
    uint64_t magic, bytes, frames, finished;
};

StateHeader header_of(const char* state) {
    StateHeader header;
    std::memcpy(&header, state, sizeof header);
    return header;
}

size_t kept_frames(const Layer& layer) { return layer.span() - 1; }

// The first frame that is kept when `received` frames have come.
size_t first_kept(const Layer& layer, size_t received) {
    return std::min(layer.first_needed(layer.ready(received)), received);
}

size_t stream_floats(const Layer& layer) { return layer.state_size(0) + kept_frames(layer) * layer.inputs; }

size_t emitted(const Layer& layer, size_t received, bool last) {
    return last ? layer.output_length(received) : layer.ready(received);
}

}  // namespace

bool Model::can_stream() const {
    for (const auto& layer : layers_)
        for (int d = 0; d < layer->directions(); d++)
            if (d > 0 || layer->reverse(d)) return false;
    return true;
}

size_t Model::state_bytes() const {
    size_t floats = 0;
    for (const auto& layer : layers_) floats += stream_floats(*layer);
    return sizeof(StateHeader) + floats * sizeof(float);
}

void Model::start(char* state) const {
    if (!can_stream()) throw std::invalid_argument("this network reads utterances backwards and cannot stream");
    std::memset(state, 0, state_bytes());
    StateHeader header{kMagic, state_bytes(), 0, 0};
    std::memcpy(state, &header, sizeof header);
}

size_t Model::push_length(const char* state, size_t frames, bool last) const {
    StateHeader header = header_of(state);
    if (!can_stream() || header.magic != kMagic || header.bytes != state_bytes() || header.frames > kMostFrames)
        throw std::invalid_argument("this is not a stream state of this network");
    if (header.finished) throw std::invalid_argument("the stream is finished; start a new one");
    if (frames > kMostFrames - header.frames) throw std::invalid_argument("the stream is too long");
    size_t before = header.frames, after = header.frames + frames;
    for (const auto& layer : layers_) {
        before = layer->ready(before);
        after = emitted(*layer, after, last);
    }
    return after - before;
}

void Model::push(char* state, const float* in, size_t frames, bool last, float* out) const {
    push_length(state, frames, last);  // checks
    Borrowed borrowed(*this);
    Workspace& workspace = *borrowed.workspace;
    StateHeader header = header_of(state);
    size_t received = header.frames, fresh = frames;  // of the layer at hand
    char* memory = state + sizeof(StateHeader);
    Buffer joined;
    for (size_t l = 0; l < layers_.size(); l++) {
        const Layer& layer = *layers_[l];
        // Aligned copies of what this layer keeps; the state itself may lie anywhere.
        std::vector<float> kept(stream_floats(layer));
        std::memcpy(kept.data(), memory, kept.size() * sizeof(float));
        float* recurrent = kept.data();
        float* window = recurrent + layer.state_size(0);
        size_t first = first_kept(layer, received), total = received + fresh;
        const float* frames_in = in;
        if (kept_frames(layer) > 0) {
            size_t old = received - first;
            float* both = joined.reserve((old + fresh) * layer.inputs + 1);
            std::copy_n(window, old * layer.inputs, both);
            if (fresh) std::copy_n(in, fresh * layer.inputs, both + old * layer.inputs);
            frames_in = both;
        }
        size_t from = layer.ready(received), to = emitted(layer, total, last);
        bool final_layer = l + 1 == layers_.size();
        float* frames_out = final_layer ? out : workspace.buffers[l % 2].reserve((to - from) * layer.outputs + 1);
        Utterances part{1, &frames_in, &total, first, &frames_out, &to, from};
        if (from < to) layer.run(kernels_, 0, part, from, to, &recurrent, workspace.scratch);
        if (kept_frames(layer) > 0 && !last) {
            size_t next = first_kept(layer, total);
            std::copy_n(frames_in + (next - first) * layer.inputs, (total - next) * layer.inputs, window);
        }
        std::memcpy(memory, kept.data(), kept.size() * sizeof(float));
        memory += kept.size() * sizeof(float);
        in = frames_out;
        received = from;
        fresh = to - from;
    }
    header.frames += frames;
    header.finished = last;
    std::memcpy(state, &header, sizeof header);
}

}  // namespace asr
