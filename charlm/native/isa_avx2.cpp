// The kernels for AVX2 and FMA; the build gives the matching flags.
#define CHARLM_LEVEL 1
#include "kernel_table.h"

CHARLM_KERNEL_TABLE(avx2_kernels, "avx2")
