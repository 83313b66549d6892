#include "windows.h"

/* Fill in the predictor of a window with the signals of all chains without one. */
static void fill_base(const Task *task, const Drawn *drawn, int64_t window, int64_t without,
                      doubles2 base) {
    copy(base.at, part3(task->z, window).at, size2(base));
    for (int64_t each = 0; each < drawn->signal.n[0]; each++)
        if (each != without)
            add_multiple(base.at, 1.0, part3(part4(drawn->signal, each), window).at, size2(base));
}

/* Forbid onsets too near to those of another chain. */
static void exclude(doubles3 weights, const int32_t *kind, longs2 apart) {
    for (int64_t s = 0; s < weights.n[2]; s++)
        for (int64_t j = 0; j < (kind[s] < 0 ? 0 : weights.n[0] * weights.n[1]); j++) {
            int64_t c = j / weights.n[1], other = kind[s] / weights.n[1];
            int64_t first = larger(0, s - larger(0, AT2(apart, c, other) - 1));
            int64_t last = smaller(s + AT2(apart, other, c), weights.n[2]);
            fill(ROW3(weights, c, j % weights.n[1]) + first, larger(0, last - first), NEVER);
        }
}

/* Fill in derivatives by the predictor at the events drawn; add those by templates. */
static void derive_at_drawn(Memory *memory, const Task *task, const CountLoss *loss, int64_t window,
                            doubles2 base, const Drawn *drawn, const Derivatives *found) {
    const Templates *model = &task->model;
    int64_t length = model->taps.n[2], n_amplitudes = model->amplitudes.n[1], n_bins = base.n[1];
    doubles2 linear = new2(memory, base.n[0], n_bins);
    for (int64_t n = 0; n < base.n[0]; n++)
        fill_row(loss->kind, ROW2(loss->a, n), ROW2(loss->b, n), ROW2(base, n), n_bins,
                 ROW2(found->residual, n), ROW2(found->curvature, n));
    for (int64_t k = 0; k < size2(base); k++)
        linear.at[k] = loss->a.at[k] * (loss->kind == QUADRATIC ? loss->b.at[k] : 1.0);
    take_bursts_away(loss, base, linear, found->residual);
    for (int64_t each = 0; each < drawn->kind.n[0]; each++) {
        const int32_t *kind = ROW3(drawn->kind, each, window);
        for (int64_t s = 0; s < n_bins; s++) {
            if (kind[s] < 0)
                continue;
            int64_t c = kind[s] / n_amplitudes;
            double size = AT2(model->amplitudes, c, kind[s] % n_amplitudes);
            for (int64_t n = 0; n < base.n[0]; n++) {
                add_multiple(ROW3(found->spikes, c, n), size, ROW2(linear, n) + s, length);
                add_multiple(ROW3(found->expected, c, n), size, ROW2(linear, n) + s, length);
                add_multiple(ROW3(found->expected, c, n), -size, ROW2(found->residual, n) + s,
                             length);
                add_multiple(ROW3(found->second, c, n), size * size, ROW2(found->curvature, n) + s,
                             length);
            }
        }
    }
}

/* What the chains of a window are drawn with. */
typedef struct {
    int64_t number;
    CountLoss loss;
    doubles2 base, score;
    doubles3 weights;
    double *log_prior; /* of the events of each chain */
} Window;

/* Draw the events of one chain, given those of the others; sum over them if there are sums. */
static void draw_one_chain(Memory *memory, const Task *task, const Window *window, int64_t each,
                           const Found *found, const double *uniform, const Sums *sums) {
    int64_t i = window->number, n_chains = found->drawn.kind.n[0], n_bins = window->base.n[1];
    int64_t n_kinds = window->weights.n[0] * window->weights.n[1];
    int64_t n_onsets = window->weights.n[2];
    doubles2 flat = {window->weights.at, {n_kinds, n_onsets}};
    double *idle = take_doubles(memory, n_onsets), *total = take_doubles(memory, n_onsets);
    double *forward = take_doubles(memory, n_bins + 1);
    fill_base(task, &found->drawn, i, each, window->base);
    fill_ratios(memory, &window->loss, window->base, &task->model, window->score, window->weights);
    add_burst_ratios(memory, &window->loss, window->base, &task->model, window->weights);
    add_prior(task, i, window->weights, idle);
    for (int64_t other = 0; other < n_chains; other++)
        if (other != each)
            exclude(window->weights, ROW3(found->drawn.kind, other, i), task->prior.apart);
    sum_kinds(memory, flat, total);
    double ratio = fill_forward(idle, total, n_onsets, n_bins, forward);
    double of_others = sum(window->log_prior, n_chains) - window->log_prior[each];
    found->evidence.at[i] = ratio + log_likelihood(&window->loss, window->base) + of_others;
    int32_t *kind = ROW3(found->drawn.kind, each, i);
    double of_idle = draw_chain(flat, idle, total, forward, uniform, n_bins, kind);
    doubles2 signal = part3(part4(found->drawn.signal, each), i);
    window->log_prior[each] = of_idle + fill_signal(task, kind, signal);
    if (found->residual.n[0]) {
        double *backward = take_doubles(memory, n_bins + 1);
        fill_backward(idle, total, n_onsets, n_bins, backward);
        to_posterior(flat, forward, backward, n_bins);
        add_probabilities(memory, task, i, window->weights, 1, found, sums);
    }
}

int64_t sample_windows(int64_t begin, int64_t end, const Task *task, const Found *found,
                       const doubles3 *uniform, const Sums *sums) {
    BEGIN
    int64_t n_templates = task->model.taps.n[0], n_rows = task->z.n[1], n_bins = task->z.n[2];
    int64_t n_onsets = n_bins - task->model.taps.n[2] + 1, n_chains = uniform->n[0];
    Window window = {.base = new2(memory, n_rows, n_bins)};
    window.score = new2(memory, n_templates, n_onsets);
    window.weights = new3(memory, n_templates, task->model.amplitudes.n[1], n_onsets);
    window.log_prior = take_zeros(memory, n_chains);
    Mark start = mark(memory);
    for (int64_t i = begin; i < end; i++) {
        window.number = i;
        window.loss = loss_of_window(&task->loss, i);
        if (!is_observed(&window.loss))
            continue;
        fill_count_scores(memory, window.loss.a, task->model.taps, window.score);
        for (int64_t each = 0; each < (n_templates ? n_chains : 0); each++) {
            draw_one_chain(memory, task, &window, each, found, ROW3(*uniform, each, i), sums);
            rewind_to(memory, start);
        }
        fill_base(task, &found->drawn, i, n_chains, window.base);
        if (found->residual.n[0]) {
            Derivatives at = {sums->spikes, sums->expected, sums->second, part3(found->residual, i),
                              part3(found->curvature, i)};
            derive_at_drawn(memory, task, &window.loss, i, window.base, &found->drawn, &at);
        }
        found->likelihood.at[i] = log_likelihood(&window.loss, window.base);
        rewind_to(memory, start);
    }
    END
}
