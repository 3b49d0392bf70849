// The kernels for AVX-512 F, BW, DQ and VL.
#define CHARLM_LEVEL 2
#include "kernel_table.h"

const charlm::Kernels* charlm::avx512_kernels() {
  static constexpr Kernels table = make_table("avx512");
  return &table;
}
