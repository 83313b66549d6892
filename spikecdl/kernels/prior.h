#pragma once

#include "arrays.h"

/* Log probabilities, of each of `n_chains`, that an event (template, amplitude) begins in a bin,
   and that none does.

   `log_start` (template, amplitude) changes by `log_timing` (template, onset), which has no onsets
   if it does not; `log_idle` is (onset,).  Of events that overlap, one begins at least `apart`
   (template, later template) bins after another; those of a log weight below `least` are in no
   pair. */
typedef struct {
    doubles2 log_start;
    doubles2 log_timing;
    doubles1 log_idle;
    int64_t n_chains;
    longs2 apart;
    double least;
} ChainPrior;
