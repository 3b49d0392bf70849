// Kernels for training: the recurrence of a layer (Recurrence), its gradient (RecurrenceGradient), the gradient of a
// weight (WeightGradient), and sums of rows (add_rows). kernels.h gives their shapes and the equations of the forward
// pass. The backward pass goes from the last step to the first, with c = cell[t + 1]:
//
//     dh = d_output[t] + W_hh^T d_gates[t + 1]
//     dc = dh * o * (1 - tanh(c)^2) + d_cell
//     d_i = dc * g * i * (1 - i),    d_f = dc * cell[t] * f * (1 - f),    d_g = dc * i * (1 - g^2)
//     d_o = dh * tanh(c) * o * (1 - o),    d_cell = dc * f
#pragma once

#include "blocks.h"

namespace {

// ------------------------------------------------------------------------------------------------- forward

// Step t of one vector of units.
template <class S>
struct ForwardBlock {
  const Recurrence& args;
  long t, unit;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    using Value = typename S::Value;
    const long H = args.H;
    const Value* h = static_cast<const Value*>(args.hidden) + (t * args.B + row) * H;
    Floats sums[R][4];
    const Value* x[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) sums[r][g] = initial_sum(row + r, g);
      if (args.x) x[r] = static_cast<const Value*>(args.x) + (t * args.B + row + r) * args.input_width;
    }
    prefetch<R>(row);
    multiply<R>(sums, x, args.x ? args.weight_ih : nullptr, args.input_width);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) x[r] = h + r * H;
    multiply<R>(sums, x, args.weight_hh, H);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) update_state(row + r, sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
  }

  // The initial value of a row's sums for one gate: the bias, and the input's share if it is in a table.
  CHARLM_INLINE Floats initial_sum(long row, int gate) const {
    const long offset = gate * args.H + unit * kLanes;
    const Floats bias = load(args.bias + offset);
    if (args.x) return bias;
    return bias + S::load_values(static_cast<const typename S::Value*>(args.table) +
                                 args.index[t * args.B + row] * kGates * args.H + offset);
  }

  // Computes a row's new cell and hidden states from its sums.
  CHARLM_INLINE void update_state(long row, Floats sum_i, Floats sum_f, Floats sum_g, Floats sum_o) const {
    using Value = typename S::Value;
    const long H = args.H, offset = unit * kLanes;
    const float* cell = args.cell + ((args.gates ? t : 0) * args.B + row) * H + offset;
    const Floats i = sigmoid<S::kPrecise>(sum_i), f = sigmoid<S::kPrecise>(sum_f),
                 g = hyperbolic_tangent<S::kPrecise>(sum_g), o = sigmoid<S::kPrecise>(sum_o);
    const Floats c = multiply_add(f, load(cell), i * g);
    store(new_cell(row), c);
    S::store_values(new_hidden(row), o * hyperbolic_tangent<S::kPrecise>(c));
    if (!args.gates) return;
    Value* to = static_cast<Value*>(args.gates) + (t * args.B + row) * kGates * H + offset;
    S::store_values(to, i);
    S::store_values(to + H, f);
    S::store_values(to + 2 * H, g);
    S::store_values(to + 3 * H, o);
  }

  CHARLM_INLINE float* new_cell(long row) const {
    return args.cell + ((args.gates ? t + 1 : 0) * args.B + row) * args.H + unit * kLanes;
  }
  CHARLM_INLINE typename S::Value* new_hidden(long row) const {
    return static_cast<typename S::Value*>(args.hidden) + ((t + 1) * args.B + row) * args.H + unit * kLanes;
  }

  template <int R>
  CHARLM_INLINE void multiply(Floats (&sums)[R][4], const typename S::Value* const* x, const void* weights,
                              long width) const {
    const long size = block_size<S>(width);
    if (weights)
      accumulate<S, R, 1>(sums, x, width / S::kGroup, static_cast<const typename S::Weight*>(weights) + unit * size,
                          size);
  }

  // Prefetches the memory that is written after the sums. The access pattern has too many rows for the processor to
  // predict it.
  template <int R>
  CHARLM_INLINE void prefetch(long row) const {
    using Value = typename S::Value;
    const long H = args.H;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(new_cell(row + r), 1);
      __builtin_prefetch(new_hidden(row + r), 1);
      const long offset = ((t * args.B + row + r) * kGates) * H + unit * kLanes;
      for (int g = 0; g < 4; ++g) {
        if (args.gates) __builtin_prefetch(static_cast<const Value*>(args.gates) + offset + g * H, 1);
      }
    }
  }
};

