#include "ratios.h"

#include "operators.h"

static const double ROUNDING = 1e-9;     /* relative difference of exposures that are the same */
static const double CROWDED = 0.1;       /* share of bins with counts, from which all are visited */
static const double LARGEST_LOG = 600.0; /* of a product of numbers */
static const double HOPELESS = -20.0;    /* log ratio below which only a bound of it is computed */

ConstantRow constant_row(int64_t kind, const double *a, const double *b, const double *z,
                         int64_t n_bins) {
    bool same = true, same_rest = kind == LOGISTIC;
    if (kind == QUADRATIC)
        return (ConstantRow){false, 0.0, 0.0};
    for (int64_t t = 1; t < n_bins; t++) {
        if (z[t] != z[0])
            return (ConstantRow){false, 0.0, 0.0};
        same_rest = same_rest && a[t] + b[t] == a[0] + b[0];
        same = same && b[t] == b[0];
    }
    if (same_rest)
        return (ConstantRow){true, a[0] + b[0], 0.0};
    return (ConstantRow){same, same ? b[0] : 0.0, same && kind == LOGISTIC ? 1.0 : 0.0};
}

/* Return the sum of the changes of the softplus, or of the exponential, from z to z + move, and
   fill in the changes. */
static double fill_change(int64_t kind, double z, const double *restrict move, int64_t length,
                          double *restrict out) {
    double before = kind == LOGISTIC ? softplus(z) : quick_exp(z);
    if (kind == LOGISTIC)
        for (int64_t k = 0; k < length; k++)
            out[k] = softplus(z + move[k]) - before;
    else
        for (int64_t k = 0; k < length; k++)
            out[k] = quick_exp(z + move[k]) - before;
    return sum(out, length);
}

/* Add to `out` (onset,) the correlation of a vector with counts, most of which are zero, times a
   factor; the vector is given in reverse. */
static void correlate_counts(const double *counts, int64_t n_bins, const double *reversed,
                             int64_t length, double factor, double *out) {
    int64_t n_onsets = n_bins - length + 1;
    for (int64_t t = 0; t < n_bins; t++) {
        if (counts[t] == 0.0)
            continue;
        int64_t first = larger(0, t - length + 1), last = smaller(n_onsets - 1, t);
        add_multiple(out + first, factor * counts[t], reversed + length - 1 - (t - first),
                     last + 1 - first);
    }
}

static void reverse(const double *restrict values, int64_t number, double *restrict out) {
    for (int64_t k = 0; k < number; k++)
        out[k] = values[number - 1 - k];
}

void fill_count_scores(Memory *memory, doubles2 counts, doubles3 taps, doubles2 score) {
    int64_t length = taps.n[2], n_onsets = score.n[1], present = 0;
    for (int64_t k = 0; k < size2(counts); k++)
        present += counts.at[k] != 0.0;
    if ((double)present > CROWDED * (double)size2(counts)) {
        fill_scores(taps, counts, 0, n_onsets, score);
        return;
    }
    double *reversed = take_doubles(memory, length);
    fill(score.at, size2(score), 0.0);
    for (int64_t c = 0; c < taps.n[0]; c++)
        for (int64_t n = 0; n < taps.n[1]; n++) {
            reverse(ROW3(taps, c, n), length, reversed);
            correlate_counts(ROW2(counts, n), counts.n[1], reversed, length, 1.0, ROW2(score, c));
        }
}

/* What most bins of a row have: the predictor, the exposure, and q as in `ConstantRow`. */
typedef struct {
    double z, exposure, q;
} Usual;

/* Onsets from `first` up to `end`. */
typedef struct {
    int64_t first, end;
} Stretch;

/* Return the value that more than half of all have, if there is one (Boyer and Moore 1991). */
static double most_common(const double *values, int64_t number) {
    double found = values[0];
    int64_t lead = 0;
    for (int64_t k = 0; k < number; k++) {
        if (lead == 0)
            found = values[k];
        lead += values[k] == found ? 1 : -1;
    }
    return found;
}

/* Return the exposure of a bin: what the softplus or the exponential is multiplied by. */
static inline double exposure_of(const CountLoss *loss, int64_t n, int64_t t) {
    return AT2(loss->b, n, t) + (loss->kind == LOGISTIC ? AT2(loss->a, n, t) : 0.0);
}

static double largest_exposure(const CountLoss *loss, int64_t n) {
    double found = 0.0;
    for (int64_t t = 0; t < loss->a.n[1]; t++)
        found = most(found, exposure_of(loss, n, t));
    return found;
}

