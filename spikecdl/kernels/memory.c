#include "memory.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, SMALLEST = 1 << 16 }; /* bytes: of a cache line, and of a first chunk */

struct Chunk {
    Chunk *before;
    size_t size, used;
};

static size_t rounded(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static Chunk *new_chunk(Memory *memory, size_t bytes) {
    size_t larger = memory->size ? 2 * memory->size : SMALLEST;
    size_t size = bytes > larger ? bytes : larger;
    size_t header = rounded(sizeof(Chunk)) + ALIGNMENT;
    Chunk *chunk = malloc(header + size);
    if (!chunk) {
        size = bytes;
        chunk = malloc(header + size);
    }
    if (!chunk)
        longjmp(memory->failed, 1);
    *chunk = (Chunk){memory->last, size, 0};
    memory->last = chunk;
    memory->size = size;
    return chunk;
}

static char *begin_of(Chunk *chunk) {
    return (char *)rounded((size_t)(chunk + 1));
}

void *take(Memory *memory, int64_t number) {
    size_t bytes = rounded(number > 0 ? (size_t)number : 1);
    Chunk *chunk = memory->last;
    if (!chunk || chunk->size - chunk->used < bytes)
        chunk = new_chunk(memory, bytes);
    void *found = begin_of(chunk) + chunk->used;
    chunk->used += bytes;
    return found;
}

Mark mark(const Memory *memory) {
    return (Mark){memory->last, memory->last ? memory->last->used : 0};
}

void rewind_to(Memory *memory, Mark mark) {
    while (memory->last != mark.last && memory->last->before != mark.last) {
        Chunk *chunk = memory->last;
        memory->last = chunk->before;
        free(chunk);
    }
    if (memory->last != mark.last) /* the first chunk after the mark stays, for the next round */
        memory->last->used = 0;
    else if (memory->last)
        memory->last->used = mark.used;
}

void give_back(Memory *memory) {
    while (memory->last) {
        Chunk *chunk = memory->last;
        memory->last = chunk->before;
        free(chunk);
    }
}

double *take_doubles(Memory *memory, int64_t number) {
    return take(memory, number * (int64_t)sizeof(double));
}

double *take_zeros(Memory *memory, int64_t number) {
    return memset(take_doubles(memory, number), 0, (size_t)number * sizeof(double));
}

int64_t *take_longs(Memory *memory, int64_t number) {
    return take(memory, number * (int64_t)sizeof(int64_t));
}

doubles1 new1(Memory *memory, int64_t n) {
    return (doubles1){take_doubles(memory, n), {n}};
}

doubles2 new2(Memory *memory, int64_t n, int64_t m) {
    return (doubles2){take_doubles(memory, n * m), {n, m}};
}

doubles3 new3(Memory *memory, int64_t n, int64_t m, int64_t k) {
    return (doubles3){take_doubles(memory, n * m * k), {n, m, k}};
}
