#include "groups.h"

#include "banded.h"

/* Fill in the codes x of one event that minimise a diagonal model.

       sum_u (1/2 q_u x_u^2 - s_u x_u) + w ||x||_2  =>
       x_u = s_u r / (q_u r + w),   phi(r) = sum_u s_u^2 / (q_u r + w)^2 = 1

   or zero where ||s||_2 <= w.  The root r, the norm of x, is found from a first guess `radius` by
   Newton steps on phi^(-1/2), which is concave and nearly linear. */
static void minimize_group(const double *score, const double *own, double weight, double radius,
                           int64_t n_units, double *best) {
    if (sqrt(dot(score, score, n_units)) <= weight) {
        fill(best, n_units, 0.0);
        return;
    }
    for (int64_t round = 0; round < 50; round++) {
        double total = 0.0, fall = 0.0;
        PRAGMA(omp simd reduction(+ : total, fall))
        for (int64_t u = 0; u < n_units; u++) {
            double stiffness = 1.0 / (own[u] * radius + weight), root = score[u] * stiffness;
            total += root * root;
            fall += root * root * own[u] * stiffness;
        }
        if (fall <= 0.0)
            break;
        double step = total * (sqrt(total) - 1.0) / fall;
        radius = most(radius + step, 0.0);
        if (fabs(step) <= 1e-9 * radius)
            break;
    }
    for (int64_t u = 0; u < n_units; u++)
        best[u] = score[u] * radius / (own[u] * radius + weight);
}

/* Add the change of an event's codes to the product. */
static void add_change(const Model *model, int64_t j, const double *restrict change) {
    doubles3 gram = model->gram;
    int64_t count = gram.n[0], width = gram.n[1], n_units = gram.n[2];
    for (int64_t back = 0; back < smaller(width, j + 1); back++) {
        const double *entry = ROW3(gram, j, back);
        double *restrict out = model->product + (j - back) * n_units;
        for (int64_t u = 0; u < n_units; u++)
            out[u] += entry[u] * change[u];
    }
    for (int64_t i = j + 1; i < smaller(j + width, count); i++) {
        const double *entry = ROW3(gram, i, i - j);
        double *restrict out = model->product + i * n_units;
        for (int64_t u = 0; u < n_units; u++)
            out[u] += entry[u] * change[u];
    }
}

double sweep_groups(Memory *memory, const Model *model) {
    Weights penalty = model->penalty;
    int64_t count = model->gram.n[0], n_units = model->gram.n[2];
    Mark begin = mark(memory);
    double *score = take_doubles(memory, n_units), *change = take_doubles(memory, n_units);
    double highest = 0.0;
    for (int64_t j = 0; j < count; j++) {
        const double *own = ROW3(model->gram, j, 0), *linear = model->linear + j * n_units;
        double *old = model->value + j * n_units, *product = model->product + j * n_units;
        bool up = penalty.up.at[j], down = penalty.down.at[j];
        for (int64_t u = 0; u < n_units; u++)
            score[u] = allowed(linear[u] - product[u] + own[u] * old[u], up, down);
        double radius = sqrt(dot(old, old, n_units)), changed = 0.0;
        minimize_group(score, own, penalty.weight.at[j], radius, n_units, change);
        for (int64_t u = 0; u < n_units; u++) {
            change[u] -= old[u];
            old[u] += change[u];
            changed += own[u] * change[u] * (own[u] * change[u]);
        }
        if (changed > 0.0) {
            highest = most(highest, changed);
            add_change(model, j, change);
        }
    }
    rewind_to(memory, begin);
    return sqrt(highest);
}

/* Return the matrix B, with the rows and columns of the identity where codes are zero. */
static doubles3 on_support(Memory *memory, const Model *model, const double *ratio) {
    int64_t count = model->gram.n[0], width = model->gram.n[1], n_units = model->gram.n[2];
    doubles3 matrix = new3(memory, count, width, n_units);
    copy(matrix.at, model->gram.at, size3(matrix));
    for (int64_t j = 0; j < count; j++)
        for (int64_t u = 0; u < n_units; u++) {
            if (model->value[j * n_units + u] != 0.0) {
                AT3(matrix, j, 0, u) += 1.0 / ratio[j];
                continue;
            }
            for (int64_t back = 0; back < width; back++)
                AT3(matrix, j, back, u) = back == 0;
            for (int64_t i = j + 1; i < smaller(j + width, count); i++)
                AT3(matrix, i, i - j, u) = 0.0;
        }
    return matrix;
}

/* Return the matrix S, whose band is full. */
static doubles3 complement(Memory *memory, doubles3 factor, const double *unit_vectors,
                           const double *ratio) {
    int64_t count = factor.n[0], n_units = factor.n[2];
    doubles3 matrix = {take_zeros(memory, count * count), {count, count, 1}};
    double *column = take_doubles(memory, count * n_units);
    for (int64_t k = 0; k < count; k++) {
        fill(column + k * n_units, (count - k) * n_units, 0.0);
        copy(column + k * n_units, unit_vectors + k * n_units, n_units);
        solve_factors(factor, k, column);
        for (int64_t j = k; j < count; j++)
            matrix.at[j * count + j - k] =
                -dot(unit_vectors + j * n_units, column + j * n_units, n_units);
        matrix.at[k * count] += ratio[k];
    }
    return matrix;
}

