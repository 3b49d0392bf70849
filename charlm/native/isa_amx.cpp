// The kernels for AVX-512 with BF16 and VNNI and with AMX tiles of bfloat16.
#define CHARLM_LEVEL 4
#include "kernel_table.h"

const charlm::Kernels* charlm::amx_kernels() {
  static constexpr Kernels table = make_table("amx");
  return &table;
}
