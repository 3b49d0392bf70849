// Kernels for inference: a step of a layer (CellStep), a linear map (Affine), conversion, and softmax for sampling and
// for losses. kernels.h gives their shapes.
#pragma once

#include "blocks.h"

namespace {

// Initial sums are floats, or int32 for int8.
template <class S>
CHARLM_INLINE typename S::Sum load_sum(const void* sums, long index) {
  if constexpr (S::kInteger)
    return load_ints(static_cast<const int32_t*>(sums) + index);
  else
    return load(static_cast<const float*>(sums) + index);
}

// A step of R rows and U vectors of units. Vector j of a row's sums is gate j % 4 of units unit + j / 4.
template <class S, int R, int U>
CHARLM_INLINE void compute_cells(const CellStep& args, long row, long unit) {
  using Value = typename S::Value;
  using Weight = typename S::Weight;
  const long H = args.H;
  typename S::Sum sums[R][4 * U];
  Floats gates[R][4 * U];
  const Value* rows[R];
  const auto for_each_sum = [&](auto&& body) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < 4 * U; ++j) body(r, j, j % 4 * H + (unit + j / 4) * kLanes);
  };
  for_each_sum([&](int r, int j, long index) {
    if constexpr (S::kInteger) {
      gates[r][j] = load(args.addends[row + r] + index);
      if (args.x) sums[r][j] = load_ints(args.initial_ih + index);
    } else {
      sums[r][j] = load_sum<S>(args.initial_sums[row + r], index);
    }
  });
  if (args.x) {
    for (int r = 0; r < R; ++r) rows[r] = static_cast<const Value*>(args.x) + (row + r) * args.input_width;
    const long size = block_size<S>(args.input_width);
    accumulate<S, R, U>(sums, rows, args.input_width / S::kGroup,
                        static_cast<const Weight*>(args.weight_ih) + unit * size, size);
    if constexpr (S::kInteger)
      for_each_sum([&](int r, int j, long index) {
        gates[r][j] = multiply_add(to_floats(sums[r][j]), load(args.scale_ih + index), gates[r][j]);
      });
  }
  if constexpr (S::kInteger)
    for_each_sum([&](int r, int j, long index) { sums[r][j] = load_sum<S>(args.initial_sums[row + r], index); });
  for (int r = 0; r < R; ++r) rows[r] = static_cast<const Value*>(args.hidden) + (row + r) * H;
  const long size = block_size<S>(H);
  accumulate<S, R, U>(sums, rows, H / S::kGroup, static_cast<const Weight*>(args.weight_hh) + unit * size, size);
  for_each_sum([&](int r, int j, long index) {
    if constexpr (S::kInteger)
      gates[r][j] = multiply_add(to_floats(sums[r][j]), load(args.scale_hh + index), gates[r][j]);
    else
      gates[r][j] = sums[r][j];
  });
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const long index = (row + r) * H + (unit + u) * kLanes;
      const Floats i = sigmoid<S::kPrecise>(gates[r][4 * u]), f = sigmoid<S::kPrecise>(gates[r][4 * u + 1]),
                   g = hyperbolic_tangent<S::kPrecise>(gates[r][4 * u + 2]),
                   o = sigmoid<S::kPrecise>(gates[r][4 * u + 3]);
      const Floats c = multiply_add(f, load(args.cell + index), i * g);
      const Floats h = o * hyperbolic_tangent<S::kPrecise>(c);
      store(args.cell + index, c);
      store(args.new_hidden_fp32 + index, h);
      S::store_values(static_cast<Value*>(args.new_hidden) + index, h);
      if (args.new_hidden_bf16) store_bf16(args.new_hidden_bf16 + index, h);
    }
}

// How many blocks are computed index a time. With few rows several blocks, so that there are enough independent sums to
// hide the latency of the processor's multipliers.
template <int R>
struct BlocksAtOnce {
  static constexpr int value = CHARLM_LEVEL >= 2 ? (R == 1 ? 4 : R <= 3 ? 2 : 1) : (R == 1 ? 2 : 1);
};

template <class S>
struct CellBlock {
  const CellStep& args;
  long first_unit, last_unit;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    constexpr int U = BlocksAtOnce<R>::value;
    long unit = first_unit;
    for (; unit + U <= last_unit; unit += U) compute_cells<S, R, U>(args, row, unit);
    if constexpr (U > 1)
      for (; unit < last_unit; ++unit) compute_cells<S, R, 1>(args, row, unit);
  }
};

