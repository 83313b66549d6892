/* Steps that lower the loss of the bins that a run of events covers. */

#pragma once

#include "operators.h"

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
