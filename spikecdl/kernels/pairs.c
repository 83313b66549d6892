#include "messages.h"

#include <stdlib.h>

static const double TINY = 1e-290;     /* sum of relative numbers that may have lost some */
static const double UNLIKELY = -20.0;  /* log probability of pairs that say nothing */
static const double TOO_LARGE = 600.0; /* logarithm from which numbers are not multiplied */
enum { LANES = 4 };                    /* numbers of a vector register, at least */

/* Return the log of the sum of the exponentials of logarithms. */
static double log_sum(const double *logs, int64_t number) {
    double highest = largest(logs, number), total = 0.0;
    if (highest <= NEVER)
        return NEVER;
    REDUCE(total)
    for (int64_t k = 0; k < number; k++)
        total += falling_exp(logs[k] - highest);
    return highest + log(total);
}

void fill_relative(const Factors *factors) {
    int64_t size = factors->log.n[2] * factors->log.n[3];
    for (int64_t p = 0; p < factors->log.n[0]; p++)
        for (int64_t lag = 0; lag < factors->log.n[1]; lag++) {
            const double *restrict logs = ROW4(factors->log, p, lag, 0);
            double *restrict linear = ROW4(factors->linear, p, lag, 0);
            double highest = largest(logs, size);
            AT2(factors->largest, p, lag) = highest;
            for (int64_t k = 0; k < size; k++)
                linear[k] = highest > -INFINITY ? falling_exp(logs[k] - highest) : 0.0;
        }
}

static int falling(const void *x, const void *y) {
    double left = *(const double *)x, right = *(const double *)y;
    return (left < right) - (left > right);
}

int64_t fill_live_onsets(Memory *memory, doubles2 weights, double bound, int64_t limit,
                         int64_t *onset) {
    int64_t n_onsets = weights.n[1], size = 0, ties = limit;
    Mark start = mark(memory);
    double *highest = take_doubles(memory, n_onsets), *ordered = take_doubles(memory, n_onsets);
    fill(highest, n_onsets, -INFINITY);
    for (int64_t k = 0; k < weights.n[0]; k++)
        for (int64_t s = 0; s < n_onsets; s++)
            highest[s] = most(highest[s], AT2(weights, k, s));
    for (int64_t s = 0; s < n_onsets; s++)
        if (highest[s] > bound)
            ordered[size++] = highest[s];
    double last = -INFINITY; /* of those that are taken, if there are too many */
    if (size > limit) {
        qsort(ordered, (size_t)size, sizeof(double), falling);
        last = limit > 0 ? ordered[limit - 1] : INFINITY;
        for (int64_t k = 0; k < size && ordered[k] > last; k++)
            ties--;
    }
    size = 0;
    for (int64_t s = 0; s < n_onsets; s++)
        if (highest[s] > bound && (highest[s] > last || (highest[s] == last && ties-- > 0)))
            onset[size++] = s;
    rewind_to(memory, start);
    return size;
}

/* Fill in the weights (event,) of events relative to a number, whose logarithm is returned. */
static double fill_linear(Reach from, int64_t width, double *restrict out) {
    const double *restrict weights = from.weights, *restrict others = from.others;
    double highest = largest(weights, width) + from.alone;
    if (!others) {
        for (int64_t k = 0; k < width; k++)
            out[k] = falling_exp(weights[k] + from.alone - highest);
        return highest;
    }
    highest = most(highest, largest(others, width));
    for (int64_t k = 0; k < width; k++) {
        double alone = weights[k] + from.alone, other = others[k];
        double high = most(alone, other), low = least(alone, other);
        out[k] = falling_exp(high - highest) * (1.0 + falling_exp(low - high));
    }
    return highest;
}

/* Fill in the sums (event,) over earlier events, given by their weights, times factors. */
static void mix(const double *restrict weight, const double *restrict factors, int64_t n,
                double *restrict out) {
    int64_t whole = n - n % 4;
    fill(out, n, 0.0);
    for (int64_t j = 0; j < whole; j += 4) {
        const double *restrict row = factors + j * n, *restrict w = weight + j;
        for (int64_t k = 0; k < n; k++)
            out[k] += (w[0] * row[k] + w[1] * row[k + n]) +
                      (w[2] * row[k + 2 * n] + w[3] * row[k + 3 * n]);
    }
    for (int64_t j = whole; j < n; j++)
        add_multiple(out, weight[j], factors + j * n, n);
}

