#include "scan.h"

#define OF_PRECISION "scan_scores.h"
#include "both_precisions.h"

static float *take_floats(Memory *memory, int64_t number) {
    return take(memory, number * (int64_t)sizeof(float));
}

static void round_values(float *restrict out, const double *restrict values, int64_t number) {
    for (int64_t k = 0; k < number; k++)
        out[k] = (float)values[k];
}

floats3 round_templates(Memory *memory, doubles3 templates) {
    floats3 rounded = {take_floats(memory, size3(templates)),
                       {templates.n[0], templates.n[1], templates.n[2]}};
    round_values(rounded.at, templates.at, size3(templates));
    return rounded;
}

Scan new_scan(Memory *memory, doubles3 templates, floats3 rounded, int64_t n_units,
              int64_t n_bins) {
    int64_t n_templates = templates.n[0], n_onsets = n_bins - templates.n[2] + 1;
    int64_t n_rows = n_units * templates.n[1], size = n_units * n_templates * n_onsets;
    flags1 stale = all_stale(memory, n_onsets);
    Scan scan = {rounded.n[0] > 0,
                 n_units,
                 {.templates = templates},
                 {.templates = rounded},
                 take(memory, n_onsets * (int64_t)sizeof(int32_t)),
                 take_doubles(memory, stale.n[0]),
                 stale};
    if (scan.rounds) {
        scan.rounded.score = (floats3){take_floats(memory, size), {n_units, n_templates, n_onsets}};
        scan.rounded.ratio = (floats1){take_floats(memory, n_onsets), {n_onsets}};
        scan.rounded.residual = (floats2){take_floats(memory, n_rows * n_bins), {n_rows, n_bins}};
    } else {
        scan.exact.score = new3(memory, n_units, n_templates, n_onsets);
        scan.exact.ratio = new1(memory, n_onsets);
    }
    return scan;
}

static void renew_from(Scan *scan, doubles2 residual, int64_t first, int64_t last) {
    floats2 rounded = scan->rounded.residual;
    if (!scan->rounds) {
        renew_scores(&scan->exact, residual, first, last);
        return;
    }
    int64_t n_bins = last - first + scan->rounded.templates.n[2] - 1;
    for (int64_t n = 0; n < residual.n[0]; n++)
        round_values(ROW2(rounded, n) + first, ROW2(residual, n) + first, n_bins);
    renew_scores_float(&scan->rounded, rounded, first, last);
}

void renew_scan(Scan *scan, doubles2 residual, Weights penalty, flags1 onsets) {
    int64_t n_onsets = residual.n[1] - scan->exact.templates.n[2] + 1, end;
    for (int64_t block = next_stale(scan->stale, 0, &end); block < end;
         block = next_stale(scan->stale, end, &end)) {
        renew_from(scan, residual, block * BLOCK, smaller(end * BLOCK, n_onsets));
        for (; block < end; block++) {
            int64_t first = block * BLOCK, number = smaller(BLOCK, n_onsets - first);
            int32_t *owner = scan->owner + first;
            scan->largest[block] =
                scan->rounds ? rate_float(&scan->rounded, first, number, penalty, onsets, owner)
                             : rate(&scan->exact, first, number, penalty, onsets, owner);
        }
    }
}

void fill_event_scores(const Scan *scan, int64_t which, int64_t onset, double *score) {
    for (int64_t u = 0; u < scan->n_units; u++)
        score[u] = scan->rounds ? (double)AT3(scan->rounded.score, u, which, onset)
                                : AT3(scan->exact.score, u, which, onset);
}

int64_t fill_candidates(const Scan *scan, double least, int64_t reach, int64_t *found) {
    const Scores *exact = &scan->exact;
    const Scores_float *rounded = &scan->rounded;
    int64_t n_onsets = scan->rounds ? rounded->ratio.n[0] : exact->ratio.n[0], count = 0, p = 0;
    while (p < n_onsets) {
        if (scan->largest[p / BLOCK] <= least) {
            p = (p / BLOCK + 1) * BLOCK;
            continue;
        }
        double ratio = scan->rounds ? (double)rounded->ratio.at[p] : exact->ratio.at[p];
        if (ratio > least && (scan->rounds ? leads_float(rounded->ratio, p, reach)
                                           : leads(exact->ratio, p, reach))) {
            found[count++] = p;
            p += reach;
        }
        p++;
    }
    return count;
}

flags1 all_stale(Memory *memory, int64_t n_onsets) {
    int64_t n_blocks = (n_onsets + BLOCK - 1) / BLOCK;
    flags1 stale = {take(memory, n_blocks), {n_blocks}};
    memset(stale.at, true, (size_t)n_blocks);
    return stale;
}

int64_t next_stale(flags1 stale, int64_t block, int64_t *end) {
    while (block < stale.n[0] && !stale.at[block])
        block++;
    for (*end = block; *end < stale.n[0] && stale.at[*end]; ++*end)
        stale.at[*end] = false;
    return block;
}

void mark_stale(flags1 stale, int64_t first, int64_t last) {
    int64_t end = smaller(last / BLOCK, stale.n[0] - 1);
    for (int64_t block = larger(first, 0) / BLOCK; block <= end; block++)
        stale.at[block] = true;
}