template <class S>
void recurrence(const Recurrence& args, long first_row, long last_row) {
  for (long t = 0; t < args.T; ++t)
    for (long unit = 0; unit < args.H / kLanes; ++unit)
      for_row_blocks(first_row, last_row, ForwardBlock<S>{args, t, unit});
}

// ------------------------------------------------------------------------------------------------- backward

// Step t of a block of up to four vectors of units.
template <class S>
struct BackwardBlock {
  const RecurrenceGradient& args;
  long t, block;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    using Value = typename S::Value;
    const long H = args.H, first = block * kGates * kLanes;
    const int vectors = this->vectors();
    Floats sums[R][4];
    const Value* x[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      x[r] = static_cast<const Value*>(args.d_gates) + ((t + 1) * args.B + row + r) * kGates * H;
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sums[r][v] = v < vectors ? initial_gradient(row + r, v) : broadcast(0.0f);
    }
    for (int r = 0; r < R; ++r) prefetch(row + r, first, vectors);
    if (t < args.T - 1) {
      const long size = block_size<S>(kGates * H);
      accumulate<S, R, 1>(sums, x, kGates * H / S::kGroup,
                          static_cast<const typename S::Weight*>(args.weight_hh_transposed) + block * size, size);
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < vectors; ++v) update_gradients(row + r, v, sums[r][v]);
  }

  // The number of vectors in the block that are not padding.
  CHARLM_INLINE int vectors() const {
    const long left = args.H / kLanes - block * kGates;
    return int(left < kGates ? left : kGates);
  }

  // The initial value of dh for one vector of units: without the share of step t + 1.
  CHARLM_INLINE Floats initial_gradient(long row, int vector) const {
    const long offset = row * args.H + (block * kGates + vector) * kLanes;
    Floats sum = broadcast(0.0f);
    if (args.d_output)
      sum = S::load_values(static_cast<const typename S::Value*>(args.d_output) + t * args.B * args.H + offset);
    if (args.d_last_hidden && t == args.T - 1) sum = sum + load(args.d_last_hidden + offset);
    return sum;
  }

  // Prefetches what `update_gradients` reads and writes.
  CHARLM_INLINE void prefetch(long row, long unit, int vectors) const {
    using Value = typename S::Value;
    const long H = args.H, offset = (t * args.B + row) * H + unit, gate = (t * args.B + row) * kGates * H + unit;
    for (long j = 0; j < vectors * kLanes; j += kCacheLine / long(sizeof(float))) {
      __builtin_prefetch(args.cell + offset + j);
      __builtin_prefetch(args.cell + args.B * H + offset + j);
      __builtin_prefetch(args.d_cell + row * H + unit + j, 1);
    }
    for (long j = 0; j < vectors * kLanes; j += kCacheLine / long(sizeof(Value)))
      for (int g = 0; g < 4; ++g) {
        __builtin_prefetch(static_cast<const Value*>(args.gates) + gate + g * H + j);
        __builtin_prefetch(static_cast<const Value*>(args.d_gates) + gate + g * H + j, 1);
      }
  }

  // Computes a row's d_gates and d_cell from dh, for one vector of units.
  CHARLM_INLINE void update_gradients(long row, int vector, Floats dh) const {
    using Value = typename S::Value;
    const long H = args.H, unit = (block * kGates + vector) * kLanes, offset = row * H + unit,
               gate = (t * args.B + row) * kGates * H + unit;
    const Value* gates = static_cast<const Value*>(args.gates) + gate;
    const Floats one = broadcast(1.0f), i = S::load_values(gates), f = S::load_values(gates + H),
                 g = S::load_values(gates + 2 * H), o = S::load_values(gates + 3 * H);
    const Floats previous_cell = load(args.cell + t * args.B * H + offset);
    const Floats tanh_c = hyperbolic_tangent<S::kPrecise>(load(args.cell + (t + 1) * args.B * H + offset));
    const Floats dc = multiply_add(dh * o, subtract_product(one, tanh_c, tanh_c), load(args.d_cell + offset));
    Value* out = static_cast<Value*>(args.d_gates) + gate;
    S::store_values(out, dc * g * subtract_product(i, i, i));
    S::store_values(out + H, dc * previous_cell * subtract_product(f, f, f));
    S::store_values(out + 2 * H, dc * i * subtract_product(one, g, g));
    S::store_values(out + 3 * H, dh * tanh_c * subtract_product(o, o, o));
    store(args.d_cell + offset, dc * f);
  }
};

