// The kernels for AVX-512 with BF16 and VNNI; the build gives the matching flags.
#define CHARLM_LEVEL 3
#include "kernel_table.h"

CHARLM_KERNEL_TABLE(avx512_bf16_kernels, "avx512_bf16")
