#include "layers.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace asr {
namespace {

constexpr size_t kRows = 64;  // windows of one product of a convolution: their codes stay in the second-level cache

void expect_same(const char* what, size_t got, size_t wanted) {
    if (got != wanted)
        throw std::invalid_argument(std::string(what) + " has " + std::to_string(got) + " elements; it must have " +
                                    std::to_string(wanted));
}

// Layers that treat every frame by itself.
class FrameLayer : public Layer {
public:
    using Layer::Layer;
    void run(const Kernels& kernels, int, const Utterances& u, size_t from, size_t to, float* const*,
             Scratch& scratch) const override {
        for (int i = 0; i < u.count; i++) {
            size_t end = std::min(to, u.out_length[i]);
            if (from < end)
                frames(kernels, u.in[i] + (from - u.in_first) * inputs, end - from,
                       u.out[i] + (from - u.out_first) * outputs, scratch);
        }
    }

private:
    virtual void frames(const Kernels&, const float* in, size_t count, float* out, Scratch&) const = 0;
};

class NormalizeLayer final : public FrameLayer {
public:
    NormalizeLayer(std::vector<float> mean, std::vector<float> scale)
        : FrameLayer(mean.size(), mean.size()), mean_(std::move(mean)), scale_(std::move(scale)) {
        expect_same("scale", scale_.size(), mean_.size());
    }

private:
    void frames(const Kernels& kernels, const float* in, size_t count, float* out, Scratch&) const override {
        for (size_t i = 0; i < count; i++)
            kernels.normalize(in + i * inputs, inputs, mean_.data(), scale_.data(), out + i * inputs);
    }
    std::vector<float> mean_, scale_;
};

class LayerNormLayer final : public FrameLayer {
public:
    LayerNormLayer(std::vector<float> weight, std::vector<float> bias, float eps)
        : FrameLayer(weight.size(), weight.size()), weight_(std::move(weight)), bias_(std::move(bias)), eps_(eps) {
        expect_same("bias", bias_.size(), weight_.size());
        if (!(eps > 0)) throw std::invalid_argument("eps must be positive");
    }

private:
    void frames(const Kernels& kernels, const float* in, size_t count, float* out, Scratch&) const override {
        for (size_t i = 0; i < count; i++)
            kernels.layer_norm(in + i * inputs, inputs, weight_.data(), bias_.data(), eps_, out + i * inputs);
    }
    std::vector<float> weight_, bias_;
    float eps_;
};

class ClampLayer final : public FrameLayer {
public:
    ClampLayer(size_t features, float low, float high) : FrameLayer(features, features), low_(low), high_(high) {}

private:
    void frames(const Kernels& kernels, const float* in, size_t count, float* out, Scratch&) const override {
        kernels.clamp(in, count * inputs, low_, high_, out);
    }
    float low_, high_;
};

// A map and a bias over contiguous rows, a few at a time.
void affine(const Kernels& kernels, const Map& map, const std::vector<float>& bias, const float* in, size_t count,
            float* out, bool backwards, Scratch& scratch) {
    size_t cols = static_cast<size_t>(map.cols), rows = static_cast<size_t>(map.rows);
    const float* pointers[kMostInputRows];
    const size_t most = input_rows(map);
    for (size_t start = 0; start < count; start += most) {
        size_t n = std::min(most, count - start);
        for (size_t i = 0; i < n; i++) pointers[i] = in + (start + i) * cols;
        map.product(kernels, pointers, static_cast<int>(n), Output{out + start * rows, rows, bias.data(), 0, backwards},
                    scratch);
    }
}

class LinearLayer final : public FrameLayer {
public:
    LinearLayer(std::unique_ptr<Map> map, std::vector<float> bias)
        : FrameLayer(static_cast<size_t>(map->cols), static_cast<size_t>(map->rows)), map_(std::move(map)),
          bias_(std::move(bias)) {
        expect_same("bias", bias_.size(), outputs);
    }
    size_t scratch_bytes() const override { return map_->scratch_bytes(kMostInputRows); }
    const Map* map() const override { return map_.get(); }

private:
    void frames(const Kernels& kernels, const float* in, size_t count, float* out, Scratch& scratch) const override {
        affine(kernels, *map_, bias_, in, count, out, false, scratch);
    }
    std::unique_ptr<Map> map_;
    std::vector<float> bias_;
};

class FrameStackLayer final : public Layer {
public:
    FrameStackLayer(size_t features, size_t stack, size_t stride)
        : Layer(features, product_of(features, stack)), stack_(stack), stride_(stride) {
        if (!stack || !stride) throw std::invalid_argument("stack and stride must be 1 or more");
    }
    size_t stride() const override { return stride_; }
    size_t span() const override { return stack_; }

