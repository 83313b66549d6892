/* Exact sums over the events of a window of which at most two are under way at a time.

   There are two chains (see `chain.h`), in each of which an event k begins with probability rho_k
   in every idle bin.  As no more than two events overlap, the likelihood is a product of ratios of
   events, and of factors K of events that follow each other and overlap.  With

   - V(t) the weight of all that may happen before bin t with both chains idle in it, and
   - U(s, k, t) that of event k, begun in bin s, with the other chain idle in bin t before it ends,

   an event j that begins in a bin s' while k lasts adds

       sum_k U(s, k, s') K_{kj}(s' - s) rho_j Lambda_j(s')

   to U(s', j, t) from t = s + L on, when k ends; it is U(s', j, s' + L) that returns to V.  All
   weights are logarithms.  Only live onsets, where an event is not hopeless, are those of pairs. */

#pragma once

#include "chain.h"

static const double NEVER = -1e30; /* log weight of what cannot be */

/* Factors of two events that overlap, as logarithms (pattern, lag, event, event).

   `largest` (pattern, lag) are the largest logarithms, and `linear` the factors relative to
   these. */
typedef struct {
    doubles4 log;
    doubles2 largest;
    doubles4 linear;
} Factors;

/* Fill in the largest logarithms of factors, and the factors relative to these. */
KERNEL void fill_relative(const Factors *factors);

/* Fill in the onsets, in order, at which some event has at least a log weight (kind, onset); the
   best `most` if there are more.  Returns their number. */
int64_t fill_live_onsets(Memory *memory, doubles2 weights, double least, int64_t most,
                         int64_t *onset);

/* Live onsets (live,), which of the factors belong to events that begin there, and the expected
   numbers of pairs of these patterns (pattern, lag, event, event), to be added to. */
typedef struct {
    int64_t size;
    const int64_t *onset;
    const int64_t *pattern;
    Factors factors;
    doubles4 number;
} Pairs;

/* Sum over events of which two may overlap; return the log likelihood ratio over no event.

   `weights` (kind, onset) are the log weights of events, `log_idle` (onset,) the log probabilities
   that none begins.  Fills in the `posterior` (kind, onset), which may be in the place of the
   weights.  With random numbers `uniform` (bin + 1,), or NULL, events are drawn: `kinds` are rows
   (bin,) of the two chains, which receive the kind that begins in each bin, or -1. */
double sum_pairs(Memory *memory, doubles2 weights, const double *log_idle, const Pairs *pairs,
                 const double *uniform, int32_t *kinds[2], doubles2 posterior);
