#include "amplitudes.h"

#include "banded.h"

static const double ACCURATE = 0.01;    /* standard errors: smaller steps do not tell the next */
static const double MOST_RELAXED = 8.0; /* multiple of a Newton step, at most */
static const double RIDGE = 1e-9;       /* share of the diagonal that is added to it */

enum { MOST_ROUNDS = 12 };

Levels levels_of(const Baselines *baselines, int64_t window) {
    return (Levels){baselines->value.n[1], ROW2(baselines->value, window),
                    ROW2(baselines->relaxation, window), ROW2(baselines->expected, window),
                    baselines->stiffness};
}

static Events events_of(const Listed *listed, int64_t window) {
    int64_t begin = listed->first.at[window], size = listed->first.at[window + 1] - begin;
    return (Events){size, 1, listed->which.at + begin, listed->onset.at + begin,
                    listed->amplitude.at + begin};
}

double prior_value(const AmplitudePrior *prior, Levels levels, Events events) {
    double total = 0.0;
    for (int64_t n = 0; n < (levels.stiffness < INFINITY ? levels.n_rows : 0); n++) {
        double miss = levels.value[n] - levels.expected[n];
        total += levels.stiffness * miss * miss / 2;
    }
    for (int64_t j = 0; j < events.size; j++)
        total +=
            prior->precision.at[events.which[j]] * events.amplitude[j] * events.amplitude[j] / 2;
    return total;
}

/* Take a step of the baseline of each row; return the largest, in standard errors.

   Newton's step holds the amplitudes fixed.  When they are refitted in turn, each step leaves a
   constant fraction of the distance.  The relaxation is the multiple of the step, at most 8, that
   leaves none, extrapolated from the last steps (Aitken), which are kept in `last`; those below a
   hundredth of a standard error say nothing about the next. */
static double fit_baselines(const Loss *loss, const State *state, Levels levels, double *last) {
    int64_t n_bins = state->eta.n[1];
    double largest_step = 0.0, stiffness = levels.stiffness;
    for (int64_t n = 0; n < levels.n_rows; n++) {
        double *eta = ROW2(state->eta, n), *relaxation = levels.relaxation + n;
        double curvature = sum(ROW2(state->curvature, n), n_bins) + stiffness;
        double slope = sum(ROW2(state->residual, n), n_bins);
        double step = (slope - stiffness * (levels.value[n] - levels.expected[n])) / curvature;
        if (fabs(last[n]) * sqrt(curvature) > ACCURATE) {
            double left = least(step / last[n], 1 - *relaxation / MOST_RELAXED);
            *relaxation = most(*relaxation / (1 - left), 1.0);
        }
        last[n] = step;
        step = most(-1.0, least(1.0, *relaxation * step));
        levels.value[n] += step;
        for (int64_t t = 0; t < n_bins; t++)
            eta[t] += step;
        fill_row(loss->kind, ROW2(loss->a, n), ROW2(loss->b, n), eta, n_bins,
                 ROW2(state->residual, n), ROW2(state->curvature, n));
        largest_step = most(largest_step, fabs(step) * sqrt(curvature));
    }
    return largest_step;
}

/* Take a Newton step of a run of overlapping events, whose onsets are relative to the part of the
   window; return the largest, in standard errors of the amplitudes. */
static double fit_run(Memory *memory, const Part *part, doubles3 templates,
                      const AmplitudePrior *prior, Events run, double tol) {
    doubles3 gram = banded_gram(memory, templates, part->state.curvature, run);
    double *score = take_doubles(memory, run.size), *move = take_doubles(memory, run.size);
    double stiffest = 0.0, slope = 0.0, largest_step = 0.0;
    doubles1 none = {take_zeros(memory, templates.n[0]), {templates.n[0]}};
    Weights penalty = weights_of(memory, (Weights){none, prior->up, prior->down, false}, run);
    scores_of_events(templates, part->state.residual, run, score);
    for (int64_t j = 0; j < run.size; j++) {
        double precision = prior->precision.at[run.which[j]];
        score[j] -= precision * run.amplitude[j];
        AT3(gram, j, 0, 0) += precision;
        stiffest = most(stiffest, AT3(gram, j, 0, 0));
    }
    minimize(memory, gram, score, penalty, run.amplitude, tol / 4 * sqrt(stiffest), move);
    for (int64_t j = 0; j < run.size; j++) {
        slope += prior->precision.at[run.which[j]] * run.amplitude[j] * move[j];
        largest_step = most(largest_step, fabs(move[j]) * sqrt(AT3(gram, j, 0, 0)));
    }
    take_step(memory, &part->loss, &part->state, templates, run, move, slope);
    return largest_step;
}

