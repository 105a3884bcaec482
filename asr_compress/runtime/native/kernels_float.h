// The float functions of runtime/arithmetic.py, part of kernels_impl.h: the LSTM cell, normalization, quantization of rows.
#pragma once

namespace {

constexpr float kExpLimit = 29.0f;
constexpr float kLog2E = 1.44269504f;
constexpr float kCodeMax = 127.0f;

// exp(x[n] * factor[n]) with x * factor clamped to +-29, for factors that are plus or minus a power of two. Several at
// once and operation by operation: one alone is a chain of ten, and a processor does not look far enough ahead to
// overlap chains that stand behind each other.
template <int N>
inline __attribute__((always_inline)) void exp_of(F (&x)[N], const float (&factor)[N]) {
    F power[N], p[N];
    UNROLL for (int n = 0; n < N; n++) x[n] = within(x[n], kExpLimit / (factor[n] < 0 ? -factor[n] : factor[n]));
    UNROLL for (int n = 0; n < N; n++) x[n] = mul(x[n], splat(factor[n] * kLog2E));
    UNROLL for (int n = 0; n < N; n++) x[n] = split(x[n], power[n]);
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(splat(0x1.5bfc8ep-10f), x[n], splat(0x1.3cee4cp-7f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(0x1.c6b62ap-5f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(0x1.ebf9b2p-3f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(0x1.62e42cp-1f));
    UNROLL for (int n = 0; n < N; n++) p[n] = multiply_add(p[n], x[n], splat(1.0f));
    UNROLL for (int n = 0; n < N; n++) x[n] = scale_by_power(p[n], power[n]);
}

inline F exp_of(F x, float factor) {
    F one[1] = {x};
    const float factors[1] = {factor};
    exp_of(one, factors);
    return one[0];
}

// y[i] = operation(i-th sixteen of x), the last ones fewer. Two at a time: their operations overlap.
template <class Operation>
inline void each_sixteen(size_t cols, float* y, Operation operation) {
    size_t i = 0;
    for (; i + 2 * kLanes <= cols; i += 2 * kLanes) {
        F first = operation([&](const float* p) { return load(p + i); });
        F second = operation([&](const float* p) { return load(p + i + kLanes); });
        store(y + i, first);
        store(y + i + kLanes, second);
    }
    for (; i + kLanes <= cols; i += kLanes) store(y + i, operation([&](const float* p) { return load(p + i); }));
    if (i < cols)
        store_n(y + i, operation([&](const float* p) { return load_n(p + i, cols - i); }), cols - i);
}

// As each_sixteen, for operations that want W sixteens at once: operation(at, y) with at(x, w) the w-th of them.
template <int W, class Operation>
inline void each_sixteens(size_t cols, float* y, const Operation& operation) {
    size_t i = 0;
    for (; i + W * kLanes <= cols; i += W * kLanes) {
        F result[W];
        operation([&](const float* p, int w) { return load(p + i + w * kLanes); }, result);
        UNROLL for (int w = 0; w < W; w++) store(y + i + w * kLanes, result[w]);
    }
    for (; i < cols; i += kLanes) {
        size_t left = cols - i < kLanes ? cols - i : kLanes;
        F result[1];
        operation([&](const float* p, int) { return load_n(p + i, left); }, result);
        store_n(y + i, result[0], left);
    }
}

struct NextCell {
    const float *i, *f, *g, *c;

    template <int W, class At>
    void operator()(At at, F (&y)[W]) const {
        F one = splat(1.0f), e[3 * W];
        float factors[3 * W];
        UNROLL for (int w = 0; w < W; w++) {
            e[w] = at(i, w), e[W + w] = at(f, w), e[2 * W + w] = at(g, w);
            factors[w] = factors[W + w] = -1.0f, factors[2 * W + w] = -2.0f;
        }
        exp_of(e, factors);
        UNROLL for (int w = 0; w < W; w++) {
            F a = mul(add(one, e[w]), add(one, e[2 * W + w])), b = add(one, e[W + w]);
            y[w] = div(add(mul(at(c, w), a), mul(sub(one, e[2 * W + w]), b)), mul(a, b));
        }
    }
};

struct NextOutput {
    const float *o, *c;
    F* largest;  // [kCells] magnitudes of what was put out so far

    template <int W, class At>
    void operator()(At at, F (&y)[W]) const {
        F one = splat(1.0f), e[2 * W];
        float factors[2 * W];
        UNROLL for (int w = 0; w < W; w++) {
            e[w] = at(o, w), e[W + w] = at(c, w);
            factors[w] = -1.0f, factors[W + w] = -2.0f;
        }
        exp_of(e, factors);
        UNROLL for (int w = 0; w < W; w++)
            y[w] = div(sub(one, e[W + w]), mul(add(one, e[w]), add(one, e[W + w])));
        UNROLL for (int w = 0; w < W; w++) largest[w] = max(largest[w], abs(y[w]));
    }
};

// Two passes, because the exponentials of the second need the division of the first.
float lstm_cell(const float* gates, size_t hidden, float* c, float* h) {
    const float *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
    F most[kCells];
    UNROLL for (int w = 0; w < kCells; w++) most[w] = splat(0.0f);
    each_sixteens<kCells>(hidden, c, NextCell{i, f, g, c});
    each_sixteens<kCells>(hidden, h, NextOutput{o, c, most});
    UNROLL for (int w = 1; w < kCells; w++) most[0] = max(most[0], most[w]);
    return reduce_max(most[0]);
}

inline float lane_sum(const float* x, size_t cols, bool squares) {
    F sum = splat(0.0f);
    for (size_t i = 0; i < cols; i += kLanes) {
        F value = i + kLanes <= cols ? load(x + i) : load_n(x + i, cols - i);
        sum = add(sum, squares ? mul(value, value) : value);
    }
    float lane[kLanes];
    store(lane, sum);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

void layer_norm(const float* x, size_t cols, const float* weight, const float* bias, float eps, float* y) {
    F mean = splat(lane_sum(x, cols, false) / static_cast<float>(cols));
    each_sixteen(cols, y, [&](auto at) { return sub(at(x), mean); });
    float variance = lane_sum(y, cols, true) / static_cast<float>(cols);
    F inverse = splat(1.0f / __builtin_sqrtf(variance + eps));
    each_sixteen(cols, y, [&](auto at) { return add(mul(mul(at(y), inverse), at(weight)), at(bias)); });
}

void normalize(const float* x, size_t cols, const float* mean, const float* scale, float* y) {
    each_sixteen(cols, y, [&](auto at) { return mul(sub(at(x), at(mean)), at(scale)); });
}

void clamp(const float* x, size_t count, float low, float high, float* y) {
    each_sixteen(count, y, [&](auto at) { return min(max(at(x), splat(low)), splat(high)); });
}

// The largest magnitude. Four at once, because each alone waits for the comparison before.
float largest(const float* x, size_t cols) {
    F most[4];
    UNROLL for (int n = 0; n < 4; n++) most[n] = splat(0.0f);
    size_t i = 0;
    for (; i + 4 * kLanes <= cols; i += 4 * kLanes) {
        UNROLL for (int n = 0; n < 4; n++) most[n] = max(most[n], abs(load(x + i + n * kLanes)));
    }
    for (; i + kLanes <= cols; i += kLanes) most[0] = max(most[0], abs(load(x + i)));
    if (i < cols) most[1] = max(most[1], abs(load_n(x + i, cols - i)));
    return reduce_max(max(max(most[0], most[1]), max(most[2], most[3])));
}

void quantize(const float* x, size_t cols, float fixed_scale, uint8_t offset, int8_t* codes, size_t padded,
              float* scale) {
    if (fixed_scale > 0) {
        *scale = fixed_scale;
    } else {
        *scale = scale_of(largest(x, cols));
    }
    F inverse = splat(1.0f / *scale);
    size_t i = 0;
    for (; i + 4 * kLanes <= cols; i += 4 * kLanes) {
        F scaled[4];
        UNROLL for (int n = 0; n < 4; n++) scaled[n] = within(mul(load(x + i + n * kLanes), inverse), kCodeMax);
        store_codes(codes + i, scaled, offset);
    }
    for (; i + kLanes <= cols; i += kLanes)
        store_codes(codes + i, within(mul(load(x + i), inverse), kCodeMax), offset);
    if (i == padded) return;
    int8_t last[kLanes];
    store_codes(last, within(mul(load_n(x + i, cols - i), inverse), kCodeMax), offset);
    for (size_t l = 0; i < padded; i++, l++) codes[i] = l < kLanes ? last[l] : static_cast<int8_t>(offset);
}

}  // namespace
