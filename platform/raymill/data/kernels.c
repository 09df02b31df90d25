/* The loader's inner loops, for Python as the module raymill_kernels. All release the GIL.

   raymill/kernels.py says what each does, and does the same in numpy; tests hold one to the other.
   A matrix here is C-contiguous, of 4-byte values called words: float32 or int32, only moved. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(address) __builtin_prefetch(address, 0, 2) /* to the second level: the first holds too few */
#else
#define PREFETCH(address) ((void)(address))
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE __builtin_shufflevector
#endif
#endif

enum { WORD = 4, LINE_WORDS = 16, AHEAD = 32, MAX_COLUMNS = 64 };

typedef struct {
    Py_buffer view;
    Py_ssize_t rows, words; /* of one row */
} Matrix;

/* Opens a C-contiguous array of words as rows of equally many; 0 and an error where it is none. */
static int open_matrix(PyObject *object, int writable, Matrix *matrix) {
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &matrix->view, flags) < 0) return 0;
    if (matrix->view.itemsize != WORD || matrix->view.ndim < 1 || matrix->view.ndim > 2) {
        PyErr_SetString(PyExc_ValueError, "arrays must hold 4-byte values, in one or two dimensions");
        PyBuffer_Release(&matrix->view);
        return 0;
    }
    matrix->rows = matrix->view.shape[0];
    matrix->words = matrix->view.ndim == 2 ? matrix->view.shape[1] : 1;
    return 1;
}

/* floor(random * bound / 2^64), in 32-bit halves */
static uint32_t below(uint64_t random, uint32_t bound) {
    uint64_t low = (random & 0xffffffffu) * bound, high = (random >> 32) * bound;
    return (uint32_t)((high + (low >> 32)) >> 32);
}

/* Fisher and Yates, places [first, first + count): Knuth, The Art of Computer Programming 2, 3.4.2 P */
static void permute_loop(const uint64_t *random, int32_t *order, Py_ssize_t first, Py_ssize_t count) {
    for (Py_ssize_t i = first + count - 1; i >= first; i--) {
        uint32_t j = below(random[i - first], (uint32_t)i + 1);
        int32_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

static PyObject *permute(PyObject *module, PyObject *args) {
    Py_buffer random;
    PyObject *target;
    Py_ssize_t first;
    Matrix order;
    if (!PyArg_ParseTuple(args, "y*On", &random, &target, &first)) return NULL;
    if (!open_matrix(target, 1, &order)) {
        PyBuffer_Release(&random);
        return NULL;
    }
    Py_ssize_t count = random.len / (Py_ssize_t)sizeof(uint64_t);
    int fits = order.words == 1 && first >= 0 && first + count <= order.rows && order.rows <= INT32_MAX;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        permute_loop(random.buf, order.view.buf, first, count);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "permute takes a uint64 for each place, and fewer than 2**31 places");
    }
    PyBuffer_Release(&random);
    PyBuffer_Release(&order.view);
    if (!fits) return NULL;
    Py_RETURN_NONE;
}

#ifdef SHUFFLE
typedef uint32_t Four __attribute__((vector_size(16)));

static Four load(const uint32_t *from) {
    Four four;
    memcpy(&four, from, sizeof four);
    return four;
}

/* Four words of each of four columns into four rows. */
static void transpose(const uint32_t *const *from, Py_ssize_t first, uint32_t *out, Py_ssize_t stride) {
    Four a = load(from[0] + first), b = load(from[1] + first), c = load(from[2] + first), d = load(from[3] + first);
    Four ab = SHUFFLE(a, b, 0, 4, 1, 5), cd = SHUFFLE(c, d, 0, 4, 1, 5);
    Four rows[4] = {SHUFFLE(ab, cd, 0, 1, 4, 5), SHUFFLE(ab, cd, 2, 3, 6, 7)};
    ab = SHUFFLE(a, b, 2, 6, 3, 7), cd = SHUFFLE(c, d, 2, 6, 3, 7);
    rows[2] = SHUFFLE(ab, cd, 0, 1, 4, 5), rows[3] = SHUFFLE(ab, cd, 2, 3, 6, 7);
    for (int i = 0; i < 4; i++, out += stride) memcpy(out, &rows[i], sizeof rows[i]);
}
#endif

