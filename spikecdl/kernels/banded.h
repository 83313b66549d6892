/* Symmetric banded matrices of each unit, (event, back, unit), as `banded_gram` returns. */

#pragma once

#include "operators.h"

/* Fill in the product (event, unit) of the matrix of each unit with values. */
void fill_product(doubles3 matrix, const double *value, double *product);

/* Replace matrices by their Cholesky factors; return false if one is not positive. */
bool factorize(Memory *memory, doubles3 matrix);

/* Solve in place, given the factors; rows before `first` are zero and stay as they are. */
void solve_factors(doubles3 factor, int64_t first, double *column);

/* Solve, in place, a system of one unit by Cholesky; return false, and no solution, if a pivot
   vanishes.  `support` lists the rows and columns that take part. */
bool solve_banded(Memory *memory, doubles3 matrix, const int64_t *support, int64_t size,
                  double *right);
