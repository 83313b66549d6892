#include "interactions.h"

enum {
    TOGETHER = 8, /* factors of odds whose product is taken before its logarithm */
    COLUMNS = 8,  /* numbers by which rows are filled up, so that they fill vector registers */
    BLOCK = 64,   /* bins whose derivatives are computed before they are added */
};

static int64_t filled_up(int64_t number) {
    return (number + COLUMNS - 1) / COLUMNS * COLUMNS;
}

/* What is known of a row before events are combined: the exposure (bin,) of its bins, the chance
   (bin,) of a spike in those of a logistic loss, and what each event makes of them, (event, bin) of
   so many numbers a row. */
typedef struct {
    int64_t length, stride;
    double *exposure, *chance, *grown;
} Row;

/* Fill in a row of the model: factors of rates or odds, or changes of a mean. */
static void fill_grown(const CountLoss *loss, doubles2 z, const Templates *model, int64_t onset,
                       int64_t n, Row row) {
    int64_t n_amplitudes = model->moves.n[1], n_kinds = model->moves.n[0] * n_amplitudes;
    const double *a = ROW2(loss->a, n) + onset, *b = ROW2(loss->b, n) + onset;
    const double *base = ROW2(z, n) + onset;
    for (int64_t j = 0; j < n_kinds; j++) {
        int64_t c = j / n_amplitudes, i = j % n_amplitudes;
        const double *restrict taps = ROW3(model->taps, c, n);
        const double *restrict moves = ROW4(model->moves, c, i, n);
        double *restrict out = row.grown + j * row.stride;
        double less = loss->kind == EXPONENTIAL ? 1.0 : 0.0;
        for (int64_t k = 0; k < (loss->kind == QUADRATIC ? row.length : 0); k++)
            out[k] = AT2(model->amplitudes, c, i) * taps[k];
        for (int64_t k = 0; k < (loss->kind == QUADRATIC ? 0 : row.length); k++)
            out[k] = quick_exp(moves[k]) - less;
    }
    for (int64_t k = 0; k < row.length; k++) {
        row.exposure[k] = b[k] + (loss->kind == LOGISTIC ? a[k] : 0.0);
        if (loss->kind == EXPONENTIAL)
            row.exposure[k] *= quick_exp(base[k]);
        row.chance[k] = loss->kind == LOGISTIC ? 1.0 / (1.0 + quick_exp(-base[k])) : 0.0;
    }
}

/* Take sums of products of `one` and the rows (event, bin) of others away from numbers (event,). */
static void take_products(const double *restrict one, const double *restrict others, int64_t stride,
                          int64_t n_others, int64_t length, double *restrict out) {
    int64_t i = 0;
    for (; i + 4 <= n_others; i += 4) {
        const double *restrict row = others + i * stride;
        double first = 0.0, second = 0.0, third = 0.0, last = 0.0;
        PRAGMA(omp simd reduction(+ : first, second, third, last))
        for (int64_t k = 0; k < length; k++) {
            first += one[k] * row[k];
            second += one[k] * row[k + stride];
            third += one[k] * row[k + 2 * stride];
            last += one[k] * row[k + 3 * stride];
        }
        out[i] -= first, out[i + 1] -= second, out[i + 2] -= third, out[i + 3] -= last;
    }
    for (; i < n_others; i++)
        out[i] -= dot(one, others + i * stride, length);
}

/* Add the interactions of a row whose loss is quadratic, or grows as the exponential. */
static void add_products(Memory *memory, Row row, int64_t n_kinds, const int64_t *lags,
                         int64_t n_lags, doubles3 table) {
    int64_t longest = row.stride + COLUMNS; /* zeros follow, so that products end with a register */
    double *weighted = take_zeros(memory, n_kinds * longest);
    for (int64_t j = 0; j < n_kinds; j++)
        for (int64_t k = 0; k < row.length; k++)
            weighted[j * longest + k] = row.exposure[k] * row.grown[j * row.stride + k];
    for (int64_t l = 0; l < n_lags; l++)
        for (int64_t j = 0; j < n_kinds; j++)
            take_products(weighted + j * longest + lags[l], row.grown, row.stride, n_kinds,
                          filled_up(row.length - lags[l]), ROW3(table, lags[l], j));
}

/* Multiply numbers (event,) by the denominators of the odds of a bin, relative to those without. */
static inline void multiply(double *restrict product, double rest, double chance,
                            const double *restrict odds, int64_t width) {
    for (int64_t i = 0; i < width; i++)
        product[i] *= rest + chance * odds[i];
}

/* Fill in the sum over bins of the exposure times the log of these (event,), with another event,
   whose factors of odds are `one`, or NULL, and those of `others` (bin, event).

   Logarithms are taken of products over bins of the same exposure. */
