/*
 * A growing byte buffer for the accelerators of the codecs. Include it after Python.h.
 *
 * A zeroed Buffer is empty. The caller frees `data`. Functions return false and set MemoryError if
 * there is not enough memory.
 */

#ifndef TAILRACE_BUFFER_H
#define TAILRACE_BUFFER_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *data;
    size_t size, room;
} Buffer;

/* Make room for `more` bytes after the first `size` ones. */
static inline bool reserve(Buffer *out, size_t more)
{
    if (out->room - out->size >= more)
        return true;
    size_t room = out->room * 2 + more + 4096;
    char *data = realloc(out->data, room);
    if (!data) {
        PyErr_NoMemory();
        return false;
    }
    out->data = data, out->room = room;
    return true;
}

/* Append `size` bytes. */
static inline bool put(Buffer *out, const char *data, size_t size)
{
    if (!reserve(out, size))
        return false;
    memcpy(out->data + out->size, data, size);
    out->size += size;
    return true;
}

#endif
