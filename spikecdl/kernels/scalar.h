/* Exponentials and logarithms as polynomials, so that loops use vector registers; their relative
   error is below 1e-10.  Sums of loops marked `REDUCE` may be taken in any order. */

#pragma once

#include <math.h>
#include <string.h>

#include "arrays.h"

#define PRAGMA(text) _Pragma(#text)
#define REDUCE(total) PRAGMA(omp simd reduction(+ : total))

static inline double least(double x, double y) {
    return x < y ? x : y;
}

static inline double most(double x, double y) {
    return x > y ? x : y;
}

/* Exponential of z, which saturates at 80 and at -80: exp(z / 1024), squared ten times. */
static inline double quick_exp(double z) {
    double x = most(least(z, 80.0), -80.0) * (1.0 / 1024);
    double tail = 1.0 + x * (1.0 / 5) * (1.0 + x * (1.0 / 6) * (1.0 + x * (1.0 / 7)));
    double power = 1.0 + x * (1.0 / 4) * tail;
    power = 1.0 + x * (1.0 + x * (1.0 / 2) * (1.0 + x * (1.0 / 3) * power));
    power *= power, power *= power, power *= power, power *= power, power *= power;
    power *= power, power *= power, power *= power, power *= power, power *= power;
    return power;
}

static const double FAINTEST = -708.0; /* logarithm from which exponentials are zero */

/* Exponential of a number that is not positive, to rounding; zero where it would be tiny. */
static inline double falling_exp(double z) {
    const double large = 6755399441055744.0; /* 1.5 * 2^52: a sum with it is a whole number */
    double shifted = most(z, FAINTEST) * 1.4426950408889634 + large, whole = shifted - large;
    double x = most(z, FAINTEST) - whole * 0.693147180369123816490;
    x -= whole * 1.90821492927058770002e-10; /* the rest of the logarithm of 2 */
    double power = 1.0 / 39916800 * x + 1.0 / 3628800;
    power = power * x + 1.0 / 362880;
    power = power * x + 1.0 / 40320;
    power = power * x + 1.0 / 5040;
    power = power * x + 1.0 / 720;
    power = power * x + 1.0 / 120;
    power = power * x + 1.0 / 24;
    power = power * x + 1.0 / 6;
    power = power * x + 1.0 / 2;
    power = power * x * x + x + 1.0;
    uint64_t exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &power, sizeof bits);
    bits += exponent << 52;
    memcpy(&power, &bits, sizeof power);
    return z < FAINTEST ? 0.0 : power;
}

/* Logarithm of 1 + x for x from 0 to 1: twice the inverse hyperbolic tangent of x / (2 + x). */
static inline double quick_log1p(double x) {
    double u = x / (2.0 + x), v = u * u;
    double high = 1.0 / 15 + v * (1.0 / 17 + v * (1.0 / 19 + v * (1.0 / 21)));
    high = 1.0 / 9 + v * (1.0 / 11 + v * (1.0 / 13 + v * high));
    return 2.0 * u * (1.0 + v * (1.0 / 3 + v * (1.0 / 5 + v * (1.0 / 7 + v * high))));
}

/* Logarithm of 1 + exp(z). */
static inline double softplus(double z) {
    return most(z, 0.0) + quick_log1p(quick_exp(-fabs(z)));
}

/* Replace positive numbers, neither subnormal nor infinite, by their logarithms. */
static inline void to_log(double *values, int64_t number) {
    const uint64_t mantissa = (UINT64_C(1) << 52) - 1, one = UINT64_C(1023) << 52;
    /* an integer below 2^52 is a number of double precision once these bits are added */
    const uint64_t large = UINT64_C(0x4330000000000000);
    for (int64_t s = 0; s < number; s++) {
        uint64_t bits, shifted;
        double exponent, part;
        memcpy(&bits, values + s, sizeof bits);
        shifted = (bits >> 52) | large;
        bits = (bits & mantissa) | one;
        memcpy(&exponent, &shifted, sizeof exponent);
        memcpy(&part, &bits, sizeof part);
        exponent -= 4503599627370496.0 + 1023.0; /* 2^52 and the bias */
        values[s] = exponent * 0.6931471805599453 + quick_log1p(part - 1.0);
    }
}

static const double LEAST = -30.0; /* log of a ratio below which the smaller term is left out */

/* Return log(exp(x) + exp(y)), most quickly where y is negligible. */
static inline double log_add(double x, double y) {
    return y < x + LEAST ? x : most(x, y) + quick_log1p(quick_exp(-fabs(x - y)));
}

static inline double sum(const double *values, int64_t number) {
    double total = 0.0;
    REDUCE(total)
    for (int64_t k = 0; k < number; k++)
        total += values[k];
    return total;
}

static inline double largest(const double *values, int64_t number) {
    double found = -INFINITY;
    for (int64_t k = 0; k < number; k++)
        found = most(found, values[k]);
    return found;
}

/* Inner product of two vectors. */
static inline double dot(const double *left, const double *right, int64_t number) {
    double total = 0.0;
    REDUCE(total)
    for (int64_t k = 0; k < number; k++)
        total += left[k] * right[k];
    return total;
}

/* Add a multiple of a vector to another. */
static inline void add_multiple(double *restrict out, double factor, const double *restrict vector,
                                int64_t number) {
    for (int64_t k = 0; k < number; k++)
        out[k] += factor * vector[k];
}

static inline void fill(double *values, int64_t number, double value) {
    for (int64_t k = 0; k < number; k++)
        values[k] = value;
}

static inline void copy(double *restrict out, const double *restrict values, int64_t number) {
    memcpy(out, values, (size_t)number * sizeof(double));
}