static void fill_logarithms(const Row *row, int64_t lag, const double *one, const double *others,
                            int64_t width, double *restrict product, double *restrict out) {
    double weight = row->exposure[lag];
    int64_t together = 0;
    fill(out, width, 0.0);
    fill(product, width, 1.0);
    for (int64_t k = lag; k <= row->length; k++) {
        if (k == row->length || row->exposure[k] != weight || together == TOGETHER) {
            to_log(product, width);
            add_multiple(out, weight, product, width);
            fill(product, width, 1.0);
            weight = k < row->length ? row->exposure[k] : 0.0;
            together = 0;
        }
        if (k < row->length)
            multiply(product, 1.0 - row->chance[k], row->chance[k] * (one ? one[k] : 1.0),
                     others + (k - lag) * width, width);
        together++;
    }
}

/* Fill in the sums over bins from each on, (bin,), of the exposure times the logarithm with one
   event. */
static void fill_alone(const Row *row, const double *one, double *restrict out) {
    double total = 0.0;
    for (int64_t k = 0; k < row->length; k++)
        out[k] = 1.0 - row->chance[k] + row->chance[k] * one[k];
    to_log(out, row->length);
    for (int64_t k = row->length - 1; k >= 0; k--)
        out[k] = total += row->exposure[k] * out[k];
}

/* Add the interactions of a row of a logistic loss, from the factors of its odds. */
static void add_logistic(Memory *memory, Row row, int64_t n_kinds, const int64_t *lags,
                         int64_t n_lags, doubles3 table) {
    int64_t width = filled_up(n_kinds);
    double *others = take_zeros(memory, row.length * width);
    double *product = take_doubles(memory, width), *both = take_doubles(memory, width);
    double *late = take_doubles(memory, width);
    double *alone = take_doubles(memory, n_kinds * row.stride);
    for (int64_t j = 0; j < n_kinds; j++) {
        fill_alone(&row, row.grown + j * row.stride, alone + j * row.stride);
        for (int64_t k = 0; k < row.length; k++)
            others[k * width + j] = row.grown[j * row.stride + k];
    }
    for (int64_t l = 0; l < n_lags; l++) {
        fill_logarithms(&row, lags[l], NULL, others, width, product, late);
        for (int64_t j = 0; j < n_kinds; j++) {
            const double *one = row.grown + j * row.stride;
            double *restrict out = ROW3(table, lags[l], j);
            double early = alone[j * row.stride + lags[l]];
            fill_logarithms(&row, lags[l], one, others, width, product, both);
            for (int64_t i = 0; i < n_kinds; i++)
                out[i] -= both[i] - late[i] - early;
        }
    }
}

void fill_interactions(Memory *memory, const CountLoss *loss, doubles2 z, const Templates *model,
                       int64_t onset, const int64_t *lags, int64_t n_lags, doubles3 table) {
    int64_t n_kinds = model->moves.n[0] * model->moves.n[1], length = model->moves.n[3];
    Mark start = mark(memory);
    Row row = {.length = length, .stride = filled_up(length)};
    row.exposure = take_doubles(memory, length);
    row.chance = take_doubles(memory, length);
    row.grown = take_zeros(memory, n_kinds * row.stride);
    for (int64_t l = 0; l < n_lags; l++)
        fill(ROW3(table, lags[l], 0), n_kinds * n_kinds, 0.0);
    for (int64_t n = 0; n < model->moves.n[2]; n++) {
        Mark here = mark(memory);
        fill_grown(loss, z, model, onset, n, row);
        (loss->kind == LOGISTIC ? add_logistic : add_products)(memory, row, n_kinds, lags, n_lags,
                                                               table);
        rewind_to(memory, here);
    }
    rewind_to(memory, start);
}

/* Fill in the first two derivatives of what the exposure multiplies in the loss. */
static void fill_growth(int64_t kind, const double *restrict x, int64_t number,
                        double *restrict slope, double *restrict bend) {
    if (kind == QUADRATIC) {
        for (int64_t k = 0; k < number; k++)
            slope[k] = x[k], bend[k] = 1.0;
    } else if (kind == EXPONENTIAL) {
        for (int64_t k = 0; k < number; k++)
            slope[k] = bend[k] = quick_exp(x[k]);
    } else {
        for (int64_t k = 0; k < number; k++) {
            double up = 1.0 / (1.0 + quick_exp(-x[k]));
            slope[k] = up, bend[k] = up * (1.0 - up);
        }
    }
}

/* An event of a template, with an amplitude of this number. */
typedef struct {
    int64_t template, which;
    double amplitude;
} Event;

/* Two events, the second of which begins a lag later, in a row of a window. */
typedef struct {
    const CountLoss *loss;
    const Templates *model;
    const double *a, *b, *z; /* from the bin on in which the first begins */
    int64_t row, lag;
    Event first, second;
} Two;

/* Bins of both: their exposures, and derivatives with two events, with the first, with the second
   and with none. */
typedef struct {
    double weight[BLOCK], slope[4][BLOCK], bend[4][BLOCK];
} Bins;

static Event event_of(const Templates *model, int64_t kind) {
    int64_t n_amplitudes = model->amplitudes.n[1];
    return (Event){kind / n_amplitudes, kind % n_amplitudes, model->amplitudes.at[kind]};
}

