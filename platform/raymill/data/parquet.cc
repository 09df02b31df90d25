/* Parquet columns of numbers into rows of float32, for Python as the module raymill_parquet.

   Built against the libarrow of the installed pyarrow, of which it takes the decompressors and nothing
   else. raymill/data/direct.py says which columns come here. The GIL is held only while bytes are read. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "columns.hpp"

namespace {

using namespace columns;

/* Python raised; the error is set. */
struct Raised {};

/* Bytes of the file from `position` on, read ahead by a Python function as far as a chunk's span goes. */
class Source {
  public:
    Source(PyObject *read, Scratch *buffer, int64_t ahead) : read_(read), buffer_(buffer), ahead_(ahead) {}

    void seek(int64_t position, int64_t span_end) {
        span_end_ = span_end;
        if (position >= position_ && position - position_ <= held_) {
            pass(position - position_);
        } else {
            position_ = position, held_ = 0;
        }
    }

    /* Returns `bytes` bytes from the position on, that stay until the next call. */
    const uint8_t *need(int64_t bytes) {
        if (bytes > held_) {
            int64_t end = std::min(position_ + std::max(bytes, ahead_), span_end_);
            if (end < position_ + bytes) throw Broken("a page goes on after the end of its column");
            uint8_t *to = buffer_->room(end - position_, at_, held_);
            int64_t before = held_;
            at_ = to, held_ = 0; /* should Python raise */
            read(position_ + before, to + before, end - position_ - before);
            held_ = end - position_;
        }
        return at_;
    }

    void pass(int64_t bytes) { position_ += bytes, at_ += bytes, held_ -= bytes; }

    /* Passes bytes that need not have been read. */
    void skip(int64_t bytes) {
        if (bytes <= held_) return pass(bytes);
        position_ += bytes, held_ = 0;
    }

    int64_t position() const { return position_; }
    int64_t held() const { return held_; }
    PyThreadState *state = nullptr;

  private:
    void read(int64_t position, uint8_t *to, int64_t bytes) {
        PyEval_RestoreThread(state);
        PyObject *view = PyMemoryView_FromMemory(reinterpret_cast<char *>(to), bytes, PyBUF_WRITE);
        PyObject *found = view ? PyObject_CallFunction(read_, "LO", static_cast<long long>(position), view) : nullptr;
        int64_t count = found ? PyLong_AsLongLong(found) : -1;
        Py_XDECREF(found);
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        if (view) { /* a traceback may hold it for longer than its memory lasts */
            PyObject *released = PyObject_CallMethod(view, "release", nullptr);
            if (!released) PyErr_Clear();
            Py_XDECREF(released);
            Py_DECREF(view);
        }
        PyErr_Restore(type, error, traceback);
        bool raised = type != nullptr;
        state = PyEval_SaveThread();
        if (raised) throw Raised();
        if (count != bytes) throw Broken("the file ends before its column does");
    }

    PyObject *read_;
    Scratch *buffer_;
    const uint8_t *at_ = nullptr;
    int64_t ahead_, position_ = 0, held_ = 0, span_end_ = 0;
};

/* What a thread keeps from one row group to the next. */
struct Reader {
    Codecs codecs;
    Scratch input, page, dictionary, entries;

    int64_t read(Source &source, const Chunk &chunk, const Matrix &matrix, const Selection &selection, float fill);

  private:
    Header header(Source &source, int64_t end);
    const uint8_t *plain(Source &source, const Chunk &chunk, const Header &header, int64_t levels);
    void keep_dictionary(Source &source, const Chunk &chunk, const Header &header);
    int64_t decode(const Chunk &chunk, const Header &header, const uint8_t *from, int64_t row, Sink &sink, float fill);

    const float *entries_ = nullptr;
    int64_t count_ = 0;
};

