// What the parts of the extension share: errors, references and buffers. Plain C API, limited to what is stable
// since 3.11.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "maps.h"

namespace asr {

// A Python exception is already set.
struct PythonError {};

// Runs body and turns C++ exceptions into Python ones.
template <class Body>
auto guarded(decltype(std::declval<Body>()()) on_error, Body body) -> decltype(body()) {
    try {
        return body();
    } catch (const PythonError&) {
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::out_of_range&) {
        PyErr_SetString(PyExc_ValueError, "there is no layer of that number");
    } catch (const std::length_error& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return on_error;
}

struct Release {
    void operator()(PyObject* object) const { Py_DECREF(object); }
};
using Object = std::unique_ptr<PyObject, Release>;

class View {
public:
    View(PyObject* object, bool writable = false) {
        int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object, &buffer_, flags) != 0) throw PythonError();
        held_ = true;
    }
    View(View&& other) noexcept : buffer_(other.buffer_), held_(other.held_) { other.held_ = false; }
    View& operator=(View&&) = delete;
    ~View() {
        if (held_) PyBuffer_Release(&buffer_);
    }
    // Elements of type T, which numpy writes as `format`.
    template <class T>
    Array<T> as(const char* what, char format) const {
        const char* got = buffer_.format ? buffer_.format : "B";
        if (got[0] != format || got[1] || buffer_.itemsize != static_cast<Py_ssize_t>(sizeof(T)))
            throw std::invalid_argument(std::string(what) + " has elements of type '" + got + "'; they must be '" +
                                        format + "'");
        // Slices of an array need not be aligned to their elements.
        if (reinterpret_cast<uintptr_t>(buffer_.buf) % alignof(T))
            throw std::invalid_argument(std::string(what) + " is not aligned");
        return {static_cast<const T*>(buffer_.buf), static_cast<size_t>(buffer_.len) / sizeof(T)};
    }
    Array<float> floats(const char* what) const { return as<float>(what, 'f'); }
    char* bytes() const { return static_cast<char*>(buffer_.buf); }
    size_t size() const { return static_cast<size_t>(buffer_.len); }

private:
    Py_buffer buffer_ = {};
    bool held_ = false;
};

// Runs body without the lock that keeps other Python threads waiting.
template <class Body>
void without_gil(Body body) {
    PyThreadState* state = PyEval_SaveThread();
    try {
        body();
    } catch (...) {
        PyEval_RestoreThread(state);
        throw;
    }
    PyEval_RestoreThread(state);
}

// The types of the beam search, for the module.
bool add_search(PyObject* module);

// Its features.
bool add_features(PyObject* module);

// What training calls.
bool add_training(PyObject* module);

}  // namespace asr