    void run(const Kernels&, int, const Utterances& u, size_t from, size_t to, float* const*, Scratch&) const override {
        for (int i = 0; i < u.count; i++) {
            for (size_t t = from; t < std::min(to, u.out_length[i]); t++) {
                float* out = u.out[i] + (t - u.out_first) * outputs;
                size_t first = t * stride_;
                size_t real = first < u.in_length[i] ? std::min(stack_, u.in_length[i] - first) : 0;
                if (real) std::copy_n(u.in[i] + (first - u.in_first) * inputs, real * inputs, out);
                std::fill(out + real * inputs, out + outputs, 0.0f);
            }
        }
    }

private:
    size_t stack_, stride_;
};

class ConvLayer final : public Layer {
public:
    ConvLayer(std::unique_ptr<Map> map, std::vector<float> bias, const ConvShape& s)
        : Layer(product_of(s.bins, s.in_channels), product_of(out_bins(s), static_cast<size_t>(map->rows))),
          map_(std::move(map)), bias_(std::move(bias)), s_(s) {
        for (size_t size : {s.kernel_time, s.kernel_bins, s.stride_time, s.stride_bins, s.dilation_time,
                            s.dilation_bins, s.in_channels, s.bins})
            if (size < 1 || size > (1u << 20)) throw std::invalid_argument("a size of the convolution is out of range");
        size_t patch = product_of(product_of(s.kernel_time, s.kernel_bins), s.in_channels);
        expect_same("a patch", patch, static_cast<size_t>(map_->cols));
        expect_same("bias", bias_.size(), static_cast<size_t>(map_->rows));
    }
    size_t stride() const override { return s_.stride_time; }
    size_t before() const override { return s_.dilation_time * (s_.kernel_time - 1) / 2; }
    size_t span() const override { return s_.dilation_time * (s_.kernel_time - 1) + 1; }
    size_t scratch_bytes() const override {
        size_t cols = static_cast<size_t>(map_->cols), window = product_of(s_.kernel_time, inputs);
        size_t floats = scratch_for<float>(product_of(kRows, cols));
        size_t codes = scratch_for<int8_t>(product_of(kRows, cols + 8)) + scratch_for<int8_t>(window) +
                       scratch_for<float>(kRows);
        return std::max(floats, codes) + map_->scratch_bytes(kRows);
    }

    void run(const Kernels& kernels, int, const Utterances& u, size_t from, size_t to, float* const*,
             Scratch& scratch) const override {
        if (const Map::Quantization* quantization = map_->quantization())
            return run_quantized(kernels, *quantization, u, from, to, scratch);
        Scratch::Frame frame(scratch);
        size_t cols = static_cast<size_t>(map_->cols), rows = static_cast<size_t>(map_->rows), bins = out_bins(s_);
        float* patches = scratch.take<float>(kRows * cols);
        for (int i = 0; i < u.count; i++) {
            size_t end = std::min(to, u.out_length[i]);
            if (from >= end) continue;
            float* out = u.out[i] + (from - u.out_first) * outputs;
            size_t total = (end - from) * bins;
            for (size_t start = 0; start < total; start += kRows) {
                size_t n = std::min(kRows, total - start);
                for (size_t p = 0; p < n; p++) {
                    auto frame_at = [&](size_t tap) { return tapped(u, i, from + (start + p) / bins, tap); };
                    patch(frame_at, (start + p) % bins, 0.0f, patches + p * cols);
                }
                affine(kernels, *map_, bias_, patches, n, out + start * rows, false, scratch);
            }
        }
    }

private:
    // All that an output frame reads has one scale, so that it is quantized once for all bins of output.
    void run_quantized(const Kernels& kernels, const Map::Quantization& quantization, const Utterances& u, size_t from,
                       size_t to, Scratch& scratch) const {
        Scratch::Frame frame(scratch);
        const auto [input_scale, offset, stride] = quantization;
        const int8_t zero = static_cast<int8_t>(offset);
        size_t rows = static_cast<size_t>(map_->rows), bins = out_bins(s_);
        int8_t* patches = scratch.take<int8_t>(kRows * stride);
        int8_t* window = scratch.take<int8_t>(s_.kernel_time * inputs);
        float* scales = scratch.take<float>(kRows);
        std::fill_n(patches, kRows * stride, zero);  // what lies between the columns and the stride
        for (int i = 0; i < u.count; i++) {
            size_t end = std::min(to, u.out_length[i]), filled = 0;
            if (from >= end) continue;
            float* out = u.out[i] + (from - u.out_first) * outputs;
            auto multiply = [&] {
                map_->product_of_codes(kernels, patches, scales, static_cast<int>(filled),
                                       Output{out, rows, bias_.data(), 0, false}, scratch);
                out += filled * rows;
                filled = 0;
            };
            for (size_t t = from; t < end; t++) {
                float scale = quantized_window(kernels, quantization, u, i, t, window);
                for (size_t bin = 0; bin < bins; bin++) {
                    patch([&](size_t tap) { return window + tap * inputs; }, bin, zero, patches + filled * stride);
                    scales[filled++] = scale;
                    if (filled == kRows) multiply();
                }
            }
            if (filled) multiply();
        }
    }

