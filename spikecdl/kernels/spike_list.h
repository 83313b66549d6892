/* What templates and events make of a list of spikes, one visit per spike.

   The units of the spikes in bin t are those from `first[t]` up to `first[t + 1]`; bins are
   numbered through all windows. */

#pragma once

#include "memory.h"
#include "scalar.h"

/* Add to the scores (onset, template) of the onsets from `begin` up to `end`.

   `rows` (unit, bin, template) are templates in reverse: each spike adds that of its unit to the
   onsets of the events that would cover it. */
KERNEL void add_spike_scores(const longs1 *first, const ints1 *unit, const doubles3 *rows,
                             int64_t begin, int64_t end, const doubles2 *score);

/* Add to the rows (unit, bin, template) of units, in reverse, the weights (onset, template) of the
   onsets before their spikes in the bins from `begin` up to `end`. */
KERNEL void add_spike_weights(const longs1 *first, const ints1 *unit, const doubles2 *weight,
                              int64_t begin, int64_t end, const doubles3 *rows);
