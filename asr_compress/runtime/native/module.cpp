// asr_compress.runtime._native: the engine for Python. Plain C API, limited to what is stable since 3.11.
//
// A network comes in as a list of layers, each a tuple of a name and its arguments, described in
// runtime/native_backend.py, which is the only caller. Everything is checked here again: a wrong call raises
// ValueError or TypeError, never reads or writes outside of a buffer.
#include "bindings.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "model.h"

namespace {

using namespace asr;

// ---- reading the description of a network --------------------------------------------------------------------

// The arguments of one layer or map: a tuple whose first item is its name.
class Items {
public:
    explicit Items(PyObject* tuple) : tuple_(tuple) {
        if (!PyTuple_Check(tuple)) throw std::invalid_argument("a layer or a map must be a tuple");
        size_ = PyTuple_Size(tuple);
    }
    std::string name() { return text(next()); }
    bool none() {
        bool is = at() == Py_None;
        if (is) index_++;
        return is;
    }
    PyObject* next() {
        PyObject* item = at();
        index_++;
        return item;
    }
    int whole(const char* what) {
        long value = PyLong_AsLong(next());
        if (value == -1 && PyErr_Occurred()) throw PythonError();
        if (value < 0 || value > (1 << 24))
            throw std::invalid_argument(std::string(what) + " is " + std::to_string(value) + ", out of range");
        return static_cast<int>(value);
    }
    size_t size(const char* what) { return static_cast<size_t>(whole(what)); }
    float real() {
        double value = PyFloat_AsDouble(next());
        if (value == -1 && PyErr_Occurred()) throw PythonError();
        return static_cast<float>(value);
    }
    std::vector<float> floats(const char* what) {
        View view(next());
        Array<float> array = view.floats(what);
        return {array.data, array.data + array.count};
    }
    std::vector<uint32_t> indices(const char* what) {
        View view(next());
        Array<uint32_t> array = view.as<uint32_t>(what, 'I');
        return {array.data, array.data + array.count};
    }
    void end() {
        if (index_ != size_) throw std::invalid_argument("a layer or a map has too many items");
    }
    static std::string text(PyObject* object) {
        Py_ssize_t size;
        const char* utf8 = PyUnicode_AsUTF8AndSize(object, &size);
        if (!utf8) throw PythonError();
        return {utf8, static_cast<size_t>(size)};
    }

private:
    PyObject* at() {
        if (index_ >= size_) throw std::invalid_argument("a layer or a map has too few items");
        return PyTuple_GetItem(tuple_, index_);
    }
    PyObject* tuple_;
    Py_ssize_t size_, index_ = 0;
};

struct Builder {
    const Kernels& kernels;
    WeightMemory& memory;

    std::unique_ptr<Map> map(PyObject* description) {
        Items items(description);
        std::string name = items.name();
        if (name == "low_rank") {
            auto left = map(items.next());
            auto right = map(items.next());
            items.end();
            return low_rank(std::move(left), std::move(right));
        }
        int rows = items.whole("rows"), cols = items.whole("cols");
        if (name == "float32") {
            View weights(items.next());
            items.end();
            return pack_f32(memory, rows, cols, weights.floats("weights"));
        }
        if (name == "int8") return int8(items, rows, cols);
        if (name == "int4") return int4(items, rows, cols);
        if (name == "block_int8" || name == "block_int4") return blocks(items, rows, cols, name == "block_int8");
        throw std::invalid_argument("no map is called '" + name + "'");
    }

    std::unique_ptr<Map> int8(Items& items, int rows, int cols) {
        View codes(items.next()), scales(items.next());
        float input_scale = items.real();
        items.end();
        return pack_int8(kernels, memory, rows, cols, codes.as<int8_t>("codes", 'b'), scales.floats("scales"),
                         input_scale);
    }

