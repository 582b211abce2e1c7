/*
 * The accelerator of the row decoders: it makes tuples from row images of the binary log, and from
 * the rows of a query's result.
 *
 * accelerator.py makes a program of eight bytes per column from the cells of which the generated
 * Python is made, too. The usual kinds of columns are read here; for any other column the program
 * calls the generated Python's own expression. Bytes that are malformed, or hold an unusual value,
 * are refused, and the caller decodes them again with the generated Python. So the generated Python
 * defines what is right and words the errors; this file only saves time.
 *
 * The bytes come from a server and are not trusted: every length is checked against the end of the
 * event or packet before it is used. Programs come from our own code and are checked all the same.
 */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"

enum { /* the kinds of columns; accelerator.py has the same numbers */
    CONSTANT, BEFORE, INTEGER, FLOAT32, FLOAT64, YEAR, BIT, DECIMAL, DATE,
    DATETIME2, TIMESTAMP2, TIME2, LABELS, UTF8, BYTES, CHARMAP, JSON,
    FIXED, SIZED, DIGITS
};
enum { NULLABLE = 1, UNSIGNED = 2, SHORT = 4 };

/* One column. The kind decides what `a` and `b` are: a size, digits, or an index into `objects`. */
typedef struct {
    uint8_t kind, flags;
    uint16_t a;
    uint32_t b;
} Step;

typedef struct {
    const Step *steps;
    Py_ssize_t count, stored; /* columns of the row, and those of them that the image holds */
    PyObject *objects;        /* borrowed tuple */
} Plan;

static PyObject *bad(const char *reason)
{
    PyErr_SetString(PyExc_ValueError, reason);
    return NULL;
}

/* Writes `value` with at least `width` digits, at most 20 characters; returns the end. */
static char *digits(char *at, uint64_t value, int width)
{
    char text[20];
    int count = 0;
    do
        text[count++] = (char)('0' + value % 10), value /= 10;
    while (value);
    for (; count < width && count < 20; count++)
        text[count] = '0';
    while (count)
        *at++ = text[--count];
    return at;
}

static uint64_t little(const uint8_t *p, int size)
{
    uint64_t value = 0;
    for (int n = 0; n < size; n++)
        value |= (uint64_t)p[n] << 8 * n;
    return value;
}

static uint64_t big(const uint8_t *p, int size)
{
    uint64_t value = 0;
    for (int n = 0; n < size; n++)
        value = value << 8 | p[n];
    return value;
}

static PyObject *ascii(const char *start, const char *end)
{
    return PyUnicode_FromStringAndSize(start, end - start);
}

/* -- decimals ---------------------------------------------------------------------------------- */

static const uint8_t LEFTOVER[] = {0, 1, 1, 2, 2, 3, 3, 4, 4, 4};
static const uint32_t POWER[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000,
                                 1000000000};

static int decimal_size(int precision, int scale)
{
    int whole = precision - scale;
    return whole / 9 * 4 + LEFTOVER[whole % 9] + scale / 9 * 4 + LEFTOVER[scale % 9];
}

/* MySQL's decimal2bin: big-endian groups of nine digits, the short groups first and last. The first
 * bit is set unless the number is negative; all bits of a negative number are inverted. */
static PyObject *decimal_text(const uint8_t *data, int precision, int scale)
{
    char text[96], *at = text + 1, *first = at; /* room for the sign */
    uint8_t flip = data[0] & 0x80 ? 0 : 0xFF;
    int whole = precision - scale, position = 0, size;
    uint32_t any = 0;
    for (int left = whole, part; left; left -= part) {
        part = left % 9 ? left % 9 : 9;
        size = LEFTOVER[part];
        uint32_t value = 0;
        for (int n = 0; n < size; n++, position++)
            value = value << 8 | (uint8_t)(data[position] ^ flip ^ (position ? 0 : 0x80));
        if (value >= POWER[part])
            return bad("a decimal has a group of too many digits");
        any |= value;
        if (value || at != first)
            at = digits(at, value, at == first ? 1 : part);
    }
    if (at == first)
        *at++ = '0';
    if (scale)
        *at++ = '.';
    for (int left = scale, part; left; left -= part) {
        part = left >= 9 ? 9 : left;
        size = LEFTOVER[part];
        uint32_t value = 0;
        for (int n = 0; n < size; n++, position++)
            value = value << 8 | (uint8_t)(data[position] ^ flip ^ (position ? 0 : 0x80));
        if (value >= POWER[part])
            return bad("a decimal has a group of too many digits");
        any |= value;
        at = digits(at, value, part);
    }
    if (flip && any)
        *--first = '-';
    return ascii(first, at);
}

