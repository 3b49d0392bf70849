// The kernels, written once over vector.h and storage.h and compiled for each instruction set.
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
          sums[0][4 * u + v] =
              S::dot(sums[0][4 * u + v], spread, S::weights(block + v * kLanes * S::kGroup));
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
  return m.gates ? padded(m.outputs / kGates) / kLanes : ceil_divide(m.outputs, kGates * kLanes);
}

long packed_bytes(int storage, const Matrix& m) {
  const long blocks = blocks_of(m);
  if (storage == kFp32) return blocks * block_size<Fp32>(m.inputs) * long(sizeof(float));
  if (storage == kBf16) return blocks * block_size<Bf16>(m.inputs) * long(sizeof(uint16_t));
  return blocks * block_size<Int8>(m.inputs);
}

// Row of the matrix that lane `lane` of vector `vector` of a block holds, or -1 for padding.
CHARLM_INLINE long row_of(const Matrix& m, long block, long vector, long lane) {
  if (m.gates) {
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

// ------------------------------------------------------------------------------------------------- training, forward

template <class S>
struct ForwardBlock {
  const Recurrence& a;
  long t, unit;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    using Value = typename S::Value;
    const long H = a.H, offset = unit * kLanes;
    const Value* h = static_cast<const Value*>(a.hidden) + (t * a.B + row) * H;
    Floats sums[R][4];
    const Value* x[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) sums[r][g] = load(a.bias + g * H + offset);
      if (a.x) {
        x[r] = static_cast<const Value*>(a.x) + (t * a.B + row + r) * a.x_width;
        continue;
      }
      const Value* start = static_cast<const Value*>(a.gates_in) + a.index[t * a.B + row + r] * kGates * H + offset;
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) sums[r][g] = sums[r][g] + S::load_values(start + g * H);
    }
    float* cell = a.cell + (a.gates ? t : 0) * a.B * H + row * H + offset;
    float* cell_new = cell + (a.gates ? a.B * H : 0);
    Value* h_new = static_cast<Value*>(a.hidden) + ((t + 1) * a.B + row) * H + offset;
    fetch<R>(row, cell_new, h_new);
    multiply<R>(sums, x, a.x ? a.x_weights : nullptr, a.x_width);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) x[r] = h + r * H;
    multiply<R>(sums, x, a.weights, H);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Floats i = sigmoid<S::kFine>(sums[r][0]), f = sigmoid<S::kFine>(sums[r][1]), g = hyperbolic_tangent<S::kFine>(sums[r][2]),
                   o = sigmoid<S::kFine>(sums[r][3]);
      const Floats c = multiply_add(f, load(cell + r * H), i * g);
      store(cell_new + r * H, c);
      S::store_values(h_new + r * H, o * hyperbolic_tangent<S::kFine>(c));
      if (a.gates) {
        Value* to = static_cast<Value*>(a.gates) + (t * a.B + row + r) * kGates * H + offset;
        S::store_values(to, i);
        S::store_values(to + H, f);
        S::store_values(to + 2 * H, g);
        S::store_values(to + 3 * H, o);
      }
    }
  }

  template <int R>
  CHARLM_INLINE void multiply(Floats (&sums)[R][4], const typename S::Value* const* x, const void* weights,
                              long width) const {
    const long size = block_size<S>(width);
    if (weights)
      accumulate<S, R, 1>(sums, x, width / S::kGroup, static_cast<const typename S::Weight*>(weights) + unit * size,
                          size);
  }

  // Asks for the memory that is written after the sums while the sums are made: too many rows take turns for the
  // processor to see what comes next.
  template <int R>
  CHARLM_INLINE void fetch(long row, const float* cell_new, const typename S::Value* h_new) const {
    using Value = typename S::Value;
    const long H = a.H;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(cell_new + r * H, 1);
      __builtin_prefetch(h_new + r * H, 1);
      const long at = ((t * a.B + row + r) * kGates) * H + unit * kLanes;
      for (int g = 0; g < 4; ++g) {
        if (a.gates) __builtin_prefetch(static_cast<const Value*>(a.gates) + at + g * H, 1);
      }
    }
  }
};

template <class S>
void recurrence(const Recurrence& a, long first_row, long last_row) {
  for (long t = 0; t < a.T; ++t)
    for (long unit = 0; unit < a.H / kLanes; ++unit)
      for_row_blocks(first_row, last_row, ForwardBlock<S>{a, t, unit});
}