    std::unique_ptr<Map> int4(Items& items, int rows, int cols) {
        int group = items.whole("group");
        View codes(items.next()), multipliers(items.next()), scales(items.next());
        float input_scale = items.real();
        items.end();
        return pack_int4(kernels, memory, rows, cols, group, codes.as<uint8_t>("codes", 'B'),
                         multipliers.as<uint8_t>("multipliers", 'B'), scales.floats("scales"), input_scale);
    }

    std::unique_ptr<Map> blocks(Items& items, int rows, int cols, bool bytes) {
        View sections(items.next()), counts(items.next()), quads(items.next()), codes(items.next());
        Blocks pattern{rows, cols, sections.as<uint32_t>("sections", 'I'), counts.as<uint16_t>("counts", 'H'),
                       quads.as<uint16_t>("columns", 'H')};
        if (bytes) {
            View scales(items.next());
            float input_scale = items.real();
            items.end();
            return pack_block_int8(kernels, memory, pattern, codes.as<int8_t>("codes", 'b'), scales.floats("scales"),
                                   input_scale);
        }
        View multipliers(items.next()), scales(items.next());
        float input_scale = items.real();
        items.end();
        return pack_block_int4(kernels, memory, pattern, codes.as<uint8_t>("codes", 'B'),
                               multipliers.as<uint8_t>("multipliers", 'B'), scales.floats("scales"), input_scale);
    }

    Direction direction(PyObject* description, bool reverse) {
        Items items(description);
        Direction result;
        result.input_map = map(items.next());
        result.recurrent_map = map(items.next());
        result.bias = items.floats("bias");
        if (!items.none()) result.projection = map(items.next());
        result.constant_rows = items.indices("constant rows");
        result.constant_values = items.floats("constant values");
        items.end();
        result.reverse = reverse;
        return result;
    }

    std::unique_ptr<Layer> lstm(Items& items, const std::string& name) {
        std::vector<Direction> directions;
        if (name != "reverse_lstm") directions.push_back(direction(items.next(), false));
        if (name != "lstm") directions.push_back(direction(items.next(), true));
        items.end();
        return lstm_layer(std::move(directions));
    }

    std::unique_ptr<Layer> conv(Items& items) {
        auto weights = map(items.next());
        auto bias = items.floats("bias");
        ConvShape s;
        for (size_t* size : {&s.kernel_time, &s.kernel_bins, &s.stride_time, &s.stride_bins, &s.dilation_time,
                             &s.dilation_bins, &s.in_channels, &s.bins})
            *size = items.size("a size of the convolution");
        items.end();
        return conv_layer(std::move(weights), std::move(bias), s);
    }

