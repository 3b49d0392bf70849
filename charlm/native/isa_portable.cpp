// The kernels for any processor.
#define CHARLM_LEVEL 0
#include "kernel_table.h"

const charlm::Kernels* charlm::portable_kernels() {
  static constexpr Kernels table = make_table("portable");
  return &table;
}
