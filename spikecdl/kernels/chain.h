/* Exact sums over the events of a window, a chain of idle bins and events.

   A chain is idle for a bin or begins an event, which lasts as many bins as a template.  Events of
   one chain do not overlap, and none begins so late that it would not end in the window.  With the
   log weight G_s of all events that begin in bin s,

       F_{t+1} = log(exp(F_t + log p_idle) + exp(F_{t+1-L} + G_{t+1-L}))

   is the log weight of all that may happen before bin t + 1, and likewise backward (Rabiner, Proc.
   IEEE 77, 1989; explicit durations: Ferguson 1980). */

#pragma once

#include "memory.h"
#include "scalar.h"

/* Fill in the log of the sum over events (onset,) of log weights (kind of event, onset). */
void sum_kinds(Memory *memory, doubles2 weights, double *total);

/* Fill in the forward log weights (bin + 1,); return the log of the sum over all events.

   `log_idle` (onset,) are log probabilities that no event begins in a bin, and `total` (onset,) the
   log weights of all events that do. */
double fill_forward(const double *log_idle, const double *total, int64_t n_onsets, int64_t n_bins,
                    double *forward);

/* Fill in the log weights (bin + 1,) of all that may happen from each bin on. */
void fill_backward(const double *log_idle, const double *total, int64_t n_onsets, int64_t n_bins,
                   double *backward);

/* Turn log weights (kind, onset) into the probability of each event, in place. */
void to_posterior(doubles2 weights, const double *forward, const double *backward, int64_t n_bins);

/* Draw the events of a window backward; fill in the kind that begins in each bin, or -1.

   `uniform` (bin,) are random numbers from 0 to 1.  Returns the log weight of the bins in which no
   event begins. */
double draw_chain(doubles2 weights, const double *log_idle, const double *total,
                  const double *forward, const double *uniform, int64_t n_bins, int32_t *kind);

/* Sum over the events of a window, given their log weights (kind, onset) and those of bins in which
   none begins; return the log of the sum over that of no event.

   Fills in the `posterior` (kind, onset), which may be the weights.  With random numbers `uniform`
   (bin,), or NULL, events are drawn into `kind` (bin,). */
double sum_chain(Memory *memory, doubles2 weights, const double *log_idle, int64_t n_bins,
                 const double *uniform, int32_t *kind, doubles2 posterior);