/* Fill in the sums (event,) over later events, given by their weights, times factors. */
static void mix_later(const double *weight, const double *factors, int64_t n, double *out) {
    for (int64_t k = 0; k < n; k++)
        out[k] = dot(factors + k * n, weight, n);
}

/* Return the log of the sum over events, given by logarithms, times factors that are `step` apart,
   for a sum that was too small to be one of products. */
static double mended(const Messages *m, const double *logs, const double *factors, int64_t step) {
    for (int64_t j = 0; j < m->n_kinds; j++)
        m->each[j] = logs[j] + factors[j * step];
    return log_sum(m->each, m->n_kinds);
}

/* Two events: the live onset of the first, the lag, and the log weight that all weights of the
   second are multiplied by. */
typedef struct {
    int64_t i, lag;
    double rest;
    bool back; /* the sum is over the later event */
} Step;

/* Fill in the log weights (event,) of the other event of a pair, summed over one, and those of
   `before`, which may be NULL. */
static void fill_mixed(const Messages *m, Reach from, Step step, const double *restrict weights,
                       const double *restrict before, double *restrict out) {
    int64_t n = m->n_kinds, width = m->width, p = m->pairs->pattern[step.i];
    const double *linear = ROW4(m->pairs->factors.linear, p, step.lag, 0);
    double shift =
        fill_linear(from, width, m->weight) + AT2(m->pairs->factors.largest, p, step.lag);
    double lowest = 1.0;
    (step.back ? mix_later : mix)(m->weight, linear, n, m->sums);
    for (int64_t k = 0; k < width; k++)
        lowest = least(lowest, m->sums[k]);
    for (int64_t k = 0; k < width; k++)
        out[k] = most(m->sums[k], TINY);
    to_log(out, width);
    if (lowest <= TINY) {
        const double *logs = log_factors(m, step.i, step.lag);
        fill_logs(from, width, m->logs);
        for (int64_t k = 0; k < n; k++)
            if (m->sums[k] <= TINY)
                out[k] =
                    mended(m, m->logs, logs + k * (step.back ? n : 1), step.back ? 1 : n) - shift;
    }
    for (int64_t k = 0; k < width; k++)
        out[k] += shift + step.rest + weights[k];
    for (int64_t k = 0; k < (before ? width : 0); k++) {
        double high = most(out[k], before[k]), low = least(out[k], before[k]);
        double more = quick_log1p(quick_exp(low - high));
        out[k] = high + (low < high + LEAST ? 0.0 : more);
    }
}

/* Copy the weights of the last pair, if there is one, for a pair that is negligible. */
static void fill_same(const Messages *m, const double *before, double *out) {
    if (before)
        copy(out, before, m->width);
    else
        fill(out, m->width, NEVER);
}

/* Fill in the past of the events of a live onset; return the weight of its end. */
static double fill_past(const Messages *m, int64_t i) {
    int64_t t = m->pairs->onset[i], width = m->width;
    const double *weights = m->weights + i * width, *before = NULL;
    double begun = m->forward[t] + LOG_2 - m->idle[t], log_n = log((double)m->n_kinds);
    m->most_past[i] = begun + largest(weights, width);
    for (int64_t j = m->low[i]; j < i; j++) {
        int64_t r = m->pairs->onset[j];
        double *row = m->past + (m->begin[i] + j - m->low[i]) * width;
        Step step = {j, t - r, m->idle[t] - m->idle[r + m->length], false};
        double high = AT2(m->pairs->factors.largest, m->pairs->pattern[j], t - r) + log_n;
        if (m->most_past[j] + step.rest + high < begun + LEAST)
            fill_same(m, before, row);
        else
            fill_mixed(m, past_of(m, j, m->low[i]), step, weights, before, row);
        before = row;
    }
    if (before)
        m->most_past[i] = most(m->most_past[i], largest(before, width));
    double ended = before ? log_sum(before, width) : NEVER;
    return log_add(ended, m->at_once[i] + m->forward[t] - m->idle[t + m->length]);
}

