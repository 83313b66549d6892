#include "working_set.h"

static const double ROUNDED = 1e-3; /* violation for which scores in single precision suffice */

/* One window: its loss and predictor, its scores, and the events that take part. */
typedef struct {
    Loss loss;
    State state;
    doubles3 templates;
    Weights penalty;
    Scan scan;
    Events events;
    int64_t capacity; /* number of events that there is room for */
} Window;

/* What Newton steps of a run of events aim at. */
typedef struct {
    double goal; /* violation that they may leave */
    double tol;  /* of the quadratic programs */
    int64_t n_steps;
} Accuracy;

/* Make room for more events. */
static void reserve(Memory *memory, Window *window, int64_t more) {
    Events *events = &window->events;
    int64_t size = events->size, n_units = events->n_units;
    if (size + more <= window->capacity)
        return;
    window->capacity = larger(2 * window->capacity, size + more);
    int64_t *which = take_longs(memory, window->capacity);
    int64_t *onset = take_longs(memory, window->capacity);
    double *amplitude = take_doubles(memory, window->capacity * n_units);
    for (int64_t j = 0; j < size; j++) {
        which[j] = events->which[j];
        onset[j] = events->onset[j];
    }
    for (int64_t k = 0; k < size * n_units; k++)
        amplitude[k] = events->amplitude[k];
    *events = (Events){size, n_units, which, onset, amplitude};
}

static void move_event(Events events, int64_t from, int64_t to) {
    events.which[to] = events.which[from];
    events.onset[to] = events.onset[from];
    copy(events.amplitude + to * events.n_units, events.amplitude + from * events.n_units,
         from == to ? 0 : events.n_units);
}

/* List the events of codes (unit, template, onset), in order of time. */
static void list_events(Memory *memory, Window *window, doubles3 codes) {
    int64_t n_units = codes.n[0], n_templates = codes.n[1], n_onsets = codes.n[2], count = 0;
    bool *present = take(memory, n_onsets * n_templates);
    memset(present, false, (size_t)(n_onsets * n_templates));
    for (int64_t u = 0; u < n_units; u++)
        for (int64_t c = 0; c < n_templates; c++)
            for (int64_t p = 0; p < n_onsets; p++)
                if (AT3(codes, u, c, p) != 0.0)
                    present[p * n_templates + c] = true;
    for (int64_t k = 0; k < n_onsets * n_templates; k++)
        count += present[k];
    window->events = (Events){.n_units = n_units};
    window->capacity = 0;
    reserve(memory, window, larger(count, BLOCK));
    Events *events = &window->events;
    for (int64_t k = 0; k < n_onsets * n_templates; k++)
        if (present[k]) {
            int64_t c = k % n_templates, p = k / n_templates, j = events->size++;
            events->which[j] = c;
            events->onset[j] = p;
            for (int64_t u = 0; u < n_units; u++)
                events->amplitude[j * n_units + u] = AT3(codes, u, c, p);
        }
}

/* Replace codes (unit, template, onset) by the events. */
static void write_codes(Events events, doubles3 codes) {
    fill(codes.at, size3(codes), 0.0);
    for (int64_t j = 0; j < events.size; j++)
        for (int64_t u = 0; u < events.n_units; u++)
            AT3(codes, u, events.which[j], events.onset[j]) =
                events.amplitude[j * events.n_units + u];
}

static void remove_zeros(Events *events) {
    int64_t size = events->size, n_units = events->n_units, count = 0;
    for (int64_t j = 0; j < size; j++)
        if (norm(events->amplitude + j * n_units, n_units) > 0.0)
            move_event(*events, j, count++);
    events->size = count;
}

/* Keep the onsets at which the owner's event is not listed yet; return their number. */
static int64_t keep_absent(Events events, const int32_t *owner, int64_t *onsets, int64_t number) {
    int64_t count = 0, j = 0;
    for (int64_t i = 0; i < number; i++) {
        bool present = false;
        while (j < events.size && events.onset[j] < onsets[i])
            j++;
        for (int64_t k = j; k < events.size && events.onset[k] == onsets[i]; k++)
            present = present || events.which[k] == owner[onsets[i]];
        if (!present)
            onsets[count++] = onsets[i];
    }
    return count;
}