/* Fill in the stretches of onsets whose events cover bins that differ from most, and what most bins
   of each row have; return the number of stretches. */
static int64_t fill_unusual(Memory *memory, const CountLoss *loss, doubles2 z, int64_t length,
                            Usual *usual, Stretch *stretches) {
    int64_t n_bins = z.n[1], count = 0;
    bool *differs = take(memory, n_bins);
    memset(differs, 0, (size_t)n_bins);
    for (int64_t n = 0; n < z.n[0]; n++) {
        double highest = largest_exposure(loss, n), common = most_common(ROW2(z, n), n_bins);
        usual[n] = (Usual){common, highest, 0.0};
        for (int64_t t = 0; t < n_bins; t++)
            differs[t] |= fabs(exposure_of(loss, n, t) - highest) > ROUNDING * highest ||
                          AT2(z, n, t) != common;
    }
    for (int64_t t = 0; t < n_bins; t++) {
        if (!differs[t])
            continue;
        int64_t first = larger(0, t - length + 1), end = smaller(t + 1, n_bins - length + 1);
        if (count == 0 || first > stretches[count - 1].end)
            stretches[count++].first = first;
        stretches[count - 1].end = end;
    }
    return count;
}

/* Fill in the ratios for what each row usually has, without the counts' score. */
static void fill_constant(Memory *memory, const CountLoss *loss, const Usual *usual,
                          const Templates *model, doubles3 ratios) {
    int64_t length = model->taps.n[2], n_onsets = ratios.n[2], n_rows = model->taps.n[1];
    double *change = take_doubles(memory, length), *reversed = take_doubles(memory, length);
    for (int64_t c = 0; c < ratios.n[0]; c++)
        for (int64_t i = 0; i < ratios.n[1]; i++) {
            double *ratio = ROW3(ratios, c, i), total = 0.0;
            fill(ratio, n_onsets, 0.0);
            for (int64_t n = 0; n < n_rows; n++) {
                const double *move = ROW4(model->moves, c, i, n);
                total +=
                    usual[n].exposure * fill_change(loss->kind, usual[n].z, move, length, change);
                if (usual[n].q != 0.0) {
                    reverse(change, length, reversed);
                    correlate_counts(ROW2(loss->a, n), loss->a.n[1], reversed, length, -usual[n].q,
                                     ratio);
                }
            }
            for (int64_t s = 0; s < n_onsets; s++)
                ratio[s] -= total;
        }
}

/* Fill in the ratios of an exponential loss in stretches: correlations with means. */
static void fill_exponential(Memory *memory, const CountLoss *loss, doubles2 z,
                             const Templates *model, const Stretch *stretches, int64_t n_stretches,
                             doubles3 ratios) {
    int64_t n_kinds = ratios.n[0] * ratios.n[1], n_bins = z.n[1];
    doubles3 growth = new3(memory, n_kinds, model->taps.n[1], model->taps.n[2]);
    doubles2 mean = new2(memory, z.n[0], n_bins), flat = {ratios.at, {n_kinds, ratios.n[2]}};
    for (int64_t k = 0; k < size3(growth); k++)
        growth.at[k] = 1.0 - quick_exp(model->moves.at[k]);
    for (int64_t k = 0; k < size2(mean); k++)
        mean.at[k] = loss->b.at[k] * quick_exp(z.at[k]);
    for (int64_t m = 0; m < n_stretches; m++)
        fill_scores(growth, mean, stretches[m].first, stretches[m].end, flat);
}

/* Return whether the exposure of each row is the same in all bins that are observed. */
static bool have_one_exposure(const CountLoss *loss) {
    for (int64_t n = 0; n < loss->a.n[0]; n++) {
        double highest = largest_exposure(loss, n);
        for (int64_t t = 0; t < loss->a.n[1]; t++) {
            double exposure = exposure_of(loss, n, t);
            if (exposure != 0.0 && fabs(exposure - highest) > ROUNDING * highest)
                return false;
        }
    }
    return true;
}

