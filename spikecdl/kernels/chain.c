#include "chain.h"

static const double LARGEST = 30.0; /* log of a sum, in its unit */

void sum_kinds(Memory *memory, doubles2 weights, double *total) {
    int64_t n_kinds = weights.n[0], n_onsets = weights.n[1];
    double *highest = take_doubles(memory, n_onsets);
    copy(highest, ROW2(weights, 0), n_onsets);
    for (int64_t j = 1; j < n_kinds; j++)
        for (int64_t s = 0; s < n_onsets; s++)
            highest[s] = most(highest[s], AT2(weights, j, s));
    fill(total, n_onsets, 0.0);
    for (int64_t j = 0; j < n_kinds; j++)
        for (int64_t s = 0; s < n_onsets; s++)
            total[s] += quick_exp(AT2(weights, j, s) - highest[s]);
    to_log(total, n_onsets);
    for (int64_t s = 0; s < n_onsets; s++)
        total[s] += highest[s];
}

/* A sum of exponentials, in units of that of `shift`. */
typedef struct {
    double shift, units, log_units;
} Sum;

/* Add the exponential of `more` to a sum, where it is not negligible. */
static inline void add_exp(Sum *sum, double more) {
    if (more <= sum->shift + sum->log_units + LEAST)
        return;
    if (more > sum->shift + LARGEST) {
        sum->units = 1.0 + sum->units * quick_exp(sum->shift - more);
        sum->shift = more;
    } else {
        sum->units += quick_exp(more - sum->shift);
    }
    sum->log_units = log(sum->units);
}

double fill_forward(const double *log_idle, const double *total, int64_t n_onsets, int64_t n_bins,
                    double *forward) {
    int64_t length = n_bins - n_onsets + 1;
    double idle = 0.0; /* log weight of no event, in units of which the sum is kept */
    Sum all = {0.0, 1.0, 0.0};
    forward[0] = 0.0;
    for (int64_t t = 1; t <= n_bins; t++) {
        idle += t <= n_onsets ? log_idle[t - 1] : 0.0;
        if (t >= length)
            add_exp(&all, forward[t - length] + total[t - length] - idle);
        forward[t] = idle + all.shift + all.log_units;
    }
    return forward[n_bins];
}

void fill_backward(const double *log_idle, const double *total, int64_t n_onsets, int64_t n_bins,
                   double *backward) {
    int64_t length = n_bins - n_onsets + 1;
    double idle = 0.0;
    Sum all = {0.0, 1.0, 0.0};
    backward[n_bins] = 0.0;
    for (int64_t t = n_bins - 1; t >= 0; t--) {
        idle += t < n_onsets ? log_idle[t] : 0.0;
        if (t + length <= n_bins)
            add_exp(&all, backward[t + length] + total[t] - idle);
        backward[t] = idle + all.shift + all.log_units;
    }
}

void to_posterior(doubles2 weights, const double *forward, const double *backward, int64_t n_bins) {
    int64_t n_onsets = weights.n[1];
    const double *after = backward + n_bins - n_onsets + 1;
    double evidence = forward[n_bins];
    for (int64_t j = 0; j < weights.n[0]; j++) {
        double *restrict row = ROW2(weights, j);
        for (int64_t s = 0; s < n_onsets; s++)
            row[s] = quick_exp(least(row[s] + forward[s] + after[s] - evidence, 0.0));
    }
}

double draw_chain(doubles2 weights, const double *log_idle, const double *total,
                  const double *forward, const double *uniform, int64_t n_bins, int32_t *kind) {
    int64_t n_kinds = weights.n[0], n_onsets = weights.n[1], length = n_bins - n_onsets + 1;
    int64_t t = n_bins;
    double of_idle = 0.0;
    for (int64_t s = 0; s < n_bins; s++)
        kind[s] = -1;
    while (t > 0) {
        double here = t <= n_onsets ? log_idle[t - 1] : 0.0, drawn = uniform[t - 1];
        double idle = quick_exp(forward[t - 1] + here - forward[t]);
        if (t < length || drawn < idle) {
            t--;
            of_idle += here;
            continue;
        }
        t -= length;
        double left = (drawn - idle) / (1.0 - idle);
        for (int32_t j = 0; j < n_kinds; j++) {
            left -= quick_exp(AT2(weights, j, t) - total[t]);
            if (left < 0 || j == n_kinds - 1) {
                kind[t] = j;
                break;
            }
        }
    }
    return of_idle;
}

double sum_chain(Memory *memory, doubles2 weights, const double *log_idle, int64_t n_bins,
                 const double *uniform, int32_t *kind, doubles2 posterior) {
    int64_t n_onsets = weights.n[1];
    double *total = take_doubles(memory, n_onsets);
    double *forward = take_doubles(memory, n_bins + 1);
    double *backward = take_doubles(memory, n_bins + 1);
    sum_kinds(memory, weights, total);
    double evidence = fill_forward(log_idle, total, n_onsets, n_bins, forward);
    fill_backward(log_idle, total, n_onsets, n_bins, backward);
    if (uniform)
        draw_chain(weights, log_idle, total, forward, uniform, n_bins, kind);
    if (posterior.at != weights.at)
        copy(posterior.at, weights.at, size2(weights));
    to_posterior(posterior, forward, backward, n_bins);
    return evidence;
}
