/* The scalar losses of `spikecdl.model.families.ScalarLoss`.

   This is the only place where a kernel repeats the formulas of the families. */

#pragma once

#include "memory.h"
#include "scalar.h"

enum { QUADRATIC, LOGISTIC, EXPONENTIAL }; /* as `spikecdl.solvers.losses.LOSSES` */

/* A scalar loss and its coefficients a and b (window, row, bin), both zero where unobserved. */
typedef struct {
    int64_t kind;
    doubles3 a;
    doubles3 b;
} Losses;

/* That of one window, (row, bin). */
typedef struct {
    int64_t kind;
    doubles2 a;
    doubles2 b;
} Loss;

/* Linear predictor, minus the derivative of the loss and its curvature, (row, bin). */
typedef struct {
    doubles2 eta;
    doubles2 residual;
    doubles2 curvature;
} State;

/* Fill in the residual (minus the derivative) and the curvature of the bins of a row. */
void fill_row(int64_t kind, const double *a, const double *b, const double *z, int64_t n_bins,
              double *residual, double *curvature);

/* Fill in the loss of the bins of a row. */
void fill_terms(int64_t kind, const double *a, const double *b, const double *z, int64_t n_bins,
                double *out);

/* Return the sum of the loss over the bins of a row. */
double sum_terms(int64_t kind, const double *a, const double *b, const double *z, int64_t n_bins);

/* Fill in the residual and the curvature that belong to eta. */
KERNEL void fill_state(const Loss *loss, const State *state);

/* Return the sum of the loss over bins. */
KERNEL double loss_value(const Loss *loss, const doubles2 *eta);
