/* Templates on the signals of one window: what `ConvDictionary` computes, by event.

   A signal has the axes (row, bin): the channels of its first unit, then those of the next.  Events
   are listed in order of time; their amplitudes, and all numbers per event, are (event, unit), with
   one unit in a window of one unit. */

#pragma once

#include "losses.h"

/* Events: template, onset and amplitude (event, unit). */
typedef struct {
    int64_t size;
    int64_t n_units;
    int64_t *which;
    int64_t *onset;
    double *amplitude;
} Events;

/* Add events to a signal (row, bin). */
void add_events(doubles2 signal, doubles3 templates, Events events);

/* Fill in the inner product (event, unit) of each event's template with the residual under it. */
void scores_of_events(doubles3 templates, doubles2 residual, Events events, double *score);

/* Fill in the scores (template, onset) of signals (channel, bin) from `first` up to `last`. */
void fill_scores(doubles3 templates, doubles2 residual, int64_t first, int64_t last,
                 doubles2 score);

/* The same in single precision. */
void fill_scores_float(floats3 templates, floats2 residual, int64_t first, int64_t last,
                       floats2 score);

/* Return the inner products of the events' templates, weighted by the curvature (row, bin).

   Entry (event, back, unit) belongs to an event and the one `back` events earlier; the band ends
   where no templates overlap. */
doubles3 banded_gram(Memory *memory, doubles3 templates, doubles2 curvature, Events events);

/* Return the end of the run of at most `most` overlapping events that starts at `begin`. */
int64_t overlap_end(Events events, int64_t begin, int64_t most, int64_t length);

/* Return some of the events, from `begin` up to `end`. */
Events some_events(Events events, int64_t begin, int64_t end);
