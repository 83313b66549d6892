/* Penalised quadratic programs with banded matrices: the model of a Newton step.

   Numbers per event are (event, unit), with one unit for the l1 norm and several for l2 norms over
   units; matrices are (event, back, unit), as `banded_gram` returns. */

#pragma once

#include "operators.h"

/* Penalty weight and whether positive and negative codes are allowed, by template or event. */
typedef struct {
    doubles1 weight;
    flags1 up;
    flags1 down;
} Weights;

/* Fill in the absolute value of each event, or its l2 norm over units. */
void fill_norms(const double *value, int64_t size, int64_t n_units, double *norm);

/* Minimise a quadratic model over the move d of the amplitudes.

       sum_u (1/2 d_u' G_u d_u - s_u' d_u) + sum_j w_j ||v_j + d_j||_2

   with G_u the banded matrix of a unit, s the scores and v the amplitudes, over codes of an allowed
   sign.  Block coordinate descent (Tseng and Yun, Math. Program. 117, 2009) finds which codes are
   zero, and Newton steps the others.  Fills in the move, found when a sweep changes the scores of
   no event by more than `tol`, and returns the change of the penalty. */
double minimize(Memory *memory, doubles3 gram, const double *score, Weights penalty,
                const double *amplitude, double tol, double *move);

/* Solve, in place, a banded system by Cholesky; return false, and no solution, if a pivot
   vanishes.  `support` lists the rows and columns that take part. */
bool solve_banded(Memory *memory, doubles3 gram, const int64_t *support, int64_t size,
                  double *right);

/* A part of a window: the bins that a run of events covers. */
typedef struct {
    Loss loss;
    State state;
} Part;

/* Copy loss and state in the bins from `first` up to `last`; loops are fast on copies. */
Part cut(Memory *memory, const Loss *loss, const State *state, int64_t first, int64_t last);

/* Write a part of the state back, from the bin `first` on. */
void paste(const State *state, int64_t first, const State *part);

/* Move amplitudes along `move`, as far as the objective falls, and update the state.

   `penalty_slope` is the change of the penalty over the whole move. */
void take_step(Memory *memory, const Loss *loss, const State *state, doubles3 templates,
               Events events, const double *move, double penalty_slope);
