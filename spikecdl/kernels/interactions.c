#include "interactions.h"

enum { TOGETHER = 8 }; /* factors of odds whose product is taken before its logarithm */

/* Return the interaction of a row of a logistic loss, from the factors of its odds.

   Logarithms are taken of products over bins of the same exposure. */
static double logistic_interaction(const double *exposure, const double *chance, const double *one,
                                   const double *other, int64_t length) {
    double total = 0.0, above = 1.0, below = 1.0, weight = 0.0;
    int64_t together = 0;
    for (int64_t k = 0; k < length; k++) {
        if (exposure[k] != weight || together == TOGETHER) {
            total += weight * log(above / below);
            above = below = 1.0;
            together = 0;
            weight = exposure[k];
        }
        double up = chance[k], down = 1.0 - up;
        above *= down + up * one[k] * other[k];
        below *= (down + up * one[k]) * (down + up * other[k]);
        together++;
    }
    return total + weight * log(above / below);
}

/* Fill in by what events change what the exposure multiplies in the loss (event, bin), of a row:
   factors of the odds of a logistic loss, or changes. */
static void fill_grown(int64_t kind, const Templates *model, int64_t n, doubles2 grown) {
    int64_t n_amplitudes = model->amplitudes.n[1], length = model->taps.n[2];
    for (int64_t j = 0; j < grown.n[0]; j++) {
        int64_t c = j / n_amplitudes, i = j % n_amplitudes;
        const double *moves = ROW4(model->moves, c, i, n), *taps = ROW3(model->taps, c, n);
        double *restrict out = ROW2(grown, j), size = AT2(model->amplitudes, c, i);
        for (int64_t k = 0; k < length; k++)
            out[k] = kind == QUADRATIC ? size * taps[k]
                                       : quick_exp(moves[k]) - (kind == EXPONENTIAL ? 1.0 : 0.0);
    }
}

void fill_interactions(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                       int64_t onset, const int64_t *lags, int64_t n_lags, doubles3 table) {
    int64_t n_kinds = size2(model->amplitudes), length = model->taps.n[2], kind = loss->kind;
    doubles2 grown = new2(memory, n_kinds, length);
    double *exposure = take_doubles(memory, length), *chance = take_doubles(memory, length);
    double *weighted = take_doubles(memory, length);
    for (int64_t m = 0; m < n_lags; m++)
        fill(&AT3(table, lags[m], 0, 0), n_kinds * n_kinds, 0.0);
    for (int64_t n = 0; n < z.n[0]; n++) {
        fill_grown(kind, model, n, grown);
        for (int64_t k = 0; k < length; k++) {
            int64_t t = onset + k;
            double growth = kind == EXPONENTIAL ? quick_exp(AT2(z, n, t)) : 1.0;
            exposure[k] = AT2(loss->b, n, t) + (kind == LOGISTIC ? AT2(loss->a, n, t) : 0.0);
            exposure[k] *= growth;
            chance[k] = 1.0 / (1.0 + quick_exp(-AT2(z, n, t)));
        }
        for (int64_t j = 0; j < n_kinds; j++) {
            const double *one = ROW2(grown, j);
            for (int64_t k = 0; k < length; k++)
                weighted[k] = exposure[k] * one[k];
            for (int64_t m = 0; m < n_lags; m++) {
                int64_t lag = lags[m], rest = length - lag;
                for (int64_t i = 0; i < n_kinds; i++)
                    AT3(table, lag, j, i) -=
                        kind == LOGISTIC ? logistic_interaction(exposure + lag, chance + lag,
                                                                one + lag, ROW2(grown, i), rest)
                                         : dot(weighted + lag, ROW2(grown, i), rest);
            }
        }
    }
}

/* The first two derivatives of what the exposure multiplies in the loss. */
typedef struct {
    double slope, bend;
} Growth;

static inline Growth growth_of(int64_t kind, double x) {
    if (kind == QUADRATIC)
        return (Growth){x, 1.0};
    if (kind == EXPONENTIAL)
        return (Growth){quick_exp(x), quick_exp(x)};
    double up = 1.0 / (1.0 + quick_exp(-x));
    return (Growth){up, up * (1.0 - up)};
}

/* Two events: template and amplitude of each, the lag between them, and their expected number. */
typedef struct {
    int64_t b, i, c, j, lag;
    double number;
} Pair;

/* Correct the derivatives for two events in one row. */
static void add_pair(const CountLoss *loss, doubles2 z, const Templates *model, int64_t onset,
                     Pair pair, int64_t n, const Derivatives *found, int64_t level_at) {
    int64_t length = model->taps.n[2], kind = loss->kind;
    double one = AT2(model->amplitudes, pair.b, pair.i);
    double other = AT2(model->amplitudes, pair.c, pair.j);
    const double *first = ROW4(model->moves, pair.b, pair.i, n);
    const double *second = ROW4(model->moves, pair.c, pair.j, n);
    for (int64_t k = pair.lag; k < length; k++) {
        int64_t t = onset + k, late_at = k - pair.lag, at = level_at < 0 ? t : level_at;
        double weight = AT2(loss->b, n, t) + (kind == LOGISTIC ? AT2(loss->a, n, t) : 0.0);
        if (weight == 0.0)
            continue;
        double u = first[k], v = second[late_at], here = AT2(z, n, t);
        if (kind == QUADRATIC) {
            u = one * AT3(model->taps, pair.b, n, k);
            v = other * AT3(model->taps, pair.c, n, late_at);
        }
        weight *= pair.number;
        Growth both = growth_of(kind, here + u + v), alone = growth_of(kind, here + u);
        Growth late = growth_of(kind, here + v), none = growth_of(kind, here);
        double crossed = fabs(one * other) * weight * both.bend;
        AT3(found->expected, pair.b, n, k) += one * weight * (both.slope - alone.slope);
        AT3(found->second, pair.b, n, k) += one * one * weight * (both.bend - alone.bend) + crossed;
        AT3(found->expected, pair.c, n, late_at) += other * weight * (both.slope - late.slope);
        AT3(found->second, pair.c, n, late_at) +=
            other * other * weight * (both.bend - late.bend) + crossed;
        AT2(found->residual, n, at) -=
            weight * (both.slope - alone.slope - late.slope + none.slope);
        AT2(found->curvature, n, at) += weight * (both.bend - alone.bend - late.bend + none.bend);
    }
}

void add_pair_derivatives(const CountLoss *loss, doubles2 z, const Templates *model, int64_t onset,
                          doubles3 pairs, const Derivatives *found, int64_t level_at) {
    int64_t n_amplitudes = model->amplitudes.n[1];
    for (int64_t lag = 0; lag < pairs.n[0]; lag++)
        for (int64_t j = 0; j < pairs.n[1]; j++)
            for (int64_t i = 0; i < pairs.n[2]; i++) {
                Pair pair = {
                    j / n_amplitudes,     j % n_amplitudes, i / n_amplitudes, i % n_amplitudes, lag,
                    AT3(pairs, lag, j, i)};
                for (int64_t n = 0; n < (pair.number < NEGLIGIBLE ? 0 : z.n[0]); n++)
                    add_pair(loss, z, model, onset, pair, n, found, level_at);
            }
}
