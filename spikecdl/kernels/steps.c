#include "steps.h"

State new_state(Memory *memory, int64_t n_rows, int64_t n_bins) {
    return (State){new2(memory, n_rows, n_bins), new2(memory, n_rows, n_bins),
                   new2(memory, n_rows, n_bins)};
}

static doubles2 copy_bins(Memory *memory, doubles2 signal, int64_t first, int64_t last) {
    doubles2 part = new2(memory, signal.n[0], last - first);
    for (int64_t n = 0; n < signal.n[0]; n++)
        copy(ROW2(part, n), ROW2(signal, n) + first, last - first);
    return part;
}

Part cut(Memory *memory, const Loss *loss, const State *state, int64_t first, int64_t last) {
    return (Part){{loss->kind, copy_bins(memory, loss->a, first, last),
                   copy_bins(memory, loss->b, first, last)},
                  {copy_bins(memory, state->eta, first, last),
                   copy_bins(memory, state->residual, first, last),
                   copy_bins(memory, state->curvature, first, last)}};
}

void paste(const State *state, int64_t first, const State *part) {
    int64_t n_bins = part->eta.n[1];
    for (int64_t n = 0; n < part->eta.n[0]; n++) {
        copy(ROW2(state->eta, n) + first, ROW2(part->eta, n), n_bins);
        copy(ROW2(state->residual, n) + first, ROW2(part->residual, n), n_bins);
        copy(ROW2(state->curvature, n) + first, ROW2(part->curvature, n), n_bins);
    }
}

/* Return the largest absolute value; eight maxima side by side need one register. */
static double largest_size(const double *values, int64_t number) {
    double part[8] = {0.0};
    int64_t whole = number - number % 8;
    for (int64_t k = 0; k < whole; k += 8)
        for (int64_t i = 0; i < 8; i++)
            part[i] = most(fabs(values[k + i]), part[i]);
    for (int64_t k = whole; k < number; k++)
        part[0] = most(fabs(values[k]), part[0]);
    return largest(part, 8);
}

/* Move the linear predictor; return minus the derivative of the loss along the direction. */
static double descent_after(const Loss *loss, const State *state, doubles2 direction, double step) {
    double descent = 0.0;
    int64_t n_bins = direction.n[1];
    for (int64_t n = 0; n < direction.n[0]; n++) {
        const double *along = ROW2(direction, n);
        double *eta = ROW2(state->eta, n), *residual = ROW2(state->residual, n);
        add_multiple(eta, step, along, n_bins);
        fill_row(loss->kind, ROW2(loss->a, n), ROW2(loss->b, n), eta, n_bins, residual,
                 ROW2(state->curvature, n));
        descent += dot(residual, along, n_bins);
    }
    return descent;
}

/* Return the step at which the objective stops falling, by 8 secants; update the state.

   The first step changes the linear predictor of no bin by more than 4. */
static double line_search(const Loss *loss, const State *state, doubles2 direction,
                          double penalty_slope) {
    double position = 0.0;
    double start = penalty_slope - dot(state->residual.at, direction.at, size2(direction));
    double size = 0.0; /* of a quadratic loss it does not matter: its Newton step is exact */
    if (loss->kind != QUADRATIC)
        size = largest_size(direction.at, size2(direction));
    double step = least(1.0, 4.0 / most(size, 1e-300));
    for (int64_t trial = 0; trial < 8; trial++) {
        double slope = penalty_slope - descent_after(loss, state, direction, step - position);
        position = step;
        bool is_short = slope <= 0.1 * fabs(start) && step * size <= 1;
        if (slope <= 0 || is_short)
            break;
        step *= most(0.05, least(0.9, -start / (slope - start)));
    }
    return position;
}

void take_step(Memory *memory, const Loss *loss, const State *state, doubles3 templates,
               Events events, double *move, double penalty_slope) {
    int64_t n_rows = state->eta.n[0], n_bins = state->eta.n[1];
    doubles2 direction = {take_zeros(memory, n_rows * n_bins), {n_rows, n_bins}};
    Events moves = {events.size, events.n_units, events.which, events.onset, move};
    add_events(direction, templates, moves);
    double step = line_search(loss, state, direction, penalty_slope);
    for (int64_t k = 0; k < events.size * events.n_units; k++) {
        bool vanishes = step == 1.0 && events.amplitude[k] + move[k] == 0.0;
        events.amplitude[k] = vanishes ? 0.0 : events.amplitude[k] + step * move[k];
    }
}