    std::unique_ptr<Layer> layer(PyObject* description) {
        Items items(description);
        std::string name = items.name();
        if (name == "lstm" || name == "reverse_lstm" || name == "bidirectional") return lstm(items, name);
        if (name == "conv") return conv(items);
        if (name == "linear") {
            auto weights = map(items.next());
            auto bias = items.floats("bias");
            items.end();
            return linear_layer(std::move(weights), std::move(bias));
        }
        if (name == "normalize") {
            auto mean = items.floats("mean"), scale = items.floats("scale");
            items.end();
            return normalize_layer(std::move(mean), std::move(scale));
        }
        if (name == "layer_norm") {
            auto weight = items.floats("weight"), bias = items.floats("bias");
            float eps = items.real();
            items.end();
            return layer_norm_layer(std::move(weight), std::move(bias), eps);
        }
        if (name == "clamp") {
            size_t features = items.size("features");
            float low = items.real(), high = items.real();
            items.end();
            return clamp_layer(features, low, high);
        }
        if (name == "frame_stack") {
            size_t features = items.size("features"), stack = items.size("stack"), stride = items.size("stride");
            items.end();
            return frame_stack_layer(features, stack, stride);
        }
        throw std::invalid_argument("no layer is called '" + name + "'");
    }
};

const Kernels& kernels_named(PyObject* name) {
    std::string text = Items::text(name);
    const Kernels* kernels = select_kernels(text.c_str());
    if (!kernels)
        throw std::invalid_argument("instruction set '" + text +
                                    "' is unknown or this machine does not have it; see available()");
    return *kernels;
}

// ---- the Model type ------------------------------------------------------------------------------------------

struct ModelObject {
    PyObject_HEAD
    Model* model;
};

Model& model_of(PyObject* self) { return *reinterpret_cast<ModelObject*>(self)->model; }

PyObject* model_new(PyTypeObject* type, PyObject* args, PyObject*) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject *layers, *name;
        if (!PyArg_ParseTuple(args, "O!U", &PyList_Type, &layers, &name)) throw PythonError();
        const Kernels& kernels = kernels_named(name);
        auto memory = std::make_unique<WeightMemory>();
        std::vector<std::unique_ptr<Layer>> built;
        Builder builder{kernels, *memory};
        for (Py_ssize_t i = 0; i < PyList_Size(layers); i++) {
            Object item(Py_NewRef(PyList_GetItem(layers, i)));
            built.push_back(builder.layer(item.get()));
        }
        auto model = std::make_unique<Model>(kernels, std::move(memory), std::move(built));
        auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
        PyObject* self = allocate(type, 0);
        if (!self) throw PythonError();
        reinterpret_cast<ModelObject*>(self)->model = model.release();
        return self;
    });
}

void model_dealloc(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    delete reinterpret_cast<ModelObject*>(self)->model;
    auto release = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
    release(self);
    Py_DECREF(type);
}

void expect_size(const char* what, size_t got, size_t wanted) {
    if (got != wanted)
        throw std::invalid_argument(std::string(what) + " has " + std::to_string(got) + " numbers; it must have " +
                                    std::to_string(wanted));
}

size_t frames_of(const Array<float>& array, size_t features) {
    if (array.count % features)
        throw std::invalid_argument("an input is not a whole number of frames of " + std::to_string(features) +
                                    " features");
    return array.count / features;
}

PyObject* model_run(PyObject* self, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject *inputs, *outputs;
        int threads;
        if (!PyArg_ParseTuple(args, "O!O!i", &PyList_Type, &inputs, &PyList_Type, &outputs, &threads))
            throw PythonError();
        const Model& model = model_of(self);
        size_t count = static_cast<size_t>(PyList_Size(inputs));
        expect_size("outputs", static_cast<size_t>(PyList_Size(outputs)), count);
        std::vector<View> views;
        std::vector<const float*> in;
        std::vector<size_t> lengths;
        std::vector<float*> out;
        for (size_t u = 0; u < count; u++) {
            views.emplace_back(PyList_GetItem(inputs, static_cast<Py_ssize_t>(u)));
            Array<float> frames = views.back().floats("an input");
            in.push_back(frames.data);
            lengths.push_back(frames_of(frames, model.inputs()));
            views.emplace_back(PyList_GetItem(outputs, static_cast<Py_ssize_t>(u)), true);
            Array<float> logits = views.back().floats("an output");
            expect_size("an output", logits.count, product_of(model.output_length(lengths[u]), model.outputs()));
            out.push_back(const_cast<float*>(logits.data));
        }
        without_gil([&] { model.run(count, in.data(), lengths.data(), out.data(), threads); });
        return Py_NewRef(Py_None);
    });
}

PyObject* model_run_frames(PyObject* self, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        unsigned index;
        int direction;
        PyObject *input, *state, *output;
        if (!PyArg_ParseTuple(args, "IiOOO", &index, &direction, &input, &state, &output)) throw PythonError();
        const Model& model = model_of(self);
        const Layer& layer = model.layer(index);
        if (direction < 0 || direction >= layer.directions()) throw std::invalid_argument("no such direction");
        View in_view(input), state_view(state, true), out_view(output, true);
        Array<float> in = in_view.floats("the input"), numbers = state_view.floats("the state");
        Array<float> out = out_view.floats("the output");
        size_t frames = frames_of(in, layer.inputs);
        expect_size("the state", numbers.count, layer.state_size(direction));
        expect_size("the output", out.count, product_of(frames, layer.outputs_of(direction)));
        without_gil([&] {
            model.run_frames(index, direction, in.data, frames, const_cast<float*>(numbers.data),
                             const_cast<float*>(out.data));
        });
        return Py_NewRef(Py_None);
    });
}

