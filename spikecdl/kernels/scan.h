/* Scores of a window and what follows from them, renewed in blocks of onsets.

   The ratio of an onset is the largest score over templates, relative to the penalty weight; its
   owner is the template that has it. */

#pragma once

#include "quadratic.h"

enum { BLOCK = 64 }; /* onsets whose scores are renewed together */

/* Templates, scores (unit, template, onset) and ratios (onset,) in double precision. */
typedef struct {
    doubles3 templates;
    doubles3 score;
    doubles1 ratio;
} Scores;

/* The same in single precision, and the rounded residual (row, bin). */
typedef struct {
    floats3 templates;
    floats3 score;
    floats1 ratio;
    floats2 residual;
} Scores_float;

/* Scores in one of the precisions, the owner (onset,) and the largest ratio (block,). */
typedef struct {
    bool rounds;
    int64_t n_units;
    Scores exact;
    Scores_float rounded;
    int32_t *owner;
    double *largest;
    flags1 stale;
} Scan;

/* Return templates in single precision. */
floats3 round_templates(Memory *memory, doubles3 templates);

/* Return a scan of a window with some bins, all of whose blocks are stale.

   Scores are in the precision of `rounded`, unless it is empty. */
Scan new_scan(Memory *memory, doubles3 templates, floats3 rounded, int64_t n_units, int64_t n_bins);

/* Compute the scores, and what follows from them, in the blocks that are stale.

   No code may differ from zero where `onsets`, if there are any, are false. */
void renew_scan(Scan *scan, doubles2 residual, Weights penalty, flags1 onsets);

/* Fill in the scores (unit,) of one event. */
void fill_event_scores(const Scan *scan, int64_t which, int64_t onset, double *score);

/* Fill in the onsets, in order, whose ratio exceeds `least` and is the largest within reach; return
   their number. */
int64_t fill_candidates(const Scan *scan, double least, int64_t reach, int64_t *found);

/* Return flags of the blocks of some onsets, all of them stale. */
flags1 all_stale(Memory *memory, int64_t n_onsets);

/* Return the begin of the next stale blocks, at or after `block`, and mark them as renewed; fill in
   their end. */
int64_t next_stale(flags1 stale, int64_t block, int64_t *end);

/* Mark the blocks that hold the onsets from `first` to `last`. */
void mark_stale(flags1 stale, int64_t first, int64_t last);
