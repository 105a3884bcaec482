// LSTM layers: the input product batched over time, then the recurrence step by step over all utterances at once.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "layers.h"

namespace asr {
namespace {

constexpr size_t kManySteps = 16;  // that are worth a map's unpacking

class LSTMDirection {
public:
    explicit LSTMDirection(Direction direction) : d_(std::move(direction)) {
        live_ = d_.bias.size();
        size_t rows = live_ + d_.constant_rows.size();
        if (rows % 4 || d_.constant_values.size() != d_.constant_rows.size())
            throw std::invalid_argument("computed and constant gate rows do not make four equal gates");
        hidden_ = rows / 4;
        expect(d_.input_map->rows, live_, "rows of the input map");
        expect(d_.recurrent_map->rows, live_, "rows of the recurrent map");
        if (d_.projection) expect(d_.projection->cols, hidden_, "columns of the projection");
        outputs_ = d_.projection ? static_cast<size_t>(d_.projection->rows) : hidden_;
        expect(d_.recurrent_map->cols, outputs_, "columns of the recurrent map");
        stride_ = gate_stride(live_);
        std::copy_n(d_.bias.data(), live_, bias_.reserve(live_));
        plan_constants(rows);
    }

    size_t inputs() const { return static_cast<size_t>(d_.input_map->cols); }
    const Map::Quantization* quantization() const { return d_.input_map->quantization(); }
    size_t outputs() const { return outputs_; }
    bool reverse() const { return d_.reverse; }
    size_t state_size() const { return outputs_ + hidden_; }  // h, then c

    size_t scratch_bytes() const {
        constexpr int batch = kMaxBatch;
        const int rows = static_cast<int>(input_rows(*d_.input_map)) + kMaxBatch;
        size_t total = scratch_for<float>(rows * stride_) + scratch_for<float>(batch * hidden_) +
                       scratch_for<float>(batch * outputs_) + scratch_for<float>(4 * hidden_);
        size_t products = std::max(d_.input_map->scratch_bytes(rows), d_.recurrent_map->scratch_bytes(batch));
        if (const Map::Quantization* quantization = d_.input_map->quantization())
            total += scratch_for<int8_t>(rows * quantization->stride) + scratch_for<float>(rows);
        total += d_.recurrent_map->unpacked_bytes();
        return total + (d_.projection ? std::max(products, d_.projection->scratch_bytes(batch)) : products);
    }

    // Steps [from, to). Output frame t goes to out[u] + (t - out_first) * out_stride.
    void run(const Kernels& kernels, const Utterances& u, size_t out_stride, size_t from, size_t to,
             float* const* state, Scratch& scratch) const {
        Scratch::Frame frame(scratch);
        Work work;
        const size_t most = input_rows(*d_.input_map);
        work.gates = scratch.take<float>((most + kMaxBatch) * stride_);
        work.hidden = scratch.take<float>(kMaxBatch * hidden_);
        work.projected = scratch.take<float>(kMaxBatch * outputs_);
        work.all_gates = scratch.take<float>(4 * hidden_);
        for (const Run& run : constant_runs_)
            std::copy_n(d_.constant_values.data() + run.from, run.count, work.all_gates + run.to);
        std::unique_ptr<Map> unpacked;
        if (to - from >= kManySteps && active_at(u, from) > 1) unpacked = d_.recurrent_map->unpacked(kernels, scratch);
        work.recurrent_map = unpacked ? unpacked.get() : d_.recurrent_map.get();
        // The outputs of the step before: in the state at first, then where they were put out.
        Before before;
        std::copy_n(state, u.count, before.outputs);
        for (int i = 0; i < u.count; i++) before.largest[i] = kernels.largest(state[i], outputs_);
        for (size_t step = from; step < to;) {
            size_t active = active_at(u, step);
            if (active == 0) break;
            size_t end = step, rows = 0;
            Row of[kMostInputRows + kMaxBatch];
            for (size_t n = active; end < to && n > 0 && rows < most; end++, n = active_at(u, end))
                for (size_t i = 0; i < n; i++) of[rows++] = {i, frame_of(u, i, end) - u.in_first};
            from_inputs(kernels, u, of, rows, work.gates, scratch);
            float* gates = work.gates;
            for (; step < end; step++) {
                size_t n = active_at(u, step);
                advance(kernels, u, out_stride, step, n, gates, before, state, work, scratch);
                gates += n * stride_;
            }
        }
        for (int i = 0; i < u.count; i++)
            if (before.outputs[i] != state[i]) std::copy_n(before.outputs[i], outputs_, state[i]);
    }

private:
    struct Work {
        float *gates, *hidden, *projected, *all_gates;
        const Map* recurrent_map;  // unpacked, where that pays
    };
    struct Run {
        size_t from, to, count;
    };
    // The step before, by utterance: its outputs and their largest magnitude.
    struct Before {
        const float* outputs[kMaxBatch];
        float largest[kMaxBatch];
    };
    struct Row {
        size_t utterance, frame;
    };

