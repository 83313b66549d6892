/* Products of matrices of which one is mostly zero, in single and in double precision. */

#pragma once

#include "memory.h"

/* Add to each row of the product (row, column) weighted rows of `right`, four at a time. */
KERNEL int64_t add_rows(const doubles2 *left, const doubles2 *right, const doubles2 *product);
KERNEL int64_t add_rows_float(const floats2 *left, const floats2 *right, const floats2 *product);

/* Fill in inner products of patches (row, pixel) and templates (template, pixel) where codes (row,
   template) are not zero. */
KERNEL void fill_products(const doubles2 *codes, const doubles2 *patches, const doubles2 *templates,
                          const doubles2 *products);
KERNEL void fill_products_float(const floats2 *codes, const floats2 *patches,
                                const floats2 *templates, const floats2 *products);
