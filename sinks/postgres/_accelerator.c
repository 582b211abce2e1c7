/*
 * The accelerator of the COPY encoder: row tuples -> lines of COPY's text format.
 *
 * A program of eight bytes per column says what to write. accelerator.py makes it from the columns
 * that the generated Python (copy.py) encodes. The accelerator handles only common values. A value
 * that does not have its column's type, or that cannot be sent as it is (a date that does not
 * exist, U+0000, half of a surrogate pair), makes it refuse the whole piece, and the caller encodes
 * the same rows with the generated Python. That defines the right result: only it replaces values,
 * counts them and raises errors. The accelerator may only be faster, never different.
 *
 * Until it returns or refuses, no Python code runs and no object is made that could start the
 * garbage collector, so borrowed references stay valid. Values and programs come from our own code
 * and are checked nevertheless.
 *
 * Format: PostgreSQL manual, COPY, "Text Format".
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"

enum { /* how a column is written; accelerator.py has the same numbers */
    PLAIN, /* an int or a str, as it is */
    TEXT,  /* a str that may need escaping */
    DAY,   /* a str that begins with a date */
    FLOAT, BOOLEAN, BITS, HEX,
    SIGNED, /* an int of at most 63 bits and a sign */
    FLAG    /* the int 0 or 1, as a boolean */
};
enum { NULLABLE = 1 };

/* One column. `position` is the position of its value in a row; only BITS uses `bits`. */
typedef struct {
    uint8_t kind, flags;
    uint16_t bits;
    uint32_t position;
} Step;

typedef struct {
    const Step *steps;
    Py_ssize_t count, width; /* the numbers of steps, and of values in a row */
    bool *foreign;           /* for each step, whether a text had a character beyond ASCII */
} Plan;

/* The functions put_... and open_... return false if they refuse, or if memory runs out: then
 * MemoryError is set. */

/* -- numbers ----------------------------------------------------------------------------------- */

static bool put_integer(Buffer *out, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    unsigned long long size = (unsigned long long)number;
    if (overflow) {
        size = PyLong_AsUnsignedLongLong(value);
        if (PyErr_Occurred())
            return false;
    } else if (number < 0) {
        size = 0 - size;
    }
    char text[24], *end = text + sizeof text, *at = end;
    do
        *--at = (char)('0' + size % 10), size /= 10;
    while (size);
    if (number < 0 && !overflow)
        *--at = '-';
    return put(out, at, (size_t)(end - at));
}

