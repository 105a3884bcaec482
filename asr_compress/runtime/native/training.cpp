#include "training.h"

#include <algorithm>
#include <system_error>
#include <thread>

namespace asr {
namespace {

// Utterances of a thread. They have nothing to do with each other, so threads never wait for one another.
struct Share {
    const Sequences& s;
    std::vector<size_t> utterances;
    std::vector<const float*> x;  // rows of one step's product
    std::vector<float*> y;

    size_t steps() const {
        size_t most = 0;
        for (size_t u : utterances) most = std::max(most, length(u));
        return most;
    }
    size_t length(size_t u) const { return static_cast<size_t>(s.lengths[u]); }
    // Where the frame of a step stands among those of all utterances.
    size_t frame(size_t u, size_t step) const { return u * s.frames + (s.reverse ? length(u) - 1 - step : step); }
};

// The recurrent product is worth sharing out only between rows of a batch: the longest go round, so that all threads
// get about as many frames.
std::vector<Share> shares(const Sequences& s, int threads) {
    std::vector<size_t> order(s.utterances);
    for (size_t u = 0; u < s.utterances; u++) order[u] = u;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return s.lengths[a] > s.lengths[b]; });
    size_t count = std::min(static_cast<size_t>(std::max(threads, 1)), std::max<size_t>(s.utterances, 1));
    std::vector<Share> result(count, Share{s, {}, {}, {}});
    for (size_t i = 0; i < order.size(); i++) {
        size_t lap = i / count, place = i % count;
        result[lap % 2 ? count - 1 - place : place].utterances.push_back(order[i]);
    }
    for (Share& share : result) {  // here, because running out of memory in a thread would end the process
        share.x.resize(share.utterances.size());
        share.y.resize(share.utterances.size());
    }
    return result;
}

void clear_padding(const Share& share, float* values, size_t width) {
    for (size_t u : share.utterances)
        std::fill(values + (u * share.s.frames + share.length(u)) * width, values + (u + 1) * share.s.frames * width,
                  0.0f);
}

template <class Work>
void on_threads(const Sequences& s, int threads, Work work) {
    std::vector<Share> all = shares(s, threads);
    std::vector<std::thread> others;
    size_t started = 1;
    try {
        for (; started < all.size(); started++) others.emplace_back([&work, &share = all[started]] { work(share); });
    } catch (const std::system_error&) {
        // No more threads to be had: this one does the rest.
    }
    work(all[0]);
    for (size_t i = started; i < all.size(); i++) work(all[i]);
    for (std::thread& thread : others) thread.join();
}

}  // namespace

void train_forward(const Kernels& kernels, const Sequences& s, const DenseF32& recurrent, int threads, float* gates,
                   float* h, float* c) {
    on_threads(s, threads, [&](Share& share) {
        clear_padding(share, h, s.hidden);
        clear_padding(share, c, s.hidden);
        for (size_t step = 0, steps = share.steps(); step < steps; step++) {
            int count = 0;
            for (size_t u : share.utterances) {
                if (share.length(u) <= step || step == 0) continue;
                share.x[static_cast<size_t>(count)] = h + share.frame(u, step - 1) * s.hidden;
                share.y[static_cast<size_t>(count++)] = gates + share.frame(u, step) * 4 * s.hidden;
            }
            kernels.add_product(recurrent, share.x.data(), count, step % 2, share.y.data());
            for (size_t u : share.utterances) {
                if (share.length(u) <= step) continue;
                size_t now = share.frame(u, step);
                const float* before = step ? c + share.frame(u, step - 1) * s.hidden : nullptr;
                kernels.cell_forward(gates + now * 4 * s.hidden, s.hidden, before, c + now * s.hidden,
                                     h + now * s.hidden);
            }
        }
    });
}

void train_backward(const Kernels& kernels, const Sequences& s, const DenseF32& transposed, int threads,
                    const float* gates, const float* c, const float* dh, const float* dc, float* dgates) {
    // Gradients of h and of c at the step in hand, one row an utterance.
    std::vector<float> from_h(s.utterances * s.hidden), from_c(dc, dc + s.utterances * s.hidden);
    on_threads(s, threads, [&](Share& share) {
        clear_padding(share, dgates, 4 * s.hidden);
        for (size_t step = share.steps(); step-- > 0;) {
            int count = 0;
            for (size_t u : share.utterances) {
                if (share.length(u) <= step) continue;
                float* row = from_h.data() + u * s.hidden;
                std::copy_n(dh + share.frame(u, step) * s.hidden, s.hidden, row);
                if (share.length(u) == step + 1) continue;
                share.x[static_cast<size_t>(count)] = dgates + share.frame(u, step + 1) * 4 * s.hidden;
                share.y[static_cast<size_t>(count++)] = row;
            }
            kernels.add_product(transposed, share.x.data(), count, step % 2, share.y.data());
            for (size_t u : share.utterances) {
                if (share.length(u) <= step) continue;
                size_t now = share.frame(u, step);
                const float* before = step ? c + share.frame(u, step - 1) * s.hidden : nullptr;
                kernels.cell_backward(gates + now * 4 * s.hidden, s.hidden, before, c + now * s.hidden,
                                      from_h.data() + u * s.hidden, from_c.data() + u * s.hidden,
                                      dgates + now * 4 * s.hidden);
            }
        }
    });
}

}  // namespace asr
