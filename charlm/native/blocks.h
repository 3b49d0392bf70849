// The core of all kernels: matrix products whose sums are held in registers, and the packing of weights for them.
//
// A packed weight is an array of blocks. A block holds the weights of four vectors of outputs as [words][4][lanes]; a
// word has kGroup consecutive inputs (storage.h). The four vectors are either the gates i, f, g, o of one vector of
// units, or four consecutive vectors of outputs (Matrix).
//
// The code is written once on top of vector.h and storage.h, and compiled for each instruction set.
#pragma once

#include "kernels.h"
#include "storage.h"

namespace {

using namespace charlm;

constexpr long kGates = 4;
constexpr long kCacheLine = 64;  // bytes
// The rows whose sums, four vectors each, fit in registers beside four vectors of weights: 24 of 32, or 12 of 16.
constexpr int kMaxBlockRows = CHARLM_LEVEL >= 2 ? 6 : 3;

CHARLM_INLINE long ceil_divide(long a, long b) { return (a + b - 1) / b; }
CHARLM_INLINE long pad_units(long n) { return ceil_divide(n, kUnitPadding) * kUnitPadding; }

// totals[r][4 u + v] += W x[r] for vector v of block u, where W has U blocks and x has R rows of `words` words.
//
// It is not inlined because compilers would then keep constants of the caller in registers, and sums in memory.
template <class S, int R, int U>
__attribute__((noinline)) void accumulate(typename S::Sum (&totals)[R][4 * U], const typename S::Value* const* x,
                                          long words, const typename S::Weight* weights, long block_size) {
  constexpr long step = kGates * kLanes * S::kGroup;
  typename S::Sum sums[R][4 * U];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < 4 * U; ++j) sums[r][j] = totals[r][j];
  for (long k = 0; k < words; ++k, weights += step) {
    if constexpr (R == 1) {
      const typename S::Broadcast input = S::broadcast_word(x[0] + k * S::kGroup);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        const typename S::Weight* block = weights + u * block_size;
        __builtin_prefetch(block + 2048 / long(sizeof *block));
        __builtin_prefetch(block + 2112 / long(sizeof *block));
        if (kLanes >= 16) {
          __builtin_prefetch(block + 2176 / long(sizeof *block));
          __builtin_prefetch(block + 2240 / long(sizeof *block));
        }
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v)
          sums[0][4 * u + v] = S::dot(sums[0][4 * u + v], input, S::weights(block + v * kLanes * S::kGroup));
      }
    } else {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        const typename S::Weight* block = weights + u * block_size;
        const typename S::Loaded w0 = S::weights(block), w1 = S::weights(block + kLanes * S::kGroup),
                                 w2 = S::weights(block + 2 * kLanes * S::kGroup),
                                 w3 = S::weights(block + 3 * kLanes * S::kGroup);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const typename S::Broadcast input = S::broadcast_word(x[r] + k * S::kGroup);
          sums[r][4 * u] = S::dot(sums[r][4 * u], input, w0);
          sums[r][4 * u + 1] = S::dot(sums[r][4 * u + 1], input, w1);
          sums[r][4 * u + 2] = S::dot(sums[r][4 * u + 2], input, w2);
          sums[r][4 * u + 3] = S::dot(sums[r][4 * u + 3], input, w3);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < 4 * U; ++j) totals[r][j] = sums[r][j];
}

// Calls block.run<R>(row) for blocks of R <= kMaxBlockRows rows of about equal size.
template <class Block>
CHARLM_INLINE void for_row_blocks(long first, long last, const Block& block) {
  const long rows = last - first, blocks = ceil_divide(rows, kMaxBlockRows);
  for (long number = 0; number < blocks; ++number) {
    const long begin = first + rows * number / blocks, end = first + rows * (number + 1) / blocks;
    switch (end - begin) {
      case 1: block.template run<1>(begin); break;
      case 2: block.template run<2>(begin); break;
      case 3: block.template run<3>(begin); break;
#if CHARLM_LEVEL >= 2
      case 4: block.template run<4>(begin); break;
      case 5: block.template run<5>(begin); break;
      case 6: block.template run<6>(begin); break;
#endif
    }
  }
}

