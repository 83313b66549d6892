/* What events, weighted by their probabilities, say of templates and of the predictor. */

#pragma once

#include "ratios.h"

static const double NEGLIGIBLE = 1e-6; /* probability of an event that says nothing */

/* Sums over events, weighted by their probabilities.

   The derivative of the expected log likelihood by templates (template, row, bin) of amplitude one
   is `spikes`, which do not depend on them, less what is `expected`; `second` is minus its second
   derivative.  `residual` and `curvature` (row, bin) are the expected derivatives by the predictor
   of each bin. */
typedef struct {
    doubles3 spikes;
    doubles3 expected;
    doubles3 second;
    doubles2 residual;
    doubles2 curvature;
} Derivatives;

/* Add the derivatives of one window, given the posterior (template, amplitude, onset).

   Those by the predictor of a constant row go into its first bin, unless `per_bin`. */
void add_derivatives(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                     doubles3 posterior, const Derivatives *found, bool per_bin);
