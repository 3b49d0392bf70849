// The C functions for training: one layer, forward and backward.

#include "api.h"
#include "buffer.h"
#include "kernels.h"
#include "threads.h"

namespace charlm {
namespace {

// Calls work(first, last) for consecutive parts of [0, count), one for each thread. The parts do not wait for each
// other: in a recurrence each part takes some rows through all T steps.
template <class Work>
void parallel_for(long count, int threads, const Work& work) {
  const int parts = int(count < threads ? count : threads);
  run_tasks(parts, [&](int part) { work(count * part / parts, count * (part + 1) / parts); });
}

}  // namespace
}  // namespace charlm

using namespace charlm;

void charlm_pack_gates(const Kernels* kernels, int storage, const float* weight, int64_t H, int64_t inputs,
                       void* packed, int threads) {
  Matrix matrix;
  matrix.values = weight;
  matrix.outputs = 4 * H;
  matrix.inputs = inputs;
  matrix.by_gates = true;
  parallel_for(H / kernels->lanes, threads,
               [&](long first, long last) { kernels->pack[storage](matrix, packed, first, last); });
}

void charlm_pack_transposed(const Kernels* kernels, int storage, const float* weight_hh, int64_t H, void* packed,
                            int threads) {
  const long block = 4 * kernels->lanes;
  parallel_for((H + block - 1) / block, threads,
               [&](long first, long last) { kernels->pack_transposed[storage](weight_hh, H, packed, first, last); });
}

int64_t charlm_transposed_size(const Kernels* kernels, int64_t H) {
  const int64_t block = 4 * kernels->lanes;
  return (H + block - 1) / block * block * 4 * H;
}

void charlm_recurrence(const Kernels* kernels, int storage, int64_t T, int64_t B, int64_t H, const void* x,
                       int64_t input_width, const void* weight_ih, const void* table, const int64_t* index,
                       const float* bias, const void* weight_hh, void* hidden, float* cell, void* gates, int threads) {
  Recurrence args;
  args.T = T;
  args.B = B;
  args.H = H;
  args.x = x;
  args.input_width = input_width;
  args.weight_ih = weight_ih;
  args.table = table;
  args.index = index;
  args.bias = bias;
  args.weight_hh = weight_hh;
  args.hidden = hidden;
  args.cell = cell;
  args.gates = gates;
  parallel_for(B, threads, [&](long first, long last) { kernels->recurrence[storage](args, first, last); });
}

void charlm_recurrence_gradient(const Kernels* kernels, int storage, int64_t T, int64_t B, int64_t H,
                                const void* d_output, const float* d_last_hidden, float* d_cell,
                                const void* weight_hh_transposed, const float* cell, const void* gates, void* d_gates,
                                int threads) {
  RecurrenceGradient args;
  args.T = T;
  args.B = B;
  args.H = H;
  args.d_output = d_output;
  args.d_last_hidden = d_last_hidden;
  args.d_cell = d_cell;
  args.weight_hh_transposed = weight_hh_transposed;
  args.cell = cell;
  args.gates = gates;
  args.d_gates = d_gates;
  parallel_for(B, threads, [&](long first, long last) { kernels->recurrence_gradient[storage](args, first, last); });
}

void charlm_add_rows(const Kernels* kernels, int storage, const void* rows, const int64_t* index, int64_t N,
                     int64_t columns, float* sums, int threads) {
  parallel_for(columns / kUnitPadding, threads, [&](long first, long last) {
    kernels->add_rows[storage](rows, index, N, columns, sums, first * kUnitPadding, last * kUnitPadding);
  });
}

int charlm_weight_gradient(const Kernels* kernels, int storage, int64_t N, int64_t inputs, int64_t columns,
                           const void* x, const void* d_gates, float* gradient, int threads) {
  const size_t bytes = storage == kFp32 ? 4 : 2;
  const long chunks = (N + kChunkRows - 1) / kChunkRows, block = 4 * kernels->lanes;
  return allocation_status([&] {
    const Buffer words = Buffer::uninitialized(size_t(chunks) * kChunkRows * size_t(inputs + kUnitPadding) * bytes);
    parallel_for(chunks, threads,
                 [&](long first, long last) { kernels->interleave[storage](x, N, inputs, words.data(), first, last); });
    WeightGradient args;
    args.N = N;
    args.inputs = inputs;
    args.columns = columns;
    args.x_words = words.data();
    args.d_gates = d_gates;
    args.gradient = gradient;
    const size_t scratch_bytes = size_t(kChunkRows * block) * bytes;
    const Buffer scratch = Buffer::uninitialized(scratch_bytes * size_t(threads));
    const long blocks = columns / block, parts = blocks < threads ? blocks : threads;
    run_tasks(int(parts), [&](int part) {
      kernels->weight_gradient[storage](args, scratch.data(size_t(part) * scratch_bytes), blocks * part / parts,
                                        blocks * (part + 1) / parts, 0, inputs);
    });
  });
}
