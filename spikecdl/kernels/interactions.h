/* Events that overlap: how likely two are together, and what they say of the parameters.

   With F the part of the loss that the exposure m multiplies, two events that change the predictor
   z by u and v differ from the sum of their log-likelihood ratios by

       - sum_{n, t} m_{n,t} (F(z + u + v) - F(z + u) - F(z + v) + F(z)),

   whatever the counts: the part of the loss that these multiply is linear. */

#pragma once

#include "derivatives.h"

/* Fill in by how much two events that overlap are more likely than the product of their ratios.

   The first begins in the bin `onset`, the other by each of the `lags` later; `table` (lag, event,
   event) receives the log of the factor, with an event for each template and amplitude. */
void fill_interactions(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                       int64_t onset, const int64_t *lags, int64_t n_lags, doubles3 table);

/* Correct the derivatives of two events that overlap, which were added as if each were alone.

   The curvature of a bin includes that with the bin of the other event, which moves in the same
   step.  `pairs` (lag, event, event) are the expected numbers of pairs whose first event begins in
   the bin `onset`; derivatives by the predictor go into its bins, or all into `level_at` if that is
   not negative. */
void add_pair_derivatives(const CountLoss *loss, doubles2 z, const Templates *model, int64_t onset,
                          doubles3 pairs, const Derivatives *found, int64_t level_at);