/* Columns of single words into rows `stride` words apart, a cache line of every column at a time. */
static void interleave(const uint32_t *const *from, Py_ssize_t columns, Py_ssize_t rows, uint32_t *out,
                       Py_ssize_t stride) {
    for (Py_ssize_t start = 0; start < rows; start += LINE_WORDS, out += LINE_WORDS * stride) {
        Py_ssize_t count = rows - start < LINE_WORDS ? rows - start : LINE_WORDS, j = 0;
#ifdef SHUFFLE
        for (; count == LINE_WORDS && j + 4 <= columns; j += 4)
            for (Py_ssize_t i = 0; i < LINE_WORDS; i += 4)
                transpose(from + j, start + i, out + i * stride + j, stride);
#endif
        for (Py_ssize_t i = 0; i < count; i++)
            for (Py_ssize_t k = j; k < columns; k++) out[i * stride + k] = from[k][start + i];
    }
}

/* Columns side by side, row after row: as fast as memory where the rows stay in a cache meanwhile. */
static void place_rows(const Matrix *columns, Py_ssize_t count, const Matrix *out, Py_ssize_t first) {
    uint32_t *row = (uint32_t *)out->view.buf + first;
    const uint32_t *from[MAX_COLUMNS];
    int narrow = 1;
    for (Py_ssize_t j = 0; j < count; j++) {
        from[j] = columns[j].view.buf;
        narrow &= columns[j].words == 1;
    }
    if (narrow) {
        interleave(from, count, out->rows, row, out->words);
        return;
    }
    for (Py_ssize_t i = 0; i < out->rows; i++, row += out->words) {
        uint32_t *to = row;
        for (Py_ssize_t j = 0; j < count; j++) {
            memcpy(to, from[j] + i * columns[j].words, (size_t)columns[j].words * WORD);
            to += columns[j].words;
        }
    }
}

/* One column into the blocks, at word `first` of their rows. */
static void place_blocks(const Matrix *column, const Matrix *out, Py_ssize_t first, Py_ssize_t block_rows) {
    const uint32_t *from = column->view.buf;
    uint32_t *to = out->view.buf;
    for (Py_ssize_t start = 0; start < out->rows; start += block_rows) {
        Py_ssize_t rows = out->rows - start < block_rows ? out->rows - start : block_rows;
        memcpy(to + start * out->words + first * rows, from + start * column->words,
               (size_t)(rows * column->words) * WORD);
    }
}

/* Opens the columns of a sequence that fit `out`; returns how many were opened, with an error if not all. */
static Py_ssize_t open_columns(PyObject *sequence, Py_ssize_t count, Matrix *columns, const Matrix *out,
                               Py_ssize_t first) {
    for (Py_ssize_t j = 0; j < count; j++) {
        PyObject *object = PySequence_GetItem(sequence, j);
        int opened = object && open_matrix(object, 0, &columns[j]);
        Py_XDECREF(object); /* the view holds a reference of its own */
        if (!opened) return j;
        first += columns[j].words;
        if (columns[j].rows != out->rows || first > out->words) {
            PyErr_SetString(PyExc_ValueError, "columns must have the matrix's rows and lie inside its places");
            return j + 1;
        }
    }
    return count;
}

