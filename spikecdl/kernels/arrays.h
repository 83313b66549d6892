/* Arrays as NumPy lays them out: contiguous, the last axis first in memory.

   `doubles3` is an array of double precision with three axes: its numbers begin at `at`, and `n`
   are the lengths of its axes.  These names are read by `spikecdl.kernels`, which passes arrays. */

#pragma once

#include <stdbool.h>
#include <stdint.h>

#define ARRAYS(type, name)                                                                         \
    typedef struct {                                                                               \
        type *at;                                                                                  \
        int64_t n[1];                                                                              \
    } name##1;                                                                                     \
    typedef struct {                                                                               \
        type *at;                                                                                  \
        int64_t n[2];                                                                              \
    } name##2;                                                                                     \
    typedef struct {                                                                               \
        type *at;                                                                                  \
        int64_t n[3];                                                                              \
    } name##3;                                                                                     \
    typedef struct {                                                                               \
        type *at;                                                                                  \
        int64_t n[4];                                                                              \
    } name##4;

ARRAYS(double, doubles)
ARRAYS(float, floats)
ARRAYS(int64_t, longs)
ARRAYS(int32_t, ints)
ARRAYS(bool, flags)

/* A number, and where the numbers of a row begin: all axes but the last are given. */
#define AT2(a, i, j) ((a).at[(i) * (a).n[1] + (j)])
#define AT3(a, i, j, k) ((a).at[((i) * (a).n[1] + (j)) * (a).n[2] + (k)])
#define AT4(a, i, j, k, l) ((a).at[(((i) * (a).n[1] + (j)) * (a).n[2] + (k)) * (a).n[3] + (l)])
#define ROW2(a, i) ((a).at + (i) * (a).n[1])
#define ROW3(a, i, j) ((a).at + ((i) * (a).n[1] + (j)) * (a).n[2])
#define ROW4(a, i, j, k) ((a).at + (((i) * (a).n[1] + (j)) * (a).n[2] + (k)) * (a).n[3])

/* The part of an array at one place of its first axis. */
static inline doubles1 part2(doubles2 a, int64_t i) {
    return (doubles1){ROW2(a, i), {a.n[1]}};
}

static inline doubles2 part3(doubles3 a, int64_t i) {
    return (doubles2){a.at + i * a.n[1] * a.n[2], {a.n[1], a.n[2]}};
}

static inline doubles3 part4(doubles4 a, int64_t i) {
    return (doubles3){a.at + i * a.n[1] * a.n[2] * a.n[3], {a.n[1], a.n[2], a.n[3]}};
}

static inline int64_t size2(doubles2 a) {
    return a.n[0] * a.n[1];
}

static inline int64_t size3(doubles3 a) {
    return a.n[0] * a.n[1] * a.n[2];
}

static inline int64_t smaller(int64_t x, int64_t y) {
    return x < y ? x : y;
}

static inline int64_t larger(int64_t x, int64_t y) {
    return x > y ? x : y;
}
