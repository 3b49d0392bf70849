// The interface of the kernels: what each instruction set provides to the rest of the engine, as a table of functions.
//
// Shapes, row-major: T steps, B streams (rows), I inputs of a layer, H hidden units padded to kUnitPadding, G = 4 H
// gates in torch's order i, f, g, o, V ids. Weights are packed into blocks of four vectors: either the four gates of
// one vector of units, or four adjacent vectors of outputs.
//
// Every sum adds its terms in ascending order of the inputs. Results are therefore bit-identical however rows are
// grouped into blocks, work is split among threads, or steps are divided among calls.
#pragma once

#include <cstdint>

namespace charlm {

constexpr long kUnitPadding = 16;  // a multiple of the number of lanes of every instruction set

// The type in which weights and activations are stored.
enum Storage { kFp32 = 0, kBf16 = 1, kInt8 = 2 };

// A matrix [outputs][inputs] to pack.
struct Matrix {
  const float* values = nullptr;
  long outputs = 0, inputs = 0;
  bool by_gates = false;  // outputs = 4 units, which are padded to kUnitPadding; else outputs are padded to 4 vectors
  const float* scale = nullptr;  // [outputs] what int8 multiplies each row by before it rounds
};

// One layer over T steps, for training:
//
//     sums = W_ih x[t] + W_hh hidden[t] + bias,    or    table[index[t]] + W_hh hidden[t] + bias
//     i, f, o = sigmoid(sums),    g = tanh(sums)
//     cell[t + 1] = f * cell[t] + i * g,    hidden[t + 1] = o * tanh(cell[t + 1])
//
// The table holds the products of W_ih with all distinct inputs. Arrays that are not float have the storage's type.
struct Recurrence {
  long T = 0, B = 0, H = 0;
  const void* x = nullptr;          // [T][B][input_width], or null with a table
  long input_width = 0;             // a multiple of kUnitPadding
  const void* weight_ih = nullptr;  // packed
  const void* table = nullptr;      // [rows][G]
  const int64_t* index = nullptr;   // [T][B] row of the table
  const float* bias = nullptr;      // [G]
  const void* weight_hh = nullptr;  // packed
  void* hidden = nullptr;           // [T + 1][B][H]; hidden[0] is given
  float* cell = nullptr;            // [T + 1][B][H]; cell[0] is given. Without gates [B][H], updated in place
  void* gates = nullptr;            // [T][B][G] activations for the backward pass, or null
};

// The backward pass of Recurrence. `d_` stands for the gradient of the loss.
struct RecurrenceGradient {
  long T = 0, B = 0, H = 0;
  const void* d_output = nullptr;              // [T][B][H], or null for zeros
  const float* d_last_hidden = nullptr;        // [B][H], or null for zeros
  float* d_cell = nullptr;                     // [B][H] that of the last cell state, replaced by that of the first
  const void* weight_hh_transposed = nullptr;  // packed by pack_transposed
  const float* cell = nullptr;                 // [T + 1][B][H]
  const void* gates = nullptr;                 // [T][B][G]
  void* d_gates = nullptr;                     // [T][B][G] output
};

// The gradient of a weight matrix: gradient[k][g] = sum over n of x[n][k] * d_gates[n][g]. As a product of any
// matrices, x^T d_gates, it also serves the orthogonalization of updates (orthogonalization.cpp).
//
// The sum runs over rows, but `dot` needs the numbers of a word to be terms of one sum. Rows are therefore interleaved
// into words (see storage.h), kChunkRows rows at a time. All columns need x, so it is interleaved beforehand.
struct WeightGradient {
  long N = 0, inputs = 0;
  long columns = 0;               // a multiple of 4 vectors
  const void* x_words = nullptr;  // [chunks][words][inputs + kUnitPadding]
  const void* d_gates = nullptr;  // [N][columns]
  float* gradient = nullptr;      // [inputs][columns] output
};
constexpr long kChunkRows = 512;

// One step of one layer for inference: gates = initial_sums + W_ih x + W_hh hidden, then the new state.
//
// For int8 the products are integers, with scales that turn them into floats:
//     gates = addends + scale_ih * (initial_ih + W_ih x) + scale_hh * (initial_sums + W_hh hidden)
// The initial values subtract the offset of 128 of the activations. Arrays of void have the storage's type.
struct CellStep {
  long H = 0;
  const void* const* initial_sums = nullptr;  // [B] pointers to [G] floats; for int8 to int32
  const float* const* addends = nullptr;      // [B] pointers to [G]; int8 only
  const float* scale_hh = nullptr;            // [G]; int8 only
  const void* x = nullptr;                    // [B][input_width], or null if initial_sums include the input
  long input_width = 0;
  const void* weight_ih = nullptr;      // packed
  const int32_t* initial_ih = nullptr;  // [G]; int8 only
  const float* scale_ih = nullptr;      // [G]; int8 only
  const void* hidden = nullptr;         // [B][H]
  const void* weight_hh = nullptr;      // packed
  float* cell = nullptr;                // [B][H] updated in place
  void* new_hidden = nullptr;           // [B][H] output
  float* new_hidden_fp32 = nullptr;     // [B][H] output
  uint16_t* new_hidden_bf16 = nullptr;  // [B][H] output, or null
};

// A linear map of rows: out = initial_sums + W x; for int8 out = bias + scale * (initial_sums + W x).
struct Affine {
  const void* x = nullptr;  // [rows][x_stride], of which `inputs` count
  long x_stride = 0, inputs = 0;
  const void* weight = nullptr;        // packed
  const void* initial_sums = nullptr;  // one per output, floats; for int8 int32
  float* out = nullptr;                // [rows][out_stride]
  long out_stride = 0;
  bool by_gates = false;         // how the weight is packed (Matrix)
  long units = 0;                // by gates: padded units, the distance between two gates of a row
  const float* scale = nullptr;  // one per output; int8 only
  const float* bias = nullptr;   // one per output; int8 only
};

// The kernels of one instruction set. Arrays of functions are indexed by Storage; training has no int8. Ranges of rows,
// units, columns, chunks and blocks are half open: [first, last).
struct Kernels {
  const char* name;
  long lanes;  // of a vector of floats
  long (*packed_bytes)(int storage, const Matrix&);
  void (*pack[3])(const Matrix&, void* packed, long first_block, long last_block);
  // Packs the transpose of weight_hh [G][H] for RecurrenceGradient.
  void (*pack_transposed[2])(const float* weight_hh, long H, void* packed, long first_block, long last_block);
  void (*recurrence[2])(const Recurrence&, long first_row, long last_row);
  void (*recurrence_gradient[2])(const RecurrenceGradient&, long first_row, long last_row);
  // Adds each row n of `rows` [N][columns] to row index[n] of `sums`, or to row 0 without an index.
  void (*add_rows[2])(const void* rows, const int64_t* index, long N, long columns, float* sums, long first_column,
                      long last_column);
  // Interleaves x [N][columns] for WeightGradient, which must belong to the same table: AMX has an order of its own.
  void (*interleave[2])(const void* x, long N, long columns, void* words, long first_chunk, long last_chunk);
  // Blocks are of four vectors of columns. `scratch` holds kChunkRows rows of one block. The first input is a multiple
  // of kUnitPadding.
  void (*weight_gradient[2])(const WeightGradient&, void* scratch, long first_block, long last_block, long first_input,
                             long last_input);
  // Units are counted in vectors.
  void (*cell_step[3])(const CellStep&, long first_row, long last_row, long first_unit, long last_unit);
  void (*affine[3])(const Affine&, long first_row, long last_row, long first_block, long last_block);
  // Floats to the storage's type; count is a multiple of kUnitPadding.
  void (*convert[3])(const float* from, void* to, long count);
  // out = exp((logits - max_logit) / temperature), 0 where an id is not allowed.
  void (*unnormalized_softmax)(const float* logits, const uint8_t* allowed, long count, double max_logit,
                               double temperature, double* out);
  // -log softmax(logits)[target] for each row of logits [rows][stride], of which the first `vocabulary` count.
  void (*cross_entropy)(const float* logits, long stride, long vocabulary, const int64_t* targets, float* out,
                        long rows);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_bf16_kernels();
const Kernels* amx_kernels();

}  // namespace charlm
