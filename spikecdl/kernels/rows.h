/* The prior of templates: smooth rows that are shrunk, whose strengths are estimated.

   See `spikecdl.events.prior`.  All matrices are banded, (diagonal, bin) with the main diagonal and
   two above it: a row costs as many operations as it has bins. */

#pragma once

#include "memory.h"
#include "scalar.h"

/* Posterior means and variances of rows (row, bin), and precisions of their prior (row,). */
typedef struct {
    doubles2 mean;
    doubles2 variance;
    doubles1 precision;
} Rows;

/* What counts say of rows (row, bin): `spikes`, what is `expected` and its `curvature`, at rows of
   some `mean` and `variance`; whether it is `linear` in a row, as for signals. */
typedef struct {
    doubles2 spikes;
    doubles2 expected;
    doubles2 curvature;
    doubles2 mean;
    doubles2 variance;
    int64_t linear;
} RowData;

/* Squared second differences and their weight tau; the least value of a bin; whether precisions are
   estimated; and the length of steps, 1 for whole ones. */
typedef struct {
    doubles2 bends;
    double tau;
    double floor;
    int64_t learn;
    double step;
} RowPrior;

/* Take Newton steps of each row, in place, and estimate its precision.

   Between these steps what is expected of a bin changes as an exponential of its template and
   variance, with its own slope and curvature.  Bins at their least value that would fall below it
   are held there (projected Newton steps: Bertsekas, SIAM J. Control Optim. 20, 1982).  `found`
   (row, 3) receives minus the Kullback-Leibler divergence of the row's posterior from its prior;
   alpha (h' D'D h + tr(S D'D)), of which the sum over rows estimates tau; and the expected log
   likelihood over that of a row of zeros. */
KERNEL int64_t update_rows(const Rows *rows, const RowData *data, const RowPrior *prior,
                           const doubles2 *found);

/* Fill in tau times the trace of D'D over I + tau D'D. */
KERNEL int64_t fill_roughness(const doubles2 *bends, double tau, const doubles1 *found);