/* Fill in the weights of the past; return that of all that may happen in the window. */
static double fill_all_past(const Messages *m, double *ended) {
    double *forward = m->forward;
    int64_t live = 0;
    fill(ended, m->n_onsets, NEVER);
    for (int64_t t = 0; t <= m->n_bins; t++) {
        int64_t s = t - m->length;
        forward[t] = t > 0 ? forward[t - 1] + 2 * (m->idle[t] - m->idle[t - 1]) : 0.0;
        if (s >= 0) {
            double alone = forward[s] + LOG_2 + m->total[s] + m->idle[t] - m->idle[s];
            forward[t] = log_add(forward[t], alone);
            forward[t] = log_add(forward[t], ended[s] + m->idle[t]);
        }
        if (live < m->pairs->size && m->pairs->onset[live] == t)
            ended[t] = fill_past(m, live++);
    }
    return forward[m->n_bins];
}

/* Fill in the future of the events of a live onset; return the weight of their pairs. */
static double fill_future(const Messages *m, int64_t i) {
    int64_t t = m->pairs->onset[i], end = t + m->length, width = m->width;
    const double *weights = m->weights + i * width, *before = NULL;
    double alone = m->backward[end] + m->idle[end], log_n = log((double)m->n_kinds);
    m->most_next[i] = alone + largest(weights, width);
    for (int64_t j = m->high[i] - 1; j > i; j--) {
        int64_t s = m->pairs->onset[j];
        double *row = m->future + (m->until[i] + j - i - 1) * width;
        Step step = {i, s - t, m->idle[s] - m->idle[end], true};
        double high = AT2(m->pairs->factors.largest, m->pairs->pattern[i], s - t) + log_n;
        if (m->most_next[j] + step.rest + high < alone + LEAST)
            fill_same(m, before, row);
        else
            fill_mixed(m, future_of(m, j, m->high[i]), step, weights, before, row);
        before = row;
    }
    if (before)
        m->most_next[i] = most(m->most_next[i], largest(before, width));
    double paired = before ? log_sum(before, width) : NEVER;
    return log_add(paired + LOG_2 - m->idle[t], m->at_once[i] + m->backward[end]);
}

/* Fill in the weights of the future. */
static void fill_all_future(const Messages *m) {
    double *backward = m->backward;
    int64_t live = m->pairs->size - 1;
    backward[m->n_bins] = 0.0;
    for (int64_t t = m->n_bins - 1; t >= 0; t--) {
        int64_t end = t + m->length;
        backward[t] = backward[t + 1] + 2 * (m->idle[t + 1] - m->idle[t]);
        if (t < m->n_onsets) {
            double alone = LOG_2 + m->total[t] + m->idle[end] - m->idle[t] + backward[end];
            backward[t] = log_add(backward[t], alone);
        }
        if (live >= 0 && m->pairs->onset[live] == t)
            backward[t] = log_add(backward[t], fill_future(m, live--));
    }
}

/* Return the log weight of two events that begin in one bin. */
static double at_once(const Messages *m, int64_t i) {
    int64_t n = m->n_kinds, p = m->pairs->pattern[i];
    Reach from = {m->weights + i * m->width, 0.0, NULL};
    double shift = fill_linear(from, m->width, m->weight);
    mix_later(m->weight, ROW4(m->pairs->factors.linear, p, 0, 0), n, m->sums);
    double total = dot(m->weight, m->sums, n);
    if (total > TINY)
        return log(total) + 2 * shift + AT2(m->pairs->factors.largest, p, 0);
    for (int64_t j = 0; j < n; j++) {
        double others = mended(m, from.weights, log_factors(m, i, 0) + j * n, 1);
        m->logs[j] = from.weights[j] + others;
    }
    return log_sum(m->logs, n);
}

/* Probabilities of two events that begin a lag apart, to be added to their expected `number`
   (first, second), and to those (event,) of each. */
typedef struct {
    double *number, *of_first, *of_second;
} Chances;

/* Add probabilities of a first event and each second one; return their sum.

   They are products of a scale, the factors and the weights `late` (event,) of the second. */
static double add_products_of(double scale, const double *restrict factors,
                              const double *restrict late, int64_t n, double *restrict number,
                              double *restrict of_second) {
    double total = 0.0, low = exp(UNLIKELY);
    REDUCE(total)
    for (int64_t k = 0; k < n; k++) {
        double chance = scale * factors[k] * late[k];
        chance = chance > low ? least(chance, 1.0) : 0.0;
        number[k] += chance, of_second[k] += chance, total += chance;
    }
    return total;
}