    // What the inputs give the gates, one row after the other.
    void from_inputs(const Kernels& kernels, const Utterances& u, const Row* rows, size_t count, float* gates,
                     Scratch& scratch) const {
        Output out{gates, stride_, bias_.get(), 0, false};
        if (!u.shared) {
            const float* x[kMostInputRows + kMaxBatch];
            for (size_t r = 0; r < count; r++) x[r] = u.in[rows[r].utterance] + rows[r].frame * inputs();
            return d_.input_map->product(kernels, x, static_cast<int>(count), out, scratch);
        }
        Scratch::Frame frame(scratch);
        size_t stride = quantization()->stride;
        int8_t* codes = scratch.take<int8_t>(count * stride);
        float* scales = scratch.take<float>(count);
        for (size_t r = 0; r < count; r++) {
            std::memcpy(codes + r * stride, u.shared->codes[rows[r].utterance] + rows[r].frame * stride, stride);
            scales[r] = u.shared->scales[rows[r].utterance][rows[r].frame];
        }
        d_.input_map->product_of_codes(kernels, codes, scales, static_cast<int>(count), out, scratch);
    }

    static void expect(int got, size_t wanted, const char* what) {
        if (static_cast<size_t>(got) != wanted)
            throw std::invalid_argument(std::string("the ") + what + " are " + std::to_string(got) + "; they must be " +
                                        std::to_string(wanted));
    }

    // Which runs of computed rows and of constants make up the 4H gates.
    void plan_constants(size_t rows) {
        size_t next = 0;  // constant
        for (size_t row = 0, live = 0; row < rows;) {
            bool constant = next < d_.constant_rows.size() && d_.constant_rows[next] == row;
            auto& runs = constant ? constant_runs_ : live_runs_;
            size_t& from = constant ? next : live;
            if (runs.empty() || runs.back().to + runs.back().count != row) runs.push_back({from, row, 0});
            runs.back().count++;
            from++;
            row++;
        }
        if (next != d_.constant_rows.size())
            throw std::invalid_argument("constant gate rows must ascend, without repeats, within the layer's rows");
    }

    static size_t active_at(const Utterances& u, size_t step) {
        size_t n = static_cast<size_t>(u.count);
        while (n > 0 && u.out_length[n - 1] <= step) n--;
        return n;
    }
    size_t frame_of(const Utterances& u, size_t i, size_t step) const {
        return d_.reverse ? u.out_length[i] - 1 - step : step;
    }