template <class S>
void recurrence_gradient(const RecurrenceGradient& args, long first_row, long last_row) {
  for (long t = args.T - 1; t >= 0; --t)
    for (long block = 0; block < ceil_divide(args.H, kGates * kLanes); ++block)
      for_row_blocks(first_row, last_row, BackwardBlock<S>{args, t, block});
}

template <class S>
void add_rows(const void* rows, const int64_t* index, long N, long columns, float* sums, long first, long last) {
  constexpr long strip = 128;  // columns at a time, so that sums stay in the cache
  for (long begin = first; begin < last; begin += strip) {
    const long end = begin + strip < last ? begin + strip : last;
    for (long n = 0; n < N; ++n) {
      const auto* from = static_cast<const typename S::Value*>(rows) + n * columns;
      float* to = sums + (index ? index[n] : 0) * columns;
      for (long j = begin; j < end; j += kLanes) store(to + j, load(to + j) + S::load_values(from + j));
    }
  }
}

// Interleaves up to kChunkRows rows into words: to[w][column] holds rows w * kGroup to (w + 1) * kGroup - 1. Rows
// beyond the last are zero.
template <class S>
CHARLM_INLINE void interleave_rows(const typename S::Value* from, long rows, long from_stride, long columns,
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
    interleave_rows<S>(static_cast<const Value*>(x) + begin * columns, rows, columns, columns,
                       static_cast<Value*>(words) + chunk * kChunkRows * stride, stride);
  }
}

// out[r][v] += the sum over w of x[w][r] times vector v of d_gates[w], for R inputs and one block of columns. The words
// of x are `stride` apart.
template <class S, int R>
__attribute__((noinline)) void accumulate_words(float* out, long out_stride, const typename S::Value* x, long stride,
                                                long words, const typename S::Value* d_gates) {
  Floats sums[R][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[r][v] = load(out + r * out_stride + v * kLanes);
  for (long w = 0; w < words; ++w, x += stride * S::kGroup, d_gates += kGates * kLanes * S::kGroup) {
    const typename S::Loaded d0 = S::weights(d_gates), d1 = S::weights(d_gates + kLanes * S::kGroup),
                             d2 = S::weights(d_gates + 2 * kLanes * S::kGroup),
                             d3 = S::weights(d_gates + 3 * kLanes * S::kGroup);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename S::Broadcast input = S::broadcast_word(x + r * S::kGroup);
      sums[r][0] = S::dot(sums[r][0], input, d0);
      sums[r][1] = S::dot(sums[r][1], input, d1);
      sums[r][2] = S::dot(sums[r][2], input, d2);
      sums[r][3] = S::dot(sums[r][3], input, d3);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) store(out + r * out_stride + v * kLanes, sums[r][v]);
}

template <class S>
struct GradientBlock {
  const WeightGradient& args;
  const typename S::Value* x;        // words of one chunk
  const typename S::Value* d_gates;  // words of one block
  long words, block;

  template <int R>
  CHARLM_INLINE void run(long input) const {
    accumulate_words<S, R>(args.gradient + input * args.columns + block * kGates * kLanes, args.columns,
                           x + input * S::kGroup, args.inputs + kUnitPadding, words, d_gates);
  }
};

template <class S>
void weight_gradient(const WeightGradient& args, void* scratch, long first_block, long last_block, long first_input,
                     long last_input) {
  using Value = typename S::Value;
  auto* d_words = static_cast<Value*>(scratch);
  for (long k = first_input; k < last_input; ++k)
    memset(args.gradient + k * args.columns + first_block * kGates * kLanes, 0,
           size_t((last_block - first_block) * kGates * kLanes) * sizeof(float));
  for (long begin = 0; begin < args.N; begin += kChunkRows) {
    const long rows = args.N - begin < kChunkRows ? args.N - begin : kChunkRows;
    const Value* x = static_cast<const Value*>(args.x_words) + begin * (args.inputs + kUnitPadding);
    for (long block = first_block; block < last_block; ++block) {
      interleave_rows<S>(static_cast<const Value*>(args.d_gates) + begin * args.columns + block * kGates * kLanes, rows,
                         args.columns, kGates * kLanes, d_words, kGates * kLanes);
      for_row_blocks(first_input, last_input, GradientBlock<S>{args, x, d_words, word_count<S>(rows), block});
    }
  }
}

}  // namespace