/* The same, where the scale would be too large, from logarithms. */
static double add_exponentials(double log_scale, const double *factors, const double *late,
                               int64_t n, double *number, double *of_second) {
    double total = 0.0;
    for (int64_t k = 0; k < n; k++) {
        double both = log_scale + factors[k] + late[k];
        double chance = both > UNLIKELY ? exp(least(both, 0.0)) : 0.0;
        number[k] += chance, of_second[k] += chance, total += chance;
    }
    return total;
}

/* Add the probabilities of pairs; `rest` is what is to be added to logarithms. */
static void add_chances(const Messages *m, Reach first, Reach second, int64_t i, int64_t lag,
                        double rest, Chances out) {
    int64_t n = m->n_kinds, width = m->width, p = m->pairs->pattern[i];
    double *early = m->weight, *late = m->logs;
    double log_unit = rest + AT2(m->pairs->factors.largest, p, lag);
    log_unit += fill_linear(first, width, early) + fill_linear(second, width, late);
    if (log_unit < TOO_LARGE) {
        double unit = exp(log_unit), low = exp(UNLIKELY);
        for (int64_t b = 0; b < n; b++)
            if (2 * early[b] * unit > low) /* weights of seconds are at most 2 */
                out.of_first[b] +=
                    add_products_of(early[b] * unit, ROW4(m->pairs->factors.linear, p, lag, b),
                                    late, n, out.number + b * n, out.of_second);
        return;
    }
    fill_logs(first, width, early);
    fill_logs(second, width, late);
    for (int64_t b = 0; b < n; b++)
        out.of_first[b] += add_exponentials(early[b] + rest, log_factors(m, i, lag) + b * n, late,
                                            n, out.number + b * n, out.of_second);
}

/* Fill in the probabilities (event,) of those of a live onset that are one of a pair.

   Adds the expected numbers of pairs of which it is the second. */
static void fill_paired(const Messages *m, int64_t i, double *chance, double *nowhere) {
    int64_t t = m->pairs->onset[i], width = m->width, end = t + m->length;
    double evidence = m->forward[m->n_bins], begun = m->forward[t] + LOG_2 - m->idle[t] - evidence;
    const double *restrict future = m->future + m->until[i] * width;
    fill(chance, width, 0.0);
    for (int64_t k = 0; k < (m->high[i] > i + 1 ? width : 0); k++)
        chance[k] = falling_exp(least(begun + future[k], 0.0));
    Reach one = {m->weights + i * width, 0.0, NULL};
    Chances found = {ROW4(m->pairs->number, m->pairs->pattern[i], 0, 0), chance, chance};
    add_chances(m, one, one, i, 0, m->forward[t] + m->backward[end] - evidence, found);
    for (int64_t j = m->low[i]; j < i; j++) {
        int64_t r = m->pairs->onset[j], p = m->pairs->pattern[j];
        double rest = m->idle[t] - m->idle[r + m->length] - evidence;
        double bound = m->most_past[j] + m->most_next[i] + rest;
        if (bound + AT2(m->pairs->factors.largest, p, t - r) < UNLIKELY)
            continue;
        found = (Chances){ROW4(m->pairs->number, p, t - r, 0), nowhere, chance};
        add_chances(m, past_of(m, j, m->low[i]), future_of(m, i, m->high[j]), j, t - r, rest,
                    found);
    }
}

/* Fill in the probability (event, onset) of each event; add the expected numbers of pairs. */
static void fill_posterior(Memory *memory, const Messages *m, doubles2 weights,
                           doubles2 posterior) {
    double *begun = take_doubles(memory, m->n_onsets), evidence = m->forward[m->n_bins];
    double *chance = take_doubles(memory, m->width), *nowhere = take_zeros(memory, m->width);
    for (int64_t s = 0; s < m->n_onsets; s++) {
        int64_t end = s + m->length;
        begun[s] = m->forward[s] + LOG_2 + m->idle[end] - m->idle[s] + m->backward[end] - evidence;
    }
    for (int64_t k = 0; k < m->n_kinds; k++) {
        double *restrict row = ROW2(posterior, k);
        if (row != ROW2(weights, k))
            copy(row, ROW2(weights, k), m->n_onsets);
        for (int64_t s = 0; s < m->n_onsets; s++)
            row[s] = falling_exp(least(begun[s] + row[s], 0.0));
    }
    for (int64_t i = 0; i < m->pairs->size; i++) {
        fill_paired(m, i, chance, nowhere);
        for (int64_t k = 0; k < m->n_kinds; k++)
            AT2(posterior, k, m->pairs->onset[i]) += chance[k];
    }
}

