// The kernels for AVX-512 with BF16 and VNNI and for tiles of bfloat16 (AMX); the build gives the matching flags.
#define CHARLM_LEVEL 4
#include "kernel_table.h"

CHARLM_KERNEL_TABLE(amx_kernels, "amx")
