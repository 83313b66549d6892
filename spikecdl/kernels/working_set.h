/* Sparse coding of single windows: a working set of events and Newton steps.

   `spikecdl.solvers.working_set` describes the method. */

#pragma once

#include "scan.h"
#include "steps.h"

/* Penalty weights (window, template), allowed signs of templates, and whether the penalty is the l2
   norm over units. */
typedef struct {
    doubles2 weight;
    flags1 up;
    flags1 down;
    int64_t grouped;
} Penalties;

/* Codes (window, unit, template, onset), from which and into which windows are solved.

   They may differ from zero where `onsets` (window, onset) are true; (window, 0): everywhere.  What
   is left of the violation of the optimality conditions, and the rounds, (window,), are filled in.
 */
typedef struct {
    doubles4 codes;
    flags2 onsets;
    doubles1 violation;
    longs1 rounds;
} Solutions;

/* Solve every window, to a violation of `tol` or in `max_iter` rounds.

   `offset` (window, row, bin) is the linear predictor without events. */
KERNEL int64_t solve_windows(const Losses *loss, const doubles3 *offset, const doubles3 *templates,
                             const Penalties *penalty, double tol, int64_t max_iter,
                             const Solutions *found);
