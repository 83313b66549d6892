#include "listed.h"

/* Fill in the log weights (kind, onset) of the events of a window. */
static void fill_weights(const ListedWeights *part, const ChainPrior *prior, doubles2 weights) {
    int64_t n_amplitudes = part->amplitudes.n[1];
    for (int64_t k = 0; k < weights.n[0]; k++) {
        int64_t c = k / n_amplitudes;
        double amplitude = part->amplitudes.at[k], *restrict row = ROW2(weights, k);
        for (int64_t s = 0; s < weights.n[1]; s++)
            row[s] = amplitude * AT2(part->score, s, c) + AT2(part->fixed, part->pattern.at[s], k);
        if (prior->log_timing.n[1])
            add_multiple(row, 1.0, ROW2(prior->log_timing, c), weights.n[1]);
    }
}

/* Fill in the probabilities of the events of a window; return the log likelihood ratio over none.

   See `sum_listed_window`; `uniform` is NULL if no events are drawn. */
static double sum_window(Memory *memory, int64_t n_bins, const ListedWeights *part,
                         const Factors *factors, const ChainPrior *prior, doubles4 overlaps,
                         doubles3 chance, const double *uniform, int32_t *kinds[2]) {
    int64_t n_onsets = chance.n[2];
    doubles2 weights = {chance.at, {chance.n[0] * chance.n[1], n_onsets}};
    fill_weights(part, prior, weights);
    if (prior->n_chains == 1)
        return sum_chain(memory, weights, prior->log_idle.at, n_bins, uniform, kinds[0], weights);
    int64_t *onset = take_longs(memory, n_onsets), *pattern = take_longs(memory, n_onsets);
    int64_t size = fill_live_onsets(memory, weights, prior->least, n_onsets, onset);
    for (int64_t i = 0; i < size; i++)
        pattern[i] = part->pattern.at[onset[i]];
    Pairs pairs = {size, onset, pattern, *factors, overlaps};
    return sum_pairs(memory, weights, prior->log_idle.at, &pairs, uniform, kinds, weights);
}

/* Add what the probabilities of the events of a window say of parameters. */
static void add_probabilities(int64_t window, int64_t n_bins, const ListedWeights *part,
                              int64_t n_chains, doubles3 chance, const ListedSums *sums) {
    int64_t n_amplitudes = chance.n[1], n_onsets = chance.n[2], length = n_bins - n_onsets + 1;
    double idle = (double)(n_onsets * n_chains);
    for (int64_t k = 0; k < chance.n[0] * n_amplitudes; k++) {
        int64_t c = k / n_amplitudes;
        const double *each = chance.at + k * n_onsets;
        if (sums->starts.n[1])
            add_multiple(ROW2(sums->starts, c), 1.0, each, n_onsets);
        for (int64_t s = 0; s < n_onsets; s++) {
            AT2(sums->number, part->pattern.at[s], k) += each[s];
            idle -= each[s] * (double)(smaller(s + length, n_onsets) - s);
            if (each[s] > NEGLIGIBLE)
                AT2(sums->expected, window * n_bins + s, c) += each[s] * part->amplitudes.at[k];
        }
    }
    sums->free.at[window] = idle;
}

int64_t sum_listed_windows(int64_t begin, int64_t end, int64_t n_bins, const flags1 *observed,
                           const ListedWeights *weights, const Factors *factors,
                           const ChainPrior *prior, const ListedSums *sums) {
    BEGIN
    int64_t n_onsets = n_bins - factors->log.n[1] + 1, n_templates = weights->score.n[1];
    doubles3 chance = new3(memory, n_templates, weights->amplitudes.n[1], n_onsets);
    Mark start = mark(memory);
    for (int64_t i = begin; i < end; i++) {
        if (!observed->at[i])
            continue;
        ListedWeights part = *weights;
        part.score.at = ROW2(weights->score, i * n_bins);
        part.pattern.at = weights->pattern.at + i * n_bins;
        sums->evidence.at[i] = sum_window(memory, n_bins, &part, factors, prior, sums->overlaps,
                                          chance, NULL, (int32_t *[2]){NULL, NULL});
        add_probabilities(i, n_bins, &part, prior->n_chains, chance, sums);
        rewind_to(memory, start);
    }
    END
}

int64_t sum_listed_window(int64_t n_bins, const ListedWeights *weights, const Factors *factors,
                          const ChainPrior *prior, const doubles4 *overlaps, const doubles3 *chance,
                          const doubles1 *uniform, const ints2 *drawn) {
    BEGIN
    int32_t *kinds[2] = {drawn->at, ROW2(*drawn, drawn->n[0] - 1)};
    sum_window(memory, n_bins, weights, factors, prior, *overlaps, *chance,
               uniform->n[0] ? uniform->at : NULL, kinds);
    END
}
