/* infinitfs._native: the kernel of cut.c for Python, room for what others write, and copies. See infinitfs/_native.pyi.
 *
 * Role: arguments in, pieces out; nothing else is decided here.
 * Invariant: the GIL is dropped during a whole scan or copy, and the buffers are held until it ends.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "cut.h"

/* A scan of either kind, and the function that takes its next piece. */
typedef bool (*next_piece)(void *scan, struct cut_piece *piece);

static bool next_by_content(void *scan, struct cut_piece *piece)
{
    return cut_next(scan, piece);
}

static bool next_fixed(void *scan, struct cut_piece *piece)
{
    return cut_fixed_next(scan, piece);
}

struct piece_array {
    struct cut_piece *items;
    size_t count, capacity;
};

/* Append every piece of `scan`; false where memory ran out. Needs no GIL. */
static bool scan_all(next_piece next, void *scan, struct piece_array *pieces)
{
    struct cut_piece piece;
    while (next(scan, &piece)) {
        if (pieces->count == pieces->capacity) {
            size_t capacity = pieces->capacity ? 2 * pieces->capacity : 64;
            struct cut_piece *items = realloc(pieces->items, capacity * sizeof *items);
            if (!items)
                return false;
            pieces->items = items;
            pieces->capacity = capacity;
        }
        pieces->items[pieces->count++] = piece;
    }
    return true;
}

static PyObject *as_tuple(const struct cut_piece *piece)
{
    Py_ssize_t length = (Py_ssize_t)piece->length;
    if (piece->zero)
        return Py_BuildValue("(nO)", length, Py_None);
    return Py_BuildValue("(ny#)", length, (const char *)piece->fingerprint, (Py_ssize_t)CUT_FINGERPRINT_BYTES);
}

static PyObject *as_list(const struct piece_array *pieces)
{
    PyObject *list = PyList_New((Py_ssize_t)pieces->count);
    for (size_t i = 0; list && i < pieces->count; i++) {
        PyObject *tuple = as_tuple(&pieces->items[i]);
        if (!tuple || PyList_SetItem(list, (Py_ssize_t)i, tuple) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *list_of_pieces(struct piece_array *pieces, bool complete)
{
    PyObject *list = complete ? as_list(pieces) : PyErr_NoMemory();
    free(pieces->items);
    return list;
}

static PyObject *cut_checked(const Py_buffer *buffer, const Py_buffer *gear, struct cut_rule *rule, bool final)
{
    if (gear->len != CUT_GEAR_BYTES)
        return PyErr_Format(PyExc_ValueError, "The gear has %zd bytes: give 256 little-endian 64-bit words.",
                            gear->len);
    if (!cut_rule_valid(rule))
        return PyErr_Format(PyExc_ValueError,
                            "These piece sizes do not fit together: give 64 <= minimum <= target <= maximum <= 2**30, "
                            "target >= 256 and 16 <= zeros <= maximum.");
    struct piece_array pieces = {0};
    bool complete;
    Py_BEGIN_ALLOW_THREADS
    struct cut_scan scan;
    cut_gear_load(rule->gear, gear->buf);
    cut_begin(&scan, rule, buffer->buf, (size_t)buffer->len, final);
    complete = scan_all(next_by_content, &scan, &pieces);
    Py_END_ALLOW_THREADS
    return list_of_pieces(&pieces, complete);
}

PyDoc_STRVAR(cut_doc, "cut(buffer, gear, minimum, target, maximum, zeros, final)\n--\n\n"
                      "Cut by content: a list of (length, fingerprint), the fingerprint None for a zero run.");

static PyObject *cut(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "gear", "minimum", "target", "maximum", "zeros", "final", NULL};
    Py_buffer buffer, gear;
    Py_ssize_t minimum, target, maximum, zeros;
    int final;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*y*nnnnp:cut", names, &buffer, &gear, &minimum, &target, &maximum,
                                     &zeros, &final))
        return NULL;
    /* A negative size becomes one above every limit. */
    struct cut_rule rule = {
        .minimum = (size_t)minimum, .target = (size_t)target, .maximum = (size_t)maximum, .zeros = (size_t)zeros};
    PyObject *list = cut_checked(&buffer, &gear, &rule, final);
    PyBuffer_Release(&gear);
    PyBuffer_Release(&buffer);
    return list;
}

