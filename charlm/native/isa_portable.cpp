// The kernels for any processor; the build gives the matching flags.
#define CHARLM_LEVEL 0
#include "kernel_table.h"

CHARLM_KERNEL_TABLE(portable_kernels, "portable")
