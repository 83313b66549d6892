/* Amplitudes and baselines of events whose templates and onsets are known. */

#pragma once

#include "quadratic.h"
#include "steps.h"

/* Normal prior of amplitudes: precision and allowed signs of each template, and whether amplitudes
   are fitted at all. */
typedef struct {
    doubles1 precision;
    flags1 up;
    flags1 down;
    int64_t learn;
} AmplitudePrior;

/* Baselines (window, row) and their normal prior.

   `relaxation` is the multiple of the Newton step that is taken, `expected` the mean of the prior
   and `stiffness` its precision: infinite if the baseline stays as it is.  `offset` (window, row,
   bin) is known and added to the baseline; it may have one bin. */
typedef struct {
    doubles2 value;
    doubles2 relaxation;
    doubles2 expected;
    double stiffness;
    doubles3 offset;
} Baselines;

/* Events of several windows; window i has those from `first[i]` up to `first[i + 1]`. */
typedef struct {
    longs1 first;
    longs1 which;
    longs1 onset;
    doubles1 amplitude;
} Listed;

/* Windows, and what is fitted to them to a tolerance in standard errors. */
typedef struct {
    Losses loss;
    doubles3 templates;
    AmplitudePrior prior;
    Baselines baselines;
    Listed events;
    double tol;
} AmplitudeTask;

/* Fit amplitudes and baselines of the windows from `begin` up to `end`, in place.

   Adds the negative log likelihood and that of the priors to `cost` (2,), and the first and the
   second derivatives by the templates to `derivatives` (2, template, channel, bin). */
KERNEL int64_t fit_amplitudes(int64_t begin, int64_t end, const AmplitudeTask *task,
                              const doubles1 *cost, const doubles4 *derivatives);

/* Solve the Newton systems of the amplitudes of windows, whose curvature is (window, row, bin),
   from the right-hand sides in `events` and into them; 0 without curvature. */
KERNEL int64_t solve_amplitudes(int64_t begin, int64_t end, const doubles3 *templates,
                                const doubles3 *curvature, const Listed *events);

/* The baselines of one window; see `Baselines`. */
typedef struct {
    int64_t n_rows;
    double *value, *relaxation;
    const double *expected;
    double stiffness;
} Levels;

Levels levels_of(const Baselines *baselines, int64_t window);

/* Fit amplitudes and baselines of a window in turn, in place, to a tolerance in standard errors. */
void fit_in_turn(Memory *memory, const Loss *loss, const State *state, doubles3 templates,
                 const AmplitudePrior *prior, Levels levels, Events events, double tol,
                 int64_t n_rounds);

/* Return the negative log density of the priors of a window, up to a constant. */
double prior_value(const AmplitudePrior *prior, Levels levels, Events events);
