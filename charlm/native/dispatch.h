// Which kernels run here.
#pragma once

#include "kernels.h"

namespace charlm {

// Kernels for the instruction set `name`, or for the best one of this processor where `name` is null or empty. Null
// where the processor or this build has none of that name.
const Kernels* find_kernels(const char* name);

}  // namespace charlm
