// Selects the kernels for this processor.
#pragma once

#include "kernels.h"

namespace charlm {

// The kernels for the instruction set `name`, or for the best one of this processor if `name` is null or empty. Null if
// this processor or this build does not have the instruction set.
const Kernels* find_kernels(const char* name);

}  // namespace charlm
