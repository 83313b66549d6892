#include "operators.h"

#define OF_PRECISION "scores.h"
#include "both_precisions.h"

void add_events(doubles2 signal, doubles3 templates, Events events) {
    int64_t n_channels = templates.n[1], length = templates.n[2];
    for (int64_t j = 0; j < events.size; j++)
        for (int64_t u = 0; u < events.n_units; u++) {
            double amplitude = events.amplitude[j * events.n_units + u];
            for (int64_t n = 0; n < (amplitude != 0.0 ? n_channels : 0); n++)
                add_multiple(ROW2(signal, u * n_channels + n) + events.onset[j], amplitude,
                             ROW3(templates, events.which[j], n), length);
        }
}

void scores_of_events(doubles3 templates, doubles2 residual, Events events, double *score) {
    int64_t n_channels = templates.n[1], length = templates.n[2];
    for (int64_t j = 0; j < events.size; j++)
        for (int64_t u = 0; u < events.n_units; u++) {
            double total = 0.0;
            for (int64_t n = 0; n < n_channels; n++)
                total += dot(ROW3(templates, events.which[j], n),
                             ROW2(residual, u * n_channels + n) + events.onset[j], length);
            score[j * events.n_units + u] = total;
        }
}

/* Return the largest number of events, itself included, that one and those before it overlap. */
static int64_t band_width(Events events, int64_t length) {
    int64_t widest = 1, first = 0;
    for (int64_t j = 0; j < events.size; j++) {
        while (events.onset[j] - events.onset[first] >= length)
            first++;
        widest = larger(widest, j - first + 1);
    }
    return widest;
}

doubles3 banded_gram(Memory *memory, doubles3 templates, doubles2 curvature, Events events) {
    int64_t n_channels = templates.n[1], length = templates.n[2], n_units = events.n_units;
    int64_t width = band_width(events, length);
    doubles3 gram = {take_zeros(memory, events.size * width * n_units),
                     {events.size, width, n_units}};
    double *weighted = take_doubles(memory, length);
    for (int64_t j = 0; j < events.size; j++)
        for (int64_t u = 0; u < n_units; u++)
            for (int64_t n = 0; n < n_channels; n++) {
                const double *taps = ROW3(templates, events.which[j], n);
                const double *part = ROW2(curvature, u * n_channels + n) + events.onset[j];
                for (int64_t k = 0; k < length; k++)
                    weighted[k] = taps[k] * part[k];
                for (int64_t back = 0; back < smaller(width, j + 1); back++) {
                    int64_t lag = events.onset[j] - events.onset[j - back];
                    if (lag < length)
                        AT3(gram, j, back, u) +=
                            dot(weighted, ROW3(templates, events.which[j - back], n) + lag,
                                length - lag);
                }
            }
    return gram;
}

int64_t overlap_end(Events events, int64_t begin, int64_t most, int64_t length) {
    const int64_t *onset = events.onset;
    int64_t end = begin + 1;
    while (end < events.size && end - begin < most && onset[end] - onset[end - 1] < length)
        end++;
    return end;
}

Events some_events(Events events, int64_t begin, int64_t end) {
    return (Events){end - begin, events.n_units, events.which + begin, events.onset + begin,
                    events.amplitude + begin * events.n_units};
}