// ------------------------------------------------------------------------------------------------- training, backward

template <class S>
struct BackwardBlock {
  const RecurrenceGradient& a;
  long t, block;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    using Value = typename S::Value;
    const long H = a.H, first = block * kGates * kLanes;
    const int vectors = int(H - first < kGates * kLanes ? (H - first) / kLanes : kGates);
    Floats sums[R][4];
    const Value* x[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const long here = (row + r) * H + first;
      x[r] = static_cast<const Value*>(a.d_gates) + ((t + 1) * a.B + row + r) * kGates * H;
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        sums[r][v] = all(0.0f);
        if (v >= vectors) continue;
        if (a.d_out) sums[r][v] = S::load_values(static_cast<const Value*>(a.d_out) + t * a.B * H + here + v * kLanes);
        if (a.d_last && t == a.T - 1) sums[r][v] = sums[r][v] + load(a.d_last + here + v * kLanes);
      }
    }
    for (int r = 0; r < R; ++r) fetch(row + r, first, vectors);
    if (t < a.T - 1) {
      const long size = block_size<S>(kGates * H);
      accumulate<S, R, 1>(sums, x, kGates * H / S::kGroup,
                          static_cast<const typename S::Weight*>(a.weights) + block * size, size);
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < vectors; ++v) finish((row + r) * H + first + v * kLanes, row + r, first + v * kLanes, sums[r][v]);
  }

  // Asks for what `finish` reads and writes, while the sums are made.
  CHARLM_INLINE void fetch(long row, long unit, int vectors) const {
    using Value = typename S::Value;
    const long H = a.H, at = (t * a.B + row) * H + unit, gate = (t * a.B + row) * kGates * H + unit;
    for (long j = 0; j < vectors * kLanes; j += kLine / long(sizeof(float))) {
      __builtin_prefetch(a.cell + at + j);
      __builtin_prefetch(a.cell + a.B * H + at + j);
      __builtin_prefetch(a.d_cell + row * H + unit + j, 1);
    }
    for (long j = 0; j < vectors * kLanes; j += kLine / long(sizeof(Value)))
      for (int g = 0; g < 4; ++g) {
        __builtin_prefetch(static_cast<const Value*>(a.gates) + gate + g * H + j);
        __builtin_prefetch(static_cast<const Value*>(a.d_gates) + gate + g * H + j, 1);
      }
  }

  CHARLM_INLINE void finish(long at, long row, long unit, Floats dh) const {
    using Value = typename S::Value;
    const long H = a.H, gate = (t * a.B + row) * kGates * H + unit;
    const Value* gates = static_cast<const Value*>(a.gates) + gate;
    const Floats one = all(1.0f), i = S::load_values(gates), f = S::load_values(gates + H),
                 g = S::load_values(gates + 2 * H), o = S::load_values(gates + 3 * H);
    const Floats before = load(a.cell + t * a.B * H + at);
    const Floats tanh_c = hyperbolic_tangent<S::kFine>(load(a.cell + (t + 1) * a.B * H + at));
    const Floats dc = multiply_add(dh * o, subtract_product(one, tanh_c, tanh_c), load(a.d_cell + at));
    Value* out = static_cast<Value*>(a.d_gates) + gate;
    S::store_values(out, dc * g * subtract_product(i, i, i));
    S::store_values(out + H, dc * before * subtract_product(f, f, f));
    S::store_values(out + 2 * H, dc * i * subtract_product(one, g, g));
    S::store_values(out + 3 * H, dh * tanh_c * subtract_product(o, o, o));
    store(a.d_cell + at, dc * f);
  }
};

template <class S>
void recurrence_gradient(const RecurrenceGradient& a, long first_row, long last_row) {
  for (long t = a.T - 1; t >= 0; --t)
    for (long block = 0; block < ceil_divide(a.H, kGates * kLanes); ++block)
      for_row_blocks(first_row, last_row, BackwardBlock<S>{a, t, block});
}