/* Fill in minus the gradient of the codes that are not zero, and zero for the others. */
static void fill_descent(const Model *model, const double *unit_vectors, double *direction) {
    int64_t n_units = model->gram.n[2];
    for (int64_t k = 0; k < model->gram.n[0] * n_units; k++) {
        double slope = model->product[k] + model->penalty.weight.at[k / n_units] * unit_vectors[k];
        direction[k] = model->value[k] != 0.0 ? model->linear[k] - slope : 0.0;
    }
}

/* Fill in the Newton direction of the codes that are not zero; return whether there is one.

   With e the unit vectors of the groups, which are the columns of E, the Hessian is

       H = B - E diag(w / r) E',   B_u = G_u + diag(w / r)

   B is banded for each unit, and the rest has as many columns as there are groups (Woodbury):

       H^-1 = B^-1 + B^-1 E S^-1 E' B^-1,   S = diag(r / w) - E' B^-1 E */
static bool newton_direction(Memory *memory, const Model *model, double *direction) {
    int64_t count = model->gram.n[0], n_units = model->gram.n[2];
    double *unit_vectors = take_zeros(memory, count * n_units);
    double *ratio = take_doubles(memory, count), *load = take_doubles(memory, count);
    for (int64_t j = 0; j < count; j++) {
        const double *value = model->value + j * n_units;
        double radius = sqrt(dot(value, value, n_units));
        ratio[j] = radius > 0.0 ? radius / model->penalty.weight.at[j] : 1.0;
        for (int64_t u = 0; u < (radius > 0.0 ? n_units : 0); u++)
            unit_vectors[j * n_units + u] = value[u] / radius;
    }
    doubles3 factor = on_support(memory, model, ratio);
    if (!factorize(memory, factor))
        return false;
    fill_descent(model, unit_vectors, direction);
    solve_factors(factor, 0, direction);
    doubles3 rest = complement(memory, factor, unit_vectors, ratio);
    if (!factorize(memory, rest))
        return false;
    for (int64_t j = 0; j < count; j++)
        load[j] = dot(unit_vectors + j * n_units, direction + j * n_units, n_units);
    solve_factors(rest, 0, load);
    for (int64_t k = 0; k < count * n_units; k++)
        unit_vectors[k] *= load[k / n_units];
    solve_factors(factor, 0, unit_vectors);
    add_multiple(direction, 1.0, unit_vectors, count * n_units);
    return true;
}

/* Return the derivative of the model along a direction after a step; `image` is G times it. */
static double slope_after(double step, const Model *model, const double *direction,
                          const double *image) {
    double slope = 0.0;
    int64_t n_units = model->gram.n[2];
    for (int64_t j = 0; j < model->gram.n[0]; j++) {
        double square = 0.0, along = 0.0;
        for (int64_t k = j * n_units; k < (j + 1) * n_units; k++) {
            double here = model->value[k] + step * direction[k];
            double gradient = model->product[k] - model->linear[k];
            square += here * here;
            along += here * direction[k];
            slope += direction[k] * (gradient + step * image[k]);
        }
        if (square > 0.0)
            slope += model->penalty.weight.at[j] * along / sqrt(square);
    }
    return slope;
}

/* Fill in the longest step of each code along a direction; return the smallest. */
static double fill_longest(const Model *model, const double *direction, double *longest) {
    double smallest = INFINITY;
    int64_t n_units = model->gram.n[2];
    for (int64_t j = 0; j < model->gram.n[0]; j++) {
        const double *value = model->value + j * n_units, *change = direction + j * n_units;
        double square = dot(value, value, n_units), along = dot(value, change, n_units);
        bool both = model->penalty.up.at[j] && model->penalty.down.at[j];
        for (int64_t u = 0; u < n_units; u++) {
            double most_step = along < 0.0 ? -square / along : INFINITY;
            if (!both && value[u] * change[u] < 0.0)
                most_step = least(most_step, -value[u] / change[u]);
            longest[j * n_units + u] = most_step;
            smallest = least(smallest, most_step);
        }
    }
    return smallest;
}

void step_on_support(Memory *memory, const Model *model) {
    int64_t size = model->gram.n[0] * model->gram.n[2];
    Mark begin = mark(memory);
    double *direction = take_doubles(memory, size);
    if (newton_direction(memory, model, direction)) {
        double *longest = take_doubles(memory, size), *image = take_doubles(memory, size);
        fill_product(model->gram, direction, image);
        double step = least(1.0, fill_longest(model, direction, longest));
        double start = slope_after(0.0, model, direction, image);
        for (int64_t round = 0; round < 6; round++) {
            if (slope_after(step, model, direction, image) <= 0.5 * fabs(start))
                break;
            step /= 2;
        }
        for (int64_t k = 0; k < size; k++)
            model->value[k] = longest[k] <= step ? 0.0 : model->value[k] + step * direction[k];
    }
    rewind_to(memory, begin);
}
