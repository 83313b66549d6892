#include "windows.h"

#include <stdlib.h>

#include "interactions.h"

enum { MOST_FACTORS = 1 << 22 }; /* of pairs of events of one window in memory at once */

/* What the sums over one window need, and where its events are found.

   `pairs` (pattern, lag, event, event) are the expected numbers of pairs of the window's own
   patterns, if it has any, and `first` their first onsets. */
typedef struct {
    int64_t number;
    CountLoss loss;
    doubles2 z;
    doubles3 weights, posterior;
    double *idle;
    doubles4 pairs;
    int64_t *first;
} Window;

double log_likelihood(const CountLoss *loss, doubles2 z) {
    Loss without = {loss->kind, loss->a, loss->b};
    return value_of_bursts(loss, z) - loss_value(&without, &z);
}

bool is_observed(const CountLoss *loss) {
    int64_t size = size2(loss->a);
    for (int64_t k = 0; k < size; k++)
        if (loss->a.at[k] != 0.0 || loss->b.at[k] != 0.0)
            return true;
    return false;
}

void add_prior(const Task *task, int64_t window, doubles3 weights, double *idle) {
    const ChainPrior *prior = &task->prior;
    int64_t n_onsets = weights.n[2], n_kinds = weights.n[0] * weights.n[1];
    for (int64_t c = 0; c < weights.n[0]; c++)
        for (int64_t j = 0; j < weights.n[1]; j++) {
            double start = AT2(prior->log_start, c, j), *restrict row = ROW3(weights, c, j);
            for (int64_t s = 0; s < n_onsets; s++)
                row[s] += start;
            if (prior->log_timing.n[1])
                add_multiple(row, 1.0, ROW2(prior->log_timing, c), n_onsets);
        }
    copy(idle, prior->log_idle.at, n_onsets);
    for (int64_t s = 0; s < task->onsets.n[1]; s++)
        if (!AT2(task->onsets, window, s)) {
            for (int64_t k = 0; k < n_kinds; k++)
                weights.at[k * n_onsets + s] = NEVER;
            idle[s] = 0.0;
        }
}

void add_probabilities(Memory *memory, const Task *task, int64_t window, doubles3 posterior,
                       int64_t n_chains, const Found *found, const Sums *sums) {
    int64_t n_onsets = posterior.n[2], length = task->model.taps.n[2];
    double *allowed = take_doubles(memory, n_onsets + 1); /* bins before each where any may begin */
    allowed[0] = 0.0;
    for (int64_t s = 0; s < n_onsets; s++)
        allowed[s + 1] = allowed[s] + (task->onsets.n[1] == 0 || AT2(task->onsets, window, s));
    double *busy = take_doubles(memory, n_onsets);
    for (int64_t s = 0; s < n_onsets; s++)
        busy[s] = allowed[smaller(s + length, n_onsets)] - allowed[s];
    sums->free.at[0] += allowed[n_onsets] * (double)n_chains;
    for (int64_t c = 0; c < posterior.n[0]; c++)
        for (int64_t j = 0; j < posterior.n[1]; j++) {
            const double *chance = ROW3(posterior, c, j);
            if (found->posterior.n[0])
                add_multiple(ROW4(found->posterior, window, c, j), 1.0, chance, n_onsets);
            if (sums->starts.n[1])
                add_multiple(ROW2(sums->starts, c), 1.0, chance, n_onsets);
            AT2(sums->number, c, j) += sum(chance, n_onsets);
            sums->free.at[0] -= dot(chance, busy, n_onsets);
        }
}

double fill_signal(const Task *task, const int32_t *kind, doubles2 signal) {
    const Templates *model = &task->model;
    int64_t length = model->taps.n[2], n_amplitudes = model->amplitudes.n[1];
    double total = 0.0;
    fill(signal.at, size2(signal), 0.0);
    for (int64_t s = 0; s < signal.n[1]; s++) {
        if (kind[s] < 0)
            continue;
        int64_t c = kind[s] / n_amplitudes, j = kind[s] % n_amplitudes;
        total += AT2(task->prior.log_start, c, j);
        if (task->prior.log_timing.n[1])
            total += AT2(task->prior.log_timing, c, s);
        for (int64_t n = 0; n < signal.n[0]; n++)
            add_multiple(ROW2(signal, n) + s, AT2(model->amplitudes, c, j), ROW3(model->taps, c, n),
                         length);
    }
    return total;
}

/* Forbid pairs of templates that begin too near. */
static void exclude_near(doubles3 factors, int64_t n_amplitudes, longs2 apart) {
    for (int64_t row = 0; row < factors.n[0] * factors.n[1]; row++)
        for (int64_t k = 0; k < factors.n[2]; k++)
            if (row / factors.n[1] <
                AT2(apart, row % factors.n[1] / n_amplitudes, k / n_amplitudes))
                factors.at[row * factors.n[2] + k] = -INFINITY;
}

/* A live onset and its pattern. */
typedef struct {
    int64_t pattern, onset;
} Live;

