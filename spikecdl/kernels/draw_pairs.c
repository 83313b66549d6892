#include "messages.h"

/* Draw two events that begin at a live onset; return the kind of one and fill in the other. */
static int32_t draw_two(const Messages *m, int64_t i, double left, double rest, int32_t *other) {
    const double *weights = m->weights + i * m->width, *factors = log_factors(m, i, 0);
    for (int64_t j = 0; j < m->n_kinds; j++)
        for (int64_t k = 0; k < m->n_kinds; k++) {
            double both = weights[j] + weights[k] + factors[j * m->n_kinds + k] + rest;
            left -= exp(least(both, 0.0));
            if (left < 0.0) {
                *other = (int32_t)k;
                return (int32_t)j;
            }
        }
    return (int32_t)m->n_kinds - 1;
}

/* Draw which event follows that of a kind that began at a live onset, before it ends.

   It begins from the live onset numbered `begin` on, the number of which is returned; or -1.
   Fills in the kind. */
static int64_t draw_follower(const Messages *m, int64_t i, int64_t begin, int32_t now,
                             const double *uniform, int32_t *kind) {
    int64_t s = m->pairs->onset[i], end = s + m->length;
    fill_logs(future_of(m, i, begin), m->width, m->logs);
    double all = m->logs[now], weight = m->weights[i * m->width + now];
    double left = uniform[s + 1] - exp(weight + m->backward[end] + m->idle[end] - all);
    for (int64_t j = begin; j < (left < 0.0 ? begin : m->high[i]); j++) {
        int64_t t = m->pairs->onset[j];
        const double *factors = log_factors(m, i, t - s) + now * m->n_kinds;
        double before = weight + m->idle[t] - m->idle[end] - all;
        fill_logs(future_of(m, j, m->high[i]), m->width, m->logs);
        for (int64_t k = 0; k < m->n_kinds; k++) {
            left -= exp(least(before + m->logs[k] + factors[k], 0.0));
            if (left < 0.0) {
                *kind = (int32_t)k;
                return j;
            }
        }
    }
    return -1;
}

/* Draw the events that begin one after the other, each before the last has ended.

   Returns the live onset of the last one. */
static int64_t draw_followers(const Messages *m, int64_t i, const double *uniform,
                              int32_t *kinds[2]) {
    int64_t chain = 0, begin = i + 1;
    for (;;) {
        int32_t now = kinds[chain][m->pairs->onset[i]], kind = -1;
        int64_t follows = draw_follower(m, i, begin, now, uniform, &kind);
        if (follows < 0)
            return i;
        chain = 1 - chain;
        kinds[chain][m->pairs->onset[follows]] = kind;
        begin = m->high[i];
        i = follows;
    }
}

/* Draw an event that begins in a bin, alone or followed by others; -1 if two begin there.

   Takes its probability from `left`; `live` is the bin's live onset, or -1. */
static int32_t draw_one(const Messages *m, doubles2 weights, int64_t t, int64_t live,
                        double *left) {
    int64_t end = t + m->length;
    bool paired = live >= 0 && m->high[live] > live + 1;
    double before = LOG_2 - m->idle[t] - m->backward[t], after = m->idle[end] + m->backward[end];
    for (int64_t k = 0; k < m->n_kinds; k++) {
        double chance = exp(least(before + AT2(weights, k, t) + after, 0.0));
        if (paired)
            chance += exp(least(before + m->future[m->until[live] * m->width + k], 0.0));
        *left -= chance;
        if (*left < 0.0)
            return (int32_t)k;
    }
    return live >= 0 ? -1 : (int32_t)m->n_kinds - 1;
}

void draw_pairs(const Messages *m, doubles2 weights, const double *uniform, int32_t *kinds[2]) {
    const double *idle = m->idle, *backward = m->backward;
    const int64_t *onset = m->pairs->onset;
    int64_t t = 0, next = 0;
    for (int64_t s = 0; s < m->n_bins; s++)
        kinds[0][s] = kinds[1][s] = -1;
    while (t < m->n_onsets) {
        double left = uniform[t] - exp(backward[t + 1] + 2 * (idle[t + 1] - idle[t]) - backward[t]);
        if (left < 0.0) {
            t++;
            continue;
        }
        while (next < m->pairs->size && onset[next] < t)
            next++;
        int64_t live = next < m->pairs->size && onset[next] == t ? next : -1;
        int32_t begun = draw_one(m, weights, t, live, &left);
        if (begun < 0)
            begun = draw_two(m, live, left, backward[t + m->length] - backward[t], kinds[1] + t);
        kinds[0][t] = begun;
        int64_t last = t;
        if (live >= 0 && kinds[1][t] < 0)
            last = onset[draw_followers(m, live, uniform, kinds)];
        t = last + m->length;
    }
}
