// Log-mel energies, part of kernels_impl.h: sixteen windows at a time, one in each lane, so that the Fourier transform
// is the same few additions and multiplications on whole vectors, without a shuffle.
#pragma once

namespace {

struct Complex { F re, im; };

inline Complex at(const float* z, size_t k) { return {load(z + 2 * k * kLanes), load(z + (2 * k + 1) * kLanes)}; }
inline void put(float* z, size_t k, Complex v) {
    store(z + 2 * k * kLanes, v.re);
    store(z + (2 * k + 1) * kLanes, v.im);
}
inline Complex operator+(Complex a, Complex b) { return {add(a.re, b.re), add(a.im, b.im)}; }
inline Complex operator-(Complex a, Complex b) { return {sub(a.re, b.re), sub(a.im, b.im)}; }
inline Complex turned(Complex a) { return {sub(splat(0.0f), a.im), a.re}; }  // i * a
inline Complex times(Complex a, const float* w) {
    F re = splat(w[0]), im = splat(w[1]);
    return {sub(mul(a.re, re), mul(a.im, im)), add(mul(a.re, im), mul(a.im, re))};
}

// One pass of Stockham's transform by fours: size / 4 butterflies on each of `step` interleaved sequences of `size`.
inline void pass_of_four(const float* x, float* y, size_t size, size_t step, const float* circle, size_t turn) {
    size_t quarter = size / 4;
    for (size_t p = 0; p < quarter; p++) {
        const float* w = circle + 2 * p * turn;
        for (size_t q = 0; q < step; q++) {
            const float* from = x + 2 * kLanes * (q + step * p);
            float* to = y + 2 * kLanes * (q + step * 4 * p);
            Complex a = at(from, 0), b = at(from, step * quarter);
            Complex c = at(from, 2 * step * quarter), d = at(from, 3 * step * quarter);
            Complex sum = a + c, difference = a - c, other = b + d, cross = turned(b - d);
            put(to, 0, sum + other);
            put(to, step, times(difference - cross, w));
            put(to, 2 * step, times(sum - other, w + 2 * p * turn));
            put(to, 3 * step, times(difference + cross, w + 4 * p * turn));
        }
    }
}

// The discrete Fourier transform of `size` complex numbers in each lane; z and spare [size][2][16], the result in the
// one that is returned. Stockham's order needs no reversal of bits. `circle` has circle_length points.
inline float* transform(float* z, float* spare, size_t size, const float* circle, size_t circle_length) {
    size_t step = 1;
    for (; size >= 4; size /= 4, step *= 4) {
        pass_of_four(z, spare, size, step, circle, circle_length / size);
        float* done = spare;
        spare = z;
        z = done;
    }
    if (size == 2) {
        for (size_t q = 0; q < step; q++) {
            Complex a = at(z, q), b = at(z, q + step);
            put(spare, q, a + b);
            put(spare, q + step, a - b);
        }
        return spare;
    }
    return z;
}

inline F squared(Complex a) { return add(mul(a.re, a.re), mul(a.im, a.im)); }

// Power of the first `half` bins of the spectrum of 2 * half real numbers, from the transform of their pairs.
inline void power_of(const float* z, size_t half, const float* circle, float* power) {
    Complex first = at(z, 0);
    F mean = add(first.re, first.im);
    store(power, mul(mean, mean));
    F half_of = splat(0.5f);
    for (size_t k = 1; k <= half / 2; k++) {
        Complex a = at(z, k), b = at(z, half - k);
        Complex even = {mul(add(a.re, b.re), half_of), mul(sub(a.im, b.im), half_of)};
        Complex odd = {mul(add(a.im, b.im), half_of), mul(sub(b.re, a.re), half_of)};
        odd = times(odd, circle + 2 * k);
        store(power + k * kLanes, squared(even + odd));
        store(power + (half - k) * kLanes, squared(even - odd));
    }
}

// log x of normal positive numbers: x = m * 2**e with m next to 1, log m = 2 atanh((m - 1) / (m + 1)) as a series.
// What is not finite stays not finite.
inline F log_of(F x) {
    float lanes[kLanes], exponents[kLanes];
    int32_t bits[kLanes];
    store(lanes, x);
    __builtin_memcpy(bits, lanes, sizeof bits);
    for (int l = 0; l < kLanes; l++) {
        int32_t exponent = (bits[l] - 0x3F3504F3) >> 23;  // of sqrt(1/2)
        exponents[l] = static_cast<float>(exponent);
        bits[l] -= exponent * (1 << 23);
    }
    __builtin_memcpy(lanes, bits, sizeof lanes);
    F m = load(lanes), e = load(exponents), one = splat(1.0f);
    F s = div(sub(m, one), add(m, one)), s2 = mul(s, s);
    F series = add(mul(splat(2.0f / 9), s2), splat(2.0f / 7));
    series = add(mul(series, s2), splat(2.0f / 5));
    series = add(mul(series, s2), splat(2.0f / 3));
    F log_m = add(mul(s, splat(2.0f)), mul(mul(series, s2), s));
    // log 2 in two parts, the first with so few bits that its product with e is exact.
    F result = add(mul(e, splat(0x1.62ep-1f)), add(mul(e, splat(0x1.0bfbe8p-15f)), log_m));
    return add(result, sub(x, x));
}

// One window: scaled to 16 bits, mean removed, pre-emphasized, weighted. Removing the mean first equals removing
// (1 - preemphasis) of it afterwards. The first sample, which would need the one before, has weight 0.
inline void weigh(const MelBank& bank, const float* x, float* y) {
    F scale = splat(32768.0f), emphasis = splat(bank.preemphasis);
    float mean = lane_sum(x, bank.length, false) * 32768.0f / static_cast<float>(bank.length);
    F offset = splat(mean * bank.complement);
    y[0] = 0.0f;
    size_t i = 1;
    for (; i + kLanes <= bank.length; i += kLanes) {
        F emphasized = sub(mul(load(x + i), scale), mul(mul(load(x + i - 1), scale), emphasis));
        store(y + i, mul(sub(emphasized, offset), load(bank.window + i)));
    }
    if (size_t left = bank.length - i) {
        F emphasized = sub(mul(load_n(x + i, left), scale), mul(mul(load_n(x + i - 1, left), scale), emphasis));
        store_n(y + i, mul(sub(emphasized, offset), load_n(bank.window + i, left)), left);
    }
}

inline void mel_of(const MelBank& bank, const float* power, float* energies) {
    const float* weights = bank.weights;
    F floor = splat(bank.floor);
    for (size_t bin = 0; bin < bank.bins; bin++) {
        F sum = splat(0.0f);
        const float* p = power + bank.first[bin] * kLanes;
        for (uint32_t k = 0; k < bank.count[bin]; k++, p += kLanes) sum = add(sum, mul(splat(*weights++), load(p)));
        store(energies + bin * kLanes, log_of(max(floor, sum)));
    }
}

void log_mel(const MelBank& bank, const float* samples, size_t frames, float* scratch, float* out) {
    size_t numbers = bank.fft_length * kLanes;
    float *rows = scratch, *z = rows + numbers, *spare = z + numbers, *energies = spare + numbers;
    __builtin_memset(rows, 0, numbers * sizeof(float));
    for (size_t start = 0; start < frames; start += kLanes) {
        size_t count = frames - start < kLanes ? frames - start : kLanes;
        for (size_t l = 0; l < count; l++)
            weigh(bank, samples + (start + l) * bank.shift, rows + l * bank.fft_length);
        for (int l = 0; l < kLanes; l += 4)  // from one window a row to one a lane
            pack_four(reinterpret_cast<const int8_t*>(rows + l * bank.fft_length), bank.fft_length * sizeof(float),
                      bank.fft_length, reinterpret_cast<int8_t*>(z), kLanes, l);
        const float* done = transform(z, spare, bank.fft_length / 2, bank.circle, bank.fft_length);
        float* power = done == z ? spare : z;
        power_of(done, bank.fft_length / 2, bank.circle, power);
        mel_of(bank, power, energies);
        for (size_t l = 0; l < count; l++)
            for (size_t bin = 0; bin < bank.bins; bin++)
                out[(start + l) * bank.bins + bin] = energies[bin * kLanes + l];
    }
}

}  // namespace
