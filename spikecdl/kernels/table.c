#include "table.h"

enum { WINDOW, TEMPLATE, ONSET, PROBABILITY, TIME, TIME_SD, AMPLITUDE };
enum { PARTS = 5 }; /* of a bin, in which times are averaged */

static const double IMPOSSIBLE = 1e-12; /* probability that says nothing of its neighbours */

/* The mean density of a bin relative to its middle, and moments of the time in it. */
typedef struct {
    double density, time, square;
} Moments;

/* Return the moments of a bin, whose log density is the parabola through the probabilities of the
   bin and its neighbours. */
static Moments moments_of(const double *begins, int64_t n_onsets, int64_t s) {
    double middle = (double)s, total = 0.0, first = 0.0, second = 0.0;
    if (s == 0 || s == n_onsets - 1 ||
        least(least(begins[s - 1], begins[s]), begins[s + 1]) < IMPOSSIBLE)
        return (Moments){1.0, middle, middle * middle};
    double before = log(begins[s - 1]), here = log(begins[s]), after = log(begins[s + 1]);
    double slope = (after - before) / 2, bend = after - 2 * here + before;
    for (int64_t k = 0; k < PARTS; k++) {
        double late = ((double)k + 0.5) / PARTS - 0.5;
        double density = exp(late * (slope + bend * late / 2));
        total += density;
        first += density * (middle + late);
        second += density * (middle + late) * (middle + late);
    }
    return (Moments){total / PARTS, first / total, second / total};
}

/* Fill in onset, probability and moments of an event between two onsets.

   `begins` (onset,) are the probabilities of events of a template, `posterior` (amplitude, onset)
   those of each amplitude. */
static void describe(doubles2 posterior, const double *amplitudes, const double *begins,
                     int64_t low, int64_t high, double *row) {
    int64_t n_onsets = posterior.n[1];
    double all = sum(begins + low, high - low), total = most(all, 1e-300);
    double onset = 0.0, time = 0.0, square = 0.0, finer = 0.0, size = 0.0;
    for (int64_t s = low; s < high; s++) {
        double share = begins[s] / total;
        Moments moments = moments_of(begins, n_onsets, s);
        onset += share * (double)s;
        finer += share * moments.density;
        time += share * moments.density * moments.time;
        square += share * moments.density * moments.square;
        for (int64_t a = 0; a < (begins[s] > 0.0 ? posterior.n[0] : 0); a++)
            size += AT2(posterior, a, s) / total * amplitudes[a];
    }
    finer = most(finer, 1e-300);
    time /= finer;
    square /= finer;
    row[ONSET] = rint(onset);
    row[PROBABILITY] = least(total, 1.0);
    row[TIME] = time;
    row[TIME_SD] = sqrt(most(square - time * time, 0.0));
    row[AMPLITUDE] = size;
}

/* Events of one template in one window, and the list that they go into. */
typedef struct {
    doubles2 posterior; /* (amplitude, onset) */
    const double *amplitudes;
    double *begins, *near; /* probability that one begins in a bin, and near it */
    int64_t width;
    double least;
    doubles2 table;
    int64_t size; /* of the list */
} Search;

static double sum_near(const Search *search, int64_t s) {
    int64_t n_onsets = search->posterior.n[1], low = larger(0, s - search->width);
    return sum(search->begins + low, smaller(n_onsets, s + search->width + 1) - low);
}

/* List the events of a stretch of onsets, the most probable first. */
static void list_stretch(Search *search, int64_t begin, int64_t end) {
    int64_t n_onsets = search->posterior.n[1], width = search->width;
    while (true) {
        int64_t s = begin;
        for (int64_t t = begin + 1; t < end; t++)
            if (search->near[t] > search->near[s])
                s = t;
        if (search->near[s] < search->least || search->size == search->table.n[0])
            return;
        int64_t low = larger(0, s - width), high = smaller(n_onsets, s + width + 1);
        describe(search->posterior, search->amplitudes, search->begins, low, high,
                 ROW2(search->table, search->size++));
        fill(search->begins + low, high - low, 0.0);
        for (int64_t t = larger(0, low - width); t < smaller(n_onsets, high + width); t++)
            search->near[t] = sum_near(search, t);
    }
}