    // One step of the first n utterances. `rows` hold what the inputs give the gates; the rest is added in place, which
    // keeps a line of it in the nearest cache from one to the other. `state` holds their cells; its outputs are brought
    // up to date by `run`.
    void advance(const Kernels& kernels, const Utterances& u, size_t out_stride, size_t step, size_t n,
                 float* rows, Before& before, float* const* state, const Work& work, Scratch& scratch) const {
        // Every second step visits the weights from the other end: what the step before read last is still in the
        // nearer caches, even where the whole map does not fit them.
        bool backwards = step % 2;
        work.recurrent_map->product(kernels, before.outputs, static_cast<int>(n),
                                    Output{rows, stride_, rows, stride_, backwards}, scratch, before.largest);
        for (size_t i = 0; i < n; i++) {
            const float* gates = rows + i * stride_;
            if (!constant_runs_.empty()) {
                for (const Run& run : live_runs_) std::copy_n(gates + run.from, run.count, work.all_gates + run.to);
                gates = work.all_gates;
            }
            float* h = d_.projection ? work.hidden + i * hidden_ : put_out(u, out_stride, i, step);
            before.largest[i] = kernels.lstm_cell(gates, hidden_, state[i] + outputs_, h);
            before.outputs[i] = h;
        }
        if (!d_.projection) return;
        d_.projection->product(kernels, before.outputs, static_cast<int>(n),
                               Output{work.projected, outputs_, nullptr, 0, backwards}, scratch, before.largest);
        for (size_t i = 0; i < n; i++) {
            float* y = put_out(u, out_stride, i, step);
            std::copy_n(work.projected + i * outputs_, outputs_, y);
            before.outputs[i] = y;
            before.largest[i] = kernels.largest(y, outputs_);
        }
    }

    float* put_out(const Utterances& u, size_t out_stride, size_t i, size_t step) const {
        return u.out[i] + (frame_of(u, i, step) - u.out_first) * out_stride;
    }

    Direction d_;
    Buffer bias_;
    size_t live_, stride_, hidden_, outputs_;
    std::vector<Run> live_runs_, constant_runs_;
};

class LSTMLayer final : public Layer {
public:
    explicit LSTMLayer(std::vector<LSTMDirection> directions)
        : Layer(directions.at(0).inputs(), total_outputs(directions)), directions_(std::move(directions)) {
        for (const LSTMDirection& d : directions_)
            if (d.inputs() != inputs) throw std::invalid_argument("the two directions take different inputs");
    }
    const Map::Quantization* shared_quantization() const override {
        const Map::Quantization* one = at(0).quantization();
        if (directions_.size() < 2 || !one) return nullptr;
        const Map::Quantization* other = at(1).quantization();
        return other && *one == *other ? one : nullptr;
    }
    int directions() const override { return static_cast<int>(directions_.size()); }
    bool reverse(int direction) const override { return at(direction).reverse(); }
    size_t outputs_of(int direction) const override { return at(direction).outputs(); }
    size_t state_size(int direction) const override { return at(direction).state_size(); }
    size_t scratch_bytes() const override {
        size_t most = 0;
        for (const LSTMDirection& d : directions_) most = std::max(most, d.scratch_bytes());
        return most;
    }

    void run(const Kernels& kernels, int direction, const Utterances& u, size_t from, size_t to, float* const* state,
             Scratch& scratch) const override {
        float* out[kMaxBatch];
        size_t offset = direction == 0 ? 0 : at(0).outputs();
        for (int i = 0; i < u.count; i++) out[i] = u.out[i] + offset;
        Utterances part = u;
        part.out = out;
        at(direction).run(kernels, part, outputs, from, to, state, scratch);
    }

    void run_alone(const Kernels& kernels, int direction, const Utterances& u, float* const* state,
                   Scratch& scratch) const override {
        at(direction).run(kernels, u, at(direction).outputs(), 0, u.out_length[0], state, scratch);
    }

private:
    static size_t total_outputs(const std::vector<LSTMDirection>& directions) {
        size_t total = 0;
        for (const LSTMDirection& d : directions) total += d.outputs();
        return total;
    }
    const LSTMDirection& at(int direction) const { return directions_[static_cast<size_t>(direction)]; }
    std::vector<LSTMDirection> directions_;
};

}  // namespace

std::unique_ptr<Layer> lstm_layer(std::vector<Direction> directions) {
    std::vector<LSTMDirection> built;
    for (Direction& direction : directions) built.emplace_back(std::move(direction));
    return std::make_unique<LSTMLayer>(std::move(built));
}

}  // namespace asr