/* Reads the next page's header. Statistics may make it long. */
Header Reader::header(Source &source, int64_t end) {
    constexpr int64_t usual = 64, most = 16 << 20;
    int64_t left = end - source.position();
    if (left <= 0) throw Broken("a column has fewer values than its file says");
    for (int64_t wanted = std::min(left, usual);; wanted = std::min(left, 4 * wanted)) {
        const uint8_t *from = source.need(wanted);
        try {
            Header found = pages::read_header(from, from + std::min(left, std::max(wanted, source.held())));
            if (found.header_bytes + found.stored > left) throw Broken("a page goes on after the end of its column");
            source.pass(found.header_bytes);
            return found;
        } catch (const pages::Short &) {
            if (wanted >= std::min(left, most)) throw Broken("a page header has no end");
        }
    }
}

/* Returns the page decompressed but for its first `levels` bytes, and passes it. */
const uint8_t *Reader::plain(Source &source, const Chunk &chunk, const Header &header, int64_t levels) {
    const uint8_t *from = source.need(header.stored);
    if (levels > header.stored || levels > header.whole) throw Broken("a page's levels go on after its end");
    uint8_t *to = page.room(header.whole);
    bool packed = chunk.codec != UNCOMPRESSED && header.compressed;
    if (!packed && header.stored != header.whole) throw Broken("a page that is not compressed has two sizes");
    int64_t straight = packed ? levels : header.whole;
    if (straight) std::memcpy(to, from, static_cast<size_t>(straight));
    if (straight < header.whole)
        codecs.decompress(chunk.codec, from + straight, header.stored - straight, to + straight, header.whole - straight);
    source.pass(header.stored);
    return to;
}

void Reader::keep_dictionary(Source &source, const Chunk &chunk, const Header &header) {
    if (entries_) throw Broken("a column has two dictionaries");
    if (chunk.kind == BOOL || (header.encoding != pages::PLAIN && header.encoding != pages::PLAIN_DICTIONARY))
        throw Broken("a dictionary has another encoding than plain");
    if (header.values * bytes_of(chunk.kind) > header.whole) throw Broken("a dictionary ends before its values");
    const uint8_t *from = plain(source, chunk, header, 0);
    count_ = header.values;
    auto *to = reinterpret_cast<float *>(entries.room(count_ * static_cast<int64_t>(sizeof(float))));
    convert(chunk.kind, from, count_, to);
    entries_ = to;
}

/* Decodes a data page whose first row is `row`; returns the nulls among the selected. */
int64_t Reader::decode(const Chunk &chunk, const Header &header, const uint8_t *from, int64_t row, Sink &sink,
                       float fill) {
    const uint8_t *end = from + header.whole;
    Levels levels;
    if (header.type == pages::DATA_V2) {
        from += header.repeat_bytes;
        if (chunk.nullable) levels = Levels(pages::Hybrid(from, from + header.level_bytes, 1));
        from += header.level_bytes;
    } else if (chunk.nullable) {
        uint32_t bytes;
        if (header.level_encoding != pages::RLE) throw Broken("a page's levels have an unknown encoding");
        if (end - from < 4) throw Broken("a page's levels go on after its end");
        std::memcpy(&bytes, from, 4);
        from += 4;
        if (bytes > end - from) throw Broken("a page's levels go on after its end");
        levels = Levels(pages::Hybrid(from, from + bytes, 1));
        from += bytes;
    }
    Values values(chunk.kind, header.encoding, from, end, entries_, count_);
    float piece[PIECE];
    uint8_t there[PIECE];
    int64_t nulls = 0;
    for (int64_t done = 0; done < header.values && !sink.full();) {
        int64_t n = std::min(PIECE, header.values - done);
        if (float *to = sink.straight(row + done, n)) {
            nulls += levels.take(values, n, to, fill, there);
            sink.advance(n);
        } else {
            int64_t missing = levels.take(values, n, piece, fill, there);
            nulls += sink.copy(piece, row + done, n, missing ? there : nullptr);
        }
        done += n;
    }
    return nulls;
}