/* Fill in which live onsets overlap, and take the memory of their messages. */
static void find_overlaps(Memory *memory, Messages *m) {
    int64_t size = m->pairs->size;
    const int64_t *onset = m->pairs->onset;
    m->low = take_longs(memory, size), m->high = take_longs(memory, size);
    m->begin = take_longs(memory, size + 1), m->until = take_longs(memory, size + 1);
    m->begin[0] = m->until[0] = 0;
    for (int64_t i = 0; i < size; i++) {
        m->low[i] = i ? m->low[i - 1] : 0;
        while (onset[m->low[i]] <= onset[i] - m->length)
            m->low[i]++;
        m->begin[i + 1] = m->begin[i] + i - m->low[i];
        m->high[i] = larger(i ? m->high[i - 1] : 0, i + 1);
        while (m->high[i] < size && onset[m->high[i]] < onset[i] + m->length)
            m->high[i]++;
        m->until[i + 1] = m->until[i] + m->high[i] - i - 1;
    }
    m->past = take_doubles(memory, m->begin[size] * m->width);
    m->future = take_doubles(memory, m->begin[size] * m->width);
    m->most_past = take_doubles(memory, size), m->most_next = take_doubles(memory, size);
    m->at_once = take_doubles(memory, size);
}

/* Fill in the log weights of events and of idle bins. */
static void fill_weights(Memory *memory, Messages *m, doubles2 weights, const double *log_idle) {
    int64_t size = m->pairs->size, width = m->width;
    m->total = take_doubles(memory, m->n_onsets);
    sum_kinds(memory, weights, m->total);
    m->idle = take_doubles(memory, m->n_bins + 1);
    m->idle[0] = 0.0;
    for (int64_t t = 0; t < m->n_bins; t++)
        m->idle[t + 1] = m->idle[t] + (t < m->n_onsets ? log_idle[t] : 0.0);
    m->weights = take_doubles(memory, size * width);
    fill(m->weights, size * width, NEVER);
    for (int64_t i = 0; i < size; i++)
        for (int64_t k = 0; k < m->n_kinds; k++)
            m->weights[i * width + k] = AT2(weights, k, m->pairs->onset[i]);
    m->weight = take_doubles(memory, width), m->logs = take_doubles(memory, width);
    m->sums = take_doubles(memory, width), m->each = take_doubles(memory, width);
    fill(m->sums, width, 1.0); /* those of events that never happen stay so */
}

double sum_pairs(Memory *memory, doubles2 weights, const double *log_idle, const Pairs *pairs,
                 const double *uniform, int32_t *kinds[2], doubles2 posterior) {
    Mark start = mark(memory);
    int64_t n_kinds = weights.n[0], n_onsets = weights.n[1], length = pairs->factors.log.n[1];
    Messages m = {.pairs = pairs,
                  .n_kinds = n_kinds,
                  .width = (n_kinds + LANES - 1) / LANES * LANES,
                  .n_onsets = n_onsets,
                  .n_bins = n_onsets + length - 1,
                  .length = length};
    find_overlaps(memory, &m);
    fill_weights(memory, &m, weights, log_idle);
    m.forward = take_doubles(memory, m.n_bins + 1);
    m.backward = take_doubles(memory, m.n_bins + 1);
    for (int64_t i = 0; i < pairs->size; i++)
        m.at_once[i] = at_once(&m, i);
    double evidence = fill_all_past(&m, take_doubles(memory, n_onsets));
    fill_all_future(&m);
    if (uniform)
        draw_pairs(&m, weights, uniform, kinds);
    fill_posterior(memory, &m, weights, posterior);
    rewind_to(memory, start);
    return evidence;
}