static PyObject *cut_fixed_checked(const Py_buffer *buffer, Py_ssize_t size, Py_ssize_t first, bool final)
{
    if (first < 1 || first > size)
        return PyErr_Format(PyExc_ValueError, "A first piece of %zd bytes does not fit: give 1 <= first <= size (%zd).",
                            first, size);
    struct cut_fixed_scan scan = {.data = buffer->buf,
                                  .size = (size_t)buffer->len,
                                  .final = final,
                                  .next = (size_t)first,
                                  .every = (size_t)size};
    struct piece_array pieces = {0};
    bool complete;
    Py_BEGIN_ALLOW_THREADS
    complete = scan_all(next_fixed, &scan, &pieces);
    Py_END_ALLOW_THREADS
    return list_of_pieces(&pieces, complete);
}

PyDoc_STRVAR(cut_fixed_doc, "cut_fixed(buffer, size, first, final)\n--\n\n"
                            "Cut every `size` bytes: a list of (length, fingerprint), the fingerprint None for zeros.");

static PyObject *cut_fixed(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"buffer", "size", "first", "final", NULL};
    Py_buffer buffer;
    Py_ssize_t size, first;
    int final;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*nnp:cut_fixed", names, &buffer, &size, &first, &final))
        return NULL;
    PyObject *list = cut_fixed_checked(&buffer, size, first, final);
    PyBuffer_Release(&buffer);
    return list;
}

PyDoc_STRVAR(room_doc, "room(size, /)\n--\n\nA bytearray of `size` bytes to be overwritten: what it holds is undefined.");

static PyObject *room(PyObject *Py_UNUSED(module), PyObject *size)
{
    const Py_ssize_t bytes = PyLong_AsSsize_t(size);
    if (bytes < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "size must not be negative");
        return NULL;
    }
    return PyByteArray_FromStringAndSize(NULL, bytes);
}

static void release_all(Py_buffer *buffers, Py_ssize_t count)
{
    while (count > 0)
        PyBuffer_Release(&buffers[--count]);
    PyMem_Free(buffers);
}

/* The buffers of a sequence, to be given to `release_all`; NULL with an exception. */
static Py_buffer *buffers_of(PyObject *parts, Py_ssize_t count)
{
    Py_buffer *buffers = PyMem_Calloc(count ? (size_t)count : 1, sizeof *buffers);
    if (!buffers) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *part = PySequence_GetItem(parts, i);
        int failed = !part || PyObject_GetBuffer(part, &buffers[i], PyBUF_SIMPLE) < 0;
        Py_XDECREF(part);
        if (failed) {
            release_all(buffers, i);
            return NULL;
        }
    }
    return buffers;
}

static PyObject *gather_checked(const Py_buffer *out, const Py_buffer *buffers, Py_ssize_t count)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (buffers[i].len > out->len - total)
            return PyErr_Format(PyExc_ValueError, "The parts do not fit into %zd bytes.", out->len);
        total += buffers[i].len;
    }
    Py_BEGIN_ALLOW_THREADS
    char *end = out->buf;
    for (Py_ssize_t i = 0; i < count; end += buffers[i++].len)
        memcpy(end, buffers[i].buf, (size_t)buffers[i].len);
    Py_END_ALLOW_THREADS
    return PyLong_FromSsize_t(total);
}

PyDoc_STRVAR(gather_doc, "gather(out, parts)\n--\n\n"
                         "Copy the parts to the beginning of `out`, one behind the other; returns how many bytes.");

static PyObject *gather(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer out;
    PyObject *parts;
    if (!PyArg_ParseTuple(args, "w*O:gather", &out, &parts))
        return NULL;
    PyObject *total = NULL;
    const Py_ssize_t count = PySequence_Size(parts);
    Py_buffer *buffers = count < 0 ? NULL : buffers_of(parts, count);
    if (buffers) {
        total = gather_checked(&out, buffers, count);
        release_all(buffers, count);
    }
    PyBuffer_Release(&out);
    return total;
}

static PyMethodDef methods[] = {
    {"gather", gather, METH_VARARGS, gather_doc},
    {"room", room, METH_O, room_doc},
    {"cut", (PyCFunction)(void (*)(void))cut, METH_VARARGS | METH_KEYWORDS, cut_doc},
    {"cut_fixed", (PyCFunction)(void (*)(void))cut_fixed, METH_VARARGS | METH_KEYWORDS, cut_fixed_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "infinitfs._native",
    .m_doc = "Cut points, zero runs and fingerprints of a stream of bytes, at memory speed; room for bytes, and copies.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