/* -- dates and times --------------------------------------------------------------------------- */

/* Appends the fraction. `stored` has one more digit than the column if `places` is odd. */
static PyObject *with_fraction(const char *text, char *at, uint64_t stored, int places)
{
    uint64_t value = places % 2 ? stored / 10 : stored;
    if (value >= POWER[places])
        return bad("a fraction of a second has too many digits");
    if (places)
        *at++ = '.', at = digits(at, value, places);
    return ascii(text, at);
}

static char *day_text(char *at, uint64_t year, uint64_t month, uint64_t day)
{
    at = digits(at, year, 4), *at++ = '-';
    at = digits(at, month, 2), *at++ = '-';
    return digits(at, day, 2);
}

static char *clock_text(char *at, uint64_t hour, uint64_t minute, uint64_t second)
{
    at = digits(at, hour, 2), *at++ = ':';
    at = digits(at, minute, 2), *at++ = ':';
    return digits(at, second, 2);
}

static PyObject *datetime2_text(uint64_t packed, int places, int bits)
{
    char text[96], *at = text;
    uint64_t whole = packed >> bits, date = whole >> 17;
    if (date < 1 << 22)
        return bad("a datetime before the year 0");
    date -= 1 << 22;
    at = day_text(at, date / 32 / 13, date / 32 % 13, date % 32), *at++ = ' ';
    at = clock_text(at, whole >> 12 & 31, whole >> 6 & 63, whole & 63);
    return with_fraction(text, at, packed & ((1u << bits) - 1), places);
}

static PyObject *timestamp2_text(uint64_t packed, int places, int bits)
{
    char text[96], *at = text;
    uint64_t seconds = packed >> bits;
    if (!packed) {
        at = day_text(at, 0, 0, 0);
    } else { /* Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days */
        uint64_t z = seconds / 86400 + 719468, era = z / 146097, doe = z - era * 146097;
        uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
        uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
        uint64_t month = mp < 10 ? mp + 3 : mp - 9;
        at = day_text(at, yoe + era * 400 + (month <= 2), month, doy - (153 * mp + 2) / 5 + 1);
    }
    *at++ = ' ';
    seconds %= 86400;
    at = clock_text(at, seconds / 3600, seconds / 60 % 60, seconds % 60);
    return with_fraction(text, at, packed & ((1u << bits) - 1), places);
}

static PyObject *time2_text(uint64_t stored, int places, int bits)
{
    char text[96], *at = text;
    int64_t packed = (int64_t)stored - ((int64_t)0x800000 << bits);
    if (packed < 0)
        packed = -packed, *at++ = '-';
    uint64_t size = (uint64_t)packed, whole = size >> bits;
    if (whole >> 23)
        return bad("a time of 2048 hours");
    at = clock_text(at, whole >> 12, whole >> 6 & 63, whole & 63);
    return with_fraction(text, at, size & ((1u << bits) - 1), places);
}

/* -- JSON -------------------------------------------------------------------------------------- */

enum { J_LITERAL = 4, J_INT16, J_UINT16, J_INT32, J_UINT32, J_INT64, J_UINT64, J_DOUBLE, J_STRING };
enum { J_DEEPEST = 100 };

/* `left`: the bytes that may still be read. Offsets may refer to the same bytes repeatedly. */
typedef struct {
    Buffer out;
    int64_t left;
} Printer;

static bool spend(Printer *printer, int64_t size)
{
    return (printer->left -= size) >= 0;
}

/* The character after the backslash of an escape; 'u': four digits follow; 0: no escape. */
static char json_escape(uint8_t c)
{
    return c < 0x20 ? "uuuuuuuubtnufruuuuuuuuuuuuuuuuuu"[c] : c == '"' || c == '\\' ? (char)c : 0;
}

