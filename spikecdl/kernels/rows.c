#include "rows.h"

static const double LARGEST_STEP = 0.7;      /* of a bin of a template, in units of `eta_scale` */
static const double LEAST_SHRINKAGE = 0.05;  /* precision, in units of 1 / eta_scale^2 */
static const double MOST_SHRINKAGE = 1e5;    /* likewise */
static const double LARGEST_FACTOR = 4.0;    /* of the precision of a row, in one step */
static const double LEAST_PARAMETERS = 1e-6; /* determined by data, for a finite precision */
static const double LARGEST_GROWTH = 5.0;    /* log factor of what is expected, between steps */
static const double HELD = 1e15;             /* curvature of a bin that stays at its least value */

enum { NEWTON_STEPS = 3 };

/* Fill in the product of a symmetric matrix and a vector. */
static void multiply(doubles2 band, const double *vector, double *out) {
    int64_t length = band.n[1];
    for (int64_t t = 0; t < length; t++)
        out[t] = AT2(band, 0, t) * vector[t];
    for (int64_t k = 1; k < 3; k++)
        for (int64_t t = 0; t < length - k; t++) {
            out[t] += AT2(band, k, t) * vector[t + k];
            out[t + k] += AT2(band, k, t) * vector[t];
        }
}

/* Replace a matrix by its factors L D L', of unit L; return the log of its determinant.

   The diagonals above the main one end with zeros, in the matrix and in its factors. */
static double factorize(doubles2 band) {
    double *diagonal = ROW2(band, 0), *next = ROW2(band, 1), *after = ROW2(band, 2);
    double total = 0.0, one = 0.0, two = 0.0, beside = 0.0, far = 0.0, less = 0.0;
    for (int64_t t = 0; t < band.n[1]; t++) {
        double pivot = diagonal[t] - less - one * beside;
        less = two * far; /* of the pivot two bins after that of `two` */
        beside = next[t] - one * far;
        far = after[t];
        one = beside / pivot;
        two = far / pivot;
        total += log(pivot);
        diagonal[t] = pivot;
        next[t] = one;
        after[t] = two;
    }
    return total;
}

/* Replace a right-hand side by the solution. */
static void solve(doubles2 factors, double *vector) {
    const double *pivot = ROW2(factors, 0), *one = ROW2(factors, 1), *two = ROW2(factors, 2);
    double here = 0.0, last = 0.0, before = 0.0; /* of the solution, one and two bins away */
    for (int64_t t = 0; t < factors.n[1]; t++, before = last, last = here)
        vector[t] = here =
            vector[t] - two[larger(t - 2, 0)] * before - one[larger(t - 1, 0)] * last;
    last = before = 0.0;
    for (int64_t t = factors.n[1] - 1; t >= 0; t--, before = last, last = here)
        vector[t] = here = vector[t] / pivot[t] - one[t] * last - two[t] * before;
}

/* Fill in the diagonals of the inverse (Takahashi's equations). */
static void invert(doubles2 factors, doubles2 inverse) {
    double last = 0.0, before = 0.0, beside = 0.0; /* of the inverse, at later bins */
    for (int64_t t = factors.n[1] - 1; t >= 0; t--) {
        double one = AT2(factors, 1, t), two = AT2(factors, 2, t);
        double far = -one * beside - two * before;
        beside = -one * last - two * beside;
        before = last;
        last = 1.0 / AT2(factors, 0, t) - one * beside - two * far;
        AT2(inverse, 0, t) = last;
        AT2(inverse, 1, t) = beside;
        AT2(inverse, 2, t) = far;
    }
}

/* What is expected of a bin that has moved, and its curvature. */
typedef struct {
    double expected, bend;
} Moved;

/* Return what is expected of a bin that has moved to a mean and variance. */
static Moved moved_to(const RowData *data, int64_t n, int64_t t, double row, double variance) {
    double expected = AT2(data->expected, n, t), bend = AT2(data->curvature, n, t);
    double moved = row - AT2(data->mean, n, t), more = variance - AT2(data->variance, n, t);
    if (data->linear || expected <= 0.0)
        return (Moved){expected + bend * moved, bend};
    double rate = bend / expected;
    double factor = exp(least(rate * moved + rate * rate * more / 2, LARGEST_GROWTH));
    return (Moved){factor * expected, factor * bend};
}

/* Return the expected log likelihood of a row over that of zeros. */
static double gain_of(const RowData *data, int64_t n, const double *row, const double *variance) {
    double total = 0.0;
    for (int64_t t = 0; t < data->mean.n[1]; t++) {
        Moved with = moved_to(data, n, t, row[t], variance[t]);
        Moved without = moved_to(data, n, t, 0.0, 0.0);
        total += AT2(data->spikes, n, t) * row[t];
        if (data->linear || AT2(data->expected, n, t) <= 0.0)
            total -= (with.expected + without.expected) * row[t] / 2;
        else
            total -= (with.expected - without.expected) * with.expected / most(with.bend, 1e-300);
    }
    return total;
}

/* What the steps of a row are computed in: matrices (diagonal, bin) and vectors (bin,). */
typedef struct {
    doubles2 band, prior, matrix, held, inverse;
    double *change;
} Scratch;

/* Take one Newton step of a row and of its variance; return the log determinant of the precision.
 */
