/* Penalised quadratic programs with banded matrices: the model of a Newton step.

   Numbers per event are (event, unit), with one unit for the l1 norm and several for l2 norms over
   units; matrices are (event, back, unit), as `banded_gram` returns. */

#pragma once

#include "operators.h"

/* Penalty weight and whether positive and negative codes are allowed, by template or event.

   The penalty is the l2 norm over units if the codes of units are `grouped`, or else the l1 norm,
   of one unit. */
typedef struct {
    doubles1 weight;
    flags1 up;
    flags1 down;
    int64_t grouped;
} Weights;

/* A quadratic model of codes, their present `value` and the `product` of the matrix with it. */
typedef struct {
    doubles3 gram;
    const double *linear;
    Weights penalty;
    double *value;
    double *product;
} Model;

/* Return the value if its sign is allowed, else zero. */
static inline double allowed(double value, bool up, bool down) {
    return (value > 0.0 && up) || (value < 0.0 && down) ? value : 0.0;
}

/* Return the absolute value of an event, or its l2 norm over units. */
static inline double norm(const double *value, int64_t n_units) {
    return n_units == 1 ? fabs(value[0]) : sqrt(dot(value, value, n_units));
}

/* Return the weights of events, from those of templates. */
Weights weights_of(Memory *memory, Weights penalty, Events events);

/* Minimise a quadratic model over the move d of the amplitudes.

       sum_u (1/2 d_u' G_u d_u - s_u' d_u) + sum_j w_j ||v_j + d_j||_2

   with G_u the banded matrix of a unit, s the scores and v the amplitudes, over codes of an allowed
   sign.  Block coordinate descent (Tseng and Yun, Math. Program. 117, 2009) finds which codes are
   zero, and Newton steps the others.  Fills in the move, found when a sweep changes the scores of
   no event by more than `tol`, and returns the change of the penalty. */
double minimize(Memory *memory, doubles3 gram, const double *score, Weights penalty,
                const double *amplitude, double tol, double *move);

/* The same, for Python; the change of the penalty is filled in. */
KERNEL int64_t minimize_model(const doubles3 *gram, const doubles2 *score, const Weights *penalty,
                              const doubles2 *amplitude, double tol, const doubles2 *move,
                              const doubles1 *change);
