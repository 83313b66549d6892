/* From the posterior of events to a list of events.

   A list is an array (event, column) with the columns window, template, onset, probability, time,
   standard deviation of the time, and amplitude; see `spikecdl.events.table.COLUMNS`. */

#pragma once

#include "memory.h"
#include "scalar.h"

/* List the events of posterior probability (window, template, amplitude, onset) `least` or more.

   An event's probability is that one of the template begins at most `width` bins from the onset
   where this probability is highest.  Events are sorted by window, template and onset.  Returns
   their number, which is at most the sum of the posterior over `least`: `table` has a row for
   each. */
KERNEL int64_t list_events(const doubles4 *posterior, const doubles2 *amplitudes, int64_t width,
                           double least, const doubles2 *table);

/* Describe given events, with their onsets as they are. */
KERNEL int64_t describe_events(const doubles4 *posterior, const doubles2 *amplitudes, int64_t width,
                               const longs1 *window, const longs1 *template, const longs1 *onset,
                               const doubles2 *table);
