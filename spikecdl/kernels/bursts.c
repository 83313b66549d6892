#include "bursts.h"

/* Return the share of spikes that are not of bursts where an event multiplies exp(z) by a factor.
 */
static inline double share_of(double z, double excess, double factor) {
    double mean = quick_exp(z) * factor;
    return mean / (mean + excess);
}

double value_of_bursts(const CountLoss *loss, doubles2 z) {
    double total = 0.0;
    for (int64_t n = 0; n < loss->excess.n[0]; n++)
        for (int64_t t = 0; t < loss->excess.n[1]; t++) {
            double a = AT2(loss->a, n, t), excess = AT2(loss->excess, n, t);
            total -= AT2(loss->b, n, t) * excess;
            if (a * excess > 0.0)
                total -= a * log(share_of(AT2(z, n, t), excess, 1.0));
        }
    return total;
}

/* Return by what events multiply the rate of a row (event, bin). */
static doubles2 factors_of(Memory *memory, const Templates *model, int64_t n) {
    int64_t n_amplitudes = model->amplitudes.n[1], length = model->taps.n[2];
    doubles2 found = new2(memory, size2(model->amplitudes), length);
    for (int64_t j = 0; j < found.n[0]; j++)
        for (int64_t k = 0; k < length; k++)
            AT2(found, j, k) =
                quick_exp(model->amplitudes.at[j] * AT3(model->taps, j / n_amplitudes, n, k));
    return found;
}

static void fill_product(double *restrict product, double share, const double *restrict factors,
                         int64_t number) {
    for (int64_t s = 0; s < number; s++)
        product[s] = 1.0 + share * (factors[s] - 1.0);
}

static void reverse_rows(doubles2 rows) {
    for (int64_t j = 0; j < rows.n[0]; j++)
        for (int64_t k = 0; k < rows.n[1] / 2; k++) {
            double first = AT2(rows, j, k);
            AT2(rows, j, k) = AT2(rows, j, rows.n[1] - 1 - k);
            AT2(rows, j, rows.n[1] - 1 - k) = first;
        }
}

void add_burst_ratios(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                      doubles3 ratios) {
    int64_t length = model->taps.n[2], n_onsets = ratios.n[2], n_amplitudes = ratios.n[1];
    double *product = take_doubles(memory, length);
    for (int64_t n = 0; n < (loss->excess.n[1] ? loss->excess.n[0] : 0); n++) {
        Mark here = mark(memory);
        doubles2 factors = factors_of(memory, model, n);
        doubles2 moves = new2(memory, model->taps.n[0], length);
        for (int64_t c = 0; c < moves.n[0]; c++)
            copy(ROW2(moves, c), ROW3(model->taps, c, n), length);
        reverse_rows(factors);
        reverse_rows(moves);
        for (int64_t t = 0; t < loss->excess.n[1]; t++) {
            double a = AT2(loss->a, n, t), excess = AT2(loss->excess, n, t);
            if (a * excess == 0.0)
                continue;
            double share = share_of(AT2(z, n, t), excess, 1.0);
            int64_t first = larger(0, t - length + 1), size = smaller(n_onsets, t + 1) - first;
            int64_t skip = length - 1 - (t - first);
            for (int64_t j = 0; j < (size > 0 ? factors.n[0] : 0); j++) {
                double *ratio = ratios.at + j * n_onsets + first;
                fill_product(product, share, ROW2(factors, j) + skip, size);
                to_log(product, size);
                add_multiple(ratio, a, product, size);
                add_multiple(ratio, -a * model->amplitudes.at[j],
                             ROW2(moves, j / n_amplitudes) + skip, size);
            }
        }
        rewind_to(memory, here);
    }
}

void add_burst_derivatives(const CountLoss *loss, doubles2 z, const Templates *model,
                           doubles3 posterior, doubles3 spikes, doubles2 residual) {
    int64_t n_onsets = posterior.n[2], length = model->taps.n[2];
    for (int64_t n = 0; n < loss->excess.n[0]; n++)
        for (int64_t t = 0; t < loss->excess.n[1]; t++) {
            double a = AT2(loss->a, n, t), excess = AT2(loss->excess, n, t), here = AT2(z, n, t);
            if (a * excess == 0.0)
                continue;
            double usual = share_of(here, excess, 1.0);
            AT2(residual, n, t) -= a * (1 - usual);
            for (int64_t c = 0; c < posterior.n[0]; c++)
                for (int64_t i = 0; i < posterior.n[1]; i++) {
                    double size = AT2(model->amplitudes, c, i);
                    for (int64_t k = larger(0, t - n_onsets + 1); k < smaller(length, t + 1); k++) {
                        double number = AT3(posterior, c, i, t - k) * a;
                        if (number < NEGLIGIBLE)
                            continue;
                        double factor = quick_exp(size * AT3(model->taps, c, n, k));
                        double share = share_of(here, excess, factor);
                        AT3(spikes, c, n, k) -= number * size * (1 - share);
                        AT2(residual, n, t) += number * (share - usual);
                    }
                }
        }
}

