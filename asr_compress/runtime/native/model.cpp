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

namespace {

SharedCodes quantized(const Kernels& kernels, const Map::Quantization& quantization, size_t inputs, const Utterances& u,
                      Buffer& memory) {
    size_t total = std::accumulate(u.in_length, u.in_length + u.count, size_t{0});
    size_t words = (quantization.stride + sizeof(float) - 1) / sizeof(float);  // of a frame's codes
    float* scales = memory.reserve(product_of(total, words + 1));
    int8_t* codes = reinterpret_cast<int8_t*>(scales + total);
    SharedCodes shared;
    for (int i = 0; i < u.count; i++) {
        shared.codes.push_back(codes);
        shared.scales.push_back(scales);
        for (size_t t = 0; t < u.in_length[i]; t++, codes += quantization.stride, scales++)
            kernels.quantize(u.in[i] + t * inputs, inputs, quantization.input_scale, quantization.offset, codes,
                             quantization.stride, scales);
    }
    return shared;
}

}  // namespace

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
        SharedCodes shared;
        if (const Map::Quantization* quantization = layer.shared_quantization()) {
            shared = quantized(kernels_, *quantization, layer.inputs, part, workspace.codes);
            part.shared = &shared;
        }
        for (int d = 0; d < layer.directions(); d++)
            layer.run(kernels_, d, part, 0, frames.lengths[0], states.of(d), workspace.scratch);
        lengths = frames.lengths;
        in.assign(frames.starts.begin(), frames.starts.end());
    }
}

void Model::run_in_parallel(const Utterances& whole, int threads) const {
    std::vector<std::unique_ptr<Borrowed>> borrowed;
    std::vector<Scratch*> scratch;
    for (int t = 0; t < threads; t++) {
        borrowed.push_back(std::make_unique<Borrowed>(*this));
        scratch.push_back(&borrowed.back()->workspace->scratch);
    }
    Pipeline pipeline(kernels_, layers_, whole, scratch.size(), borrowed.front()->workspace->buffers);
    pipeline.run(scratch);
    // The last first, so that the next call gives each thread the memory that it had.
    while (!borrowed.empty()) borrowed.pop_back();
}

// ---- pieces of one layer -------------------------------------------------------------------------------------

void Model::run_frames(size_t index, int direction, const float* in, size_t frames, float* state, float* out) const {
    const Layer& one = layer(index);
    if (direction < 0 || direction >= one.directions() || one.span() != 1 || one.stride() != 1)
        throw std::invalid_argument("layer " + std::to_string(index) + " does not run frame by frame in that direction");
    Borrowed borrowed(*this);
    Utterances part{1, &in, &frames, 0, &out, &frames, 0};
    one.run_alone(kernels_, direction, part, &state, borrowed.workspace->scratch);
}

void Model::run_windows(size_t index, const float* in, size_t frames, float* out, size_t windows) const {
    const Layer& one = layer(index);
    if (one.state_size(0)) throw std::invalid_argument("layer " + std::to_string(index) + " has no windows");
    Borrowed borrowed(*this);
    // Numbers of frames so far from the start that no window reaches into the zeros before it.
    size_t from = one.before(), to = from + windows, first = from * one.stride() - one.before();
    size_t length = first + frames;
    Utterances part{1, &in, &length, first, &out, &to, from};
    one.run(kernels_, 0, part, from, to, nullptr, borrowed.workspace->scratch);
}

void Model::probe_product(size_t index, int rows, int repeats) const {
    const Map* map = layer(index).map();
    if (!map) throw std::invalid_argument("layer " + std::to_string(index) + " is not linear");
    if (rows < 1 || rows > static_cast<int>(kMostInputRows))
        throw std::invalid_argument("rows must lie between 1 and " + std::to_string(kMostInputRows));
    Borrowed borrowed(*this);
    size_t n = static_cast<size_t>(rows), stride = gate_stride(static_cast<size_t>(map->rows));
    Buffer row, out, bias, codes, scales;
    std::fill_n(row.reserve(layer(index).inputs), layer(index).inputs, 1.0f);
    std::fill_n(bias.reserve(stride), stride, 0.0f);
    std::fill_n(scales.reserve(n), n, 1.0f);
    std::vector<const float*> x(n, row.get());
    Output output{out.reserve(product_of(n, stride)), stride, bias.get(), 0, false};
    const Map::Quantization* quantization = map->quantization();
    size_t bytes = quantization ? product_of(n, quantization->stride) : 0;
    auto code = reinterpret_cast<int8_t*>(codes.reserve(bytes / sizeof(float) + 1));
    std::memset(code, 1, bytes);
    for (int i = 0; i < repeats; i++, output.backwards = !output.backwards) {
        if (quantization)
            map->product_of_codes(kernels_, code, scales.get(), rows, output, borrowed.workspace->scratch);
        else
            map->product(kernels_, x.data(), rows, output, borrowed.workspace->scratch);
    }
}

}  // namespace asr
