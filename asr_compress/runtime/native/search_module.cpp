// WordGraph and Search for Python, described in runtime/word_search.py, which is the only caller.
#include "bindings.h"
#include "search.h"

#include <mutex>
#include <unordered_map>

namespace asr {
namespace {

template <class T>
std::vector<T> copied(PyObject* object, const char* what, char format) {
    View view(object);
    Array<T> array = view.as<T>(what, format);
    return {array.data, array.data + array.count};
}

PyObject* allocated(PyTypeObject* type) {
    auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    PyObject* self = allocate(type, 0);
    if (!self) throw PythonError();
    return self;
}

void released(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    auto release = reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free));
    release(self);
    Py_DECREF(type);
}

std::vector<std::string_view> lines_of(const View& text) {
    std::vector<std::string_view> lines;
    std::string_view rest(text.bytes(), text.size());
    while (!rest.empty()) {
        size_t end = std::min(rest.find('\n'), rest.size());
        lines.push_back(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return lines;
}

// ---- a lexicon's text ----------------------------------------------------------------------------------------

// Pronunciations in the order of their words, each word's in the order of the text.
struct Spelled {
    std::string words;  // one a line, in the order in which they come first
    std::vector<uint32_t> word_of, starts{0}, tokens;

    Spelled(const std::vector<std::string_view>& lines, const std::vector<std::string_view>& symbols) {
        std::unordered_map<std::string_view, uint32_t> ids, labels;
        for (size_t id = 0; id < symbols.size(); id++) ids.emplace(symbols[id], static_cast<uint32_t>(id));
        labels.reserve(lines.size());
        std::vector<std::vector<std::string_view>> variants;  // of each word
        for (std::string_view line : lines) {
            size_t tab = line.find('\t');
            if (tab == std::string_view::npos || tab == 0)
                throw std::invalid_argument("lexicon: a line is not a word, a tab and symbols");
            std::string_view word = line.substr(0, tab);
            auto [place, first] = labels.emplace(word, static_cast<uint32_t>(variants.size()));
            if (first) {
                variants.emplace_back();
                words.append(words.empty() ? "" : "\n").append(word);
            }
            variants[place->second].push_back(line);
        }
        for (size_t label = 0; label < variants.size(); label++)
            for (std::string_view line : variants[label]) add(line, static_cast<uint32_t>(label), ids);
    }

private:
    void add(std::string_view line, uint32_t label, const std::unordered_map<std::string_view, uint32_t>& ids) {
        size_t tab = line.find('\t');
        std::string_view rest = line.substr(tab + 1);
        while (true) {
            size_t end = std::min(rest.find(' '), rest.size());
            auto found = ids.find(rest.substr(0, end));
            if (found == ids.end())
                throw std::invalid_argument("lexicon: " + std::string(line.substr(0, tab)) + " is said with '" +
                                            std::string(rest.substr(0, end)) + "', which is no token of the model");
            tokens.push_back(found->second);
            if (end == rest.size()) break;
            rest.remove_prefix(end + 1);
        }
        word_of.push_back(label);
        starts.push_back(static_cast<uint32_t>(tokens.size()));
    }
};

PyObject* bytes_of(const void* data, size_t size) {
    PyObject* bytes = PyBytes_FromStringAndSize(static_cast<const char*>(data), static_cast<Py_ssize_t>(size));
    if (!bytes) throw PythonError();
    return bytes;
}

PyObject* bytes_of(const std::vector<uint32_t>& numbers) {
    return bytes_of(numbers.data(), numbers.size() * sizeof(uint32_t));
}

PyObject* spell(PyObject*, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject *lexicon, *symbols;
        if (!PyArg_ParseTuple(args, "OO", &lexicon, &symbols)) throw PythonError();
        View lexicon_view(lexicon), symbols_view(symbols);
        if (lexicon_view.size() > UINT32_MAX) throw std::length_error("lexicon: its text is too large");
        Spelled spelled(lines_of(lexicon_view), lines_of(symbols_view));
        Object words(bytes_of(spelled.words.data(), spelled.words.size())), word_of(bytes_of(spelled.word_of));
        Object starts(bytes_of(spelled.starts)), tokens(bytes_of(spelled.tokens));
        return PyTuple_Pack(4, words.get(), word_of.get(), starts.get(), tokens.get());
    });
}