static PyObject *stack(PyObject *module, PyObject *args) {
    PyObject *sequence, *target;
    Py_ssize_t first, block_rows;
    Matrix columns[MAX_COLUMNS], out;
    if (!PyArg_ParseTuple(args, "OOnn", &sequence, &target, &first, &block_rows)) return NULL;
    Py_ssize_t count = PySequence_Size(sequence);
    if (count < 0) return NULL;
    if (count > MAX_COLUMNS || first < 0 || block_rows < 0)
        return PyErr_Format(PyExc_ValueError, "at most %d columns, and no negative places", MAX_COLUMNS);
    if (!open_matrix(target, 1, &out)) return NULL;
    Py_ssize_t opened = open_columns(sequence, count, columns, &out, first);
    if (!PyErr_Occurred()) {
        Py_BEGIN_ALLOW_THREADS
        if (block_rows == 0) place_rows(columns, count, &out, first);
        for (Py_ssize_t j = 0; block_rows && j < count; first += columns[j++].words)
            place_blocks(&columns[j], &out, first, block_rows);
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t j = 0; j < opened; j++) PyBuffer_Release(&columns[j].view);
    PyBuffer_Release(&out.view);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* One block, from column after column in `tile` to row after row in `out`. */
static void weave_block(const uint32_t *tile, uint32_t *out, Py_ssize_t rows, const int32_t *widths,
                        Py_ssize_t columns, Py_ssize_t words) {
    if (columns == words) {
        const uint32_t *from[MAX_COLUMNS];
        for (Py_ssize_t first = 0; first < words; first += MAX_COLUMNS) {
            Py_ssize_t count = words - first < MAX_COLUMNS ? words - first : MAX_COLUMNS;
            for (Py_ssize_t j = 0; j < count; j++) from[j] = tile + (first + j) * rows;
            interleave(from, count, rows, out + first, words);
        }
        return;
    }
    for (Py_ssize_t i = 0; i < rows; i++) {
        const uint32_t *column = tile;
        for (Py_ssize_t j = 0; j < columns; j++) {
            memcpy(out, column + i * widths[j], (size_t)widths[j] * WORD);
            out += widths[j];
            column += rows * widths[j];
        }
    }
}

static PyObject *weave(PyObject *module, PyObject *args) {
    PyObject *target, *shapes;
    Py_ssize_t block_rows;
    Matrix out, widths;
    if (!PyArg_ParseTuple(args, "OOn", &target, &shapes, &block_rows)) return NULL;
    if (!open_matrix(target, 1, &out)) return NULL;
    if (!open_matrix(shapes, 0, &widths)) {
        PyBuffer_Release(&out.view);
        return NULL;
    }
    const int32_t *width = widths.view.buf;
    Py_ssize_t total = 0, largest = out.rows < block_rows ? out.rows : block_rows;
    int positive = 1;
    for (Py_ssize_t j = 0; j < widths.rows; j++) {
        positive &= width[j] > 0;
        total += width[j];
    }
    uint32_t *tile = NULL;
    int fits = positive && total == out.words && widths.words == 1 && block_rows > 0;
    if (!fits) PyErr_SetString(PyExc_ValueError, "widths must be positive and add up to the matrix's places");
    if (fits && !(tile = PyMem_Malloc((size_t)(largest * out.words + 1) * WORD))) PyErr_NoMemory();
    if (tile) {
        uint32_t *block = out.view.buf;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t start = 0; start < out.rows; start += block_rows) {
            Py_ssize_t rows = out.rows - start < block_rows ? out.rows - start : block_rows;
            memcpy(tile, block, (size_t)(rows * out.words) * WORD);
            weave_block(tile, block, rows, width, widths.rows, out.words);
            block += rows * out.words;
        }
        Py_END_ALLOW_THREADS
        PyMem_Free(tile);
    }
    PyBuffer_Release(&out.view);
    PyBuffer_Release(&widths.view);
    if (!tile) return NULL;
    Py_RETURN_NONE;
}

/* Rows in random order miss every cache: the one AHEAD rows on is asked for while this one is copied. */
static int gather_loop(const Matrix *source, const int32_t *order, const Matrix *out) {
    const uint32_t *from = source->view.buf;
    uint32_t *to = out->view.buf;
    Py_ssize_t words = source->words, asked = words < 64 * LINE_WORDS ? words : 64 * LINE_WORDS;
    uint32_t largest = 0; /* a negative number is a large one */
    for (Py_ssize_t i = 0; i < out->rows; i++)
        if ((uint32_t)order[i] > largest) largest = (uint32_t)order[i];
    if (out->rows && (Py_ssize_t)largest >= source->rows) return 0;
    for (Py_ssize_t i = 0; i < out->rows; i++, to += words) {
        if (i + AHEAD < out->rows && words) {
            const uint32_t *next = from + order[i + AHEAD] * words;
            for (Py_ssize_t word = 0; word < asked; word += LINE_WORDS) PREFETCH(next + word);
            PREFETCH(next + words - 1);
        }
        memcpy(to, from + order[i] * words, (size_t)words * WORD);
    }
    return 1;
}

static PyObject *gather(PyObject *module, PyObject *args) {
    PyObject *objects[3];
    Matrix source, order, out;
    int found = 0;
    if (!PyArg_ParseTuple(args, "OOO", &objects[0], &objects[1], &objects[2])) return NULL;
    if (!open_matrix(objects[0], 0, &source)) return NULL;
    if (!open_matrix(objects[1], 0, &order)) goto close_source;
    if (!open_matrix(objects[2], 1, &out)) goto close_order;
    if (order.words == 1 && order.rows == out.rows && source.words == out.words) {
        Py_BEGIN_ALLOW_THREADS
        found = gather_loop(&source, order.view.buf, &out);
        Py_END_ALLOW_THREADS
    }
    if (!found) PyErr_SetString(PyExc_IndexError, "gather takes one row of the source for each row of out");
    PyBuffer_Release(&out.view);
close_order:
    PyBuffer_Release(&order.view);
close_source:
    PyBuffer_Release(&source.view);
    if (!found) return NULL;
    Py_RETURN_NONE;
}

