#include "ppseq.h"

static const double PI = 3.141592653589793;
static const double FARTHEST = 50.0; /* squared deviations, beyond which densities are taken as 0 */

/* Add a spike to an event or take it away: its time is integrated out in the posterior. */
static void add_spike(const Sequences *s, const EventSums *sums, int64_t k, double time, int64_t n,
                      double sign) {
    int64_t n_sequences = s->weight.n[0];
    double *posterior = ROW2(sums->posterior, k), highest = -INFINITY, total = 0.0;
    if (sums->number.at[k] == 0.0) {
        sums->origin.at[k] = time;
        fill(ROW3(sums->total, k, 0), n_sequences * 4, 0.0);
    }
    sums->number.at[k] += sign;
    for (int64_t c = 0; c < n_sequences; c++) {
        double late = time - sums->origin.at[k] - AT2(s->offset, c, n);
        double precision = 1.0 / AT2(s->variance, c, n), *of = ROW3(sums->total, k, c);
        of[0] += sign * (log(AT2(s->share, c, n)) + 0.5 * log(precision / (2 * PI)));
        of[1] += sign * precision;
        of[2] += sign * precision * late;
        of[3] += sign * precision * late * late;
        double spread = of[3] - of[2] * of[2] / of[1] + log(of[1] / (2 * PI));
        posterior[c] = log(s->weight.at[c]) + of[0] - 0.5 * spread;
        highest = most(highest, posterior[c]);
    }
    for (int64_t c = 0; c < n_sequences; c++) {
        posterior[c] = exp(posterior[c] - highest);
        total += posterior[c];
    }
    for (int64_t c = 0; c < n_sequences; c++)
        posterior[c] /= total;
}

/* Return the density that the next spike of an event is of a unit, at a time.

   It is taken as zero where it is less than exp(-50 / 2), 1e-11, of its peak. */
static double density_of(const Sequences *s, const EventSums *sums, int64_t k, double time,
                         int64_t n) {
    double density = 0.0;
    for (int64_t c = 0; c < s->weight.n[0]; c++) {
        const double *of = ROW3(sums->total, k, c);
        double variance = AT2(s->variance, c, n) + 1.0 / of[1];
        double late = time - sums->origin.at[k] - of[2] / of[1] - AT2(s->offset, c, n);
        if (late * late >= FARTHEST * variance)
            continue;
        double normal = exp(-0.5 * late * late / variance) / sqrt(2 * PI * variance);
        density += AT2(sums->posterior, k, c) * AT2(s->share, c, n) * normal;
    }
    return density;
}

/* Return by how much a spike of a unit is of a new event, before its time is known. */
static double weight_of_new(const Sequences *s, const EventPrior *prior, int64_t n) {
    double shape = prior->shape, total = 0.0;
    for (int64_t c = 0; c < s->weight.n[0]; c++)
        total += s->weight.at[c] * AT2(s->share, c, n);
    return prior->per_time * shape * pow(prior->rate / (1 + prior->rate), shape) * total;
}

/* Draw the event of one spike, of which `high` is the end of those that there are; return it.

   `chance` (event,) is filled in with the weights of events. */
static int64_t draw_owner(const Sequences *s, const EventPrior *prior, const EventSums *sums,
                          double time, int64_t n, double uniform, int64_t high, double *chance) {
    double new = weight_of_new(s, prior, n);
    double left = (1 + prior->rate) * s->background.at[n] + new;
    int64_t unused = high;
    for (int64_t k = 0; k < high; k++) {
        chance[k] = 0.0;
        if (sums->number.at[k] == 0.0)
            unused = k;
        else if (fabs(time - sums->origin.at[k]) < prior->reach)
            chance[k] = (prior->shape + sums->number.at[k]) * density_of(s, sums, k, time, n);
        left += chance[k];
    }
    left = uniform * left - new;
    if (left < 0.0)
        return unused < sums->number.n[0] ? unused : -1;
    for (int64_t k = 0; k < high; k++) {
        left -= chance[k];
        if (left < 0.0)
            return k;
    }
    return -1;
}

int64_t draw_owners(const Spikes *spikes, const longs1 *order, const doubles1 *uniform,
                    const Sequences *sequences, const EventPrior *prior, const EventSums *sums) {
    BEGIN
    const double *time = spikes->time.at;
    int64_t *owner = spikes->owner.at, *unit = spikes->unit.at, high = 0;
    double *chance = take_doubles(memory, sums->number.n[0]);
    for (int64_t i = 0; i < spikes->time.n[0]; i++)
        if (owner[i] >= 0) {
            add_spike(sequences, sums, owner[i], time[i], unit[i], 1.0);
            high = larger(high, owner[i] + 1);
        }
    for (int64_t j = 0; j < order->n[0]; j++) {
        int64_t i = order->at[j];
        if (owner[i] >= 0)
            add_spike(sequences, sums, owner[i], time[i], unit[i], -1.0);
        owner[i] =
            draw_owner(sequences, prior, sums, time[i], unit[i], uniform->at[i], high, chance);
        high = larger(high, owner[i] + 1);
        if (owner[i] >= 0)
            add_spike(sequences, sums, owner[i], time[i], unit[i], 1.0);
    }
    END
}