static double take_newton_step(const RowData *data, const RowPrior *prior, int64_t n, double *row,
                               double *variance, const Scratch *scratch) {
    int64_t length = data->mean.n[1];
    bool bounded = prior->floor > -INFINITY;
    double *change = scratch->change;
    multiply(scratch->prior, row, change);
    copy(scratch->matrix.at, scratch->prior.at, size2(scratch->matrix));
    for (int64_t t = 0; t < length; t++) {
        Moved moved = moved_to(data, n, t, row[t], variance[t]);
        AT2(scratch->matrix, 0, t) += moved.bend;
        change[t] = AT2(data->spikes, n, t) - moved.expected - change[t];
    }
    if (bounded) {
        copy(scratch->held.at, scratch->matrix.at, size2(scratch->matrix));
        for (int64_t t = 0; t < length; t++)
            if (row[t] <= prior->floor && change[t] < 0.0)
                AT2(scratch->held, 0, t) = HELD;
        factorize(scratch->held);
    }
    double determinant = factorize(scratch->matrix);
    solve(bounded ? scratch->held : scratch->matrix, change);
    invert(scratch->matrix, scratch->inverse);
    for (int64_t t = 0; t < length; t++) {
        double after = AT2(scratch->inverse, 0, t),
               before = variance[t] > 0.0 ? variance[t] : after;
        double step = most(-LARGEST_STEP, least(LARGEST_STEP, change[t]));
        row[t] = most(row[t] + step, prior->floor);
        /* half of the way, as what is expected depends on it in turn */
        variance[t] = sqrt(before * after);
    }
    return determinant;
}

/* Update one row, and the precision of its prior; fill in what `update_rows` says of a row. */
static void update_row(const Rows *rows, const RowData *data, const RowPrior *prior, int64_t n,
                       double log_relative, const Scratch *scratch, double *found) {
    int64_t length = data->mean.n[1];
    double *row = ROW2(rows->mean, n), *variance = ROW2(rows->variance, n), determinant = 0.0;
    double *alpha = rows->precision.at + n, *change = scratch->change;
    for (int64_t k = 0; k < size2(scratch->prior); k++)
        scratch->prior.at[k] = *alpha * scratch->band.at[k];
    for (int64_t round = 0; round < NEWTON_STEPS; round++)
        determinant = take_newton_step(data, prior, n, row, variance, scratch);
    for (int64_t t = 0; t < length; t++) {
        double before = AT2(data->mean, n, t);
        row[t] = most(before + prior->step * (row[t] - before), prior->floor);
    }
    multiply(scratch->prior, row, change);
    double bent = 0.0, known = (double)length, size = dot(row, change, length);
    for (int64_t k = 0; k < 3; k++)
        for (int64_t t = 0; t < length - k; t++) {
            double twice = k == 0 ? 1.0 : 2.0, inverse = AT2(scratch->inverse, k, t);
            bent += twice * *alpha * (inverse + row[t] * row[t + k]) * AT2(prior->bends, k, t);
            known -= twice * inverse * AT2(scratch->prior, k, t);
        }
    double total = log_relative + (double)length * log(*alpha) - determinant;
    found[0] = (total + known - size) / 2;
    found[1] = bent;
    found[2] = gain_of(data, n, row, variance);
    if (prior->learn) {
        double factor = sqrt(most(known, LEAST_PARAMETERS) / most(size, 1e-12));
        factor = least(most(factor, 1.0 / LARGEST_FACTOR), LARGEST_FACTOR);
        *alpha = least(most(*alpha * factor, LEAST_SHRINKAGE), MOST_SHRINKAGE);
    }
}

/* Return I + tau D'D. */
static doubles2 relative_precision(Memory *memory, doubles2 bends, double tau) {
    doubles2 band = new2(memory, 3, bends.n[1]);
    for (int64_t k = 0; k < size2(band); k++)
        band.at[k] = tau * bends.at[k] + (k < bends.n[1] ? 1.0 : 0.0);
    return band;
}

int64_t update_rows(const Rows *rows, const RowData *data, const RowPrior *prior,
                    const doubles2 *found) {
    BEGIN
    int64_t length = rows->mean.n[1];
    doubles2 factors = relative_precision(memory, prior->bends, prior->tau);
    double log_relative = factorize(factors);
    Scratch scratch = {relative_precision(memory, prior->bends, prior->tau),
                       new2(memory, 3, length),
                       new2(memory, 3, length),
                       new2(memory, 3, length),
                       new2(memory, 3, length),
                       take_doubles(memory, length)};
    for (int64_t n = 0; n < rows->mean.n[0]; n++)
        update_row(rows, data, prior, n, log_relative, &scratch, ROW2(*found, n));
    END
}

int64_t fill_roughness(const doubles2 *bends, double tau, const doubles1 *found) {
    BEGIN
    doubles2 matrix = relative_precision(memory, *bends, tau);
    doubles2 inverse = new2(memory, 3, bends->n[1]);
    double total = 0.0;
    factorize(matrix);
    invert(matrix, inverse);
    for (int64_t k = 0; k < 3; k++)
        total += (k == 0 ? 1.0 : 2.0) * tau * dot(ROW2(inverse, k), ROW2(*bends, k), bends->n[1]);
    found->at[0] = total;
    END
}