static int by_pattern(const void *left, const void *right) {
    const Live *one = left, *other = right;
    if (one->pattern != other->pattern)
        return one->pattern < other->pattern ? -1 : 1;
    return (one->onset > other->onset) - (one->onset < other->onset);
}

/* Number the patterns of live onsets anew; fill in the first onset of each, and the number of each
   live onset's; return how many there are. */
static int64_t number_patterns(Memory *memory, const int64_t *pattern, const int64_t *onset,
                               int64_t size, int64_t *first, int64_t *number) {
    Live *live = take(memory, size * (int64_t)sizeof(Live));
    int64_t *of_onset = take_longs(memory, size ? onset[size - 1] + 1 : 0), n_found = 0;
    for (int64_t p = 0; p < size; p++)
        live[p] = (Live){pattern[onset[p]], onset[p]};
    qsort(live, (size_t)size, sizeof(Live), by_pattern);
    for (int64_t p = 0; p < size; p++) {
        if (p == 0 || live[p].pattern != live[p - 1].pattern)
            first[n_found++] = live[p].onset;
        of_onset[live[p].onset] = n_found - 1;
    }
    for (int64_t p = 0; p < size; p++)
        number[p] = of_onset[onset[p]];
    return n_found;
}

static doubles4 zeros4(Memory *memory, int64_t n, int64_t m, int64_t k, int64_t l) {
    return (doubles4){take_zeros(memory, n * m * k * l), {n, m, k, l}};
}

/* Fill in the factors of the patterns of one window, which begin at some onsets. */
static void fill_factors(Memory *memory, const Task *task, const Window *window,
                         const int64_t *first, const Pairs *pairs) {
    int64_t length = pairs->factors.log.n[1], n_found = pairs->factors.log.n[0];
    int64_t *lags = take_longs(memory, length), n_lags = length;
    for (int64_t k = 0; k < length; k++)
        lags[k] = k;
    for (int64_t p = 0; p < n_found; p++) {
        doubles3 log = part4(pairs->factors.log, p);
        if (n_found == pairs->size) { /* one for each onset: only lags to live ones are needed */
            int64_t begin = 0;
            while (pairs->onset[begin] < first[p])
                begin++;
            for (n_lags = 0; begin + n_lags < pairs->size; n_lags++) {
                lags[n_lags] = pairs->onset[begin + n_lags] - first[p];
                if (lags[n_lags] >= length)
                    break;
            }
        }
        Mark here = mark(memory);
        fill_interactions(memory, &window->loss, window->z, &task->model, first[p], lags, n_lags,
                          log);
        add_burst_interactions(memory, &window->loss, window->z, &task->model, first[p], lags,
                               n_lags, log);
        rewind_to(memory, here);
        exclude_near(log, task->model.amplitudes.n[1], task->prior.apart);
    }
    fill_relative(&pairs->factors);
}

/* Sum over events of which two may overlap; return the log likelihood ratio over none.

   Pairs of shared patterns are added to `overlaps`. */
static double sum_two_chains(Memory *memory, const Task *task, Window *window,
                             const double *uniform, int32_t *kinds[2], doubles4 overlaps) {
    int64_t n_kinds = window->weights.n[0] * window->weights.n[1];
    int64_t n_onsets = window->weights.n[2], length = task->model.taps.n[2];
    bool shared = task->factors.log.n[0] > 0;
    doubles2 weights = {window->weights.at, {n_kinds, n_onsets}};
    doubles2 posterior = {window->posterior.at, {n_kinds, n_onsets}};
    int64_t *onset = take_longs(memory, n_onsets), *pattern = take_longs(memory, n_onsets);
    int64_t at_most = shared ? n_onsets : MOST_FACTORS / (length * n_kinds * n_kinds);
    int64_t size = fill_live_onsets(memory, weights, task->prior.least, at_most, onset);
    const int64_t *of_window = task->pattern.at + window->number * n_onsets;
    Pairs pairs = {size, onset, pattern, task->factors, overlaps};
    if (shared) {
        for (int64_t p = 0; p < size; p++)
            pattern[p] = of_window[onset[p]];
    } else {
        window->first = take_longs(memory, n_onsets);
        int64_t n = number_patterns(memory, of_window, onset, size, window->first, pattern);
        pairs.factors.log = zeros4(memory, n, length, n_kinds, n_kinds);
        pairs.factors.largest = new2(memory, n, length);
        pairs.factors.linear = zeros4(memory, n, length, n_kinds, n_kinds);
        pairs.number = window->pairs = zeros4(memory, n, length, n_kinds, n_kinds);
        fill_factors(memory, task, window, window->first, &pairs);
    }
    return sum_pairs(memory, weights, window->idle, &pairs, uniform, kinds, posterior);
}

/* Correct the derivatives of a window for the pairs of its own patterns. */
static void add_own_pairs(Memory *memory, const Task *task, const Window *window,
                          const Derivatives *at) {
    for (int64_t p = 0; p < window->pairs.n[0]; p++) {
        doubles3 number = part4(window->pairs, p);
        add_pair_derivatives(&window->loss, window->z, &task->model, window->first[p], number, at,
                             task->per_bin ? -1 : 0);
        add_burst_pair_derivatives(memory, &window->loss, window->z, &task->model, window->first[p],
                                   number, at->spikes, at->residual);
    }
}