/* Reads one column chunk into its places; returns the nulls among the selected rows. */
int64_t Reader::read(Source &source, const Chunk &chunk, const Matrix &matrix, const Selection &selection,
                     float fill) {
    int64_t end = chunk.position + chunk.bytes, row = 0, nulls = 0;
    Sink sink(matrix, chunk.first, selection);
    source.seek(chunk.position, chunk.span_end);
    entries_ = nullptr, count_ = 0;
    while (!sink.full()) {
        Header page = header(source, end);
        bool is_v2 = page.type == pages::DATA_V2;
        if (page.type == pages::DICTIONARY) {
            keep_dictionary(source, chunk, page);
            continue;
        }
        if (page.type != pages::DATA && !is_v2) {
            source.skip(page.stored); /* of a kind that may be passed over */
            continue;
        }
        if (page.values > chunk.values - row) throw Broken("a column has more values than its file says");
        if (!sink.wants(row, page.values)) {
            source.skip(page.stored);
        } else {
            int64_t levels = is_v2 ? page.repeat_bytes + page.level_bytes : 0;
            nulls += decode(chunk, page, plain(source, chunk, page, levels), row, sink, fill);
        }
        row += page.values;
    }
    return nulls;
}

/* ---- Python ---- */

struct Buffer {
    Py_buffer view{};
    bool open = false;

    bool get(PyObject *object, int64_t item, bool writable) {
        int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object, &view, flags) < 0) return false;
        open = true;
        if (view.itemsize == item && view.ndim >= 1 && view.ndim <= 2) return true;
        PyErr_SetString(PyExc_ValueError, "an array has another shape or size of value than it must");
        return false;
    }

    ~Buffer() {
        if (open) PyBuffer_Release(&view);
    }
};

struct ReaderObject {
    PyObject_HEAD
    Reader *reader;
    bool busy;
};

constexpr int64_t FIELDS = sizeof(Chunk) / sizeof(int64_t);

bool fits(const Chunk *chunks, int64_t count, const Matrix *matrices, const Selection &selection) {
    int64_t rows = selection.pick ? selection.picks : selection.stop - selection.start;
    for (int64_t i = 0; i < 2; i++)
        if (matrices[i].rows != rows || matrices[i].block_rows <= 0) return false;
    for (const Chunk *chunk = chunks; chunk < chunks + count; chunk++)
        if (chunk->matrix < 0 || chunk->matrix > 1 || chunk->first < 0 || chunk->position < 0 || chunk->bytes < 0 ||
            chunk->first >= matrices[chunk->matrix].places || chunk->span_end < chunk->position + chunk->bytes)
            return false;
    return rows >= 0;
}

/* Runs without the GIL; returns what to raise: nothing, Python's own error, or a text. */
bool run(ReaderObject *self, Source &source, const Chunk *chunks, const float *fills, int64_t *nulls, int64_t count,
         const Matrix *matrices, const Selection &selection) {
    std::string text;
    PyObject *type = nullptr;
    self->busy = true;
    source.state = PyEval_SaveThread();
    try {
        for (int64_t i = 0; i < count; i++)
            nulls[i] = self->reader->read(source, chunks[i], matrices[chunks[i].matrix], selection, fills[i]);
    } catch (const Raised &) {
        text.clear();
        type = PyExc_Exception;
    } catch (const Broken &broken) {
        text = broken.what();
        type = PyExc_ValueError;
    } catch (const std::bad_alloc &) {
        text = "there is no memory for as large a page as its header says";
        type = PyExc_ValueError;
    } catch (const std::exception &error) {
        text = error.what();
        type = PyExc_RuntimeError;
    }
    PyEval_RestoreThread(source.state);
    self->busy = false;
    if (type && !PyErr_Occurred()) PyErr_SetString(type, text.c_str());
    return !type;
}

