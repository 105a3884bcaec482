// Training's steps for Python, described in models/lstm_training.py, which is the only caller.
#include <algorithm>

#include "bindings.h"
#include "kernels.h"
#include "training.h"

namespace asr {
namespace {

void expect(bool right, const char* what) {
    if (!right) throw std::invalid_argument(what);
}

const Kernels& kernels_named(const char* name) {
    const Kernels* kernels = select_kernels(name);
    expect(kernels, "this machine has no such instruction set; see available()");
    return *kernels;
}

// A batch and its weights, checked against each other. Weights lie in panels of 64 rows, [panel][column][row].
struct Batch {
    View lengths_view, panels_view;
    Sequences sequences;
    DenseF32 weights;

    Batch(PyObject* lengths, PyObject* panels, Py_ssize_t frames, Py_ssize_t hidden, bool reverse, int rows, int cols)
        : lengths_view(lengths), panels_view(panels) {
        expect(frames >= 0 && hidden >= 1 && hidden <= (1 << 16), "frames must be 0 or more, hidden 1 to 65536");
        Array<int64_t> all = lengths_view.as<int64_t>("lengths", 'l');
        for (size_t u = 0; u < all.count; u++)
            expect(all.data[u] >= 0 && all.data[u] <= frames, "lengths must be 0 to the number of frames");
        sequences = {all.count, static_cast<size_t>(frames), static_cast<size_t>(hidden), all.data, reverse};
        Array<float> tiles = panels_view.floats("panels");
        int count = (rows + kPanelRows - 1) / kPanelRows;
        expect(tiles.count == product_of(product_of(static_cast<size_t>(count), static_cast<size_t>(cols)), kPanelRows),
               "panels must hold the recurrent map in whole panels of 64 rows");
        weights = {rows, cols, count, tiles.data};
    }
    float* frames_of(const View& view, const char* what, size_t width) const {
        Array<float> values = view.floats(what);
        expect(values.count == product_of(product_of(sequences.utterances, sequences.frames), width), what);
        return const_cast<float*>(values.data);
    }
};

PyObject* lstm_forward(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const char* name;
        int threads, reverse;
        Py_ssize_t frames, hidden;
        PyObject *lengths, *panels, *gates, *h, *c;
        if (!PyArg_ParseTuple(args, "sipOnnOOOO", &name, &threads, &reverse, &lengths, &frames, &hidden, &panels, &gates,
                              &h, &c))
            throw PythonError();
        const Kernels& kernels = kernels_named(name);
        int width = static_cast<int>(std::min<Py_ssize_t>(hidden, 1 << 16));
        Batch batch(lengths, panels, frames, hidden, reverse, 4 * width, width);
        View gates_view(gates, true), h_view(h, true), c_view(c, true);
        size_t units = batch.sequences.hidden;
        float* gate = batch.frames_of(gates_view, "gates must be (utterances, frames, 4 * hidden)", 4 * units);
        float* output = batch.frames_of(h_view, "h must be (utterances, frames, hidden)", units);
        float* cell = batch.frames_of(c_view, "c must be (utterances, frames, hidden)", units);
        without_gil([&] {
            train_forward(kernels, batch.sequences, batch.weights, threads, gate, output, cell);
        });
        return Py_NewRef(Py_None);
    });
}

PyObject* lstm_backward(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const char* name;
        int threads, reverse;
        Py_ssize_t frames, hidden;
        PyObject *lengths, *panels, *gates, *c, *dh, *dc, *dgates;
        if (!PyArg_ParseTuple(args, "sipOnnOOOOOO", &name, &threads, &reverse, &lengths, &frames, &hidden, &panels,
                              &gates, &c, &dh, &dc, &dgates))
            throw PythonError();
        const Kernels& kernels = kernels_named(name);
        int width = static_cast<int>(std::min<Py_ssize_t>(hidden, 1 << 16));
        Batch batch(lengths, panels, frames, hidden, reverse, width, 4 * width);
        View gates_view(gates), c_view(c), dh_view(dh), dc_view(dc), dgates_view(dgates, true);
        size_t units = batch.sequences.hidden;
        const float* gate = batch.frames_of(gates_view, "gates must be (utterances, frames, 4 * hidden)", 4 * units);
        const float* cell = batch.frames_of(c_view, "c must be (utterances, frames, hidden)", units);
        const float* slope = batch.frames_of(dh_view, "dh must be (utterances, frames, hidden)", units);
        float* result = batch.frames_of(dgates_view, "dgates must be (utterances, frames, 4 * hidden)", 4 * units);
        Array<float> last = dc_view.floats("dc");
        expect(last.count == product_of(batch.sequences.utterances, units), "dc must be (utterances, hidden)");
        without_gil([&] {
            train_backward(kernels, batch.sequences, batch.weights, threads, gate, cell, slope, last.data, result);
        });
        return Py_NewRef(Py_None);
    });
}

PyMethodDef functions[] = {
    {"lstm_forward", lstm_forward, METH_VARARGS,
     "lstm_forward(instruction_set, threads, reverse, lengths, frames, hidden, panels, gates, h, c)."},
    {"lstm_backward", lstm_backward, METH_VARARGS,
     "lstm_backward(instruction_set, threads, reverse, lengths, frames, hidden, panels, gates, c, dh, dc, dgates)."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool add_training(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace asr