static bool json_quoted(Printer *printer, const uint8_t *data, size_t size)
{
    static const char HEX[] = "0123456789abcdef";
    Buffer *out = &printer->out;
    if (!spend(printer, (int64_t)size) || !put(out, "\"", 1))
        return false;
    for (size_t n = 0; n < size; n++) {
        size_t start = n;
        while (n < size && !json_escape(data[n]))
            n++;
        if (!put(out, (const char *)data + start, n - start))
            return false;
        if (n == size)
            break;
        char escape = json_escape(data[n]);
        char text[6] = {'\\', escape, '0', '0', HEX[data[n] >> 4], HEX[data[n] & 15]};
        if (!put(out, text, escape == 'u' ? 6 : 2))
            return false;
    }
    return put(out, "\"", 1);
}

/* Prints doubles that the servers print as Python does; false leaves the others to Python. */
static bool json_double(Printer *printer, double value)
{
    double size = value < 0 ? -value : value;
    if (size != 0 && !(size >= 1e-4 && size < 1e15))
        return false;
    char *text = PyOS_double_to_string(value, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    bool done = text && put(&printer->out, text, strlen(text));
    PyMem_Free(text);
    return done;
}

static bool json_number(Printer *printer, const uint8_t *data, size_t size, int width, bool sign)
{
    if (size < (size_t)width || !reserve(&printer->out, 24))
        return false;
    uint64_t value = little(data, width);
    char *at = printer->out.data + printer->out.size;
    if (sign && value >> (8 * width - 1)) {
        value = width == 8 ? 0 - value : ((uint64_t)1 << 8 * width) - value;
        *at++ = '-';
    }
    printer->out.size = (size_t)(digits(at, value, 1) - printer->out.data);
    return true;
}

static bool json_value(Printer *, int kind, const uint8_t *data, size_t size, int depth);

/* The value entry at `at` in a container: a type, then an offset or the value in `width` bytes. */
static bool json_member(Printer *printer, const uint8_t *at, int width, const uint8_t *data,
                        size_t size, int depth)
{
    int kind = at[0];
    uint64_t where = little(at + 1, width);
    if (kind == J_LITERAL && where > 2)
        return false;
    if (kind == J_LITERAL || kind == J_INT16 || kind == J_UINT16 ||
        (width == 4 && (kind == J_INT32 || kind == J_UINT32)))
        return json_value(printer, kind, at + 1, (size_t)width, depth);
    return where < size && json_value(printer, kind, data + where, size - where, depth);
}

static bool json_container(Printer *printer, int kind, const uint8_t *data, size_t size, int depth)
{
    int width = kind & 1 ? 4 : 2;
    bool keyed = kind <= 1;
    uint64_t header = 2 * (uint64_t)width, entry = 1 + header / 2, key = keyed ? entry + 1 : 0;
    if (depth > J_DEEPEST || size < header)
        return false;
    uint64_t count = little(data, width), stated = little(data + width, width);
    uint64_t values = header + count * key, stop = values + count * entry;
    if (stated > size || stop > stated || !spend(printer, (int64_t)stop) ||
        !put(&printer->out, keyed ? "{" : "[", 1))
        return false;
    size = (size_t)stated;
    uint64_t first = size, last = 0, sum = 0; /* extent of the keys, which may lie far apart */
    for (uint64_t n = 0; n < count; n++) {
        if (n && !put(&printer->out, ", ", 2))
            return false;
        if (keyed) {
            const uint8_t *at = data + header + n * key;
            uint64_t where = little(at, width), length = little(at + width, 2);
            if (where > size || length > size - where ||
                !json_quoted(printer, data + where, (size_t)length) ||
                !put(&printer->out, ": ", 2))
                return false;
            first = where < first ? where : first;
            last = where + length > last ? where + length : last;
            sum += length;
        }
        if (!json_member(printer, data + values + n * entry, width, data, size, depth + 1))
            return false;
    }
    if (last > first + sum && !spend(printer, (int64_t)(last - first - sum)))
        return false; /* as in Python, which slices the whole extent, so that all of it counts */
    return put(&printer->out, keyed ? "}" : "]", 1);
}

static bool json_value(Printer *printer, int kind, const uint8_t *data, size_t size, int depth)
{
    if (kind < J_LITERAL) /* small and large object, small and large array: 0 to 3 */
        return json_container(printer, kind, data, size, depth);
    if (!size)
        return false;
    switch (kind) {
    case J_LITERAL:
        return data[0] == 0   ? put(&printer->out, "null", 4)
               : data[0] == 1 ? put(&printer->out, "true", 4)
               : data[0] == 2 ? put(&printer->out, "false", 5)
                              : false;
    case J_INT16: case J_UINT16:
        return json_number(printer, data, size, 2, kind == J_INT16);
    case J_INT32: case J_UINT32:
        return json_number(printer, data, size, 4, kind == J_INT32);
    case J_INT64: case J_UINT64:
        return json_number(printer, data, size, 8, kind == J_INT64);
    case J_DOUBLE: {
        double value;
        if (size < 8)
            return false;
        uint64_t bits = little(data, 8);
        memcpy(&value, &bits, 8);
        return json_double(printer, value);
    }
    case J_STRING: {
        size_t length = 0, at = 0;
        int shift = 0;
        do {
            if (at == size || at == 5)
                return false;
            length |= (size_t)(data[at] & 0x7F) << shift, shift += 7;
        } while (data[at++] & 0x80);
        return length <= size - at && json_quoted(printer, data + at, length);
    }
    default: /* an opaque value, which is rare: Python prints the whole document */
        return false;
    }
}

static PyObject *call(PyObject *function, const uint8_t *data, Py_ssize_t size)
{
    PyObject *raw = PyBytes_FromStringAndSize((const char *)data, size);
    if (!raw)
        return NULL;
    PyObject *value = PyObject_CallFunctionObjArgs(function, raw, NULL);
    Py_DECREF(raw);
    return value;
}

static PyObject *json_text(PyObject *fallback, const uint8_t *data, Py_ssize_t size)
{
    Printer printer = {{NULL, 0, 0}, (int64_t)size};
    PyObject *text = NULL;
    if (size && json_value(&printer, data[0], data + 1, (size_t)size - 1, 0))
        text = PyUnicode_DecodeUTF8(printer.out.data, (Py_ssize_t)printer.out.size, "strict");
    free(printer.out.data);
    if (text)
        return text;
    PyErr_Clear();
    return call(fallback, data, size);
}

/* -- row images to tuples ---------------------------------------------------------------------- */

static PyObject *object_at(const Plan *plan, uint32_t index)
{
    if ((Py_ssize_t)index >= PyTuple_Size(plan->objects))
        return bad("a program has an invalid object index");
    return PyTuple_GetItem(plan->objects, index);
}

static PyObject *integer(const uint8_t *p, int size, bool is_unsigned)
{
    uint64_t value = little(p, size);
    if (is_unsigned)
        return PyLong_FromUnsignedLongLong(value);
    int shift = 64 - 8 * size;
    return PyLong_FromLongLong((int64_t)(value << shift) >> shift);
}

/* The size of a value of fixed size; -1 for a value that follows its length. */
static int fixed_size(const Step *step)
{
    int fraction = (step->a + 1) / 2;
    switch (step->kind) {
    case FLOAT32: return 4;
    case FLOAT64: return 8;
    case YEAR: return 1;
    case DATE: return 3;
    case DECIMAL: return decimal_size(step->a, (int)step->b);
    case DATETIME2: return 5 + fraction;
    case TIMESTAMP2: return 4 + fraction;
    case TIME2: return 3 + fraction;
    case INTEGER: case BIT: case LABELS: case FIXED: return step->a;
    default: return -1;
    }
}

static PyObject *fixed_value(const Plan *plan, const Step *step, const uint8_t *p, int size)
{
    int bits = 8 * ((step->a + 1) / 2);
    switch (step->kind) {
    case INTEGER:
        return integer(p, size, step->flags & UNSIGNED);
    case FLOAT32: {
        float value;
        uint32_t raw = (uint32_t)little(p, 4);
        memcpy(&value, &raw, 4);
        return PyFloat_FromDouble(value);
    }
    case FLOAT64: {
        double value;
        uint64_t raw = little(p, 8);
        memcpy(&value, &raw, 8);
        return PyFloat_FromDouble(value);
    }
    case YEAR:
        return PyLong_FromLong(p[0] ? p[0] + 1900 : 0);
    case BIT:
        return PyLong_FromUnsignedLongLong(big(p, size));
    case DECIMAL:
        return decimal_text(p, step->a, (int)step->b);
    case DATE: {
        char text[32];
        uint64_t packed = little(p, 3);
        if (packed >> 9 > 9999)
            return bad("a date after the year 9999");
        return ascii(text, day_text(text, packed >> 9, packed >> 5 & 15, packed & 31));
    }
    case DATETIME2:
        return datetime2_text(big(p, size), step->a, bits);
    case TIMESTAMP2:
        return timestamp2_text(big(p, size), step->a, bits);
    case TIME2:
        return time2_text(big(p, size), step->a, bits);
    case LABELS: {
        PyObject *labels = object_at(plan, step->b), *number, *label;
        uint64_t index = little(p, size);
        if (!labels)
            return NULL;
        if (PyTuple_Check(labels)) {
            if (index >= (uint64_t)PyTuple_Size(labels))
                return bad("an ENUM has an invalid number");
            return Py_NewRef(PyTuple_GetItem(labels, (Py_ssize_t)index));
        }
        if (!(number = PyLong_FromUnsignedLongLong(index)))
            return NULL;
        label = PyObject_GetItem(labels, number);
        Py_DECREF(number);
        return label;
    }
    default: { /* FIXED */
        PyObject *function = object_at(plan, step->b);
        return function ? call(function, p, size) : NULL;
    }
    }
}

static PyObject *charmap(PyObject *table, const uint8_t *data, Py_ssize_t size)
{
    for (Py_ssize_t n = 0; n < size; n++)
        if (data[n] & 0x80)
            return PyUnicode_DecodeCharmap((const char *)data, size, table, "strict");
    return PyUnicode_FromStringAndSize((const char *)data, size);
}

/* A printed number that fits 64 bits, signed or unsigned. */
static PyObject *number(const uint8_t *p, Py_ssize_t size)
{
    bool negative = size > 0 && p[0] == '-';
    const uint8_t *end = p + size;
    uint64_t value = 0, most = negative ? (uint64_t)1 << 63 : UINT64_MAX;
    p += negative;
    if (p == end)
        return bad("a number without a digit");
    for (; p < end; p++) {
        unsigned digit = (unsigned)*p - '0';
        if (digit > 9 || value > (most - digit) / 10)
            return bad("a number has an invalid character or does not fit 64 bits");
        value = value * 10 + digit;
    }
    if (negative && value) /* -2^63 has no positive counterpart */
        return PyLong_FromLongLong(-(int64_t)(value - 1) - 1);
    return PyLong_FromUnsignedLongLong(value);
}

static PyObject *sized_value(const Plan *plan, const Step *step, const uint8_t *p, Py_ssize_t size)
{
    PyObject *object;
    if (step->kind == UTF8)
        return PyUnicode_FromStringAndSize((const char *)p, size);
    if (step->kind == BYTES)
        return PyBytes_FromStringAndSize((const char *)p, size);
    if (step->kind == DIGITS)
        return number(p, size);
    if (!(object = object_at(plan, step->b)))
        return NULL;
    if (step->kind == CHARMAP)
        return charmap(object, p, size);
    return step->kind == JSON ? json_text(object, p, size) : call(object, p, size);
}

/* The value of a stored column that is not NULL; moves `*at` past it. */
static PyObject *read_value(const Plan *plan, const Step *step, const uint8_t **at,
                            const uint8_t *end)
{
    const uint8_t *p = *at;
    int size = fixed_size(step);
    if (size >= 0) {
        if (end - p < size)
            return bad("a row is cut off");
        *at = p + size;
        return fixed_value(plan, step, p, size);
    }
    if (end - p < step->a)
        return bad("a row is cut off");
    uint64_t length = little(p, step->a);
    p += step->a;
    if (length > (uint64_t)(end - p))
        return bad("a row is cut off");
    *at = p + length;
    return sized_value(plan, step, p, (Py_ssize_t)length);
}

/* One row image; `old` is the row before (borrowed), or NULL. */
static PyObject *read_row(const Plan *plan, const uint8_t **at, const uint8_t *end, PyObject *old)
{
    const uint8_t *nulls = *at, *p = nulls + (plan->stored + 7) / 8;
    if (end - nulls < (plan->stored + 7) / 8)
        return bad("a row is cut off");
    PyObject *row = PyTuple_New(plan->count);
    if (!row)
        return NULL;
    PyObject_GC_UnTrack(row); /* no value of a row can be part of a reference cycle */
    Py_ssize_t stored = 0;
    for (Py_ssize_t n = 0; n < plan->count; n++) {
        const Step *step = plan->steps + n;
        PyObject *value;
        if (step->kind == CONSTANT) {
            value = Py_XNewRef(object_at(plan, step->b));
        } else if (step->kind == BEFORE) {
            value = old ? Py_XNewRef(PyTuple_GetItem(old, n)) : bad("no row before");
        } else {
            bool null = step->flags & NULLABLE && nulls[stored / 8] >> stored % 8 & 1;
            stored++;
            value = null ? Py_NewRef(Py_None) : read_value(plan, step, &p, end);
        }
        if (!value) {
            Py_DECREF(row);
            return NULL;
        }
        PyTuple_SetItem(row, n, value);
    }
    *at = p;
    return row;
}

static bool good_step(const Step *step)
{
    switch (step->kind) {
    case INTEGER: case LABELS: case BIT: return step->a >= 1 && step->a <= 8;
    case DECIMAL: return step->a >= 1 && step->a <= 65 && step->b <= 38 && step->b <= step->a;
    case DATETIME2: case TIMESTAMP2: case TIME2: return step->a <= 6;
    case UTF8: case BYTES: case CHARMAP: case JSON: case SIZED: case DIGITS:
        return step->a >= 1 && step->a <= 4;
    default: return step->kind <= DIGITS;
    }
}

/* A plan is (program, objects); None leaves it empty. */
static bool open_plan(PyObject *from, Plan *plan)
{
    char *program;
    Py_ssize_t size;
    memset(plan, 0, sizeof *plan);
    if (from == Py_None)
        return true;
    if (!PyTuple_Check(from) || PyTuple_Size(from) != 2 ||
        PyBytes_AsStringAndSize(PyTuple_GetItem(from, 0), &program, &size) < 0 ||
        size % (Py_ssize_t)sizeof(Step) || !PyTuple_Check(PyTuple_GetItem(from, 1))) {
        PyErr_SetString(PyExc_ValueError, "not a plan");
        return false;
    }
    plan->steps = (const Step *)(void *)program; /* bytes objects are aligned sufficiently */
    plan->count = size / (Py_ssize_t)sizeof(Step);
    plan->objects = PyTuple_GetItem(from, 1);
    for (Py_ssize_t n = 0; n < plan->count; n++) {
        if (!good_step(plan->steps + n)) {
            PyErr_SetString(PyExc_ValueError, "a program has an invalid step");
            return false;
        }
        plan->stored += plan->steps[n].kind > BEFORE;
    }
    return true;
}

static bool add_row(PyObject *rows, PyObject *row)
{
    if (!row)
        return false;
    bool added = PyList_Append(rows, row) == 0;
    Py_DECREF(row);
    return added;
}

static bool read_rows(const Plan *before, const Plan *after, const uint8_t *p, const uint8_t *end,
                      PyObject *before_rows, PyObject *after_rows)
{
    while (p < end) {
        PyObject *old = NULL; /* its list keeps it */
        if (before_rows) {
            old = read_row(before, &p, end, NULL);
            if (!add_row(before_rows, old))
                return false;
        }
        if (after_rows && !add_row(after_rows, read_row(after, &p, end, old)))
            return false;
    }
    return true;
}

PyDoc_STRVAR(decode_doc,
"decode_rows(before, after, data, start, end, /) -> (rows or None, rows or None, end)\n\n"
"The rows in data[start:end]. A plan is (program, objects), or None for an image that the event\n"
"does not have. Raises ValueError for malformed or unusual bytes, or what an object raises.");

static PyObject *decode_rows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *before_plan, *after_plan, *data_object;
    Py_ssize_t start, end, size;
    char *data;
    Plan before, after;
    if (!PyArg_ParseTuple(args, "OOOnn", &before_plan, &after_plan, &data_object, &start, &end) ||
        PyBytes_AsStringAndSize(data_object, &data, &size) < 0 ||
        !open_plan(before_plan, &before) || !open_plan(after_plan, &after))
        return NULL;
    if (start < 0 || end > size || start > end || before.stored + after.stored == 0)
        return bad("no rows");
    PyObject *before_rows = before.count ? PyList_New(0) : NULL;
    PyObject *after_rows = after.count ? PyList_New(0) : NULL;
    PyObject *result = NULL;
    const uint8_t *first = (uint8_t *)data + start, *last = (uint8_t *)data + end;
    if ((!before.count || before_rows) && (!after.count || after_rows) &&
        read_rows(&before, &after, first, last, before_rows, after_rows))
        result = Py_BuildValue("OOn", before_rows ? before_rows : Py_None,
                               after_rows ? after_rows : Py_None, end);
    Py_XDECREF(before_rows);
    Py_XDECREF(after_rows);
    return result;
}

