/* Sums over the events of windows of counts: exact, or drawn where three or more overlap. */

#pragma once

#include "bursts.h"
#include "pairs.h"
#include "prior.h"

/* Windows of counts, and the model of their events.

   `z` (window, row, bin) is the predictor without events.  Where it is constant, the derivatives of
   all bins of a window are in its first, unless `per_bin`.  Events begin where `onsets` (window,
   onset) are true; without onsets: anywhere.  Onsets with the same `pattern` (window, onset) differ
   in the counts from there on alone; `factors` are those of pairs of each pattern, or none if
   windows have their own. */
typedef struct {
    CountLosses loss;
    doubles3 z;
    Templates model;
    ChainPrior prior;
    flags2 onsets;
    longs2 pattern;
    Factors factors;
    int64_t per_bin;
} Task;

/* Sums over windows, and over chains: the expected number of events (template, amplitude), and
   (template, onset) if their prior has a timing, that of bins in which a chain was idle and none
   began (1,), and derivatives by templates, see `Derivatives`, or those at the events drawn. */
typedef struct {
    doubles2 number;
    doubles2 starts;
    doubles1 free;
    doubles3 spikes;
    doubles3 expected;
    doubles3 second;
} Sums;

/* Events that were drawn: what they add to the predictor (chain, window, row, bin), and which
   begins in a bin (chain, window, bin), or -1.  No chains if none are drawn. */
typedef struct {
    doubles4 signal;
    ints3 kind;
} Drawn;

/* What is found in each window; see `spikecdl.events.windows.Found`. */
typedef struct {
    doubles1 evidence;
    doubles3 residual;
    doubles3 curvature;
    doubles4 posterior;
    Drawn drawn;
    doubles1 likelihood;
} Found;

/* Sum over the events of the windows from `begin` up to `end`, and draw them if there are random
   numbers `uniform` (1, window, bin + 1).

   Expected numbers of pairs of the patterns that windows share are added to `overlaps`. */
KERNEL int64_t sum_windows(int64_t begin, int64_t end, const Task *task, const Found *found,
                           const doubles3 *uniform, const Sums *sums, const doubles4 *overlaps);

/* Draw the events of the windows from `begin` up to `end`, a chain at a time, and sum over those of
   each; `uniform` are (chain, window, bin + 1). */
KERNEL int64_t sample_windows(int64_t begin, int64_t end, const Task *task, const Found *found,
                              const doubles3 *uniform, const Sums *sums);

/* Fill in the task's factors of pairs of each pattern, given its first window and onset
   (pattern, 2). */
KERNEL int64_t fill_shared_factors(const Task *task, const longs2 *first);

/* Correct derivatives for the pairs of each pattern, whose expected numbers are `overlaps`. */
KERNEL void add_shared_pairs(const Task *task, const longs2 *first, const doubles4 *overlaps,
                             const Found *found, const Sums *sums);

/* Return the log likelihood of a window given its predictor, up to a constant. */
double log_likelihood(const CountLoss *loss, doubles2 z);

/* Return whether any bin of a window was observed. */
bool is_observed(const CountLoss *loss);

/* Add the log probabilities that events begin in a window, and fill in those that none does. */
void add_prior(const Task *task, int64_t window, doubles3 weights, double *idle);

/* Add the probabilities (template, amplitude, onset) of the events of a window to the sums. */
void add_probabilities(Memory *memory, const Task *task, int64_t window, doubles3 posterior,
                       int64_t n_chains, const Found *found, const Sums *sums);

/* Fill in the templates of the events drawn; return the log probability that they begin. */
double fill_signal(const Task *task, const int32_t *kind, doubles2 signal);
