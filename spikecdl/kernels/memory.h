/* Memory of a kernel, which is given back when it returns.

   A kernel that Python calls begins with `BEGIN` and ends with `END`.  In between, `memory` can be
   taken from; if there is none left, the kernel ends at once and Python raises MemoryError.  What a
   loop takes is given back by `rewind_to`. */

#pragma once

#include <setjmp.h>
#include <stddef.h>

#include "arrays.h"

#define KERNEL __attribute__((visibility("default"))) /* a function that Python calls */

typedef struct Chunk Chunk;

typedef struct {
    Chunk *last;
    size_t size; /* of the last chunk, in bytes */
    jmp_buf failed;
} Memory;

typedef struct {
    Chunk *last;
    size_t used;
} Mark;

enum { DONE = 0, OUT_OF_MEMORY = -1 };

#define BEGIN                                                                                      \
    Memory memory[1] = {{0}};                                                                      \
    if (setjmp(memory->failed)) {                                                                  \
        give_back(memory);                                                                         \
        return OUT_OF_MEMORY;                                                                      \
    }

#define END                                                                                        \
    give_back(memory);                                                                             \
    return DONE;

void *take(Memory *memory, int64_t bytes);
Mark mark(const Memory *memory);
void rewind_to(Memory *memory, Mark mark);
void give_back(Memory *memory);

double *take_doubles(Memory *memory, int64_t number);
double *take_zeros(Memory *memory, int64_t number);
int64_t *take_longs(Memory *memory, int64_t number);
doubles1 new1(Memory *memory, int64_t n);
doubles2 new2(Memory *memory, int64_t n, int64_t m);
doubles3 new3(Memory *memory, int64_t n, int64_t m, int64_t k);