    // Codes of the frames that output t reads, (kernel_time, inputs), zeros outside of the utterance; their scale.
    float quantized_window(const Kernels& kernels, const Map::Quantization& quantization, const Utterances& u, int i,
                           size_t t, int8_t* window) const {
        float scale = quantization.input_scale;
        if (scale == 0) {
            float largest = 0;
            for (size_t tap = 0; tap < s_.kernel_time; tap++)
                if (const float* x = tapped(u, i, t, tap)) largest = std::max(largest, kernels.largest(x, inputs));
            scale = scale_of(largest);
        }
        for (size_t tap = 0; tap < s_.kernel_time; tap++, window += inputs) {
            if (const float* x = tapped(u, i, t, tap))
                kernels.quantize(x, inputs, scale, quantization.offset, window, inputs, &scale);
            else
                std::fill_n(window, inputs, static_cast<int8_t>(quantization.offset));
        }
        return scale;
    }

    // The frame that output t reads at a tap of the kernel; null outside of the utterance.
    const float* tapped(const Utterances& u, int i, size_t t, size_t tap) const {
        size_t time = t * s_.stride_time + tap * s_.dilation_time;  // shifted by the padding
        if (time < before() || time - before() >= u.in_length[i]) return nullptr;
        return u.in[i] + (time - before() - u.in_first) * inputs;
    }

    static size_t out_bins(const ConvShape& s) { return s.stride_bins ? (s.bins + s.stride_bins - 1) / s.stride_bins : 0; }

    // The inputs of one output position: (kernel_time, kernel_bins, in_channels). frame_at(tap) may be null, of zeros.
    template <class T, class FrameAt>
    void patch(const FrameAt& frame_at, size_t bin, T zero, T* to) const {
        for (size_t tap = 0; tap < s_.kernel_time; tap++) {
            const T* from = frame_at(tap);
            if (from && s_.dilation_bins == 1) {
                neighbors(from, bin, zero, to);
                to += s_.kernel_bins * s_.in_channels;
                continue;
            }
            size_t padding = s_.dilation_bins * (s_.kernel_bins - 1) / 2;
            for (size_t kf = 0; kf < s_.kernel_bins; kf++, to += s_.in_channels) {
                size_t f = bin * s_.stride_bins + kf * s_.dilation_bins;
                if (from && f >= padding && f - padding < s_.bins)
                    std::copy_n(from + (f - padding) * s_.in_channels, s_.in_channels, to);
                else
                    std::fill_n(to, s_.in_channels, zero);
            }
        }
    }

    // A frame's neighboring bins, which lie side by side, and zeros beyond the first and the last.
    template <class T>
    void neighbors(const T* frame, size_t bin, T zero, T* to) const {
        size_t padding = (s_.kernel_bins - 1) / 2, start = bin * s_.stride_bins, end = start + s_.kernel_bins;
        if (start >= padding && end - padding <= s_.bins)
            return copy_few(frame + (start - padding) * s_.in_channels, s_.kernel_bins * s_.in_channels, to);
        size_t first = std::clamp(padding, start, end), last = std::clamp(s_.bins + padding, first, end);
        std::fill_n(to, (first - start) * s_.in_channels, zero);
        std::copy_n(frame + (first - padding) * s_.in_channels, (last - first) * s_.in_channels,
                    to + (first - start) * s_.in_channels);
        std::fill_n(to + (last - start) * s_.in_channels, (end - last) * s_.in_channels, zero);
    }

    // A dozen bytes are sooner copied than the library is called for it: the first eight, then the last.
    template <class T>
    static void copy_few(const T* from, size_t count, T* to) {
        constexpr size_t eight = 8 / sizeof(T);
        if (count < eight || count > 2 * eight) {
            std::copy_n(from, count, to);
            return;
        }
        std::memcpy(to, from, 8);
        std::memcpy(to + count - eight, from + count - eight, 8);
    }

    std::unique_ptr<Map> map_;
    std::vector<float> bias_;
    ConvShape s_;
};

}  // namespace

std::unique_ptr<Layer> normalize_layer(std::vector<float> mean, std::vector<float> scale) {
    return std::make_unique<NormalizeLayer>(std::move(mean), std::move(scale));
}
std::unique_ptr<Layer> layer_norm_layer(std::vector<float> weight, std::vector<float> bias, float eps) {
    return std::make_unique<LayerNormLayer>(std::move(weight), std::move(bias), eps);
}
std::unique_ptr<Layer> clamp_layer(size_t features, float low, float high) {
    return std::make_unique<ClampLayer>(features, low, high);
}
std::unique_ptr<Layer> linear_layer(std::unique_ptr<Map> map, std::vector<float> bias) {
    return std::make_unique<LinearLayer>(std::move(map), std::move(bias));
}
std::unique_ptr<Layer> frame_stack_layer(size_t features, size_t stack, size_t stride) {
    return std::make_unique<FrameStackLayer>(features, stack, stride);
}
std::unique_ptr<Layer> conv_layer(std::unique_ptr<Map> map, std::vector<float> bias, const ConvShape& shape) {
    return std::make_unique<ConvLayer>(std::move(map), std::move(bias), shape);
}

}  // namespace asr