/* -- rows of a query's result to tuples -------------------------------------------------------- */

enum { HEAD = 4, LONGEST = 0xFFFFFF, EOF_SIZE = 8 };
enum { NULL_TEXT = 0xFB, EOF_PACKET = 0xFE, ERROR_PACKET = 0xFF };

/* The length of a text, Protocol::LengthEncodedInteger; moves `*at` past it. */
static bool text_size(const uint8_t **at, const uint8_t *end, uint8_t flags, uint64_t *size)
{
    uint8_t first = *(*at)++;
    int bytes = first == 0xFC ? 2 : first == 0xFD ? 3 : first == 0xFE ? 8 : 0;
    if (first < NULL_TEXT)
        *size = first;
    else if (flags & SHORT || !bytes || end - *at < bytes)
        return false;
    else
        *size = little(*at, bytes), *at += bytes;
    return *size <= (uint64_t)(end - *at);
}

/* One ProtocolText::ResultsetRow, which takes all bytes up to `end`. */
static PyObject *text_row(const Plan *plan, const uint8_t *p, const uint8_t *end)
{
    PyObject *row = PyTuple_New(plan->count);
    if (!row)
        return NULL;
    PyObject_GC_UnTrack(row); /* as in read_row */
    for (Py_ssize_t n = 0; n < plan->count; n++) {
        const Step *step = plan->steps + n;
        PyObject *value;
        uint64_t size;
        if (p < end && *p == NULL_TEXT) {
            value = Py_NewRef(Py_None), p++;
        } else if (p == end || !text_size(&p, end, step->flags, &size)) {
            value = bad("a row is cut off");
        } else {
            value = sized_value(plan, step, p, (Py_ssize_t)size);
            p += size;
        }
        if (!value) {
            Py_DECREF(row);
            return NULL;
        }
        PyTuple_SetItem(row, n, value);
    }
    if (p == end)
        return row;
    Py_DECREF(row);
    return bad("a row ends before its packet");
}

