// A step of an LSTM forward and backward in float32, part of kernels_impl.h. Unlike the engine's arithmetic, that of
// training need not agree between instruction sets to the last bit: products round once where the machine can.
#pragma once

namespace {

struct AddProductTile {
    const DenseF32 w;
    const float* const* const x;
    float* const* const out;

    template <int ROWS>
    void run(int panel, int first) const {
        constexpr int strips = strips_for(ROWS);
        for (int strip = 0; strip < kStrips; strip += strips) down<ROWS, strips>(panel, strip, first);
    }

    template <int ROWS, int STRIPS>
    void down(int panel, int strip, int first) const {
        int start = panel * kPanelRows + strip * kLanes;
        if (start >= w.rows) return;
        const float* tile = w.tiles + (static_cast<size_t>(panel) * w.cols * kStrips + strip) * kLanes;
        const float* rows[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) rows[r] = x[first + r];
        F sum[STRIPS][ROWS];
        UNROLL for (int s = 0; s < STRIPS; s++) {
            UNROLL for (int r = 0; r < ROWS; r++) sum[s][r] = splat(0.0f);
        }
        for (int k = 0; k < w.cols; k++, tile += kPanelRows) {
            F weights[STRIPS];
            UNROLL for (int s = 0; s < STRIPS; s++) weights[s] = load(tile + s * kLanes);
            UNROLL for (int r = 0; r < ROWS; r++) {
                F value = splat(rows[r][k]);
                UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = about_multiply_add(value, weights[s], sum[s][r]);
            }
        }
        UNROLL for (int s = 0; s < STRIPS; s++) {
            int row = start + s * kLanes, left = w.rows - row;
            if (left >= kLanes) {
                UNROLL for (int r = 0; r < ROWS; r++) {
                    float* y = out[first + r] + row;
                    store(y, add(load(y), sum[s][r]));
                }
            } else if (left > 0) {
                size_t n = static_cast<size_t>(left);
                UNROLL for (int r = 0; r < ROWS; r++) {
                    float* y = out[first + r] + row;
                    store_n(y, add(load_n(y, n), sum[s][r]), n);
                }
            }
        }
    }
};

void add_product(const DenseF32& w, const float* const* x, int count, bool backwards, float* const* out) {
    each<kDenseRows>(w.panels, Tiles::of_nearly_equal_height(count, kDenseRows), backwards, AddProductTile{w, x, out});
}

inline F sigmoid_of(F x) {
    F one = splat(1.0f);
    return reciprocal(add(one, exp_of(x, -1.0f)));
}

inline F tanh_of(F x) {
    F one = splat(1.0f), e = exp_of(x, -2.0f);
    return mul(sub(one, e), reciprocal(add(one, e)));
}

void cell_forward(float* gates, size_t hidden, const float* before, float* c, float* h) {
    float *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
    each_sixteen(2 * hidden, i, [&](auto at) { return sigmoid_of(at(i)); });
    each_sixteen(hidden, g, [&](auto at) { return tanh_of(at(g)); });
    each_sixteen(hidden, o, [&](auto at) { return sigmoid_of(at(o)); });
    each_sixteen(hidden, c, [&](auto at) {
        F fresh = mul(at(i), at(g));
        return before ? about_multiply_add(at(f), at(before), fresh) : fresh;
    });
    each_sixteen(hidden, h, [&](auto at) { return mul(at(o), tanh_of(at(c))); });
}

void cell_backward(const float* gates, size_t hidden, const float* before, const float* c, const float* dh, float* dc,
                   float* dgates) {
    const float *i = gates, *f = i + hidden, *g = f + hidden, *o = g + hidden;
    float *di = dgates, *df = di + hidden, *dg = df + hidden, *d_o = dg + hidden;
    F one = splat(1.0f);
    auto rising = [&](F y) { return mul(y, sub(one, y)); };  // the derivative of a sigmoid, by its value
    // tanh(c) stands in dg until its place is needed.
    each_sixteen(hidden, dg, [&](auto at) { return tanh_of(at(c)); });
    each_sixteen(hidden, d_o, [&](auto at) { return mul(mul(at(dh), at(dg)), rising(at(o))); });
    each_sixteen(hidden, dc, [&](auto at) {
        F bent = sub(one, mul(at(dg), at(dg)));
        return about_multiply_add(mul(at(dh), at(o)), bent, at(dc));
    });
    each_sixteen(hidden, di, [&](auto at) { return mul(mul(at(dc), at(g)), rising(at(i))); });
    each_sixteen(hidden, df, [&](auto at) {
        return before ? mul(mul(at(dc), at(before)), rising(at(f))) : splat(0.0f);
    });
    each_sixteen(hidden, dg, [&](auto at) { return mul(mul(at(dc), at(i)), sub(one, mul(at(g), at(g)))); });
    each_sixteen(hidden, dc, [&](auto at) { return mul(at(dc), at(f)); });
}

}  // namespace
