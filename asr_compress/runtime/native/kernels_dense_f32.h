// Dense float32, part of kernels_impl.h.
#pragma once

namespace {

// Some columns of a panel: few enough to stay in the nearest cache while all rows meet them.
struct DenseF32Tile {
    const DenseF32 w;
    const float* const* const x;
    const Output out;
    float (*const sums)[kPanelRows];  // of the columns before, a row of activations after the other
    const int from, to;

    template <int ROWS>
    void run(int panel, int first) const {
        each_group<strips_for(ROWS)>(w.rows - panel * kPanelRows, [&](auto strips, int strip) {
            this->template down<ROWS, strips.count>(panel, strip, first);
        });
    }

    template <int ROWS, int STRIPS>
    void down(int panel, int strip, int first) const {
        const float* tile = w.tiles + ((static_cast<size_t>(panel) * w.cols + from) * kStrips + strip) * kLanes;
        const float* rows[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) rows[r] = x[first + r];
        F sum[STRIPS][ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            UNROLL for (int s = 0; s < STRIPS; s++)
                sum[s][r] = from ? load(sums[first + r] + (strip + s) * kLanes) : splat(0.0f);
        }
        for (int k = from; k < to; k++, tile += kPanelRows) {
            F weights[STRIPS];
            UNROLL for (int s = 0; s < STRIPS; s++) weights[s] = load(tile + s * kLanes);
            UNROLL for (int r = 0; r < ROWS; r++) {
                F value = splat(rows[r][k]);
                UNROLL for (int s = 0; s < STRIPS; s++) sum[s][r] = multiply_add(value, weights[s], sum[s][r]);
            }
        }
        if (to < w.cols) {
            UNROLL for (int r = 0; r < ROWS; r++) {
                UNROLL for (int s = 0; s < STRIPS; s++) store(sums[first + r] + (strip + s) * kLanes, sum[s][r]);
            }
            return;
        }
        int row = panel * kPanelRows + strip * kLanes;
        UNROLL for (int s = 0; s < STRIPS; s++) finish(sum[s], out, first, row + s * kLanes, w.rows);
    }
};

constexpr int kFloatMost = 48;  // rows of activations that meet a panel together

void dense_f32(const DenseF32& w, const float* const* x, int count, const Output& out) {
    if (count > kFloatMost) {
        Output others = out;
        others.out += kFloatMost * out.stride;
        if (out.add) others.add += kFloatMost * out.add_stride;
        dense_f32(w, x + kFloatMost, count - kFloatMost, others);
        count = kFloatMost;
    }
    alignas(64) float sums[kFloatMost][kPanelRows];
    const Tiles tiles = Tiles::of_nearly_equal_height(count, kDenseRows);
    const int depth = tiles.count > 1 ? kFloatDepth : w.cols;
    for (int i = 0; i < w.panels; i++) {
        int from = 0;
        do {
            int to = w.cols - from > depth ? from + depth : w.cols;
            DenseF32Tile body{w, x, out, sums, from, to};
            for (int tile = 0, first = 0; tile < tiles.count; first += tiles.height(tile++))
                with_height<kDenseRows>(tiles.height(tile), body, out.backwards ? w.panels - 1 - i : i, first);
            from = to;
        } while (from < w.cols);
    }
}

}  // namespace
