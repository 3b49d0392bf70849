// What all kernels are made of: blocks of sums held in registers, and weights packed in the order in which these read
// them. Written once over vector.h and storage.h, and compiled for each instruction set.
#pragma once

#include "kernels.h"
#include "storage.h"

namespace {

using namespace charlm;

constexpr long kGates = 4;
constexpr long kLine = 64;  // bytes that a processor fetches at a time
// Sums that fit the registers beside four vectors of weights: 24 of 32, or 12 of 16.
constexpr int kMostRows = CHARLM_LEVEL >= 2 ? 6 : 3;

CHARLM_INLINE long ceil_divide(long a, long b) { return (a + b - 1) / b; }
CHARLM_INLINE long padded(long n) { return ceil_divide(n, kUnitPadding) * kUnitPadding; }

// held[r][4 u + v] += weights of block u, vector v, times the words x[r][0 .. words).
//
// Never inlined: beside the code of its callers compilers keep that code's constants in registers and sums in memory.
template <class S, int R, int U>
__attribute__((noinline)) void accumulate(typename S::Sum (&held)[R][4 * U], const typename S::Value* const* x,
                                          long words, const typename S::Weight* weights, long block_size) {
  constexpr long step = kGates * kLanes * S::kGroup;
  typename S::Sum sums[R][4 * U];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < 4 * U; ++j) sums[r][j] = held[r][j];
  for (long k = 0; k < words; ++k, weights += step) {
    if constexpr (R == 1) {
      const typename S::Spread spread = S::spread(x[0] + k * S::kGroup);
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
          sums[0][4 * u + v] = S::dot(sums[0][4 * u + v], spread, S::weights(block + v * kLanes * S::kGroup));
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
          const typename S::Spread spread = S::spread(x[r] + k * S::kGroup);
          sums[r][4 * u] = S::dot(sums[r][4 * u], spread, w0);
          sums[r][4 * u + 1] = S::dot(sums[r][4 * u + 1], spread, w1);
          sums[r][4 * u + 2] = S::dot(sums[r][4 * u + 2], spread, w2);
          sums[r][4 * u + 3] = S::dot(sums[r][4 * u + 3], spread, w3);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int j = 0; j < 4 * U; ++j) held[r][j] = sums[r][j];
}

// Calls block<R>(first row) for blocks of rows that are as equal as can be.
template <class Block>
CHARLM_INLINE void for_row_blocks(long first, long last, const Block& block) {
  const long rows = last - first, blocks = ceil_divide(rows, kMostRows);
  for (long q = 0; q < blocks; ++q) {
    const long begin = first + rows * q / blocks, end = first + rows * (q + 1) / blocks;
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
CHARLM_INLINE long words_of(long inputs) {
  return ceil_divide(inputs, S::kGroup);
}

template <class S>
CHARLM_INLINE long block_size(long inputs) {
  return words_of<S>(inputs) * kGates * kLanes * S::kGroup;
}

CHARLM_INLINE long blocks_of(const Matrix& m) {
  return m.by_gates ? padded(m.outputs / kGates) / kLanes : ceil_divide(m.outputs, kGates * kLanes);
}

long packed_bytes(int storage, const Matrix& m) {
  const long blocks = blocks_of(m);
  if (storage == kFp32) return blocks * block_size<Fp32>(m.inputs) * long(sizeof(float));
  if (storage == kBf16) return blocks * block_size<Bf16>(m.inputs) * long(sizeof(uint16_t));
  return blocks * block_size<Int8>(m.inputs);
}

// Row of the matrix that lane `lane` of vector `vector` of a block holds, or -1 for padding.
CHARLM_INLINE long row_of(const Matrix& m, long block, long vector, long lane) {
  if (m.by_gates) {
    const long unit = block * kLanes + lane, units = m.outputs / kGates;
    return unit < units ? vector * units + unit : -1;
  }
  const long row = (block * kGates + vector) * kLanes + lane;
  return row < m.outputs ? row : -1;
}

template <class S>
void pack(const Matrix& m, void* out, long first_block, long last_block) {
  const long words = words_of<S>(m.inputs), step = kGates * kLanes * S::kGroup;
  for (long block = first_block; block < last_block; ++block) {
    auto* packed = static_cast<typename S::Weight*>(out) + block * block_size<S>(m.inputs);
    for (long vector = 0; vector < kGates; ++vector)
      for (long lane = 0; lane < kLanes; ++lane) {
        typename S::Weight* to = packed + (vector * kLanes + lane) * S::kGroup;
        const long row = row_of(m, block, vector, lane);
        const float* from = m.values + row * m.inputs;
        const float scale = row >= 0 && m.scale ? m.scale[row] : 1.0f;
        const long whole = row >= 0 ? m.inputs / S::kGroup : 0;
        for (long k = 0; k < whole; ++k)
          for (long p = 0; p < S::kGroup; ++p) to[k * step + p] = S::weight(from[k * S::kGroup + p], scale);
        for (long k = whole; k < words; ++k)
          for (long p = 0; p < S::kGroup; ++p) {
            const long input = k * S::kGroup + p;
            to[k * step + p] = row >= 0 && input < m.inputs ? S::weight(from[input], scale) : typename S::Weight(0);
          }
      }
  }
}

// The transposed recurrent matrix W [4H][H] for the backward pass: outputs are hidden units, inputs the gates. H is a
// multiple of kUnitPadding; the last block may have fewer than four vectors, its others are zero.
template <class S>
void pack_transposed(const float* weights, long H, void* out, long first_block, long last_block) {
  const long words = kGates * H / S::kGroup;
  for (long block = first_block; block < last_block; ++block) {
    auto* to = static_cast<typename S::Weight*>(out) + block * block_size<S>(kGates * H);
    const long first = block * kGates * kLanes, width = H - first < kGates * kLanes ? H - first : kGates * kLanes;
    for (long k = 0; k < words; ++k, to += kGates * kLanes * S::kGroup) {
      for (long j = 0; j < width; ++j)
        for (long p = 0; p < S::kGroup; ++p)
          to[j * S::kGroup + p] = S::weight(weights[(k * S::kGroup + p) * H + first + j], 1.0f);
      for (long j = width * S::kGroup; j < kGates * kLanes * S::kGroup; ++j) to[j] = typename S::Weight(0);
    }
  }
}

}  // namespace
