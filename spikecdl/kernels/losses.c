#include "losses.h"

void fill_row(int64_t kind, const double *restrict a, const double *restrict b,
              const double *restrict z, int64_t n_bins, double *restrict residual,
              double *restrict curvature) {
    if (kind == QUADRATIC) {
        for (int64_t t = 0; t < n_bins; t++) {
            residual[t] = b[t] * (a[t] - z[t]);
            curvature[t] = b[t];
        }
    } else if (kind == LOGISTIC) {
        for (int64_t t = 0; t < n_bins; t++) {
            double small = quick_exp(-fabs(z[t])), high = 1.0 / (1.0 + small);
            double up = z[t] >= 0 ? high : small * high;
            double down = z[t] >= 0 ? small * high : high;
            residual[t] = a[t] * down - b[t] * up;
            curvature[t] = (a[t] + b[t]) * up * down;
        }
    } else {
        for (int64_t t = 0; t < n_bins; t++) {
            double mean = b[t] * quick_exp(z[t]);
            residual[t] = a[t] - mean;
            curvature[t] = mean;
        }
    }
}

void fill_terms(int64_t kind, const double *restrict a, const double *restrict b,
                const double *restrict z, int64_t n_bins, double *restrict out) {
    if (kind == QUADRATIC) {
        for (int64_t t = 0; t < n_bins; t++)
            out[t] = b[t] * (a[t] - z[t]) * (a[t] - z[t]) / 2;
    } else if (kind == LOGISTIC) {
        for (int64_t t = 0; t < n_bins; t++)
            out[t] = (a[t] + b[t]) * softplus(z[t]) - a[t] * z[t];
    } else {
        for (int64_t t = 0; t < n_bins; t++)
            out[t] = b[t] * quick_exp(z[t]) - a[t] * z[t];
    }
}

double sum_terms(int64_t kind, const double *a, const double *b, const double *z, int64_t n_bins) {
    double total = 0.0;
    if (kind == QUADRATIC) {
        REDUCE(total)
        for (int64_t t = 0; t < n_bins; t++)
            total += b[t] * (a[t] - z[t]) * (a[t] - z[t]) / 2;
    } else if (kind == LOGISTIC) {
        REDUCE(total)
        for (int64_t t = 0; t < n_bins; t++)
            total += (a[t] + b[t]) * softplus(z[t]) - a[t] * z[t];
    } else {
        REDUCE(total)
        for (int64_t t = 0; t < n_bins; t++)
            total += b[t] * quick_exp(z[t]) - a[t] * z[t];
    }
    return total;
}

void fill_state(const Loss *loss, const State *state) {
    for (int64_t n = 0; n < state->eta.n[0]; n++)
        fill_row(loss->kind, ROW2(loss->a, n), ROW2(loss->b, n), ROW2(state->eta, n),
                 state->eta.n[1], ROW2(state->residual, n), ROW2(state->curvature, n));
}

double loss_value(const Loss *loss, const doubles2 *eta) {
    double total = 0.0;
    for (int64_t n = 0; n < eta->n[0]; n++)
        total +=
            sum_terms(loss->kind, ROW2(loss->a, n), ROW2(loss->b, n), ROW2(*eta, n), eta->n[1]);
    return total;
}
