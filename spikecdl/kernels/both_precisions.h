/* Includes the file that is named `OF_PRECISION`, in double and then in single precision.

   There, `REAL` is a number, `ARRAY(rank)` an array of them, `NAME(name)` the name of a function,
   which ends in `_float` for single precision, and `SQRT` the square root. */

#define REAL double
#define ARRAY(rank) doubles##rank
#define NAME(name) name
#define SQRT sqrt
#include OF_PRECISION
#undef REAL
#undef ARRAY
#undef NAME
#undef SQRT

#define REAL float
#define ARRAY(rank) floats##rank
#define NAME(name) name##_float
#define SQRT sqrtf
#include OF_PRECISION
#undef REAL
#undef ARRAY
#undef NAME
#undef SQRT
#undef OF_PRECISION
