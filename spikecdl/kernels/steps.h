/* Steps that lower the loss of the bins that a run of events covers. */

#pragma once

#include "operators.h"

/* Return the loss of one window. */
static inline Loss window_loss(const Losses *losses, int64_t i) {
    return (Loss){losses->kind, part3(losses->a, i), part3(losses->b, i)};
}

/* Return a state to be filled in. */
State new_state(Memory *memory, int64_t n_rows, int64_t n_bins);

/* A part of a window: the bins that a run of events covers. */
typedef struct {
    Loss loss;
    State state;
} Part;

/* Copy loss and state in the bins from `first` up to `last`. */
Part cut(Memory *memory, const Loss *loss, const State *state, int64_t first, int64_t last);

/* Write a part of the state back, from the bin `first` on. */
void paste(const State *state, int64_t first, const State *part);

/* Move amplitudes along `move`, as far as the objective falls, and update the state.

   `penalty_slope` is the change of the penalty over the whole move. */
void take_step(Memory *memory, const Loss *loss, const State *state, doubles3 templates,
               Events events, double *move, double penalty_slope);