/* Values, at any address, as floats `stride` apart; what is not 0 at the end says that one is infinite or NaN. */
static inline uint32_t convert(const char *from, int wide, Py_ssize_t count, uint32_t *to, Py_ssize_t stride) {
    const uint32_t infinite = 0x7f800000u;
    uint32_t found = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        float value;
        if (wide) {
            double exact;
            memcpy(&exact, from + i * (Py_ssize_t)sizeof exact, sizeof exact);
            value = (float)exact;
        } else {
            memcpy(&value, from + i * WORD, WORD);
        }
        uint32_t word;
        memcpy(&word, &value, WORD);
        to[i * stride] = word;
        found |= (word & infinite) == infinite;
    }
    return found;
}

static inline uint32_t place_values(const char *from, int wide, Py_ssize_t count, uint32_t *to, Py_ssize_t stride) {
    return wide ? convert(from, 1, count, to, stride) : convert(from, 0, count, to, stride); /* each its own loop */
}

/* One column, [rows] or [rows, width], from word `first` of the rows on; whether all are finite. */
static int place_column(const Py_buffer *column, const Matrix *out, Py_ssize_t first) {
    uint32_t *to = (uint32_t *)out->view.buf + first, found = 0;
    const char *from = column->buf;
    Py_ssize_t width = column->ndim == 2 ? column->shape[1] : 1, rows = out->rows;
    int wide = column->itemsize != WORD;
    if (width == 1) return !place_values(from, wide, rows, to, out->words);
    if (width == out->words) return !place_values(from, wide, rows * width, to, 1);
    for (Py_ssize_t i = 0; i < rows; i++, to += out->words, from += width * column->itemsize)
        found |= place_values(from, wide, width, to, 1);
    return !found;
}

/* Whether a column is what `place` takes, an error if not. */
static int is_placeable(const Py_buffer *view, Py_ssize_t first, const Matrix *out) {
    const char *format = view->format ? view->format : "B";
    size_t length = strlen(format); /* a letter, behind another that says how it lies: '>' is big-endian */
    char kind = length && format[0] != '>' ? format[length - 1] : 'B';
    Py_ssize_t width = view->ndim == 2 ? view->shape[1] : 1;
    if ((kind == 'f' && view->itemsize == WORD) || (kind == 'd' && view->itemsize == 2 * WORD)) {
        if (view->ndim >= 1 && view->ndim <= 2 && view->shape[0] == out->rows && first >= 0 &&
            first <= out->words - width)
            return 1;
        PyErr_SetString(PyExc_ValueError, "columns must have the matrix's rows and lie inside its places");
    } else {
        PyErr_SetString(PyExc_ValueError, "columns must be float32 or float64");
    }
    return 0;
}

static PyObject *place(PyObject *module, PyObject *args) {
    PyObject *columns, *firsts, *target;
    Matrix out;
    int finite = 1;
    if (!PyArg_ParseTuple(args, "O!O!O", &PyList_Type, &columns, &PyList_Type, &firsts, &target)) return NULL;
    if (PyList_Size(columns) != PyList_Size(firsts))
        return PyErr_Format(PyExc_ValueError, "each column needs its first place");
    if (!open_matrix(target, 1, &out)) return NULL;
    for (Py_ssize_t j = 0; j < PyList_Size(columns) && !PyErr_Occurred(); j++) {
        Py_buffer view;
        Py_ssize_t first = PyLong_AsSsize_t(PyList_GetItem(firsts, j));
        if (first == -1 && PyErr_Occurred()) break;
        if (PyObject_GetBuffer(PyList_GetItem(columns, j), &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) break;
        if (is_placeable(&view, first, &out)) finite &= place_column(&view, &out, first);
        PyBuffer_Release(&view);
    }
    PyBuffer_Release(&out.view);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(finite);
}

static PyMethodDef methods[] = {
    {"permute", permute, METH_VARARGS, "permute(random_M, order_N, first)"},
    {"stack", stack, METH_VARARGS, "stack(columns, out_NF, first, block_rows)"},
    {"weave", weave, METH_VARARGS, "weave(out_NF, widths, block_rows)"},
    {"gather", gather, METH_VARARGS, "gather(source_NF, order_M, out_MF)"},
    {"place", place, METH_VARARGS, "place(columns, firsts, out_NF)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "raymill_kernels", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit_raymill_kernels(void) { return PyModuleDef_Init(&definition); }