template <class S>
void cell_step(const CellStep& args, long first_row, long last_row, long first_unit, long last_unit) {
  // With many rows, all of them use the weights of one block before those of the next are loaded.
  if (last_row - first_row > kMaxBlockRows) {
    for (long unit = first_unit; unit < last_unit; ++unit)
      for_row_blocks(first_row, last_row, CellBlock<S>{args, unit, unit + 1});
  } else {
    for_row_blocks(first_row, last_row, CellBlock<S>{args, first_unit, last_unit});
  }
}

// R rows and U blocks of outputs.
template <class S, int R, int U>
CHARLM_INLINE void compute_affine(const Affine& args, long row, long block) {
  using Value = typename S::Value;
  typename S::Sum sums[R][4 * U];
  const Value* rows[R];
  const long vector = args.by_gates ? args.units : kLanes, unit = args.by_gates ? kLanes : kGates * kLanes;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = static_cast<const Value*>(args.x) + (row + r) * args.x_stride;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sums[r][4 * u + v] = load_sum<S>(args.initial_sums, v * vector + (block + u) * unit);
  }
  const long size = block_size<S>(args.inputs);
  accumulate<S, R, U>(sums, rows, word_count<S>(args.inputs),
                      static_cast<const typename S::Weight*>(args.weight) + block * size, size);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const long column = v * vector + (block + u) * unit;
        Floats out;
        if constexpr (S::kInteger)
          out = multiply_add(to_floats(sums[r][4 * u + v]), load(args.scale + column), load(args.bias + column));
        else
          out = sums[r][4 * u + v];
        store(args.out + (row + r) * args.out_stride + column, out);
      }
}

template <class S>
struct AffineBlock {
  const Affine& args;
  long first_block, last_block;

  template <int R>
  CHARLM_INLINE void run(long row) const {
    constexpr int U = BlocksAtOnce<R>::value;
    long block = first_block;
    for (; block + U <= last_block; block += U) compute_affine<S, R, U>(args, row, block);
    if constexpr (U > 1)
      for (; block < last_block; ++block) compute_affine<S, R, 1>(args, row, block);
  }
};

template <class S>
void affine(const Affine& args, long first_row, long last_row, long first_block, long last_block) {
  if (last_row - first_row > kMaxBlockRows) {
    for (long block = first_block; block < last_block; ++block)
      for_row_blocks(first_row, last_row, AffineBlock<S>{args, block, block + 1});
  } else {
    for_row_blocks(first_row, last_row, AffineBlock<S>{args, first_block, last_block});
  }
}

template <class S>
void convert(const float* from, void* to, long count) {  // count is a multiple of kUnitPadding
  auto* values = static_cast<typename S::Value*>(to);
  for (long j = 0; j < count; j += kLanes) S::store_values(values + j, load(from + j));
}

// e^x for x <= 0 to about one unit in the last place, written so that compilers can vectorize it: x = n ln 2 + r, and
// the Taylor series for e^r.
CHARLM_INLINE double exponential_double(double x) {
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
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
  uint64_t bits;  // the lowest bits are n
  memcpy(&bits, &shifted, 8);
  bits = (bits + 1023) << 52;
  double power;
  memcpy(&power, &bits, 8);
  return x < -700.0 ? 0.0 : p * power;
}

void unnormalized_softmax(const float* logits, const uint8_t* allowed, long count, double max_logit, double temperature,
                          double* out) {
  for (long v = 0; v < count; ++v) {
    const double weight = exponential_double((double(logits[v]) - max_logit) / temperature);
    out[v] = allowed[v] ? weight : 0.0;
  }
}

void cross_entropy(const float* logits, long stride, long vocabulary, const int64_t* targets, float* out, long rows) {
  for (long row = 0; row < rows; ++row, logits += stride) {
    float max_logit = logits[0];
    for (long v = 1; v < vocabulary; ++v) max_logit = logits[v] > max_logit ? logits[v] : max_logit;
    Floats sums = broadcast(0.0f);
    long v = 0;
    for (; v + kLanes <= vocabulary; v += kLanes) sums = sums + exponential(load(logits + v) - broadcast(max_logit));
    float tail[kLanes];
    for (long j = 0; j < kLanes; ++j) tail[j] = v + j < vocabulary ? logits[v + j] - max_logit : -1e30f;
    // The padding adds 1e-38, where exponential() clamps: the sum, at least 1, is too large to change.
    if (v < vocabulary) sums = sums + exponential(load(tail));
    out[row] = __builtin_logf(sum_lanes(sums)) + max_logit - logits[targets[row]];
  }
}

}  // namespace