PyMethodDef search_functions[] = {
    {"spell", spell, METH_VARARGS,
     "spell(lexicon, symbols) -> words, word_of, starts, tokens: what WordGraph takes, from lines of text."},
    {nullptr, nullptr, 0, nullptr},
};

// ---- the WordGraph type --------------------------------------------------------------------------------------

struct GraphObject {
    PyObject_HEAD
    std::shared_ptr<const WordGraph>* graph;
};

PyObject* graph_new(PyTypeObject* type, PyObject* args, PyObject*) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        unsigned tokens, boundary;
        PyObject *words, *word_of, *starts, *spelled, *arpa;
        if (!PyArg_ParseTuple(args, "IIOOOOO", &tokens, &boundary, &words, &word_of, &starts, &spelled, &arpa))
            throw PythonError();
        if (tokens < 2 || tokens > (1u << 24)) throw std::invalid_argument("a number of tokens that cannot be");
        View word_text(words);
        WordGraph::Lexicon lexicon{lines_of(word_text), copied<uint32_t>(word_of, "word_of", 'I'),
                                   copied<uint32_t>(starts, "starts", 'I'), copied<uint32_t>(spelled, "tokens", 'I')};
        std::unique_ptr<View> arpa_text;
        std::string_view text;
        if (arpa != Py_None) {
            arpa_text = std::make_unique<View>(arpa);
            text = {arpa_text->bytes(), arpa_text->size()};
        }
        std::shared_ptr<const WordGraph> graph;
        without_gil([&] {
            graph = std::make_shared<WordGraph>(tokens, boundary, lexicon, arpa_text ? &text : nullptr);
        });
        auto holder = std::make_unique<std::shared_ptr<const WordGraph>>(std::move(graph));
        PyObject* self = allocated(type);
        reinterpret_cast<GraphObject*>(self)->graph = holder.release();
        return self;
    });
}

void graph_dealloc(PyObject* self) {
    delete reinterpret_cast<GraphObject*>(self)->graph;
    released(self);
}

PyObject* graph_get(PyObject* self, void* what) {
    const WordGraph& graph = **reinterpret_cast<GraphObject*>(self)->graph;
    switch (static_cast<const char*>(what)[0]) {
        case 'n': return PyLong_FromSize_t(graph.nodes().size());
        case 's': return PyLong_FromSize_t(graph.model().states());
        default: return PyLong_FromSize_t(graph.bytes());
    }
}

char kNodes[] = "nodes", kStates[] = "states", kBytes[] = "bytes";
PyGetSetDef graph_getters[] = {
    {kNodes, graph_get, nullptr, "Nodes of the prefix tree.", kNodes},
    {kStates, graph_get, nullptr, "Histories that the model of language tells apart.", kStates},
    {kBytes, graph_get, nullptr, "Memory in bytes.", kBytes},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
PyType_Slot graph_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(graph_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(graph_dealloc)},
    {Py_tp_getset, graph_getters},
    {Py_tp_doc, const_cast<char*>("WordGraph(tokens, boundary, words, word_of, starts, spelled, arpa): what is "
                                  "searched; see native/search.h.")},
    {0, nullptr},
};
PyType_Spec graph_spec = {"asr_compress.runtime._native.WordGraph", sizeof(GraphObject), 0, Py_TPFLAGS_DEFAULT,
                          graph_slots};

// ---- the Search type -----------------------------------------------------------------------------------------

struct SearchObject {
    PyObject_HEAD
    Search* search;
    std::mutex* mutex;  // calls that overlap take turns
};

PyObject* search_object(PyTypeObject* type, std::unique_ptr<Search> search) {
    auto mutex = std::make_unique<std::mutex>();
    PyObject* self = allocated(type);
    reinterpret_cast<SearchObject*>(self)->search = search.release();
    reinterpret_cast<SearchObject*>(self)->mutex = mutex.release();
    return self;
}

template <class Body>
void with_search(PyObject* self, Body body) {
    SearchObject* object = reinterpret_cast<SearchObject*>(self);
    without_gil([&] {
        std::lock_guard<std::mutex> lock(*object->mutex);
        body(*object->search);
    });
}

