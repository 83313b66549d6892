#include "quadratic.h"

#include "banded.h"
#include "groups.h"

Weights weights_of(Memory *memory, Weights penalty, Events events) {
    int64_t size = events.size;
    Weights own = {new1(memory, size),
                   {take(memory, size), {size}},
                   {take(memory, size), {size}},
                   penalty.grouped};
    for (int64_t j = 0; j < size; j++) {
        own.weight.at[j] = penalty.weight.at[events.which[j]];
        own.up.at[j] = penalty.up.at[events.which[j]];
        own.down.at[j] = penalty.down.at[events.which[j]];
    }
    return own;
}

/* Minimise over each code in turn; return the largest change of a score. */
static double sweep(const Model *model) {
    doubles3 gram = model->gram;
    int64_t count = gram.n[0], width = gram.n[1];
    double *value = model->value, *restrict product = model->product, highest = 0.0;
    for (int64_t j = 0; j < count; j++) {
        const double *row = ROW3(gram, j, 0);
        double own = row[0], weight = model->penalty.weight.at[j], best = 0.0;
        if (own <= 0.0)
            continue;
        double score = model->linear[j] - product[j] + own * value[j];
        if (score > weight && model->penalty.up.at[j])
            best = (score - weight) / own;
        else if (score < -weight && model->penalty.down.at[j])
            best = (score + weight) / own;
        double change = best - value[j];
        if (change == 0.0)
            continue;
        highest = most(highest, fabs(change) * own);
        value[j] = best;
        for (int64_t back = 0; back < smaller(width, j + 1); back++)
            product[j - back] += row[back] * change;
        for (int64_t i = j + 1; i < smaller(j + width, count); i++)
            product[i] += gram.at[i * width + i - j] * change;
    }
    return highest;
}

/* Move the codes that are not zero to the minimum, or to where the first one changes sign. */
static void solve_support(Memory *memory, const Model *model) {
    int64_t count = model->gram.n[0], size = 0;
    double *value = model->value, step = 1.0;
    Mark begin = mark(memory);
    int64_t *support = take_longs(memory, count);
    double *best = take_doubles(memory, count);
    for (int64_t j = 0; j < count; j++)
        if (value[j] != 0.0) {
            best[size] = model->linear[j] - copysign(model->penalty.weight.at[j], value[j]);
            support[size++] = j;
        }
    if (solve_banded(memory, model->gram, support, size, best)) {
        for (int64_t i = 0; i < size; i++) {
            double old = value[support[i]];
            if (best[i] * old < 0.0)
                step = least(step, old / (old - best[i]));
        }
        for (int64_t i = 0; i < size; i++) {
            double old = value[support[i]];
            bool crosses = best[i] * old < 0.0 && old / (old - best[i]) <= step;
            value[support[i]] = crosses ? 0.0 : old + step * (best[i] - old);
        }
    }
    rewind_to(memory, begin);
}

/* Sweep until no score changes by more than `tol`, a given number of times at the most. */
static bool sweeps_converge(Memory *memory, const Model *model, int64_t n_sweeps, double tol) {
    bool grouped = model->penalty.grouped;
    for (int64_t number = 0; number < n_sweeps; number++)
        if ((grouped ? sweep_groups(memory, model) : sweep(model)) < tol)
            return true;
    return false;
}

double minimize(Memory *memory, doubles3 gram, const double *score, Weights penalty,
                const double *amplitude, double tol, double *move) {
    int64_t count = gram.n[0], n_units = gram.n[2], size = count * n_units;
    int64_t n_sweeps = penalty.grouped ? 4 + count : 4; /* before each Newton step */
    double *linear = take_doubles(memory, size), change = 0.0;
    Model model = {gram, linear, penalty, take_doubles(memory, size), take_doubles(memory, size)};
    copy(model.value, amplitude, size);
    fill_product(gram, model.value, model.product);
    for (int64_t k = 0; k < size; k++)
        linear[k] = score[k] + model.product[k];
    for (int64_t number = 0; number < 20; number++) {
        if (sweeps_converge(memory, &model, n_sweeps, tol))
            break;
        if (penalty.grouped)
            step_on_support(memory, &model);
        else
            solve_support(memory, &model);
        fill_product(gram, model.value, model.product);
    }
    for (int64_t j = 0; j < count; j++)
        change += penalty.weight.at[j] * (norm(model.value + j * n_units, n_units) -
                                          norm(amplitude + j * n_units, n_units));
    for (int64_t k = 0; k < size; k++)
        move[k] = model.value[k] - amplitude[k];
    return change;
}

int64_t minimize_model(const doubles3 *gram, const doubles2 *score, const Weights *penalty,
                       const doubles2 *amplitude, double tol, const doubles2 *move,
                       const doubles1 *change) {
    BEGIN
    change->at[0] = minimize(memory, *gram, score->at, *penalty, amplitude->at, tol, move->at);
    END
}