/* Fill in what an event does to the predictor, from the bin `k` of its template on. */
static void fill_moved(const Two *two, Event event, int64_t k, int64_t number,
                       double *restrict out) {
    const double *restrict taps = ROW3(two->model->taps, event.template, two->row) + k;
    if (two->loss->kind == QUADRATIC)
        for (int64_t q = 0; q < number; q++)
            out[q] = event.amplitude * taps[q];
    else
        copy(out, ROW4(two->model->moves, event.template, event.which, two->row) + k, number);
}

/* Fill in bins of two events, from the bin `k` of the first on. */
static void fill_bins(const Two *two, int64_t k, int64_t number, Bins *out) {
    const double *restrict a = two->a + k, *restrict b = two->b + k, *restrict z = two->z + k;
    int64_t kind = two->loss->kind;
    double first[BLOCK], second[BLOCK], both[BLOCK];
    fill_moved(two, two->first, k, number, first);
    fill_moved(two, two->second, k - two->lag, number, second);
    for (int64_t q = 0; q < number; q++) {
        out->weight[q] = b[q] + (kind == LOGISTIC ? a[q] : 0.0);
        first[q] += z[q];
        both[q] = first[q] + second[q];
        second[q] += z[q];
    }
    fill_growth(kind, both, number, out->slope[0], out->bend[0]);
    fill_growth(kind, first, number, out->slope[1], out->bend[1]);
    fill_growth(kind, second, number, out->slope[2], out->bend[2]);
    fill_growth(kind, z, number, out->slope[3], out->bend[3]);
}

/* Add the derivatives by the template of an event, given those `alone` with it and no other. */
static void add_by_template(const Bins *bins, int64_t alone, int64_t number, double amplitude,
                            double other, double *restrict expected, double *restrict second) {
    const double *restrict slope = bins->slope[alone], *restrict bend = bins->bend[alone];
    double square = amplitude * amplitude, crossed = fabs(amplitude * other);
    for (int64_t q = 0; q < number; q++) {
        double weight = bins->weight[q], more = bins->bend[0][q] - bend[q];
        expected[q] += amplitude * weight * (bins->slope[0][q] - slope[q]);
        second[q] += weight * (square * more + crossed * bins->bend[0][q]);
    }
}

/* Add the derivatives by the predictor, to the first bin alone if `level`. */
static void add_by_bin(const Bins *bins, int64_t number, bool level, double *restrict residual,
                       double *restrict curvature) {
    double less = 0.0, more = 0.0;
    for (int64_t q = 0; q < number; q++) {
        const double weight = bins->weight[q];
        double slope = (bins->slope[0][q] - bins->slope[1][q]) - bins->slope[2][q];
        double bend = (bins->bend[0][q] - bins->bend[1][q]) - bins->bend[2][q];
        slope = weight * (slope + bins->slope[3][q]), bend = weight * (bend + bins->bend[3][q]);
        if (level)
            less += slope, more += bend;
        else
            residual[q] -= slope, curvature[q] += bend;
    }
    residual[0] -= less, curvature[0] += more;
}

/* Add the derivatives of a row of two events, of which `number` are expected. */
static void add_row(const Two *two, double number, int64_t onset, const Derivatives *found,
                    int64_t level_at) {
    int64_t length = two->model->taps.n[2], n = two->row, lag = two->lag;
    Event one = two->first, other = two->second;
    Bins bins;
    for (int64_t k = lag; k < length; k += BLOCK) {
        int64_t size = smaller(BLOCK, length - k), at = level_at < 0 ? onset + k : level_at;
        fill_bins(two, k, size, &bins);
        for (int64_t q = 0; q < size; q++)
            bins.weight[q] *= number;
        add_by_template(&bins, 1, size, one.amplitude, other.amplitude,
                        ROW3(found->expected, one.template, n) + k,
                        ROW3(found->second, one.template, n) + k);
        add_by_template(&bins, 2, size, other.amplitude, one.amplitude,
                        ROW3(found->expected, other.template, n) + k - lag,
                        ROW3(found->second, other.template, n) + k - lag);
        add_by_bin(&bins, size, level_at >= 0, ROW2(found->residual, n) + at,
                   ROW2(found->curvature, n) + at);
    }
}

void add_pair_derivatives(const CountLoss *loss, doubles2 z, const Templates *model, int64_t onset,
                          doubles3 pairs, const Derivatives *found, int64_t level_at) {
    for (int64_t lag = 0; lag < pairs.n[0]; lag++)
        for (int64_t j = 0; j < pairs.n[1]; j++)
            for (int64_t i = 0; i < pairs.n[2]; i++) {
                double number = AT3(pairs, lag, j, i);
                for (int64_t n = 0; n < (number < NEGLIGIBLE ? 0 : model->taps.n[1]); n++) {
                    Two two = {.loss = loss,
                               .model = model,
                               .a = ROW2(loss->a, n) + onset,
                               .b = ROW2(loss->b, n) + onset,
                               .z = ROW2(z, n) + onset,
                               .row = n,
                               .lag = lag,
                               .first = event_of(model, j),
                               .second = event_of(model, i)};
                    add_row(&two, number, onset, found, level_at);
                }
            }
}