PyObject *read_columns(PyObject *object, PyObject *args) {
    auto *self = reinterpret_cast<ReaderObject *>(object);
    PyObject *read, *chunk_array, *fill_array, *null_array, *numeric, *labels, *pick;
    Py_ssize_t numeric_block, start, stop, ahead;
    if (!PyArg_ParseTuple(args, "OOOOOOnnnOn", &read, &chunk_array, &fill_array, &null_array, &numeric, &labels,
                          &numeric_block, &start, &stop, &pick, &ahead))
        return nullptr;
    Buffer chunks, fills, nulls, outs[2], picks;
    if (!chunks.get(chunk_array, 8, false) || !fills.get(fill_array, 4, false) || !nulls.get(null_array, 8, true) ||
        !outs[0].get(numeric, 4, true) || !outs[1].get(labels, 4, true))
        return nullptr;
    if (pick != Py_None && !picks.get(pick, 8, false)) return nullptr;
    Matrix matrices[2];
    for (int i = 0; i < 2; i++) {
        const Py_buffer &view = outs[i].view;
        matrices[i] = {static_cast<float *>(view.buf), view.shape[0], view.ndim == 2 ? view.shape[1] : 1,
                       i == 0 ? numeric_block : std::max<int64_t>(view.shape[0], 1)};
    }
    static const int64_t none = 0;
    Selection selection{start, stop, nullptr, 0};
    if (pick != Py_None) {
        auto *numbers = static_cast<const int64_t *>(picks.view.buf);
        selection.pick = numbers ? numbers : &none;
        selection.picks = picks.view.shape[0];
    }
    int64_t count = chunks.view.shape[0];
    auto *described = static_cast<const Chunk *>(chunks.view.buf);
    bool described_well = chunks.view.len == count * static_cast<int64_t>(sizeof(Chunk)) &&
                          fills.view.shape[0] == count && nulls.view.shape[0] == count;
    if (!described_well || !fits(described, count, matrices, selection)) {
        PyErr_SetString(PyExc_ValueError, "chunks, fills, nulls and matrices must fit each other");
        return nullptr;
    }
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "a Reader serves one thread at a time");
        return nullptr;
    }
    Source source(read, &self->reader->input, ahead);
    if (!run(self, source, described, static_cast<const float *>(fills.view.buf),
             static_cast<int64_t *>(nulls.view.buf), count, matrices, selection))
        return nullptr;
    Py_RETURN_NONE;
}

PyObject *make(PyTypeObject *type, PyObject *, PyObject *) {
    auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    auto *self = reinterpret_cast<ReaderObject *>(allocate(type, 0));
    if (!self) return nullptr;
    self->reader = new (std::nothrow) Reader;
    if (self->reader) return reinterpret_cast<PyObject *>(self);
    Py_DECREF(self);
    return PyErr_NoMemory();
}

void unmake(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    delete reinterpret_cast<ReaderObject *>(object)->reader;
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"read", read_columns, METH_VARARGS,
     "read(read, chunks_C, fills_C, nulls_C, numeric_NF, labels_N, block_rows, start, stop, pick_N, ahead)"},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)},
    {Py_tp_dealloc, reinterpret_cast<void *>(unmake)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec spec = {"raymill_parquet.Reader", sizeof(ReaderObject), 0, Py_TPFLAGS_DEFAULT, slots};

int fill_module(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    if (!type) return -1;
    int failed = PyModule_AddObjectRef(module, "Reader", type);
    Py_DECREF(type);
    return failed || PyModule_AddIntConstant(module, "FIELDS", FIELDS) ? -1 : 0;
}

PyModuleDef_Slot module_slots[] = {{Py_mod_exec, reinterpret_cast<void *>(fill_module)}, {0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "raymill_parquet", nullptr, 0, nullptr, module_slots,
                          nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_raymill_parquet(void) { return PyModuleDef_Init(&definition); }
