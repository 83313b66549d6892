/* Orthogonal matching pursuit of single windows, one event at a time: `spikecdl.baselines.BCOMP`.
 */

#pragma once

#include "amplitudes.h"

/* Windows, and how events are chosen: whether scores are compared in units of their standard
   errors, and the nats that an event must gain (window,). */
typedef struct {
    Losses loss;
    doubles3 templates;
    AmplitudePrior prior;
    Baselines baselines;
    int64_t standardise;
    doubles1 min_gain;
} PursuitTask;

/* Events of each window (window, event), in order of time, and their number (window,). */
typedef struct {
    longs2 which;
    longs2 onset;
    doubles2 amplitude;
    longs1 number;
} Pursued;

/* Fill in the events of the windows from `begin` up to `end`, as many as there is room for, and
   their baselines. */
KERNEL int64_t pursue_windows(int64_t begin, int64_t end, const PursuitTask *task,
                              const Pursued *found);
