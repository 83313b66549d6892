/* Likelihood ratios of single events.

   An event of amplitude a and template h that begins in bin s changes the predictor z of its bins
   to z + a h.  Where z and the exposure do not change within a window, its log-likelihood ratio is
   a correlation of the counts with a vector and a constant; elsewhere it is summed bin by bin.

   Templates are normal with mean h and variance v, over which the log likelihood is averaged: in
   terms that grow as exp(z) the mean of exp(z + a h) is exp(z + a h + a^2 v / 2), by which the
   logarithm of 1 + exp(z) is bounded (Jensen), so that sums of these ratios are lower bounds of the
   log evidence. */

#pragma once

#include "losses.h"

/* A scalar loss, and what bursts add to the mean (window, row, bin), or (window, row, 0). */
typedef struct {
    int64_t kind;
    doubles3 a;
    doubles3 b;
    doubles3 excess;
} CountLosses;

/* That of one window. */
typedef struct {
    int64_t kind;
    doubles2 a;
    doubles2 b;
    doubles2 excess;
} CountLoss;

static inline CountLoss loss_of_window(const CountLosses *losses, int64_t i) {
    return (CountLoss){losses->kind, part3(losses->a, i), part3(losses->b, i),
                       part3(losses->excess, i)};
}

/* Templates (template, row, bin), the amplitudes (template, amplitude) of their events, and `moves`
   (template, amplitude, row, bin), the logarithms of the expected factors of rates. */
typedef struct {
    doubles3 taps;
    doubles2 amplitudes;
    doubles4 moves;
} Templates;

/* A row that is constant but for its counts, if it is: its exposure m, and the weight q of counts.

   They are such that the loss is m and q a, together, times the softplus of z (times exp(z), for an
   exponential loss) minus a z. */
typedef struct {
    bool constant;
    double exposure, q;
} ConstantRow;

ConstantRow constant_row(int64_t kind, const double *a, const double *b, const double *z,
                         int64_t n_bins);

/* Fill in the correlation (template, onset) of counts (row, bin) and templates. */
void fill_count_scores(Memory *memory, doubles2 counts, doubles3 taps, doubles2 score);

/* Fill in the log-likelihood ratio (template, amplitude, onset) of an event in one window.

   `score` (template, onset) is from `fill_count_scores`. */
void fill_ratios(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                 doubles2 score, doubles3 ratios);
