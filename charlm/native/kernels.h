// What one instruction set offers to the rest of the engine: a table of plain functions over plain memory.
//
// Shapes, row-major: T steps, B rows (streams), H units padded to kUnitPadding, G = 4 H gates in torch's order i, f, g,
// o. Weights are packed into blocks of 4 vectors: for gates the four gates of one vector of units, for plain outputs
// four neighbouring vectors. Every sum runs over its inputs in ascending order, whatever the block of rows, the split
// over threads or the number of steps in a call, so results are the same, bit by bit, in each of these.
#pragma once

#include <cstdint>

namespace charlm {

constexpr long kUnitPadding = 16;  // a multiple of every instruction set's lanes

enum Storage { kFp32 = 0, kBf16 = 1, kInt8 = 2 };

// A matrix to pack: `outputs` rows of `inputs` numbers. With `gates`, outputs = 4 * units, and units are padded to
// kUnitPadding; without, outputs are padded to four vectors. `scale` (int8 only) has one factor for each row.
struct Matrix {
  const float* values;
  long outputs, inputs;
  bool gates;
  const float* scale;
};

// One layer's recurrence over T steps for training. Its input is either `x` [T][B][x_width] with `x_weights` packed
// like `weights`, x_width a multiple of kUnitPadding; or what x would add to the gates, given as a table: `index`
// [T][B] says which row of `gates_in` [.][G] a step takes. `bias` [G] is added in both cases. `hidden` [T+1][B][H] and
// `cell` [T+1][B][H] begin with the first state (without `gates` cell is [1][B][H], updated in place); `gates`
// [T][B][G], the activations, is written for the backward pass. All but cell in the storage's own type.
struct Recurrence {
  long T, B, H;
  const void* x;
  long x_width;
  const void* x_weights;
  const void* gates_in;
  const int64_t* index;
  const float* bias;
  const void* weights;
  void* hidden;
  float* cell;
  void* gates;
};

// Its backward pass. `d_out` [T][B][H] or null and `d_last` [B][H] or null are the gradients of the outputs and of the
// last hidden state; `d_cell` [B][H] comes in as the gradient of the last cell state and leaves as that of the first.
// `d_gates` [T][B][G] is written. `weights` are packed by pack_transposed.
struct RecurrenceGradient {
  long T, B, H;
  const void* d_out;
  const float* d_last;
  float* d_cell;
  const void* weights;
  const float* cell;
  const void* gates;
  void* d_gates;
};

// Gradient of a weight matrix: sums[k][g] = sum over n of x[n][k] d[n][g], for N rows, `inputs` k and `columns` g, the
// latter a multiple of 4 lanes. kChunkRows rows at a time are brought into the order of the sum (`interleave`): words
// of kGroup rows. For x that is done beforehand, into [chunk][words][inputs + kUnitPadding], since all columns need it.
struct WeightGradient {
  long N, inputs, columns;
  const void* x_words;
  const void* d;
  float* sums;
};
constexpr long kChunkRows = 512;

// One step of a layer for some rows and some units (inference). A row's sums begin with `start[row]` (floats, for int8
// integers); `x`, where there is one, is the layer's input, `h` its last output, both in the storage's type, as are the
// new outputs `h_new`, which also go as floats to `h_floats` and, where given, as bf16 to `h_bf16`. For int8 the sums
// of x begin with `x_start` [G], are multiplied by `x_scale` [G] and added to `addend[row]` [G], as are those of h by
// `scale`.
struct CellStep {
  long H;
  const void* const* start;
  const float* const* addend;
  const float* scale;
  const void* x;
  long x_width;
  const void* x_weights;
  const int32_t* x_start;
  const float* x_scale;
  const void* h;
  const void* h_weights;
  float* cell;
  void* h_new;
  float* h_floats;
  uint16_t* h_bf16;
};

// out[row] = start + weights x[row] for rows [first_row, last_row) and packed blocks [first_block, last_block).
// x has `x_stride` values a row, out `out_stride` floats. For int8, out[row] = bias + scale (start + weights x[row]).
struct Affine {
  const void* x;
  long x_stride, inputs;
  const void* weights;
  const void* start;
  float* out;
  long out_stride;
  bool gates;
  long units;  // with gates: padded units, the distance between two gates of a row
  const float* scale;
  const float* bias;
};

struct Kernels {
  const char* name;
  long lanes;
  // Indexed by Storage; those for training have no int8.
  long (*packed_bytes)(int storage, const Matrix&);
  void (*pack[3])(const Matrix&, void* out, long first_block, long last_block);
  void (*pack_transposed[2])(const float* weights, long H, void* out, long first_block, long last_block);
  void (*recurrence[2])(const Recurrence&, long first_row, long last_row);
  void (*recurrence_gradient[2])(const RecurrenceGradient&, long first_row, long last_row);
  // Adds row n of `rows` [N][columns] to row index[n] (0 without index) of `sums`, for columns [first, last).
  void (*add_rows[2])(const void* rows, const int64_t* index, long N, long columns, float* sums, long first, long last);
  // x [N][columns] to words of its chunks [first, last): see WeightGradient.
  void (*interleave[2])(const void* x, long N, long columns, void* words, long first_chunk, long last_chunk);
  // For blocks of 4 lanes of columns; `scratch` has room for kChunkRows rows of one block.
  void (*weight_gradient[2])(const WeightGradient&, void* scratch, long first_block, long last_block);
  void (*cell_step[3])(const CellStep&, long first_row, long last_row, long first_unit, long last_unit);
  void (*affine[3])(const Affine&, long first_row, long last_row, long first_block, long last_block);
  // From floats to the storage's type.
  void (*convert[3])(const float* from, void* to, long count);
  // exp((logits - most) / temperature) of those that are allowed, 0 for the others.
  void (*weights)(const float* logits, const uint8_t* allowed, long count, double most, double temperature,
                  double* out);
  // -log softmax(logits)[target], logits [rows][stride], the first `size` of which count.
  void (*losses)(const float* logits, long stride, long size, const int64_t* targets, float* out, long rows);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_bf16_kernels();
const Kernels* amx_kernels();

}  // namespace charlm
