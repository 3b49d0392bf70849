// The table of all kernels for the instruction set that a file is compiled for.
#pragma once

#include "inference_kernels.h"
#include "training_kernels.h"

#define CHARLM_KERNEL_TABLE(NAME, TITLE)                                                        \
  const charlm::Kernels* charlm::NAME() {                                                       \
    static const Kernels table = {TITLE,                                                        \
                                  kLanes,                                                       \
                                  packed_bytes,                                                 \
                                  {pack<Fp32>, pack<Bf16>, pack<Int8>},                         \
                                  {pack_transposed<Fp32>, pack_transposed<Bf16>},               \
                                  {recurrence<Fp32>, recurrence<Bf16>},                         \
                                  {recurrence_gradient<Fp32>, recurrence_gradient<Bf16>},       \
                                  {add_rows<Fp32>, add_rows<Bf16>},                             \
                                  {interleave<Fp32>, interleave<Bf16>},                         \
                                  {weight_gradient<Fp32>, weight_gradient<Bf16>},               \
                                  {cell_step<Fp32>, cell_step<Bf16>, cell_step<Int8>},          \
                                  {affine<Fp32>, affine<Bf16>, affine<Int8>},                   \
                                  {convert<Fp32>, convert<Bf16>, convert<Int8>},                \
                                  weights,                                                      \
                                  losses};                                                      \
    return &table;                                                                              \
  }
