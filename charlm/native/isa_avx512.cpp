// The kernels for AVX-512 F, BW, DQ and VL; the build gives the matching flags.
#define CHARLM_LEVEL 2
#include "kernel_table.h"

CHARLM_KERNEL_TABLE(avx512_kernels, "avx512")