/* Merge events of amplitude zero at some onsets into the events, in order of time. */
static void join(Memory *memory, Window *window, int64_t *onsets, int64_t number) {
    const int32_t *owner = window->scan.owner;
    int64_t count = keep_absent(window->events, owner, onsets, number);
    reserve(memory, window, count);
    Events events = window->events;
    int64_t j = events.size - 1, to = events.size + count - 1;
    for (int64_t i = count - 1; i >= 0; to--) {
        if (j >= 0 && events.onset[j] > onsets[i]) {
            move_event(events, j--, to);
            continue;
        }
        events.which[to] = owner[onsets[i]];
        events.onset[to] = onsets[i--];
        fill(events.amplitude + to * events.n_units, events.n_units, 0.0);
    }
    window->events.size += count;
}

/* Return the violation of an event's optimality conditions, relative to its weight. */
static double violation(const double *score, Events events, int64_t j, Weights penalty,
                        int64_t of) {
    const double *amplitude = events.amplitude + j * events.n_units;
    double square = 0.0, radius = norm(amplitude, events.n_units), weight = penalty.weight.at[of];
    for (int64_t u = 0; u < events.n_units; u++) {
        double wrong = amplitude[u] != 0.0
                           ? score[u] - weight * (amplitude[u] / radius)
                           : allowed(score[u], penalty.up.at[of], penalty.down.at[of]);
        square += wrong * wrong;
    }
    return sqrt(square) / weight - (radius > 0.0 ? 0.0 : 1.0);
}

/* Return the largest violation of events, from the scores of the scan. */
static double worst_of(Memory *memory, const Window *window, Events events) {
    double worst = 0.0;
    Mark begin = mark(memory);
    double *score = take_doubles(memory, events.n_units);
    for (int64_t j = 0; j < events.size; j++) {
        int64_t c = events.which[j];
        fill_event_scores(&window->scan, c, events.onset[j], score);
        worst = most(worst, violation(score, events, j, window->penalty, c));
    }
    rewind_to(memory, begin);
    return worst;
}

static bool any(const double *values, int64_t number) {
    for (int64_t k = 0; k < number; k++)
        if (values[k] != 0.0)
            return true;
    return false;
}

/* Take Newton steps of overlapping events until none violates its conditions by the goal. */
static void take_newton_steps(Memory *memory, const Part *part, doubles3 templates, Weights penalty,
                              Events events, Accuracy accuracy) {
    int64_t size = events.size * events.n_units;
    double *score = take_doubles(memory, size), *move = take_doubles(memory, size);
    for (int64_t step = 0; step < accuracy.n_steps; step++) {
        double worst = 0.0;
        scores_of_events(templates, part->state.residual, events, score);
        for (int64_t j = 0; j < events.size; j++)
            worst = most(worst, violation(score + j * events.n_units, events, j, penalty, j));
        if (worst <= accuracy.goal)
            break;
        Mark begin = mark(memory);
        doubles3 gram = banded_gram(memory, templates, part->state.curvature, events);
        for (int64_t j = 0; j < events.size; j++)
            for (int64_t u = 0; u < events.n_units; u++)
                AT3(gram, j, 0, u) *= 1 + 1e-9;
        double change =
            minimize(memory, gram, score, penalty, events.amplitude, accuracy.tol, move);
        if (!any(move, size))
            break;
        take_step(memory, &part->loss, &part->state, templates, events, move, change);
        rewind_to(memory, begin);
    }
}

/* Improve a run of overlapping events in the bins that it covers. */
static void improve(Memory *memory, Window *window, Events run, Accuracy accuracy) {
    int64_t length = window->templates.n[2];
    int64_t first = run.onset[0], last = run.onset[run.size - 1] + length;
    Mark begin = mark(memory);
    Part part = cut(memory, &window->loss, &window->state, first, last);
    Events inside = run;
    inside.onset = take_longs(memory, run.size);
    for (int64_t j = 0; j < run.size; j++)
        inside.onset[j] = run.onset[j] - first;
    Weights own = weights_of(memory, window->penalty, run);
    take_newton_steps(memory, &part, window->templates, own, inside, accuracy);
    paste(&window->state, first, &part.state);
    mark_stale(window->scan.stale, first - length + 1, last - 1);
    rewind_to(memory, begin);
}

