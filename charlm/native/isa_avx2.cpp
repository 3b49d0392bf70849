// The kernels for AVX2 with FMA.
#define CHARLM_LEVEL 1
#include "kernel_table.h"

const charlm::Kernels* charlm::avx2_kernels() {
  static constexpr Kernels table = make_table("avx2");
  return &table;
}
