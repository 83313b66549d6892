#include "spike_list.h"

void add_spike_scores(const longs1 *first, const ints1 *unit, const doubles3 *rows, int64_t begin,
                      int64_t end, const doubles2 *score) {
    int64_t length = rows->n[1], n_templates = rows->n[2], n_bins = first->n[0] - 1;
    for (int64_t t = begin; t < smaller(end + length - 1, n_bins); t++) {
        int64_t low = larger(begin, t - length + 1), high = smaller(end, t + 1);
        double *target = ROW2(*score, low);
        for (int64_t j = first->at[t]; j < first->at[t + 1]; j++)
            add_multiple(target, 1.0, ROW3(*rows, unit->at[j], length - 1 - t + low),
                         (high - low) * n_templates);
    }
}

void add_spike_weights(const longs1 *first, const ints1 *unit, const doubles2 *weight,
                       int64_t begin, int64_t end, const doubles3 *rows) {
    int64_t length = rows->n[1], n_templates = rows->n[2];
    int64_t last = -length; /* onset of the last weight that is not zero */
    for (int64_t s = larger(0, begin - length + 1); s < end; s++) {
        double size = 0.0;
        for (int64_t c = 0; c < n_templates; c++)
            size += fabs(AT2(*weight, s, c));
        last = size != 0.0 ? s : last;
        if (s < begin || s - last >= length)
            continue;
        int64_t low = larger(0, s - length + 1);
        for (int64_t j = first->at[s]; j < first->at[s + 1]; j++)
            add_multiple(ROW3(*rows, unit->at[j], length - 1 - s + low), 1.0, ROW2(*weight, low),
                         (s + 1 - low) * n_templates);
    }
}