template <class S>
void add_rows(const void* rows, const int64_t* index, long N, long columns, float* sums, long first, long last) {
  constexpr long strip = 128;  // columns at a time, so that the sums stay in the cache
  for (long begin = first; begin < last; begin += strip) {
    const long end = begin + strip < last ? begin + strip : last;
    for (long n = 0; n < N; ++n) {
      const auto* from = static_cast<const typename S::Value*>(rows) + n * columns;
      float* to = sums + (index ? index[n] : 0) * columns;
      for (long j = begin; j < end; j += kLanes) store(to + j, load(to + j) + S::load_values(from + j));
    }
  }
}

// Columns [0, columns) of kChunkRows rows (fewer at the end) to words: to[w][column] = rows w * kGroup and following.
template <class S>
CHARLM_INLINE void to_words(const typename S::Value* from, long rows, long from_stride, long columns,
                            typename S::Value* to, long to_stride) {
  using Value = typename S::Value;
  const long words = ceil_divide(rows, S::kGroup);
  for (long w = 0; w < words; ++w, to += to_stride * S::kGroup, from += from_stride * S::kGroup) {
    if constexpr (S::kGroup == 1) {
      memcpy(to, from, size_t(columns) * sizeof(Value));
    } else if ((w + 1) * S::kGroup <= rows) {
      __builtin_prefetch(from + 16 * from_stride);
      __builtin_prefetch(from + 17 * from_stride);
      const Value* second = from + from_stride;
      for (long j = 0; j < columns; ++j) {
        to[2 * j] = from[j];
        to[2 * j + 1] = second[j];
      }
    } else {
      for (long j = 0; j < columns; ++j) {
        to[2 * j] = from[j];
        to[2 * j + 1] = 0;
      }
    }
  }
}

template <class S>
void interleave(const void* x, long N, long columns, void* words, long first_chunk, long last_chunk) {
  using Value = typename S::Value;
  const long stride = columns + kUnitPadding;
  for (long chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const long begin = chunk * kChunkRows, rows = N - begin < kChunkRows ? N - begin : kChunkRows;
    to_words<S>(static_cast<const Value*>(x) + begin * columns, rows, columns, columns,
                static_cast<Value*>(words) + chunk * kChunkRows * stride, stride);
  }
}