PyObject* search_new(PyTypeObject* type, PyObject* args, PyObject*) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        PyObject* graph;
        Py_ssize_t width, tokens;
        double threshold, lm_weight, word_score;
        if (!PyArg_ParseTuple(args, "Onnddd", &graph, &width, &tokens, &threshold, &lm_weight, &word_score))
            throw PythonError();
        if (PyType_GetSlot(Py_TYPE(graph), Py_tp_new) != reinterpret_cast<void*>(graph_new))
            throw std::invalid_argument("a search needs a WordGraph");
        if (width < 1 || tokens < 1) throw std::invalid_argument("beam_width and beam_tokens must be at least 1");
        SearchWeights weights{static_cast<size_t>(width), static_cast<size_t>(tokens), threshold, lm_weight,
                              word_score};
        return search_object(
            type, std::make_unique<Search>(*reinterpret_cast<GraphObject*>(graph)->graph, weights));
    });
}

void search_dealloc(PyObject* self) {
    delete reinterpret_cast<SearchObject*>(self)->search;
    delete reinterpret_cast<SearchObject*>(self)->mutex;
    released(self);
}

PyObject* search_push(PyObject* self, PyObject* frames) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        View view(frames);
        Array<float> numbers = view.floats("log_probs");
        size_t tokens = reinterpret_cast<SearchObject*>(self)->search->graph().tokens();
        if (numbers.count % tokens)
            throw std::invalid_argument("log_probs are not a whole number of frames of " + std::to_string(tokens) +
                                        " tokens");
        with_search(self, [&](Search& search) { search.push(numbers.data, numbers.count / tokens); });
        return Py_NewRef(Py_None);
    });
}

PyObject* search_result(PyObject* self, PyObject* args) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        int final;
        if (!PyArg_ParseTuple(args, "p", &final)) throw PythonError();
        Search::Result result;
        with_search(self, [&](Search& search) { result = search.result(final != 0); });
        static_assert(sizeof(Search::Label) == 16, "labels go to Python as rows of four int32");
        Object labels(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(result.labels.data()),
                                                static_cast<Py_ssize_t>(result.labels.size() * sizeof(Search::Label))));
        if (!labels) throw PythonError();
        return Py_BuildValue("dO", result.score, labels.get());
    });
}

PyObject* search_copy(PyObject* self, PyObject*) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        std::unique_ptr<Search> twin;
        with_search(self, [&](Search& search) { twin = std::make_unique<Search>(search); });
        return search_object(Py_TYPE(self), std::move(twin));
    });
}

PyObject* search_bytes(PyObject* self, void*) {
    return guarded(static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        size_t bytes = 0;
        with_search(self, [&](Search& search) { bytes = search.bytes(); });
        return PyLong_FromSize_t(bytes);
    });
}

PyMethodDef search_methods[] = {
    {"push", search_push, METH_O, "push(log_probs): float32 frames, one after another."},
    {"result", search_result, METH_VARARGS,
     "result(final) -> score, labels: int32 (labels, 4) as bytes: token, word that ends or -1, first frame, end."},
    {"copy", search_copy, METH_NOARGS, "copy() -> Search: one that goes on from here on its own."},
    {nullptr, nullptr, 0, nullptr},
};
PyGetSetDef search_getters[] = {
    {kBytes, search_bytes, nullptr, "Memory in bytes, the graph aside.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
PyType_Slot search_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(search_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(search_dealloc)},
    {Py_tp_methods, search_methods},
    {Py_tp_getset, search_getters},
    {Py_tp_doc, const_cast<char*>("Search(graph, beam_width, beam_tokens, beam_threshold, lm_weight, word_score)")},
    {0, nullptr},
};
PyType_Spec search_spec = {"asr_compress.runtime._native.Search", sizeof(SearchObject), 0, Py_TPFLAGS_DEFAULT,
                           search_slots};

}  // namespace

bool add_search(PyObject* module) {
    Object graph(PyType_FromSpec(&graph_spec));
    if (!graph || PyModule_AddObjectRef(module, "WordGraph", graph.get()) != 0) return false;
    Object search(PyType_FromSpec(&search_spec));
    return search && PyModule_AddObjectRef(module, "Search", search.get()) == 0 &&
           PyModule_AddFunctions(module, search_functions) == 0;
}

}  // namespace asr
