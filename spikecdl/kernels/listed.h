/* Sums over the events of windows whose counts are a list of spikes. */

#pragma once

#include "derivatives.h"
#include "pairs.h"
#include "prior.h"

/* Parts of the log weights of events: the sum over spikes (onset, template), what no spike changes
   (pattern, event), which bins were observed under an event (onset,), and the amplitudes (template,
   amplitude). */
typedef struct {
    doubles2 score;
    doubles2 fixed;
    ints1 pattern;
    doubles2 amplitudes;
} ListedWeights;

/* Log likelihood ratios and idle bins of windows (window,), expected amplitudes of the events that
   begin (onset, template), expected numbers of events (pattern, event) and (template, onset), the
   latter if there is a timing, and of pairs (pattern, lag, event, event). */
typedef struct {
    doubles1 evidence;
    doubles1 free;
    doubles2 expected;
    doubles2 number;
    doubles2 starts;
    doubles4 overlaps;
} ListedSums;

/* Sum over the events of the windows from `begin` up to `end` that were observed. */
KERNEL int64_t sum_listed_windows(int64_t begin, int64_t end, int64_t n_bins,
                                  const flags1 *observed, const ListedWeights *weights,
                                  const Factors *factors, const ChainPrior *prior,
                                  const ListedSums *sums);

/* Fill in the probabilities (template, amplitude, onset) of the events of one window.

   Adds the expected numbers of pairs, and draws events (chain, bin) if there are random numbers. */
KERNEL int64_t sum_listed_window(int64_t n_bins, const ListedWeights *weights,
                                 const Factors *factors, const ChainPrior *prior,
                                 const doubles4 *overlaps, const doubles3 *chance,
                                 const doubles1 *uniform, const ints2 *drawn);
