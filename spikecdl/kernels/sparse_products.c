#include "sparse_products.h"

#include "scalar.h"

#define REAL double
#define ARRAY(rank) doubles##rank
#define NAME(name) name
#include "sparse_products_of.h"
#undef REAL
#undef ARRAY
#undef NAME
#define REAL float
#define ARRAY(rank) floats##rank
#define NAME(name) name##_float
#include "sparse_products_of.h"
