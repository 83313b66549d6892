/* What events say of spikes that may be of a burst.

   Where bursts add c to the mean of a bin with a spikes, its log likelihood is that without bursts,
   a z - b exp(z), and

       a log((exp(z) + c) / exp(z)) - b c,

   which moves by the log of 1 - p + p E less that of E when an event multiplies exp(z) by E, with
   the share p of spikes that are not of bursts.  Few bins have spikes that may be of a burst, and
   only these are visited. */

#pragma once

#include "derivatives.h"

/* Return what bursts add to the log likelihood of a window without events. */
double value_of_bursts(const CountLoss *loss, doubles2 z);

/* Add what bursts change of the log-likelihood ratios (template, amplitude, onset). */
void add_burst_ratios(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                      doubles3 ratios);

/* Take away the spikes that are of bursts, from those under events and from residuals.

   `posterior` (template, amplitude, onset) are the probabilities of events. */
void add_burst_derivatives(const CountLoss *loss, doubles2 z, const Templates *model,
                           doubles3 posterior, doubles3 spikes, doubles2 residual);

/* Add what bursts change of the interactions of two events; see `fill_interactions`. */
void add_burst_interactions(Memory *memory, const CountLoss *loss, doubles2 z,
                            const Templates *model, int64_t onset, const int64_t *lags,
                            int64_t n_lags, doubles3 table);

/* Correct `add_burst_derivatives` for two events that overlap; see `add_pair_derivatives`. */
void add_burst_pair_derivatives(Memory *memory, const CountLoss *loss, doubles2 z,
                                const Templates *model, int64_t onset, doubles3 pairs,
                                doubles3 spikes, doubles2 residual);

/* Take the spikes that are of bursts away from counts and residuals of a window (row, bin). */
void take_bursts_away(const CountLoss *loss, doubles2 z, doubles2 counts, doubles2 residual);
