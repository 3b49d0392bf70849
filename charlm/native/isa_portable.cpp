// The kernels for any processor; the build gives the matching flags.
#define CHARLM_LEVEL 0
#include "kernels_impl.h"

CHARLM_KERNEL_TABLE(portable_kernels, "portable")
