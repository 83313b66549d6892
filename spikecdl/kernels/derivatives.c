#include "derivatives.h"

/* Derivatives of one row, given its channel. */
typedef struct {
    int64_t channel, n_bins;
    const double *a, *b, *z;
    double *residual, *curvature;
} Row;

static inline double logistic(double z) {
    return 1.0 / (1.0 + quick_exp(-z));
}

/* Add the expected amplitudes of the events of a template, times the counts that each bin covers.

   `posterior` (amplitude, onset) are their probabilities, `amplitudes` their sizes. */
static void add_spikes(Memory *memory, const Row *row, doubles2 posterior, const double *amplitudes,
                       int64_t length, double *out) {
    int64_t n_onsets = posterior.n[1];
    Mark here = mark(memory);
    /* from late to early onsets, padded */
    double *weight = take_zeros(memory, n_onsets + 2 * length);
    for (int64_t i = 0; i < posterior.n[0]; i++) {
        const double *chance = ROW2(posterior, i);
        double *restrict late = weight + length;
        for (int64_t s = 0; s < n_onsets; s++)
            late[s] += amplitudes[i] * chance[n_onsets - 1 - s];
    }
    for (int64_t t = 0; t < row->n_bins; t++) {
        if (row->a[t] == 0.0)
            continue;
        int64_t begin = length + n_onsets - 1 - t;
        int64_t first = larger(0, -begin), last = smaller(length, n_onsets + length - begin);
        if (last > first)
            add_multiple(out + first, row->a[t], weight + begin + first, last - first);
    }
    rewind_to(memory, here);
}

/* Add the derivatives of a constant row; those by the predictor go into its first bin. */
static void add_constant(Memory *memory, int64_t kind, const Row *row, ConstantRow constant,
                         const Templates *model, doubles3 posterior, const Derivatives *found) {
    int64_t length = model->taps.n[2], n = row->channel, n_onsets = posterior.n[2];
    double z = row->z[0], one = 1.0, *spikes = take_zeros(memory, length);
    double base = kind == LOGISTIC ? logistic(z) : quick_exp(z);
    double bent = kind == LOGISTIC ? base * (1.0 - base) : base;
    double less = 0.0, more = 0.0; /* of the residual and of the curvature */
    for (int64_t c = 0; c < posterior.n[0]; c++) {
        double *restrict expected = ROW3(found->expected, c, n);
        double *restrict second = ROW3(found->second, c, n);
        add_spikes(memory, row, part3(posterior, c), ROW2(model->amplitudes, c), length,
                   ROW3(found->spikes, c, n));
        for (int64_t i = 0; i < posterior.n[1]; i++) {
            double *chance = ROW3(posterior, c, i), amplitude = AT2(model->amplitudes, c, i);
            double number = sum(chance, n_onsets);
            const double *moves = ROW4(model->moves, c, i, n);
            if (number < NEGLIGIBLE)
                continue;
            if (constant.q != 0.0) {
                fill(spikes, length, 0.0);
                add_spikes(memory, row, (doubles2){chance, {1, n_onsets}}, &one, length, spikes);
            }
            for (int64_t k = 0; k < length; k++) {
                double weight = constant.exposure * number + constant.q * spikes[k];
                double x = z + moves[k], grown = quick_exp(kind == LOGISTIC ? -x : x);
                double mean = kind == LOGISTIC ? 1.0 / (1.0 + grown) : grown;
                double bend = kind == LOGISTIC ? mean * (1.0 - mean) : mean;
                expected[k] += amplitude * weight * mean;
                second[k] += amplitude * amplitude * weight * bend;
                less += weight * (mean - base);
                more += weight * (bend - bent);
            }
        }
    }
    row->residual[0] -= less;
    row->curvature[0] += more;
}

/* Add the derivatives of a row of an exponential loss, whose mean is its curvature. */
static void add_exponential(Memory *memory, const Row *row, const Templates *model,
                            doubles3 posterior, const Derivatives *found) {
    int64_t length = model->taps.n[2], n = row->channel, n_onsets = posterior.n[2];
    double *mean = row->curvature, *grown = take_zeros(memory, row->n_bins);
    for (int64_t c = 0; c < posterior.n[0]; c++) {
        add_spikes(memory, row, part3(posterior, c), ROW2(model->amplitudes, c), length,
                   ROW3(found->spikes, c, n));
        for (int64_t i = 0; i < posterior.n[1]; i++) {
            const double *chance = ROW3(posterior, c, i), *moves = ROW4(model->moves, c, i, n);
            double amplitude = AT2(model->amplitudes, c, i);
            if (sum(chance, n_onsets) < NEGLIGIBLE)
                continue;
            for (int64_t k = 0; k < length; k++) {
                double factor = quick_exp(moves[k]);
                double here = amplitude * factor * dot(chance, mean + k, n_onsets);
                AT3(found->expected, c, n, k) += here;
                AT3(found->second, c, n, k) += amplitude * here;
                add_multiple(grown + k, factor - 1.0, chance, n_onsets);
            }
        }
    }
    for (int64_t t = 0; t < row->n_bins; t++) {
        row->residual[t] -= mean[t] * grown[t];
        mean[t] *= 1.0 + grown[t];
    }
}

