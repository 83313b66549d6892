#include "sparse_products.h"

#include "scalar.h"

#define OF_PRECISION "sparse_products_of.h"
#include "both_precisions.h"