// sums[r][v] += over words w of x[w * stride + r] times vector v of weights[w].
template <class S, int R>
__attribute__((noinline)) void accumulate_words(float* out, long out_stride, const typename S::Value* x, long stride,
                                                long words, const typename S::Value* weights) {
  Floats sums[R][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[r][v] = load(out + r * out_stride + v * kLanes);
  for (long w = 0; w < words; ++w, x += stride * S::kGroup, weights += kGates * kLanes * S::kGroup) {
    const typename S::Loaded w0 = S::weights(weights), w1 = S::weights(weights + kLanes * S::kGroup),
                             w2 = S::weights(weights + 2 * kLanes * S::kGroup),
                             w3 = S::weights(weights + 3 * kLanes * S::kGroup);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename S::Spread spread = S::spread(x + r * S::kGroup);
      sums[r][0] = S::dot(sums[r][0], spread, w0);
      sums[r][1] = S::dot(sums[r][1], spread, w1);
      sums[r][2] = S::dot(sums[r][2], spread, w2);
      sums[r][3] = S::dot(sums[r][3], spread, w3);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) store(out + r * out_stride + v * kLanes, sums[r][v]);
}

template <class S>
struct GradientBlock {
  const WeightGradient& a;
  const typename S::Value* x;
  const typename S::Value* weights;
  long words, block;

  template <int R>
  CHARLM_INLINE void run(long input) const {
    accumulate_words<S, R>(a.sums + input * a.columns + block * kGates * kLanes, a.columns, x + input * S::kGroup,
                           a.inputs + kUnitPadding, words, weights);
  }
};

template <class S>
void weight_gradient(const WeightGradient& a, void* scratch, long first_block, long last_block) {
  using Value = typename S::Value;
  auto* weights = static_cast<Value*>(scratch);
  for (long k = 0; k < a.inputs; ++k)
    memset(a.sums + k * a.columns + first_block * kGates * kLanes, 0,
           size_t((last_block - first_block) * kGates * kLanes) * sizeof(float));
  for (long begin = 0; begin < a.N; begin += kChunkRows) {
    const long rows = a.N - begin < kChunkRows ? a.N - begin : kChunkRows;
    const Value* x = static_cast<const Value*>(a.x_words) + begin * (a.inputs + kUnitPadding);
    for (long block = first_block; block < last_block; ++block) {
      to_words<S>(static_cast<const Value*>(a.d) + begin * a.columns + block * kGates * kLanes, rows, a.columns,
                  kGates * kLanes, weights, kGates * kLanes);
      for_row_blocks(0, a.inputs, GradientBlock<S>{a, x, weights, words_of<S>(rows), block});
    }
  }
}

// ------------------------------------------------------------------------------------------------- inference

template <class S>
CHARLM_INLINE typename S::Sum load_sum(const void* sums, long at) {
  if constexpr (S::kInteger)
    return load_bits(static_cast<const int32_t*>(sums) + at);
  else
    return load(static_cast<const float*>(sums) + at);
}

template <class S, int R, int U>
CHARLM_INLINE void cell_tile(const CellStep& a, long row, long unit) {
  using Value = typename S::Value;
  using Weight = typename S::Weight;
  const long H = a.H;
  typename S::Sum sums[R][4 * U];
  Floats gates[R][4 * U];
  const Value* rows[R];
  const auto each = [&](auto&& work) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < 4 * U; ++j) work(r, j, j % 4 * H + (unit + j / 4) * kLanes);
  };
  each([&](int r, int j, long at) {
    if constexpr (S::kInteger) {
      gates[r][j] = load(a.addend[row + r] + at);
      if (a.x) sums[r][j] = load_bits(a.x_start + at);
    } else {
      sums[r][j] = load_sum<S>(a.start[row + r], at);
    }
  });
  if (a.x) {
    for (int r = 0; r < R; ++r) rows[r] = static_cast<const Value*>(a.x) + (row + r) * a.x_width;
    const long size = block_size<S>(a.x_width);
    accumulate<S, R, U>(sums, rows, a.x_width / S::kGroup, static_cast<const Weight*>(a.x_weights) + unit * size, size);
    if constexpr (S::kInteger)
      each([&](int r, int j, long at) {
        gates[r][j] = multiply_add(to_floats(sums[r][j]), load(a.x_scale + at), gates[r][j]);
      });
  }
  if constexpr (S::kInteger) each([&](int r, int j, long at) { sums[r][j] = load_sum<S>(a.start[row + r], at); });
  for (int r = 0; r < R; ++r) rows[r] = static_cast<const Value*>(a.h) + (row + r) * H;
  const long size = block_size<S>(H);
  accumulate<S, R, U>(sums, rows, H / S::kGroup, static_cast<const Weight*>(a.h_weights) + unit * size, size);
  each([&](int r, int j, long at) {
    if constexpr (S::kInteger)
      gates[r][j] = multiply_add(to_floats(sums[r][j]), load(a.scale + at), gates[r][j]);
    else
      gates[r][j] = sums[r][j];
  });
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const long at = (row + r) * H + (unit + u) * kLanes;
      const Floats i = sigmoid<S::kFine>(gates[r][4 * u]), f = sigmoid<S::kFine>(gates[r][4 * u + 1]),
                   g = hyperbolic_tangent<S::kFine>(gates[r][4 * u + 2]), o = sigmoid<S::kFine>(gates[r][4 * u + 3]);
      const Floats c = multiply_add(f, load(a.cell + at), i * g);
      const Floats h = o * hyperbolic_tangent<S::kFine>(c);
      store(a.cell + at, c);
      store(a.h_floats + at, h);
      S::store_values(static_cast<Value*>(a.h_new) + at, h);
      if (a.h_bf16) store_bf16(a.h_bf16 + at, h);
    }
}

// Units side by side for few rows, so that enough sums are under way to hide the processor's latency.
template <int R>
struct UnitsAtOnce {
  static constexpr int value = CHARLM_LEVEL >= 2 ? (R == 1 ? 4 : R <= 3 ? 2 : 1) : (R == 1 ? 2 : 1);
};

template <class S>
struct CellBlock {
  const CellStep& a;
  long first_unit, last_unit;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    constexpr int U = UnitsAtOnce<R>::value;
    long unit = first_unit;
    for (; unit + U <= last_unit; unit += U) cell_tile<S, R, U>(a, row, unit);
    if constexpr (U > 1)
      for (; unit < last_unit; ++unit) cell_tile<S, R, 1>(a, row, unit);
  }
};