/* What the derivatives of a row, event by event, are computed in. */
typedef struct {
    double *moved, *pull, *bend, *base, *bent;
} Scratch;

/* Add the derivatives of the events of a row that begin in one bin, of one template and size. */
static void add_event(int64_t kind, const Row *row, const Scratch *scratch, int64_t s,
                      double chance, double amplitude, const double *moves, int64_t length,
                      double *restrict of_template[3]) {
    double *restrict moved = scratch->moved;
    const double *a = row->a + s, *b = row->b + s, *z = row->z + s;
    double *restrict residual = row->residual + s, *restrict curvature = row->curvature + s;
    for (int64_t k = 0; k < length; k++)
        moved[k] = z[k] + moves[k];
    fill_row(kind, a, b, moved, length, scratch->pull, scratch->bend);
    for (int64_t k = 0; k < length; k++) {
        double linear = a[k] * (kind == QUADRATIC ? b[k] : 1.0);
        of_template[0][k] += chance * amplitude * linear;
        of_template[1][k] += chance * amplitude * (linear - scratch->pull[k]);
        of_template[2][k] += chance * amplitude * amplitude * scratch->bend[k];
        residual[k] += chance * (scratch->pull[k] - scratch->base[s + k]);
        curvature[k] += chance * (scratch->bend[k] - scratch->bent[s + k]);
    }
}

/* Add the derivatives of a row, event by event. */
static void add_varying(Memory *memory, int64_t kind, const Row *row, const Templates *model,
                        doubles3 posterior, const Derivatives *found) {
    int64_t length = model->taps.n[2], n = row->channel;
    double *linear = take_doubles(memory, length);
    Scratch scratch = {take_doubles(memory, length), take_doubles(memory, length),
                       take_doubles(memory, length), take_doubles(memory, row->n_bins),
                       take_doubles(memory, row->n_bins)};
    copy(scratch.base, row->residual, row->n_bins);
    copy(scratch.bent, row->curvature, row->n_bins);
    for (int64_t c = 0; c < posterior.n[0]; c++)
        for (int64_t i = 0; i < posterior.n[1]; i++) {
            const double *chance = ROW3(posterior, c, i), *moves = ROW4(model->moves, c, i, n);
            double amplitude = AT2(model->amplitudes, c, i);
            double *of_template[3] = {ROW3(found->spikes, c, n), ROW3(found->expected, c, n),
                                      ROW3(found->second, c, n)};
            if (kind == QUADRATIC) { /* whose moves are those of the loss, not of the predictor */
                for (int64_t k = 0; k < length; k++)
                    linear[k] = amplitude * AT3(model->taps, c, n, k);
                moves = linear;
            }
            for (int64_t s = 0; s < posterior.n[2]; s++)
                if (chance[s] >= NEGLIGIBLE)
                    add_event(kind, row, &scratch, s, chance[s], amplitude, moves, length,
                              of_template);
        }
}

void add_derivatives(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                     doubles3 posterior, const Derivatives *found, bool per_bin) {
    for (int64_t n = 0; n < z.n[0]; n++) {
        Row row = {n,
                   z.n[1],
                   ROW2(loss->a, n),
                   ROW2(loss->b, n),
                   ROW2(z, n),
                   ROW2(found->residual, n),
                   ROW2(found->curvature, n)};
        ConstantRow constant = constant_row(loss->kind, row.a, row.b, row.z, row.n_bins);
        Mark here = mark(memory);
        fill_row(loss->kind, row.a, row.b, row.z, row.n_bins, row.residual, row.curvature);
        if (constant.constant && !per_bin)
            add_constant(memory, loss->kind, &row, constant, model, posterior, found);
        else if (loss->kind == EXPONENTIAL)
            add_exponential(memory, &row, model, posterior, found);
        else
            add_varying(memory, loss->kind, &row, model, posterior, found);
        rewind_to(memory, here);
    }
}
