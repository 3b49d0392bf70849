// The kernels for AVX2 and FMA; the build gives the matching flags.
#define CHARLM_LEVEL 1
#include "kernels_impl.h"

CHARLM_KERNEL_TABLE(avx2_kernels, "avx2")
