/* Collapsed Gibbs sampling of sequences as a Neyman-Scott process: `spikecdl.baselines.PPSeq`. */

#pragma once

#include "memory.h"
#include "scalar.h"

/* Parameters (sequence, unit), weights (sequence,), and background (unit,) in Hz. */
typedef struct {
    doubles2 share;
    doubles2 offset;
    doubles2 variance;
    doubles1 weight;
    doubles1 background;
} Sequences;

/* Time, unit and event of each spike; -1 is the background. */
typedef struct {
    doubles1 time;
    longs1 unit;
    longs1 owner;
} Spikes;

/* Shape and rate of the gamma prior of amplitudes, events in a second, and the seconds from its
   first spike within which a spike may be of an event. */
typedef struct {
    double shape;
    double rate;
    double per_time;
    double reach;
} EventPrior;

/* Sums over the spikes of events (event, sequence, sum), the posterior of their sequence, their
   number of spikes (event,), and an origin (event,) from which times are measured. */
typedef struct {
    doubles3 total;
    doubles2 posterior;
    doubles1 number;
    doubles1 origin;
} EventSums;

/* Draw the event of each spike, in some order, given those of all others, with random numbers
   `uniform` (spike,).  The sums, which are zero, are filled in. */
KERNEL int64_t draw_owners(const Spikes *spikes, const longs1 *order, const doubles1 *uniform,
                           const Sequences *sequences, const EventPrior *prior,
                           const EventSums *sums);