/* List the events of a template in a window. */
static void list_window(Search *search) {
    int64_t n_onsets = search->posterior.n[1], begin = 0;
    fill(search->begins, n_onsets, 0.0);
    for (int64_t a = 0; a < search->posterior.n[0]; a++)
        add_multiple(search->begins, 1.0, ROW2(search->posterior, a), n_onsets);
    for (int64_t s = 0; s < n_onsets; s++)
        search->near[s] = sum_near(search, s);
    while (begin < n_onsets) { /* stretches that share no event */
        int64_t end = begin + 1;
        while (end < n_onsets && search->near[end - 1] > 0.0)
            end++;
        list_stretch(search, begin, end);
        begin = end;
    }
}

/* Sort some rows of a list by onset; those of one onset keep their order. */
static void sort_rows(doubles2 table, int64_t first, int64_t last, double *spare) {
    int64_t n_columns = table.n[1];
    for (int64_t i = first + 1; i < last; i++) {
        int64_t j = i;
        copy(spare, ROW2(table, i), n_columns);
        for (; j > first && AT2(table, j - 1, ONSET) > spare[ONSET]; j--)
            copy(ROW2(table, j), ROW2(table, j - 1), n_columns);
        copy(ROW2(table, j), spare, n_columns);
    }
}

int64_t list_events(const doubles4 *posterior, const doubles2 *amplitudes, int64_t width,
                    double least, const doubles2 *table) {
    BEGIN
    int64_t n_onsets = posterior->n[3];
    Search search = {.width = width, .least = least, .table = *table};
    search.begins = take_doubles(memory, n_onsets);
    search.near = take_doubles(memory, n_onsets);
    double *spare = take_doubles(memory, table->n[1]);
    for (int64_t i = 0; i < posterior->n[0]; i++)
        for (int64_t c = 0; c < posterior->n[1]; c++) {
            int64_t first = search.size;
            search.posterior = part3(part4(*posterior, i), c);
            search.amplitudes = ROW2(*amplitudes, c);
            list_window(&search);
            for (int64_t j = first; j < search.size; j++) {
                AT2(*table, j, WINDOW) = (double)i;
                AT2(*table, j, TEMPLATE) = (double)c;
            }
            sort_rows(*table, first, search.size, spare);
        }
    give_back(memory);
    return search.size;
}

int64_t describe_events(const doubles4 *posterior, const doubles2 *amplitudes, int64_t width,
                        const longs1 *window, const longs1 *template, const longs1 *onset,
                        const doubles2 *table) {
    BEGIN
    int64_t n_onsets = posterior->n[3], n_amplitudes = posterior->n[2];
    doubles2 some = new2(memory, n_amplitudes, 2 * width + 1);
    double *begins = take_doubles(memory, 2 * width + 1);
    for (int64_t j = 0; j < window->n[0]; j++) {
        int64_t i = window->at[j], c = template->at[j];
        int64_t low = larger(0, onset->at[j] - width);
        double *row = ROW2(*table, j);
        some.n[1] = smaller(n_onsets, onset->at[j] + width + 1) - low;
        fill(begins, some.n[1], 0.0);
        for (int64_t a = 0; a < n_amplitudes; a++) {
            copy(ROW2(some, a), ROW4(*posterior, i, c, a) + low, some.n[1]);
            add_multiple(begins, 1.0, ROW2(some, a), some.n[1]);
        }
        describe(some, ROW2(*amplitudes, c), begins, 0, some.n[1], row);
        row[WINDOW] = (double)i;
        row[TEMPLATE] = (double)c;
        row[ONSET] = (double)onset->at[j];
        row[TIME] += (double)low;
    }
    END
}