PyObject* model_run_windows(PyObject* self, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        unsigned index;
        PyObject *input, *output;
        if (!PyArg_ParseTuple(args, "IOO", &index, &input, &output)) throw PythonError();
        const Model& model = model_of(self);
        const Layer& layer = model.layer(index);
        View in_view(input), out_view(output, true);
        Array<float> in = in_view.floats("the input"), out = out_view.floats("the output");
        size_t frames = frames_of(in, layer.inputs);
        if (out.count % layer.outputs) throw std::invalid_argument("the output is not a whole number of frames");
        size_t windows = out.count / layer.outputs;
        without_gil([&] { model.run_windows(index, in.data, frames, const_cast<float*>(out.data), windows); });
        return Py_NewRef(Py_None);
    });
}

PyObject* model_probe_product(PyObject* self, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        unsigned index;
        int rows, repeats;
        if (!PyArg_ParseTuple(args, "Iii", &index, &rows, &repeats)) throw PythonError();
        without_gil([&] { model_of(self).probe_product(index, rows, repeats); });
        return Py_NewRef(Py_None);
    });
}

PyObject* model_get(PyObject* self, void* what) {
    const Model& model = model_of(self);
    switch (static_cast<const char*>(what)[0]) {
        case 'i': return PyUnicode_FromString(model.kernels().name);
        default: return PyLong_FromSize_t(model.weight_bytes());
    }
}

PyMethodDef model_methods[] = {
    {"run", model_run, METH_VARARGS, "run(inputs: list, outputs: list, threads: int): float32 frames to logits."},
    {"run_frames", model_run_frames, METH_VARARGS, "run_frames(layer, direction, frames, state, output)."},
    {"probe_product", model_probe_product, METH_VARARGS, "probe_product(layer, rows, repeats): its bare product."},
    {"run_windows", model_run_windows, METH_VARARGS, "run_windows(layer, frames, output)."},
    {nullptr, nullptr, 0, nullptr},
};
char kInstructionSet[] = "instruction_set", kWeightBytes[] = "weight_bytes";
PyGetSetDef model_getters[] = {
    {kInstructionSet, model_get, nullptr, "The instruction set the model is packed for.", kInstructionSet},
    {kWeightBytes, model_get, nullptr, "Bytes of packed weights in memory.", kWeightBytes},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
PyType_Slot model_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(model_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(model_dealloc)},
    {Py_tp_methods, model_methods},
    {Py_tp_getset, model_getters},
    {Py_tp_doc, const_cast<char*>("Model(layers: list, instruction_set: str): a network packed for the kernels.")},
    {0, nullptr},
};
PyType_Spec model_spec = {"asr_compress.runtime._native.Model", sizeof(ModelObject), 0, Py_TPFLAGS_DEFAULT, model_slots};

// ---- functions of the module ---------------------------------------------------------------------------------

PyObject* available(PyObject*, PyObject*) {
    Object names(PyList_New(0));
    if (!names) return nullptr;
    for (const char* name : {"amx", "avx512", "avxvnni", "avx2", "neon", "portable"}) {
        if (!select_kernels(name)) continue;
        Object text(PyUnicode_FromString(name));
        if (!text || PyList_Append(names.get(), text.get()) != 0) return nullptr;
    }
    return names.release();
}

