// log_mel for Python, described in runtime/features.py, which is the only caller.
#include "bindings.h"
#include "kernels.h"
#include "memory.h"

namespace asr {
namespace {

void expect(bool right, const char* what) {
    if (!right) throw std::invalid_argument(what);
}

// The tables as views of their buffers, checked against each other.
struct Tables {
    View window, circle, first, count, weights;
    MelBank bank;

    Tables(PyObject* const (&objects)[5], Py_ssize_t shift, double preemphasis, double floor)
        : window(objects[0]), circle(objects[1]), first(objects[2]), count(objects[3]), weights(objects[4]) {
        Array<float> points = circle.floats("circle"), under = weights.floats("weights");
        Array<uint32_t> starts = first.as<uint32_t>("first", 'I'), counts = count.as<uint32_t>("count", 'I');
        Array<float> values = window.floats("window");
        bank = {values.count, static_cast<size_t>(shift), points.count / 2, starts.count,
                static_cast<float>(preemphasis), static_cast<float>(1 - preemphasis),
                values.data, points.data, starts.data, counts.data, under.data, static_cast<float>(floor)};
        size_t fft_length = bank.fft_length;
        expect(shift > 0, "shift must be 1 or more");
        expect(points.count % 2 == 0 && fft_length >= 2 && (fft_length & (fft_length - 1)) == 0 &&
                   fft_length <= (1u << 24),
               "circle must have a power of two of complex points, 2 or more");
        expect(bank.length >= 1 && bank.length <= fft_length, "window must have 1 number or more, and fit the circle");
        expect(bank.bins >= 1 && bank.bins <= (1u << 24) && counts.count == bank.bins,
               "first and count must have a number for each bin");
        size_t total = 0;
        for (size_t bin = 0; bin < bank.bins; bin++) {
            expect(starts.data[bin] <= fft_length / 2 && counts.data[bin] <= fft_length / 2 - starts.data[bin],
                   "a triangle lies beyond the spectrum");
            total += counts.data[bin];
        }
        expect(total == under.count, "weights must have a number for each spectrum bin under a triangle");
    }
};

PyObject* log_mel(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const char* name;
        PyObject *samples, *output, *objects[5];
        Py_ssize_t shift;
        double preemphasis, floor;
        if (!PyArg_ParseTuple(args, "sOnddOOOOOO", &name, &samples, &shift, &preemphasis, &floor, &objects[0],
                              &objects[1], &objects[2], &objects[3], &objects[4], &output))
            throw PythonError();
        const Kernels* kernels = select_kernels(name);
        expect(kernels, "this machine has no such instruction set; see available()");
        View samples_view(samples), output_view(output, true);
        Array<float> wave = samples_view.floats("samples"), out = output_view.floats("the output");
        Tables tables(objects, shift, preemphasis, floor);
        const MelBank& bank = tables.bank;
        size_t frames = out.count / bank.bins;
        expect(frames * bank.bins == out.count, "the output is not a whole number of frames");
        expect(frames == 0 || (wave.count >= bank.length && (wave.count - bank.length) / bank.shift >= frames - 1),
               "the output has more frames than the samples have windows");
        Scratch scratch(scratch_for<float>(bank.scratch()));
        float* numbers = scratch.take<float>(bank.scratch());
        without_gil([&] { kernels->log_mel(bank, wave.data, frames, numbers, const_cast<float*>(out.data)); });
        return Py_NewRef(Py_None);
    });
}

PyMethodDef functions[] = {
    {"log_mel", log_mel, METH_VARARGS,
     "log_mel(instruction_set, samples, shift, preemphasis, floor, window, circle, first, count, weights, output)."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool add_features(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace asr