void add_burst_interactions(Memory *memory, const CountLoss *loss, doubles2 z,
                            const Templates *model, int64_t onset, const int64_t *lags,
                            int64_t n_lags, doubles3 table) {
    int64_t n_kinds = size2(model->amplitudes), length = model->taps.n[2];
    doubles2 apart = new2(memory, n_kinds, length);
    for (int64_t n = 0; n < (loss->excess.n[1] ? loss->excess.n[0] : 0); n++) {
        Mark here = mark(memory);
        doubles2 factors = {NULL, {0, length}};
        for (int64_t k = 0; k < length; k++) {
            int64_t t = onset + k;
            double a = AT2(loss->a, n, t), excess = AT2(loss->excess, n, t);
            if (a * excess == 0.0)
                continue;
            if (!factors.at)
                factors = factors_of(memory, model, n);
            double share = share_of(AT2(z, n, t), excess, 1.0);
            for (int64_t j = 0; j < n_kinds; j++)
                fill_product(ROW2(apart, j), share, ROW2(factors, j), length);
            for (int64_t m = 0; m < n_lags && lags[m] <= k; m++)
                for (int64_t j = 0; j < n_kinds; j++) {
                    double one = share * AT2(factors, j, k), alone = AT2(apart, j, k);
                    for (int64_t i = 0; i < n_kinds; i++) {
                        double both = 1 - share + one * AT2(factors, i, k - lags[m]);
                        AT3(table, lags[m], j, i) +=
                            a * log(both / (alone * AT2(apart, i, k - lags[m])));
                    }
                }
        }
        rewind_to(memory, here);
    }
}

void add_burst_pair_derivatives(Memory *memory, const CountLoss *loss, doubles2 z,
                                const Templates *model, int64_t onset, doubles3 pairs,
                                doubles3 spikes, doubles2 residual) {
    int64_t n_amplitudes = model->amplitudes.n[1], length = model->taps.n[2];
    const double *sizes = model->amplitudes.at;
    for (int64_t n = 0; n < (loss->excess.n[1] ? loss->excess.n[0] : 0); n++) {
        Mark here = mark(memory);
        doubles2 factors = factors_of(memory, model, n);
        for (int64_t k = 0; k < length; k++) {
            int64_t t = onset + k;
            double a = AT2(loss->a, n, t), excess = AT2(loss->excess, n, t), at = AT2(z, n, t);
            if (a * excess == 0.0)
                continue;
            double none = share_of(at, excess, 1.0);
            for (int64_t lag = 0; lag <= k; lag++)
                for (int64_t j = 0; j < pairs.n[1]; j++)
                    for (int64_t i = 0; i < pairs.n[2]; i++) {
                        double number = AT3(pairs, lag, j, i) * a;
                        if (number < NEGLIGIBLE)
                            continue;
                        double one = AT2(factors, j, k), other = AT2(factors, i, k - lag);
                        double alone = share_of(at, excess, one);
                        double late = share_of(at, excess, other);
                        double both = share_of(at, excess, one * other);
                        AT3(spikes, j / n_amplitudes, n, k) += number * sizes[j] * (both - alone);
                        AT3(spikes, i / n_amplitudes, n, k - lag) +=
                            number * sizes[i] * (both - late);
                        AT2(residual, n, t) += number * (both - alone - late + none);
                    }
        }
        rewind_to(memory, here);
    }
}

void take_bursts_away(const CountLoss *loss, doubles2 z, doubles2 counts, doubles2 residual) {
    for (int64_t n = 0; n < loss->excess.n[0]; n++)
        for (int64_t t = 0; t < loss->excess.n[1]; t++) {
            double share = share_of(AT2(z, n, t), AT2(loss->excess, n, t), 1.0);
            double others = AT2(loss->a, n, t) * (1 - share);
            AT2(counts, n, t) -= others;
            AT2(residual, n, t) -= others;
        }
}