/* Fill in the product over bins of the sum of `down` and `up` times the odds. */
static void multiply_odds(double *restrict product, const double *down, const double *up,
                          const double *odds, int64_t n_odds, int64_t size) {
    int64_t whole = n_odds - n_odds % 4;
    fill(product, size, 1.0);
    for (int64_t k = 0; k < whole; k += 4) {
        double e = odds[k], f = odds[k + 1], g = odds[k + 2], h = odds[k + 3];
        const double *d = down + k, *u = up + k;
        for (int64_t s = 0; s < size; s++) {
            double one = (d[s] + u[s] * e) * (d[s + 1] + u[s + 1] * f);
            double two = (d[s + 2] + u[s + 2] * g) * (d[s + 3] + u[s + 3] * h);
            product[s] *= one * two;
        }
    }
    for (int64_t k = whole; k < n_odds; k++)
        for (int64_t s = 0; s < size; s++)
            product[s] *= down[s + k] + up[s + k] * odds[k];
}

/* Fill in the logistic function of each bin of a row, and one minus it; 0 and 1 if unobserved. */
static void fill_chances(const CountLoss *loss, const double *z, int64_t n, double *restrict up,
                         double *restrict down) {
    for (int64_t t = 0; t < loss->a.n[1]; t++) {
        double small = quick_exp(-fabs(z[t])), high = 1.0 / (1.0 + small);
        bool seen = AT2(loss->a, n, t) + AT2(loss->b, n, t) != 0.0;
        up[t] = seen ? (z[t] >= 0 ? high : small * high) : 0.0;
        down[t] = seen ? (z[t] >= 0 ? small * high : high) : 1.0;
    }
}

/* Fill in the ratios, in stretches, of a logistic loss whose rows have one exposure each.

   An event multiplies the odds of a bin by E = exp(a h), and 1 + exp(z) by 1 - p + p E, where p is
   the logistic function of z.  The logarithm is taken of the product over bins. */
static void fill_logistic(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                          const Stretch *stretches, int64_t n_stretches, doubles3 ratios) {
    int64_t length = model->taps.n[2], n_kinds = ratios.n[0] * ratios.n[1], n_onsets = ratios.n[2];
    double *up = take_doubles(memory, z.n[1]), *down = take_doubles(memory, z.n[1]);
    double *product = take_doubles(memory, n_onsets), *odds = take_doubles(memory, length);
    for (int64_t m = 0; m < n_stretches; m++)
        for (int64_t j = 0; j < n_kinds; j++)
            fill(ratios.at + j * n_onsets + stretches[m].first,
                 stretches[m].end - stretches[m].first, 0.0);
    for (int64_t n = 0; n < z.n[0]; n++) {
        double exposure = largest_exposure(loss, n);
        fill_chances(loss, ROW2(z, n), n, up, down);
        for (int64_t j = 0; j < n_kinds; j++) {
            const double *move = model->moves.at + (j * z.n[0] + n) * length;
            double highest = 1e-9;
            for (int64_t k = 0; k < length; k++) {
                odds[k] = quick_exp(move[k]);
                highest = most(highest, fabs(move[k]));
            }
            int64_t together = larger(1, (int64_t)least((double)length, LARGEST_LOG / highest));
            for (int64_t m = 0; m < n_stretches; m++) {
                int64_t first = stretches[m].first, size = stretches[m].end - first;
                for (int64_t k = 0; k < length; k += together) {
                    multiply_odds(product, down + first + k, up + first + k, odds + k,
                                  smaller(together, length - k), size);
                    to_log(product, size);
                    add_multiple(ratios.at + j * n_onsets + first, -exposure, product, size);
                }
            }
        }
    }
}

/* Return minus the loss of a row with an event. */
static double gain_of_row(int64_t kind, const double *a, const double *b, const double *z,
                          double amplitude, const double *taps, const double *moves,
                          int64_t length) {
    double total = 0.0;
    if (kind == QUADRATIC) {
        REDUCE(total)
        for (int64_t k = 0; k < length; k++) {
            double move = amplitude * taps[k], miss = a[k] - z[k] - move;
            total -= b[k] * (miss * miss / 2 + moves[k] - move);
        }
    } else if (kind == LOGISTIC) {
        REDUCE(total)
        for (int64_t k = 0; k < length; k++)
            total +=
                a[k] * (z[k] + amplitude * taps[k]) - (a[k] + b[k]) * softplus(z[k] + moves[k]);
    } else {
        REDUCE(total)
        for (int64_t k = 0; k < length; k++)
            total += a[k] * (z[k] + amplitude * taps[k]) - b[k] * quick_exp(z[k] + moves[k]);
    }
    return total;
}

