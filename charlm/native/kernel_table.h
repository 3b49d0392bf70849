// The table of all kernels for the instruction set that a file is compiled for.
#pragma once

#include "inference_kernels.h"
#include "training_kernels.h"
#if CHARLM_LEVEL >= 4
#include "tile_kernels.h"
#define CHARLM_TRAINING_BF16(KERNEL) KERNEL##_on_tiles
#else
#define CHARLM_TRAINING_BF16(KERNEL) KERNEL<Bf16>
#endif

#define CHARLM_KERNEL_TABLE(NAME, TITLE)                                                                  \
  const charlm::Kernels* charlm::NAME() {                                                                 \
    static const Kernels table = {TITLE,                                                                  \
                                  kLanes,                                                                 \
                                  packed_bytes,                                                           \
                                  {pack<Fp32>, pack<Bf16>, pack<Int8>},                                   \
                                  {pack_transposed<Fp32>, pack_transposed<Bf16>},                         \
                                  {recurrence<Fp32>, CHARLM_TRAINING_BF16(recurrence)},                   \
                                  {recurrence_gradient<Fp32>, CHARLM_TRAINING_BF16(recurrence_gradient)}, \
                                  {add_rows<Fp32>, add_rows<Bf16>},                                       \
                                  {interleave<Fp32>, CHARLM_TRAINING_BF16(interleave)},                   \
                                  {weight_gradient<Fp32>, CHARLM_TRAINING_BF16(weight_gradient)},         \
                                  {cell_step<Fp32>, cell_step<Bf16>, cell_step<Int8>},                    \
                                  {affine<Fp32>, affine<Bf16>, affine<Int8>},                             \
                                  {convert<Fp32>, convert<Bf16>, convert<Int8>},                          \
                                  weights,                                                                \
                                  losses};                                                                \
    return &table;                                                                                        \
  }
