/* Quadratic programs whose penalty is the l2 norm over the units of each event. */

#pragma once

#include "quadratic.h"

/* Minimise over the codes of each event in turn; return the largest change of its scores. */
double sweep_groups(Memory *memory, const Model *model);

/* Take a Newton step of the codes that are not zero, as far as the model falls.

   The step ends where the first code reaches a sign that is not allowed, or the first group its
   opposite; they become zero.  The product is not renewed. */
void step_on_support(Memory *memory, const Model *model);