static bool put_float(Buffer *out, PyObject *value)
{
    if (!PyFloat_CheckExact(value))
        return false;
    double number = PyFloat_AsDouble(value);
    char *text = PyOS_double_to_string(number, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    bool done = text && put(out, text, strlen(text));
    PyMem_Free(text);
    return done;
}

static bool put_boolean(Buffer *out, PyObject *value)
{
    return (value == Py_True && put(out, "t", 1)) || (value == Py_False && put(out, "f", 1));
}

/* The int 0 or 1 as a boolean. */
static bool put_flag(Buffer *out, PyObject *value)
{
    if (!PyLong_CheckExact(value))
        return false;
    long number = PyLong_AsLong(value);
    return (number == 1 && put(out, "t", 1)) || (number == 0 && put(out, "f", 1));
}

static bool put_signed(Buffer *out, PyObject *value)
{
    if (!PyLong_CheckExact(value))
        return false;
    int overflow;
    (void)PyLong_AsLongLongAndOverflow(value, &overflow);
    return !overflow && put_integer(out, value);
}

/* At least `width` binary digits. */
static bool put_bits(Buffer *out, PyObject *value, int width)
{
    if (!PyLong_CheckExact(value))
        return false;
    unsigned long long bits = PyLong_AsUnsignedLongLong(value);
    if (bits == (unsigned long long)-1 && PyErr_Occurred())
        return false;
    char text[64], *end = text + sizeof text, *at = end;
    for (; bits || end - at < width; bits >>= 1)
        *--at = (char)('0' + (bits & 1));
    return put(out, at, (size_t)(end - at));
}

/* Bytes in PostgreSQL's hexadecimal format, whose backslash is escaped. */
static bool put_hex(Buffer *out, PyObject *value)
{
    static const char DIGITS[] = "0123456789abcdef";
    char *data;
    Py_ssize_t size;
    if (!PyBytes_CheckExact(value) || PyBytes_AsStringAndSize(value, &data, &size) < 0 ||
        !reserve(out, 2 * (size_t)size + 3) || !put(out, "\\\\x", 3))
        return false;
    char *at = out->data + out->size;
    for (Py_ssize_t n = 0; n < size; n++) {
        uint8_t byte = (uint8_t)data[n];
        *at++ = DIGITS[byte >> 4], *at++ = DIGITS[byte & 15];
    }
    out->size += 2 * (size_t)size;
    return true;
}

/* -- texts ------------------------------------------------------------------------------------- */

/* The UTF-8 of a str; `owner` is the object that holds it, NULL if the str itself does. */
typedef struct {
    const char *data;
    Py_ssize_t size;
    PyObject *owner;
} Text;

/* A str that is not ASCII would cache its UTF-8 until the row is gone. So once a column has had
 * such a text, the following ones are encoded into bytes of their own. */
static bool open_text(Text *text, PyObject *value, bool *foreign)
{
    text->owner = NULL;
    if (!PyUnicode_CheckExact(value))
        return false;
    if (*foreign) {
        char *data;
        text->owner = PyUnicode_AsUTF8String(value);
        if (!text->owner || PyBytes_AsStringAndSize(text->owner, &data, &text->size) < 0)
            return false;
        text->data = data;
        return true;
    }
    text->data = PyUnicode_AsUTF8AndSize(value, &text->size);
    if (!text->data)
        return false;
    *foreign = text->size != PyUnicode_GetLength(value);
    return true;
}

/* Not 0 if one of the eight bytes is a control character or a backslash (Sean Anderson, "Bit
 * Twiddling Hacks", "Determine if a word has a byte less than n"). */
static inline uint64_t special(uint64_t word)
{
    const uint64_t ones = UINT64_MAX / 255;
    uint64_t slash = word ^ ones * '\\';
    return (((word - ones * ' ') & ~word) | ((slash - ones) & ~slash)) & ones * 0x80;
}

/* Whether a character may need escaping. */
static bool may_be_special(const char *data, size_t size)
{
    uint64_t word, found = 0, rest = UINT64_MAX; /* of no special bytes */
    for (; size >= 8; data += 8, size -= 8) {
        memcpy(&word, data, 8);
        found |= special(word);
    }
    memcpy(&rest, data, size);
    return found | special(rest);
}

/* The character that COPY writes after a backslash; 0 if `c` is not escaped. */
static char escaped(char c)
{
    return c == '\\' ? '\\' : c == '\t' ? 't' : c == '\n' ? 'n' : c == '\r' ? 'r' : 0;
}

static bool put_escaped(Buffer *out, const char *data, size_t size)
{
    if (!may_be_special(data, size))
        return put(out, data, size);
    if (memchr(data, 0, size))
        return false;
    for (size_t start = 0, n = 0; start < size; start = ++n) {
        while (n < size && !escaped(data[n]))
            n++;
        if (!put(out, data + start, n - start))
            return false;
        char pair[2] = {'\\', n < size ? escaped(data[n]) : 0};
        if (n < size && !put(out, pair, 2))
            return false;
    }
    return true;
}

/* `count` digits as a number; -1 if one is not a digit. */
static int digits(const char *p, int count)
{
    int value = 0;
    for (int n = 0; n < count; n++) {
        if (p[n] < '0' || p[n] > '9')
            return -1;
        value = value * 10 + p[n] - '0';
    }
    return value;
}

/* Whether a text begins with a date of the years 1 to 9999. */
static bool is_day(const Text *text)
{
    static const int DAYS[] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *p = text->data;
    if (text->size < 10 || p[4] != '-' || p[7] != '-')
        return false;
    int year = digits(p, 4), month = digits(p + 5, 2), day = digits(p + 8, 2);
    if (year < 1 || month < 1 || month > 12)
        return false;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return day >= 1 && day <= DAYS[month] + (leap && month == 2);
}

static bool put_text(Buffer *out, int kind, PyObject *value, bool *foreign)
{
    Text text;
    bool done = open_text(&text, value, foreign);
    if (done && kind == TEXT)
        done = put_escaped(out, text.data, (size_t)text.size);
    else if (done)
        done = (kind == PLAIN || is_day(&text)) && put(out, text.data, (size_t)text.size);
    Py_XDECREF(text.owner);
    return done;
}

/* -- rows -> lines ----------------------------------------------------------------------------- */

static bool put_value(Buffer *out, const Step *step, PyObject *value, bool *foreign)
{
    if (value == Py_None)
        return step->flags & NULLABLE && put(out, "\\N", 2);
    switch (step->kind) {
    case PLAIN:
        if (PyLong_CheckExact(value))
            return put_integer(out, value);
        return put_text(out, PLAIN, value, foreign);
    case TEXT: case DAY:
        return put_text(out, step->kind, value, foreign);
    case FLOAT:
        return put_float(out, value);
    case BOOLEAN:
        return put_boolean(out, value);
    case BITS:
        return put_bits(out, value, step->bits);
    case SIGNED:
        return put_signed(out, value);
    case FLAG:
        return put_flag(out, value);
    default: /* HEX */
        return put_hex(out, value);
    }
}

static bool put_row(Buffer *out, const Plan *plan, PyObject *row)
{
    if (!PyTuple_CheckExact(row) || PyTuple_Size(row) != plan->width)
        return false;
    for (Py_ssize_t n = 0; n < plan->count; n++) {
        const Step *step = plan->steps + n;
        PyObject *value = PyTuple_GetItem(row, step->position);
        if ((n && !put(out, "\t", 1)) || !put_value(out, step, value, plan->foreign + n))
            return false;
    }
    return put(out, "\n", 1);
}

static bool good_step(const Step *step, Py_ssize_t width)
{
    return step->kind <= FLAG && step->flags <= NULLABLE && step->position < (size_t)width &&
           step->bits <= 64;
}

static bool open_plan(Plan *plan, const char *program, Py_ssize_t size, Py_ssize_t width)
{
    plan->steps = (const Step *)(const void *)program; /* the data of bytes is aligned */
    plan->count = size / (Py_ssize_t)sizeof(Step), plan->width = width;
    bool good = width >= 0 && size % (Py_ssize_t)sizeof(Step) == 0;
    for (Py_ssize_t n = 0; good && n < plan->count; n++)
        good = good_step(plan->steps + n, width);
    if (!good) {
        PyErr_SetString(PyExc_ValueError, "invalid program");
        return false;
    }
    plan->foreign = calloc((size_t)plan->count + 1, sizeof *plan->foreign);
    if (!plan->foreign)
        PyErr_NoMemory();
    return plan->foreign;
}

PyDoc_STRVAR(encode_doc,
"encode_rows(program, width, rows, start, stop, /) -> bytes or None\n\n"
"The COPY text of rows[start:stop], where rows is a list of tuples of width values. None if a row\n"
"or a value is refused. ValueError if the program is invalid, or start or stop out of range.");

static PyObject *encode_rows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *program, *rows;
    Py_ssize_t width, start, stop, size;
    char *steps;
    Plan plan;
    if (!PyArg_ParseTuple(args, "OnOnn", &program, &width, &rows, &start, &stop) ||
        PyBytes_AsStringAndSize(program, &steps, &size) < 0)
        return NULL;
    if (!PyList_CheckExact(rows))
        return Py_NewRef(Py_None);
    if (start < 0 || start > stop || stop > PyList_Size(rows)) {
        PyErr_SetString(PyExc_ValueError, "rows out of range");
        return NULL;
    }
    if (!open_plan(&plan, steps, size, width))
        return NULL;
    Buffer out = {NULL, 0, 0};
    PyObject *result = NULL;
    bool done = reserve(&out, 1);
    for (Py_ssize_t n = start; done && n < stop; n++)
        done = put_row(&out, &plan, PyList_GetItem(rows, n));
    if (done) {
        result = PyBytes_FromStringAndSize(out.data, (Py_ssize_t)out.size);
    } else if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear(); /* refused: the generated Python raises the error */
        result = Py_NewRef(Py_None);
    }
    free(plan.foreign);
    free(out.data);
    return result;
}

static PyMethodDef METHODS[] = {
    {"encode_rows", encode_rows, METH_VARARGS, encode_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_accelerator",
    .m_doc = "The accelerator of the COPY encoder; see accelerator.py.",
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__accelerator(void)
{
    return PyModuleDef_Init(&MODULE);
}
