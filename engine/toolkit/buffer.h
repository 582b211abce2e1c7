/*
 * Bytes that grow, for the compiled kernels of the codecs. To be included after Python.h.
 *
 * What can fail returns false, and MemoryError is set.
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

/* Make room for so many bytes more. */
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

static inline bool put(Buffer *out, const char *data, size_t size)
{
    if (!reserve(out, size))
        return false;
    memcpy(out->data + out->size, data, size);
    out->size += size;
    return true;
}

#endif
