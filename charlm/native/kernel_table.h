// The table of kernels for one instruction set. Each isa_*.cpp defines CHARLM_LEVEL (vector.h) and includes this file;
// the build compiles it with the matching flags.
#pragma once

#include "inference_kernels.h"
#include "training_kernels.h"
#if CHARLM_LEVEL >= 4
#include "tile_kernels.h"
#endif

namespace {

template <class S>
constexpr void set_inference_kernels(Kernels& table, Storage storage) {
  table.pack[storage] = pack<S>;
  table.cell_step[storage] = cell_step<S>;
  table.affine[storage] = affine<S>;
  table.convert[storage] = convert<S>;
}

template <class S>
constexpr void set_training_kernels(Kernels& table, Storage storage) {
  table.pack_transposed[storage] = pack_transposed<S>;
  table.recurrence[storage] = recurrence<S>;
  table.recurrence_gradient[storage] = recurrence_gradient<S>;
  table.add_rows[storage] = add_rows<S>;
  table.interleave[storage] = interleave<S>;
  table.weight_gradient[storage] = weight_gradient<S>;
}

constexpr Kernels make_table(const char* name) {
  Kernels table = {};
  table.name = name;
  table.lanes = kLanes;
  table.packed_bytes = packed_bytes;
  set_inference_kernels<Fp32>(table, kFp32);
  set_inference_kernels<Bf16>(table, kBf16);
  set_inference_kernels<Int8>(table, kInt8);
  set_training_kernels<Fp32>(table, kFp32);
  set_training_kernels<Bf16>(table, kBf16);
#if CHARLM_LEVEL >= 4
  table.recurrence[kBf16] = recurrence_on_tiles;
  table.recurrence_gradient[kBf16] = recurrence_gradient_on_tiles;
  table.interleave[kBf16] = interleave_on_tiles;
  table.weight_gradient[kBf16] = weight_gradient_on_tiles;
#endif
  table.unnormalized_softmax = unnormalized_softmax;
  table.cross_entropy = cross_entropy;
  return table;
}

}  // namespace