/* Sum over the events of one window, of whose counts some were observed. */
static void sum_window(Memory *memory, const Task *task, Window *window, const Found *found,
                       const doubles3 *uniform, const Sums *sums, doubles4 overlaps) {
    int64_t i = window->number, n_chains = task->prior.n_chains, n_drawn = found->drawn.kind.n[0];
    const double *draws = uniform->n[0] ? ROW3(*uniform, 0, i) : NULL;
    int32_t *kinds[2] = {NULL, NULL};
    for (int64_t each = 0; each < smaller(n_drawn, 2); each++)
        kinds[each] = ROW3(found->drawn.kind, each, i);
    int64_t n_onsets = window->weights.n[2], n_kinds = size3(window->weights) / n_onsets;
    doubles2 flat = {window->weights.at, {n_kinds, n_onsets}};
    doubles2 posterior = {window->posterior.at, {n_kinds, n_onsets}};
    doubles2 score = new2(memory, window->weights.n[0], n_onsets);
    fill_count_scores(memory, window->loss.a, task->model.taps, score);
    fill_ratios(memory, &window->loss, window->z, &task->model, score, window->weights);
    add_burst_ratios(memory, &window->loss, window->z, &task->model, window->weights);
    add_prior(task, i, window->weights, window->idle);
    if (n_chains == 1)
        found->evidence.at[i] +=
            sum_chain(memory, flat, window->idle, window->z.n[1], draws, kinds[0], posterior);
    else
        found->evidence.at[i] += sum_two_chains(memory, task, window, draws, kinds, overlaps);
    for (int64_t each = 0; each < n_drawn; each++)
        fill_signal(task, ROW3(found->drawn.kind, each, i),
                    part3(part4(found->drawn.signal, each), i));
    add_probabilities(memory, task, i, window->posterior, n_chains, found, sums);
}

int64_t sum_windows(int64_t begin, int64_t end, const Task *task, const Found *found,
                    const doubles3 *uniform, const Sums *sums, const doubles4 *overlaps) {
    BEGIN
    int64_t n_templates = task->model.amplitudes.n[0], n_amplitudes = task->model.amplitudes.n[1];
    int64_t n_onsets = task->z.n[2] - task->model.taps.n[2] + 1;
    Window window = {.idle = take_doubles(memory, n_onsets)};
    window.weights = new3(memory, n_templates, n_amplitudes, n_onsets);
    window.posterior = new3(memory, n_templates, n_amplitudes, n_onsets);
    Mark start = mark(memory);
    for (int64_t i = begin; i < end; i++) {
        window.number = i;
        window.loss = loss_of_window(&task->loss, i);
        window.z = part3(task->z, i);
        window.pairs.n[0] = 0;
        if (!is_observed(&window.loss))
            continue;
        found->likelihood.at[i] = log_likelihood(&window.loss, window.z);
        found->evidence.at[i] = found->likelihood.at[i];
        Derivatives at = {sums->spikes, sums->expected, sums->second, part3(found->residual, i),
                          part3(found->curvature, i)};
        if (n_templates)
            sum_window(memory, task, &window, found, uniform, sums, *overlaps);
        add_derivatives(memory, &window.loss, window.z, &task->model, window.posterior, &at,
                        task->per_bin);
        add_burst_derivatives(&window.loss, window.z, &task->model, window.posterior, at.spikes,
                              at.residual);
        add_own_pairs(memory, task, &window, &at);
        rewind_to(memory, start);
    }
    END
}

int64_t fill_shared_factors(const Task *task, const longs2 *first) {
    BEGIN
    int64_t length = task->model.taps.n[2], *lags = take_longs(memory, length);
    for (int64_t k = 0; k < length; k++)
        lags[k] = k;
    for (int64_t p = 0; p < first->n[0]; p++) {
        int64_t i = AT2(*first, p, 0);
        CountLoss loss = loss_of_window(&task->loss, i);
        doubles3 log = part4(task->factors.log, p);
        Mark here = mark(memory);
        fill_interactions(memory, &loss, part3(task->z, i), &task->model, AT2(*first, p, 1), lags,
                          length, log);
        exclude_near(log, task->model.amplitudes.n[1], task->prior.apart);
        rewind_to(memory, here);
    }
    fill_relative(&task->factors);
    END
}

void add_shared_pairs(const Task *task, const longs2 *first, const doubles4 *overlaps,
                      const Found *found, const Sums *sums) {
    for (int64_t p = 0; p < first->n[0]; p++) {
        int64_t i = AT2(*first, p, 0);
        CountLoss loss = loss_of_window(&task->loss, i);
        Derivatives at = {sums->spikes, sums->expected, sums->second, part3(found->residual, i),
                          part3(found->curvature, i)};
        add_pair_derivatives(&loss, part3(task->z, i), &task->model, AT2(*first, p, 1),
                             part4(*overlaps, p), &at, 0);
    }
}