PyObject* lstm_cell(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject *name, *gates, *c, *h;
        if (!PyArg_ParseTuple(args, "UOOO", &name, &gates, &c, &h)) throw PythonError();
        View gates_view(gates), c_view(c, true), h_view(h, true);
        Array<float> cells = c_view.floats("c"), outputs = h_view.floats("h");
        expect_size("gates", gates_view.floats("gates").count, product_of(cells.count, 4));
        expect_size("h", outputs.count, cells.count);
        float largest = kernels_named(name).lstm_cell(gates_view.floats("gates").data, cells.count,
                                                      const_cast<float*>(cells.data), const_cast<float*>(outputs.data));
        return PyFloat_FromDouble(largest);
    });
}

// From a whole cache line on, as weights lie.
Array<int8_t> aligned_bytes(const View& view) {
    Array<int8_t> bytes = view.as<int8_t>("bytes", 'b');
    size_t skip = (kAlignment - reinterpret_cast<uintptr_t>(bytes.data) % kAlignment) % kAlignment;
    return {bytes.data + std::min(skip, bytes.count), bytes.count - std::min(skip, bytes.count)};
}

PyObject* probe_read(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject *name, *object;
        int repeats;
        if (!PyArg_ParseTuple(args, "UOi", &name, &object, &repeats)) throw PythonError();
        const Kernels& kernels = kernels_named(name);
        View view(object);
        Array<int8_t> bytes = aligned_bytes(view);
        uint32_t sum = 0;
        without_gil([&] {
            for (int i = 0; i < repeats; i++) sum += static_cast<uint32_t>(kernels.probe_read(bytes.data, bytes.count));
        });
        return PyLong_FromUnsignedLong(sum);
    });
}

PyObject* probe_int8(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject* name;
        unsigned long long dots;
        if (!PyArg_ParseTuple(args, "UK", &name, &dots)) throw PythonError();
        const Kernels& kernels = kernels_named(name);
        size_t macs = 0;
        without_gil([&] {
            volatile int32_t keep = kernels.probe_int8(static_cast<size_t>(dots), &macs);
            (void)keep;
        });
        return PyLong_FromSize_t(macs);
    });
}

PyObject* probe_loaded(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject *name, *object;
        int repeats;
        if (!PyArg_ParseTuple(args, "UOi", &name, &object, &repeats)) throw PythonError();
        const Kernels& kernels = kernels_named(name);
        View view(object);
        Array<int8_t> weights = aligned_bytes(view);
        size_t macs = 0;
        without_gil([&] {
            for (int i = 0; kernels.probe_loaded && i < repeats; i++) {
                volatile int32_t keep = kernels.probe_loaded(weights.data, weights.count, &macs);
                (void)keep;
            }
        });
        return PyLong_FromSize_t(product_of(macs, static_cast<size_t>(repeats)));
    });
}

PyMethodDef functions[] = {
    {"available", available, METH_NOARGS, "available() -> list[str]: instruction sets to choose from, best first."},
    {"lstm_cell", lstm_cell, METH_VARARGS,
     "lstm_cell(instruction_set, gates, c, h) -> largest magnitude in h: one cell update, in place."},
    {"probe_read", probe_read, METH_VARARGS, "probe_read(instruction_set, bytes, repeats): read bytes and sum them."},
    {"probe_int8", probe_int8, METH_VARARGS, "probe_int8(instruction_set, dots) -> multiply-accumulates done."},
    {"probe_loaded", probe_loaded, METH_VARARGS,
     "probe_loaded(instruction_set, weights, repeats) -> multiply-accumulates done; 0: registers are no faster."},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The native engine of asr_compress.", -1, functions,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
    Object module(PyModule_Create(&definition));
    if (!module) return nullptr;
    Object type(PyType_FromSpec(&model_spec));
    if (!type || PyModule_AddObjectRef(module.get(), "Model", type.get()) != 0) return nullptr;
    if (!add_search(module.get()) || !add_features(module.get()) ||
        !add_training(module.get()))
        return nullptr;
    return module.release();
}