/* Take a Newton step of each run of overlapping events; return the largest, in standard errors. */
static double fit_events(Memory *memory, const Loss *loss, const State *state, doubles3 templates,
                         const AmplitudePrior *prior, Events events, double tol) {
    int64_t length = templates.n[2], begin = 0;
    double largest_step = 0.0;
    while (begin < events.size) {
        Mark here = mark(memory);
        int64_t end = overlap_end(events, begin, events.size, length);
        int64_t first = events.onset[begin], *onset = take_longs(memory, end - begin);
        Part part = cut(memory, loss, state, first, events.onset[end - 1] + length);
        Events run = some_events(events, begin, end);
        for (int64_t j = 0; j < run.size; j++)
            onset[j] = run.onset[j] - first;
        run.onset = onset;
        largest_step = most(largest_step, fit_run(memory, &part, templates, prior, run, tol));
        paste(state, first, &part.state);
        rewind_to(memory, here);
        begin = end;
    }
    return largest_step;
}

void fit_in_turn(Memory *memory, const Loss *loss, const State *state, doubles3 templates,
                 const AmplitudePrior *prior, Levels levels, Events events, double tol,
                 int64_t n_rounds) {
    Mark here = mark(memory);
    double *last = take_zeros(memory, levels.n_rows);
    for (int64_t round = 0; round < n_rounds; round++) {
        double moved = 0.0;
        if (prior->learn)
            moved = fit_events(memory, loss, state, templates, prior, events, tol);
        if (levels.stiffness < INFINITY)
            moved = most(moved, fit_baselines(loss, state, levels, last));
        if (moved < tol)
            break;
    }
    rewind_to(memory, here);
}

/* Add the first and second derivatives of a window's cost by the templates. */
static void add_derivatives_of(const State *state, Events events, doubles3 first, doubles3 second) {
    int64_t length = first.n[2];
    for (int64_t j = 0; j < events.size; j++) {
        int64_t c = events.which[j], s = events.onset[j];
        double size = events.amplitude[j];
        for (int64_t n = 0; n < first.n[1]; n++) {
            add_multiple(ROW3(first, c, n), -size, ROW2(state->residual, n) + s, length);
            add_multiple(ROW3(second, c, n), size * size, ROW2(state->curvature, n) + s, length);
        }
    }
}

int64_t fit_amplitudes(int64_t begin, int64_t end, const AmplitudeTask *task, const doubles1 *cost,
                       const doubles4 *derivatives) {
    BEGIN
    int64_t n_rows = task->loss.a.n[1], n_bins = task->loss.a.n[2];
    doubles3 offset = task->baselines.offset;
    State state = new_state(memory, n_rows, n_bins);
    for (int64_t i = begin; i < end; i++) {
        Loss loss = window_loss(&task->loss, i);
        Levels levels = levels_of(&task->baselines, i);
        Events events = events_of(&task->events, i);
        for (int64_t n = 0; n < n_rows; n++)
            for (int64_t t = 0; t < n_bins; t++)
                AT2(state.eta, n, t) = levels.value[n] + AT3(offset, i, n, offset.n[2] > 1 ? t : 0);
        add_events(state.eta, task->templates, events);
        fill_state(&loss, &state);
        fit_in_turn(memory, &loss, &state, task->templates, &task->prior, levels, events, task->tol,
                    MOST_ROUNDS);
        cost->at[0] += loss_value(&loss, &state.eta);
        cost->at[1] += prior_value(&task->prior, levels, events);
        add_derivatives_of(&state, events, part4(*derivatives, 0), part4(*derivatives, 1));
    }
    END
}

int64_t solve_amplitudes(int64_t begin, int64_t end, const doubles3 *templates,
                         const doubles3 *curvature, const Listed *listed) {
    BEGIN
    for (int64_t i = begin; i < end; i++) {
        Mark here = mark(memory);
        Events events = events_of(listed, i);
        doubles3 gram = banded_gram(memory, *templates, part3(*curvature, i), events);
        int64_t *all = take_longs(memory, events.size);
        for (int64_t j = 0; j < events.size; j++) {
            AT3(gram, j, 0, 0) *= 1 + RIDGE;
            all[j] = j;
        }
        if (!solve_banded(memory, gram, all, events.size, events.amplitude))
            fill(events.amplitude, events.size, 0.0);
        rewind_to(memory, here);
    }
    END
}