/* Improve each run that violates its conditions by more than the goal.

   Runs have at most `longest` events, and end elsewhere every other round. */
static void improve_runs(Memory *memory, Window *window, bool shifted, int64_t longest,
                         Accuracy accuracy) {
    int64_t begin = 0, limit = shifted ? longest / 2 : longest;
    while (begin < window->events.size) {
        int64_t end = overlap_end(window->events, begin, limit, window->templates.n[2]);
        Events run = some_events(window->events, begin, end);
        if (worst_of(memory, window, run) > accuracy.goal)
            improve(memory, window, run, accuracy);
        begin = end;
        limit = longest;
    }
}

static double smallest(doubles1 values) {
    double found = INFINITY;
    for (int64_t k = 0; k < values.n[0]; k++)
        found = least(found, values.at[k]);
    return found;
}

/* Solve one window, from its events and into them; return the violation. */
static double solve_window(Memory *memory, Window *window, flags1 onsets, double tol,
                           int64_t max_iter, int64_t *rounds) {
    bool grouped = window->penalty.grouped;
    /* overlapping events that are solved together, doublings of that number, Newton steps */
    int64_t together = grouped ? 32 : 64, doublings = grouped ? 2 : 0, n_steps = grouped ? 3 : 8;
    int64_t reach = larger(1, window->templates.n[2] / 8);
    int64_t n_onsets = window->loss.a.n[1] - window->templates.n[2] + 1;
    int64_t *found = take_longs(memory, n_onsets / (reach + 1) + 1);
    Scan *scan = &window->scan;
    double weight = smallest(window->penalty.weight);
    for (*rounds = 0;; ++*rounds) {
        renew_scan(scan, window->state.residual, window->penalty, onsets);
        double worst = most(worst_of(memory, window, window->events),
                            largest(scan->largest, scan->stale.n[0]) - 1.0);
        if (worst <= tol || *rounds == max_iter)
            return worst;
        join(memory, window, found, fill_candidates(scan, 1.0 + tol, reach, found));
        double goal = most(0.5 * tol, least(0.3, 0.1 * worst));
        Accuracy accuracy = {goal, (grouped ? goal : tol) / 4 * weight, n_steps};
        int64_t longest = together << smaller(*rounds / 12, doublings); /* doubles in 12 rounds */
        improve_runs(memory, window, *rounds % 2 == 0, longest, accuracy);
        remove_zeros(&window->events);
    }
}

/* Begin with the events of codes. */
static Window new_window(Memory *memory, Loss loss, doubles2 offset, doubles3 templates,
                         Weights penalty, doubles3 codes) {
    Window window = {loss, new_state(memory, offset.n[0], offset.n[1]), templates, penalty,
                     .capacity = 0};
    list_events(memory, &window, codes);
    copy(window.state.eta.at, offset.at, size2(offset));
    add_events(window.state.eta, templates, window.events);
    fill_state(&window.loss, &window.state);
    return window;
}

int64_t solve_windows(const Losses *loss, const doubles3 *offset, const doubles3 *templates,
                      const Penalties *penalty, double tol, int64_t max_iter,
                      const Solutions *found) {
    BEGIN
    floats3 rounded = {0};
    if (tol >= ROUNDED)
        rounded = round_templates(memory, *templates);
    Mark begin = mark(memory);
    for (int64_t i = 0; i < found->codes.n[0]; i++) {
        doubles3 codes = part4(found->codes, i);
        flags1 onsets = {ROW2(found->onsets, i), {found->onsets.n[1]}};
        Weights weights = {part2(penalty->weight, i), penalty->up, penalty->down, penalty->grouped};
        Window window =
            new_window(memory, window_loss(loss, i), part3(*offset, i), *templates, weights, codes);
        window.scan = new_scan(memory, *templates, rounded, codes.n[0], offset->n[2]);
        found->violation.at[i] =
            solve_window(memory, &window, onsets, tol, max_iter, found->rounds.at + i);
        write_codes(window.events, codes);
        rewind_to(memory, begin);
    }
    END
}