// ------------------------------------------------------------------------------------------------- packing

template <class S>
CHARLM_INLINE long word_count(long inputs) {
  return ceil_divide(inputs, S::kGroup);
}

template <class S>
CHARLM_INLINE long block_size(long inputs) {
  return word_count<S>(inputs) * kGates * kLanes * S::kGroup;
}

CHARLM_INLINE long block_count(const Matrix& matrix) {
  return matrix.by_gates ? pad_units(matrix.outputs / kGates) / kLanes : ceil_divide(matrix.outputs, kGates * kLanes);
}

long packed_bytes(int storage, const Matrix& matrix) {
  const long blocks = block_count(matrix);
  if (storage == kFp32) return blocks * block_size<Fp32>(matrix.inputs) * long(sizeof(float));
  if (storage == kBf16) return blocks * block_size<Bf16>(matrix.inputs) * long(sizeof(uint16_t));
  return blocks * block_size<Int8>(matrix.inputs);
}

// The row of the matrix in a lane of a block's vector, or -1 for padding.
CHARLM_INLINE long matrix_row(const Matrix& matrix, long block, long vector, long lane) {
  if (matrix.by_gates) {
    const long unit = block * kLanes + lane, units = matrix.outputs / kGates;
    return unit < units ? vector * units + unit : -1;
  }
  const long row = (block * kGates + vector) * kLanes + lane;
  return row < matrix.outputs ? row : -1;
}

template <class S>
void pack(const Matrix& matrix, void* out, long first_block, long last_block) {
  const long words = word_count<S>(matrix.inputs), step = kGates * kLanes * S::kGroup;
  for (long block = first_block; block < last_block; ++block) {
    auto* packed = static_cast<typename S::Weight*>(out) + block * block_size<S>(matrix.inputs);
    for (long vector = 0; vector < kGates; ++vector)
      for (long lane = 0; lane < kLanes; ++lane) {
        typename S::Weight* to = packed + (vector * kLanes + lane) * S::kGroup;
        const long row = matrix_row(matrix, block, vector, lane);
        const float* from = matrix.values + row * matrix.inputs;
        const float scale = row >= 0 && matrix.scale ? matrix.scale[row] : 1.0f;
        const long full_words = row >= 0 ? matrix.inputs / S::kGroup : 0;
        for (long k = 0; k < full_words; ++k)
          for (long p = 0; p < S::kGroup; ++p) to[k * step + p] = S::weight(from[k * S::kGroup + p], scale);
        for (long k = full_words; k < words; ++k)
          for (long p = 0; p < S::kGroup; ++p) {
            const long input = k * S::kGroup + p;
            to[k * step + p] =
                row >= 0 && input < matrix.inputs ? S::weight(from[input], scale) : typename S::Weight(0);
          }
      }
  }
}

// Packs the transpose of W_hh [4H][H] for the backward pass: its outputs are the hidden units, its inputs the gates.
// The last block may have fewer than four vectors of units; the others are zero.
template <class S>
void pack_transposed(const float* weight_hh, long H, void* out, long first_block, long last_block) {
  const long words = kGates * H / S::kGroup;
  for (long block = first_block; block < last_block; ++block) {
    auto* to = static_cast<typename S::Weight*>(out) + block * block_size<S>(kGates * H);
    const long first = block * kGates * kLanes, width = H - first < kGates * kLanes ? H - first : kGates * kLanes;
    for (long k = 0; k < words; ++k, to += kGates * kLanes * S::kGroup) {
      for (long j = 0; j < width; ++j)
        for (long p = 0; p < S::kGroup; ++p)
          to[j * S::kGroup + p] = S::weight(weight_hh[(k * S::kGroup + p) * H + first + j], 1.0f);
      for (long j = width * S::kGroup; j < kGates * kLanes * S::kGroup; ++j) to[j] = typename S::Weight(0);
    }
  }
}

}  // namespace
