// The kernels for AVX-512 with BF16 and VNNI.
#define CHARLM_LEVEL 3
#include "kernel_table.h"

const charlm::Kernels* charlm::avx512_bf16_kernels() {
  static constexpr Kernels table = make_table("avx512_bf16");
  return &table;
}
