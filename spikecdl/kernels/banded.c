#include "banded.h"

static const double VANISHED = 1e-13;         /* pivot, relative to the diagonal: of each unit */
static const double SUPPORT_VANISHED = 1e-12; /* and where only a support takes part */

static inline void add_product(double *restrict out, double sign, const double *restrict left,
                               const double *restrict right, int64_t n_units) {
    for (int64_t u = 0; u < n_units; u++)
        out[u] += sign * left[u] * right[u];
}

/* The product of a matrix of one unit; most values of a new run of events are zero. */
static void fill_product_of_one(doubles3 matrix, const double *restrict value,
                                double *restrict product) {
    int64_t count = matrix.n[0], width = matrix.n[1];
    for (int64_t j = 0; j < count; j++) {
        const double *row = ROW3(matrix, j, 0);
        int64_t end = smaller(width, j + 1);
        double total = row[0] * value[j];
        for (int64_t back = 1; back < end; back++)
            total += row[back] * value[j - back];
        product[j] = total;
        for (int64_t back = 1; back < (value[j] != 0.0 ? end : 0); back++)
            product[j - back] += row[back] * value[j];
    }
}

void fill_product(doubles3 matrix, const double *value, double *product) {
    int64_t count = matrix.n[0], width = matrix.n[1], n_units = matrix.n[2];
    if (n_units == 1) {
        fill_product_of_one(matrix, value, product);
        return;
    }
    fill(product, count * n_units, 0.0);
    for (int64_t j = 0; j < count; j++) {
        const double *entry = ROW3(matrix, j, 0), *own = value + j * n_units;
        double *filled = product + j * n_units;
        add_product(filled, 1.0, entry, own, n_units);
        for (int64_t k = n_units; k < smaller(width, j + 1) * n_units; k += n_units) {
            add_product(filled, 1.0, entry + k, own - k, n_units);
            add_product(filled - k, 1.0, entry + k, own, n_units);
        }
    }
}

/* Subtract from an entry what the columns before contribute to it. */
static inline void subtract_before(double *entry, const double *above, int64_t number,
                                   int64_t n_units) {
    if (n_units == 1) {
        entry[0] -= dot(entry + 1, above + 1, number);
        return;
    }
    for (int64_t k = n_units; k <= number * n_units; k += n_units)
        add_product(entry, -1.0, entry + k, above + k, n_units);
}

bool factorize(Memory *memory, doubles3 matrix) {
    int64_t count = matrix.n[0], width = matrix.n[1], n_units = matrix.n[2];
    Mark begin = mark(memory);
    double *size = take_doubles(memory, n_units);
    bool positive = true;
    for (int64_t j = 0; j < count; j++) {
        int64_t widest = smaller(width - 1, j);
        copy(size, ROW3(matrix, j, 0), n_units);
        for (int64_t back = widest; back >= 0; back--) {
            double *entry = ROW3(matrix, j, back), *above = ROW3(matrix, j - back, 0);
            subtract_before(entry, above, widest - back, n_units);
            for (int64_t u = 0; u < (back > 0 ? n_units : 0); u++)
                entry[u] /= above[u];
        }
        double *pivot = ROW3(matrix, j, 0);
        for (int64_t u = 0; u < n_units; u++) {
            positive = positive && pivot[u] > VANISHED * size[u];
            pivot[u] = sqrt(pivot[u]);
        }
        if (!positive)
            break;
    }
    rewind_to(memory, begin);
    return positive;
}

void solve_factors(doubles3 factor, int64_t first, double *column) {
    int64_t count = factor.n[0], width = factor.n[1], n_units = factor.n[2];
    for (int64_t j = first; j < count; j++) {
        double *own = column + j * n_units;
        const double *pivot = ROW3(factor, j, 0);
        for (int64_t k = n_units; k < smaller(width, j - first + 1) * n_units; k += n_units)
            add_product(own, -1.0, pivot + k, own - k, n_units);
        for (int64_t u = 0; u < n_units; u++)
            own[u] /= pivot[u];
    }
    for (int64_t j = count - 1; j >= first; j--) {
        double *own = column + j * n_units;
        const double *pivot = ROW3(factor, j, 0);
        for (int64_t u = 0; u < n_units; u++)
            own[u] /= pivot[u];
        for (int64_t k = n_units; k < smaller(width, j - first + 1) * n_units; k += n_units)
            add_product(own - k, -1.0, pivot + k, own, n_units);
    }
}

/* Fill in a row of the factor, and solve it forward; return whether its pivot is positive. */
static bool factorize_row(doubles2 factor, doubles3 matrix, const int64_t *support, int64_t i,
                          double *right) {
    int64_t width = matrix.n[1], j = support[i], first = i;
    const double *row = ROW3(matrix, j, 0);
    double *own = ROW2(factor, i);
    while (first > 0 && j - support[first - 1] < width)
        first--;
    for (int64_t m = first; m <= i; m++) {
        double total = row[j - support[m]];
        const double *above = ROW2(factor, m);
        for (int64_t k = larger(first, m - width + 1); k < m; k++)
            total -= own[i - k] * above[m - k];
        if (m == i) {
            own[0] = sqrt(total);
            right[i] /= own[0];
            return total > SUPPORT_VANISHED * row[0];
        }
        own[i - m] = total / above[0];
        right[i] -= own[i - m] * right[m];
    }
    return false;
}

bool solve_banded(Memory *memory, doubles3 matrix, const int64_t *support, int64_t size,
                  double *right) {
    int64_t width = matrix.n[1];
    Mark begin = mark(memory);
    doubles2 factor = {take_zeros(memory, size * width), {size, width}};
    bool solved = true;
    for (int64_t i = 0; solved && i < size; i++)
        solved = factorize_row(factor, matrix, support, i, right);
    for (int64_t i = solved ? size - 1 : -1; i >= 0; i--) {
        right[i] /= AT2(factor, i, 0);
        for (int64_t k = 1; k < smaller(width, i + 1); k++)
            right[i - k] -= AT2(factor, i, k) * right[i];
    }
    rewind_to(memory, begin);
    return solved;
}