/* Return the ratio of one event, of template c and amplitude i, that begins in bin s. */
static double ratio_of(const CountLoss *loss, doubles2 z, const Templates *model, int64_t c,
                       int64_t i, int64_t s, doubles2 base) {
    int64_t length = model->taps.n[2];
    double amplitude = AT2(model->amplitudes, c, i), total = 0.0;
    for (int64_t n = 0; n < z.n[0]; n++) {
        total +=
            gain_of_row(loss->kind, ROW2(loss->a, n) + s, ROW2(loss->b, n) + s, ROW2(z, n) + s,
                        amplitude, ROW3(model->taps, c, n), ROW4(model->moves, c, i, n), length);
        total += sum(ROW2(base, n) + s, length);
    }
    return total;
}

/* Fill in the order of amplitudes by size. */
static void fill_order(const double *amplitudes, int64_t number, int64_t *order) {
    for (int64_t i = 0; i < number; i++) {
        int64_t j = i;
        for (; j > 0 && fabs(amplitudes[order[j - 1]]) > fabs(amplitudes[i]); j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
}

/* Fill in the ratios bin by bin, where an event is not hopeless.

   The ratio is concave in the amplitude, and zero at zero: it is at most the amplitude times the
   score, and falls at least in proportion once it is negative. */
static void fill_varying(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                         doubles3 ratios) {
    int64_t n_templates = ratios.n[0], n_amplitudes = ratios.n[1], n_onsets = ratios.n[2];
    doubles2 residual = new2(memory, z.n[0], z.n[1]), base = new2(memory, z.n[0], z.n[1]);
    doubles2 score = new2(memory, n_templates, n_onsets);
    double *curvature = take_doubles(memory, z.n[1]);
    int64_t *order = take_longs(memory, n_amplitudes);
    for (int64_t n = 0; n < z.n[0]; n++) {
        const double *a = ROW2(loss->a, n), *b = ROW2(loss->b, n);
        fill_row(loss->kind, a, b, ROW2(z, n), z.n[1], ROW2(residual, n), curvature);
        fill_terms(loss->kind, a, b, ROW2(z, n), z.n[1], ROW2(base, n));
    }
    fill_scores(model->taps, residual, 0, n_onsets, score);
    for (int64_t c = 0; c < n_templates; c++) {
        fill_order(ROW2(model->amplitudes, c), n_amplitudes, order);
        for (int64_t s = 0; s < n_onsets; s++) {
            double smallest[2] = {0.0, 0.0}; /* last negative ratio per amplitude, of each sign */
            for (int64_t j = 0; j < n_amplitudes; j++) {
                double amplitude = AT2(model->amplitudes, c, order[j]), size = fabs(amplitude);
                double *last = smallest + (amplitude > 0.0);
                double bound = amplitude * AT2(score, c, s);
                if (*last < 0.0)
                    bound = least(bound, size * *last);
                if (bound > HOPELESS) {
                    bound = ratio_of(loss, z, model, c, order[j], s, base);
                    if (bound < 0.0)
                        *last = bound / size;
                }
                AT3(ratios, c, order[j], s) = bound;
            }
        }
    }
}

void fill_ratios(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                 doubles2 score, doubles3 ratios) {
    Usual *usual = take(memory, z.n[0] * (int64_t)sizeof(Usual));
    bool constant = true;
    for (int64_t n = 0; n < z.n[0]; n++) {
        ConstantRow row =
            constant_row(loss->kind, ROW2(loss->a, n), ROW2(loss->b, n), ROW2(z, n), z.n[1]);
        usual[n] = (Usual){AT2(z, n, 0), row.exposure, row.q};
        constant = constant && row.constant;
    }
    if (!constant &&
        (loss->kind == QUADRATIC || (loss->kind == LOGISTIC && !have_one_exposure(loss)))) {
        fill_varying(memory, loss, z, model, ratios);
        return;
    }
    Stretch *stretches = take(memory, z.n[1] * (int64_t)sizeof(Stretch));
    int64_t n_stretches = 0;
    if (!constant)
        n_stretches = fill_unusual(memory, loss, z, model->taps.n[2], usual, stretches);
    fill_constant(memory, loss, usual, model, ratios);
    if (loss->kind == EXPONENTIAL)
        fill_exponential(memory, loss, z, model, stretches, n_stretches, ratios);
    else
        fill_logistic(memory, loss, z, model, stretches, n_stretches, ratios);
    for (int64_t c = 0; c < score.n[0]; c++)
        for (int64_t i = 0; i < ratios.n[1]; i++)
            add_multiple(ROW3(ratios, c, i), AT2(model->amplitudes, c, i), ROW2(score, c),
                         ratios.n[2]);
}
