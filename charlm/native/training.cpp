// The recurrence of one layer for training, forward and backward, as C functions.

#include "api.h"
#include "buffer.h"
#include "kernels.h"
#include "threads.h"

namespace charlm {
namespace {

// Rows are parted among threads, so that none has to wait for another in all T steps.
template <class Work>
void share(long count, int threads, const Work& work) {
  const int parts = int(count < threads ? count : threads);
  run_tasks(parts, [&](int part) { work(count * part / parts, count * (part + 1) / parts); });
}

}  // namespace
}  // namespace charlm

using namespace charlm;

void charlm_pack_gates(const Kernels* kernels, int storage, const float* weights, int64_t H, int64_t inputs, void* out,
                       int threads) {
  const Matrix matrix{weights, 4 * H, inputs, true, nullptr};
  share(H / kernels->lanes, threads, [&](long a, long b) { kernels->pack[storage](matrix, out, a, b); });
}

void charlm_pack_transposed(const Kernels* kernels, int storage, const float* weights, int64_t H, void* transposed,
                            int threads) {
  const long block = 4 * kernels->lanes;
  share((H + block - 1) / block, threads,
        [&](long a, long b) { kernels->pack_transposed[storage](weights, H, transposed, a, b); });
}

int64_t charlm_transposed_size(const Kernels* kernels, int64_t H) {
  const int64_t block = 4 * kernels->lanes;
  return (H + block - 1) / block * block * 4 * H;
}

void charlm_recurrence(const Kernels* kernels, int storage, int64_t T, int64_t B, int64_t H, const void* x,
                       int64_t x_width, const void* x_weights, const void* gates_in, const int64_t* index,
                       const float* bias, const void* weights, void* hidden, float* cell, void* gates, int threads) {
  const Recurrence a{long(T), long(B), long(H), x,      long(x_width), x_weights, gates_in,
                     index,   bias,    weights, hidden, cell,          gates};
  share(B, threads, [&](long first, long last) { kernels->recurrence[storage](a, first, last); });
}

void charlm_recurrence_gradient(const Kernels* kernels, int storage, int64_t T, int64_t B, int64_t H, const void* d_out,
                                const float* d_last, float* d_cell, const void* weights, const float* cell,
                                const void* gates, void* d_gates, int threads) {
  const RecurrenceGradient a{long(T), long(B), long(H), d_out, d_last, d_cell, weights, cell, gates, d_gates};
  share(B, threads, [&](long first, long last) { kernels->recurrence_gradient[storage](a, first, last); });
}

void charlm_add_rows(const Kernels* kernels, int storage, const void* rows, const int64_t* index, int64_t N,
                     int64_t columns, float* sums, int threads) {
  share(columns / kUnitPadding, threads, [&](long first, long last) {
    kernels->add_rows[storage](rows, index, N, columns, sums, first * kUnitPadding, last * kUnitPadding);
  });
}

int charlm_weight_gradient(const Kernels* kernels, int storage, int64_t N, int64_t inputs, int64_t columns,
                           const void* x, const void* d, float* sums, int threads) {
  const size_t value = storage == kFp32 ? 4 : 2;
  const long chunks = (N + kChunkRows - 1) / kChunkRows, block = 4 * kernels->lanes;
  return allocation_status([&] {
    const Buffer words = Buffer::uninitialized(size_t(chunks) * kChunkRows * size_t(inputs + kUnitPadding) * value);
    share(chunks, threads,
          [&](long first, long last) { kernels->interleave[storage](x, N, inputs, words.data(), first, last); });
    const size_t room = size_t(kChunkRows * block) * value;
    const Buffer scratch = Buffer::uninitialized(room * size_t(threads));
    const WeightGradient a{long(N), long(inputs), long(columns), words.data(), d, sums};
    const long blocks = columns / block, parts = blocks < threads ? blocks : threads;
    run_tasks(int(parts), [&](int part) {
      kernels->weight_gradient[storage](a, scratch.data(size_t(part) * room), blocks * part / parts,
                                        blocks * (part + 1) / parts);
    });
  });
}
