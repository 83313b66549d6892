#include "pursuit.h"

#include "scan.h"

static const double TOL = 1e-3; /* of amplitudes and baselines, in standard errors */

enum { MOST_ROUNDS = 50 };

/* One window and its events, the scores (template, onset) of further ones, and their spread. */
typedef struct {
    Loss loss;
    State state;
    doubles3 templates, squares;
    Levels levels;
    Events events;
    doubles2 score, spread;
    flags1 stale;
} Window;

/* Compute the scores, and their spread, in the blocks of onsets that are stale. */
static void renew(const Window *window, bool standardise) {
    int64_t end, begin = next_stale(window->stale, 0, &end), n_onsets = window->score.n[1];
    while (begin < end) {
        int64_t first = begin * BLOCK, last = smaller(end * BLOCK, n_onsets);
        fill_scores(window->templates, window->state.residual, first, last, window->score);
        if (standardise) {
            fill_scores(window->squares, window->state.curvature, first, last, window->spread);
            for (int64_t c = 0; c < window->spread.n[0]; c++)
                for (int64_t p = first; p < last; p++) {
                    double square = AT2(window->spread, c, p);
                    AT2(window->spread, c, p) = sqrt(most(square, 1e-12));
                }
        }
        begin = next_stale(window->stale, end, &end);
    }
}

/* Find template and onset of the largest score of an allowed sign; return false if there is none.
 */
static bool find_best(const Window *window, const AmplitudePrior *prior, int64_t *template,
                      int64_t *onset) {
    double highest = 0.0;
    for (int64_t c = 0; c < window->score.n[0]; c++)
        for (int64_t p = 0; p < window->score.n[1]; p++) {
            double relative = AT2(window->score, c, p) / AT2(window->spread, c, p);
            double own =
                most(prior->up.at[c] ? relative : 0.0, prior->down.at[c] ? -relative : 0.0);
            if (own > highest) {
                highest = own;
                *template = c;
                *onset = p;
            }
        }
    return highest > 0.0;
}

static bool is_present(Events events, int64_t c, int64_t p) {
    for (int64_t j = 0; j < events.size; j++)
        if (events.which[j] == c && events.onset[j] == p)
            return true;
    return false;
}

/* Add an event of amplitude zero, in order of time. */
static void insert(Events *events, int64_t c, int64_t p) {
    int64_t j = events->size++;
    for (; j > 0 && events->onset[j - 1] > p; j--) {
        events->which[j] = events->which[j - 1];
        events->onset[j] = events->onset[j - 1];
        events->amplitude[j] = events->amplitude[j - 1];
    }
    events->which[j] = c;
    events->onset[j] = p;
    events->amplitude[j] = 0.0;
}

/* Fit amplitudes, and the baseline if it is free, after an event was added at the onset `new`.

   With a fixed baseline, only events that are linked to the new one by overlaps change.  Marks the
   blocks of onsets whose scores change. */
static void refit(Memory *memory, const Window *window, const AmplitudePrior *prior, int64_t new) {
    Events events = window->events;
    const int64_t *onset = events.onset;
    int64_t length = window->templates.n[2], begin = 0, end = events.size;
    int64_t first = 0, last = window->state.eta.n[1];
    if (window->levels.stiffness == INFINITY) {
        while (onset[begin] < new)
            begin++;
        end = begin + 1;
        while (begin > 0 && onset[begin] - onset[begin - 1] < length)
            begin--;
        while (end < events.size && onset[end] - onset[end - 1] < length)
            end++;
        first = onset[begin];
        last = onset[end - 1] + length;
    }
    fit_in_turn(memory, &window->loss, &window->state, window->templates, prior, window->levels,
                some_events(events, begin, end), TOL, MOST_ROUNDS);
    mark_stale(window->stale, first - length + 1, last - 1);
}

/* Add events to a window until there is room for no more, or the next gains too little. */
static void pursue(Memory *memory, const PursuitTask *task, Window *window, int64_t room,
                   double min_gain) {
    Events *events = &window->events;
    int64_t n_rows = window->levels.n_rows, c = 0, p = 0;
    int64_t *which = take_longs(memory, room), *onset = take_longs(memory, room);
    double *amplitude = take_doubles(memory, room), *value = take_doubles(memory, n_rows);
    double now = loss_value(&window->loss, &window->state.eta);
    now += prior_value(&task->prior, window->levels, *events);
    while (events->size < room) {
        int64_t size = events->size;
        renew(window, task->standardise);
        if (!find_best(window, &task->prior, &c, &p) || is_present(*events, c, p))
            return;
        memcpy(which, events->which, (size_t)size * sizeof *which);
        memcpy(onset, events->onset, (size_t)size * sizeof *onset);
        copy(amplitude, events->amplitude, size);
        copy(value, window->levels.value, n_rows);
        insert(events, c, p);
        refit(memory, window, &task->prior, p);
        double then = loss_value(&window->loss, &window->state.eta);
        then += prior_value(&task->prior, window->levels, *events);
        if (!(now - then >= min_gain)) {
            events->size = size;
            memcpy(events->which, which, (size_t)size * sizeof *which);
            memcpy(events->onset, onset, (size_t)size * sizeof *onset);
            copy(events->amplitude, amplitude, size);
            copy(window->levels.value, value, n_rows);
            return;
        }
        now = then;
    }
}

int64_t pursue_windows(int64_t begin, int64_t end, const PursuitTask *task, const Pursued *found) {
    BEGIN
    int64_t n_rows = task->loss.a.n[1], n_bins = task->loss.a.n[2];
    int64_t n_templates = task->templates.n[0], n_onsets = n_bins - task->templates.n[2] + 1;
    Window window = {.state = new_state(memory, n_rows, n_bins), .templates = task->templates};
    window.score = new2(memory, n_templates, n_onsets);
    window.spread = new2(memory, n_templates, n_onsets);
    window.squares = new3(memory, n_templates, task->templates.n[1], task->templates.n[2]);
    for (int64_t k = 0; k < size3(window.squares); k++)
        window.squares.at[k] = task->templates.at[k] * task->templates.at[k];
    Mark start = mark(memory);
    for (int64_t i = begin; i < end; i++) {
        window.loss = window_loss(&task->loss, i);
        window.levels = levels_of(&task->baselines, i);
        window.events =
            (Events){0, 1, found->which.at + i * found->which.n[1],
                     found->onset.at + i * found->onset.n[1], ROW2(found->amplitude, i)};
        window.stale = all_stale(memory, n_onsets);
        fill(window.spread.at, size2(window.spread), 1.0);
        for (int64_t n = 0; n < n_rows; n++)
            fill(ROW2(window.state.eta, n), n_bins, window.levels.value[n]);
        fill_state(&window.loss, &window.state);
        pursue(memory, task, &window, found->which.n[1], task->min_gain.at[i]);
        found->number.at[i] = window.events.size;
        rewind_to(memory, start);
    }
    END
}
