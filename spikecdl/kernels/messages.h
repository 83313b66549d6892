/* Weights of what comes before and after the events of live onsets: see `pairs.h`.

   Rows of events are filled up with events that never happen, so that they fill vector registers.
   `past` (pair, event) are of events begun while another lasted, summed over pairs with the same
   second onset and a first onset up to this one; `future` (pair, event) are of first events, summed
   over pairs with the same first onset and a second onset from this one on.  Pairs are numbered by
   second onset from `begin`, and by first onset from `until`; `low` and `high` are the first and
   the end of the live onsets whose events overlap with each. */

#pragma once

#include "pairs.h"

static const double LOG_2 = 0.6931471805599453; /* chains in which an event begins, both idle */

typedef struct {
    const Pairs *pairs;
    int64_t n_kinds, width;        /* events of an onset, and numbers of a row */
    int64_t n_onsets, n_bins;      /* of the window */
    int64_t length;                /* bins of an event */
    double *weights;               /* log weights of events (live, event) */
    double *idle;                  /* log weight of idle bins before each (bin + 1,) */
    double *total;                 /* log of the sum over events (onset,) */
    double *forward, *backward;    /* past and future with both chains idle (bin + 1,) */
    double *past, *future;         /* (pair, event) */
    int64_t *begin, *until;        /* (live + 1,) */
    int64_t *low, *high;           /* (live,) */
    double *most_past, *most_next; /* largest past and future of the events of an onset (live,) */
    double *at_once;               /* log weight of two events that begin in one bin (live,) */
    double *weight, *sums, *logs, *each; /* rows (event,) of no lasting meaning */
} Messages;

/* Events of a live onset: alone, or with others that they overlap, which are NULL if none. */
typedef struct {
    const double *weights;
    double alone;
    const double *others;
} Reach;

/* Return the past of events of a live onset, with a chain idle in a later bin.

   `until` is the first live onset that overlaps with this bin. */
static inline Reach past_of(const Messages *m, int64_t i, int64_t until) {
    int64_t s = m->pairs->onset[i], last = m->begin[i] + smaller(until, i) - m->low[i] - 1;
    double alone = m->forward[s] + LOG_2 - m->idle[s];
    return (Reach){m->weights + i * m->width, alone,
                   last >= m->begin[i] ? m->past + last * m->width : NULL};
}

/* Return the future of events of a live onset, relative to the idle bins before.

   The other chain is idle up to the live onset numbered `begin`, from which on events overlap. */
static inline Reach future_of(const Messages *m, int64_t i, int64_t begin) {
    int64_t end = m->pairs->onset[i] + m->length;
    int64_t at = m->until[i] + larger(begin, i + 1) - i - 1;
    return (Reach){m->weights + i * m->width, m->backward[end] + m->idle[end],
                   begin < m->high[i] ? m->future + at * m->width : NULL};
}

/* Fill in the log weights (event,) of events of a live onset. */
static inline void fill_logs(Reach from, int64_t width, double *restrict out) {
    for (int64_t k = 0; k < width; k++)
        out[k] = from.weights[k] + from.alone;
    for (int64_t k = 0; k < (from.others ? width : 0); k++) {
        double high = most(out[k], from.others[k]), low = least(out[k], from.others[k]);
        double more = quick_log1p(quick_exp(low - high));
        out[k] = high + (low < high + LEAST ? 0.0 : more);
    }
}

/* Return the logarithms of the factors (event, event) of events that begin a lag after those of a
   live onset. */
static inline const double *log_factors(const Messages *m, int64_t i, int64_t lag) {
    return ROW4(m->pairs->factors.log, m->pairs->pattern[i], lag, 0);
}

/* Draw the events of a window; see `sum_pairs`. */
void draw_pairs(const Messages *m, doubles2 weights, const double *uniform, int32_t *kinds[2]);