template <class S>
void cell_step(const CellStep& a, long first_row, long last_row, long first_unit, long last_unit) {
  // With many rows, one unit's weights at a time serve them all before the next unit's are fetched.
  if (last_row - first_row > kMostRows) {
    for (long unit = first_unit; unit < last_unit; ++unit)
      for_row_blocks(first_row, last_row, CellBlock<S>{a, unit, unit + 1});
  } else {
    for_row_blocks(first_row, last_row, CellBlock<S>{a, first_unit, last_unit});
  }
}

template <class S, int R, int U>
CHARLM_INLINE void affine_tile(const Affine& a, long row, long block) {
  using Value = typename S::Value;
  typename S::Sum sums[R][4 * U];
  const Value* rows[R];
  const long vector = a.gates ? a.units : kLanes, unit = a.gates ? kLanes : kGates * kLanes;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = static_cast<const Value*>(a.x) + (row + r) * a.x_stride;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sums[r][4 * u + v] = load_sum<S>(a.start, v * vector + (block + u) * unit);
  }
  const long size = block_size<S>(a.inputs);
  accumulate<S, R, U>(sums, rows, words_of<S>(a.inputs),
                      static_cast<const typename S::Weight*>(a.weights) + block * size, size);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const long column = v * vector + (block + u) * unit;
        Floats out;
        if constexpr (S::kInteger)
          out = multiply_add(to_floats(sums[r][4 * u + v]), load(a.scale + column), load(a.bias + column));
        else
          out = sums[r][4 * u + v];
        store(a.out + (row + r) * a.out_stride + column, out);
      }
}

template <class S>
struct AffineBlock {
  const Affine& a;
  long first_block, last_block;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    constexpr int U = UnitsAtOnce<R>::value;
    long block = first_block;
    for (; block + U <= last_block; block += U) affine_tile<S, R, U>(a, row, block);
    if constexpr (U > 1)
      for (; block < last_block; ++block) affine_tile<S, R, 1>(a, row, block);
  }
};

template <class S>
void affine(const Affine& a, long first_row, long last_row, long first_block, long last_block) {
  if (last_row - first_row > kMostRows) {
    for (long block = first_block; block < last_block; ++block)
      for_row_blocks(first_row, last_row, AffineBlock<S>{a, block, block + 1});
  } else {
    for_row_blocks(first_row, last_row, AffineBlock<S>{a, first_block, last_block});
  }
}

template <class S>
void convert(const float* from, void* to, long count) {  // count is a multiple of kUnitPadding
  auto* values = static_cast<typename S::Value*>(to);
  for (long j = 0; j < count; j += kLanes) S::store_values(values + j, load(from + j));
}

// e^x for x <= 0 to about one unit in the last place, written so that compilers make vectors of it: x = n ln 2 + r, and
// Taylor's series for e^r.
CHARLM_INLINE double exponential_of(double x) {
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
  const double clamped = x < -700.0 ? -700.0 : x;
  const double shifted = clamped * 1.4426950408889634 + kShift;
  const double n = shifted - kShift;
  const double r = (clamped - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  double p = 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits;  // its lowest bits are n
  memcpy(&bits, &shifted, 8);
  bits = (bits + 1023) << 52;
  double power;
  memcpy(&power, &bits, 8);
  return x < -700.0 ? 0.0 : p * power;
}

void weights(const float* logits, const uint8_t* allowed, long count, double most, double temperature, double* out) {
  for (long v = 0; v < count; ++v) {
    const double weight = exponential_of((double(logits[v]) - most) / temperature);
    out[v] = allowed[v] ? weight : 0.0;
  }
}

void losses(const float* logits, long stride, long size, const int64_t* targets, float* out, long rows) {
  for (long row = 0; row < rows; ++row, logits += stride) {
    float most = logits[0];
    for (long v = 1; v < size; ++v) most = logits[v] > most ? logits[v] : most;
    Floats sums = all(0.0f);
    long v = 0;
    for (; v + kLanes <= size; v += kLanes) sums = sums + exponential(load(logits + v) - all(most));
    float tail[kLanes];
    for (long j = 0; j < kLanes; ++j) tail[j] = v + j < size ? logits[v + j] - most : -1e30f;
    // What the clamp in exponential() leaves of the padding is 1e-38: less than the sum can hold.
    if (v < size) sums = sums + exponential(load(tail));
    out[row] = __builtin_logf(sum_of(sums)) + most - logits[targets[row]];
  }
}

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

}  // namespace