/* Size of the row packet at `p`; 0 if it is incomplete, continued in another, or not a row. */
static Py_ssize_t row_packet(const uint8_t *p, const uint8_t *end)
{
    if (end - p <= HEAD)
        return 0;
    Py_ssize_t size = (Py_ssize_t)little(p, 3);
    bool ends = p[HEAD] == ERROR_PACKET || (p[HEAD] == EOF_PACKET && size <= EOF_SIZE);
    return size == LONGEST || size > end - p - HEAD || ends ? 0 : size;
}

PyDoc_STRVAR(take_doc,
"take_rows(plan, data, start, /) -> (rows, at)\n\n"
"The rows of the packets from `start` on. `at` is the position of the first packet that is\n"
"incomplete, continues in another packet, or is not a row. Raises as decode_rows.");

static PyObject *take_rows(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *from, *data_object;
    Py_ssize_t start, total, size;
    char *data;
    Plan plan;
    if (!PyArg_ParseTuple(args, "OOn", &from, &data_object, &start) ||
        PyBytes_AsStringAndSize(data_object, &data, &total) < 0 || !open_plan(from, &plan))
        return NULL;
    if (start < 0 || start > total || !plan.count)
        return bad("no rows");
    for (Py_ssize_t n = 0; n < plan.count; n++)
        if (plan.steps[n].kind < UTF8 || plan.steps[n].kind == FIXED)
            return bad("a program has a step that does not read text");
    const uint8_t *p = (uint8_t *)data + start, *end = (uint8_t *)data + total;
    PyObject *rows = PyList_New(0);
    if (!rows)
        return NULL;
    for (; (size = row_packet(p, end)); p += HEAD + size)
        if (!add_row(rows, text_row(&plan, p + HEAD, p + HEAD + size))) {
            Py_DECREF(rows);
            return NULL;
        }
    return Py_BuildValue("Nn", rows, (Py_ssize_t)(p - (uint8_t *)data));
}

static PyMethodDef METHODS[] = {
    {"decode_rows", decode_rows, METH_VARARGS, decode_doc},
    {"take_rows", take_rows, METH_VARARGS, take_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_accelerator",
    .m_doc = "The accelerator of the row decoders; see accelerator.py.",
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__accelerator(void)
{
    return PyModuleDef_Init(&MODULE);
}
