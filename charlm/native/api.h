// The C functions of the engine, which charlm/native/__init__.py declares for ctypes.
//
// The caller owns all memory. Arrays are contiguous and row-major; shapes and symbols are those of kernels.h. `storage`
// is 0 for float32, 1 for bfloat16 and 2 for int8. `threads` is the largest number of threads that a call may use;
// results do not depend on it. Functions that allocate return null or 1 if they run out of memory, and otherwise a
// handle or 0.
#pragma once

#include <cstdint>

#include "kernels.h"

#if defined(_WIN32)
#define CHARLM_API extern "C" __declspec(dllexport)
#else
#define CHARLM_API extern "C" __attribute__((visibility("default")))
#endif

namespace charlm {
class Generator;
class Model;
}  // namespace charlm

// Increase it with every change of this interface, so that Python rejects a library that does not match.
constexpr int kInterface = 3;

CHARLM_API int charlm_interface();
// The kernels for the instruction set `name`, or for the best available one if `name` is empty. Null if this processor
// or this build does not have it.
CHARLM_API const charlm::Kernels* charlm_kernels(const char* name);
CHARLM_API const char* charlm_kernels_name(const charlm::Kernels*);
// Runs training on the threads of torch's OpenMP library, given its function GOMP_parallel.
CHARLM_API void charlm_use_openmp(void* gomp_parallel);

// Training: one layer. H and input widths are multiples of 16.

// Packs weights [4H][inputs]; the result has the same number of elements.
CHARLM_API void charlm_pack_gates(const charlm::Kernels*, int storage, const float* weight, int64_t H, int64_t inputs,
                                  void* packed, int threads);
// Packs the transpose of the recurrent weights [4H][H] for the backward pass; the result has charlm_transposed_size
// elements.
CHARLM_API void charlm_pack_transposed(const charlm::Kernels*, int storage, const float* weight_hh, int64_t H,
                                       void* packed, int threads);
CHARLM_API int64_t charlm_transposed_size(const charlm::Kernels*, int64_t H);
// The forward pass; see Recurrence.
CHARLM_API void charlm_recurrence(const charlm::Kernels*, int storage, int64_t T, int64_t B, int64_t H, const void* x,
                                  int64_t input_width, const void* weight_ih, const void* table, const int64_t* index,
                                  const float* bias, const void* weight_hh, void* hidden, float* cell, void* gates,
                                  int threads);
// The backward pass; see RecurrenceGradient.
CHARLM_API void charlm_recurrence_gradient(const charlm::Kernels*, int storage, int64_t T, int64_t B, int64_t H,
                                           const void* d_output, const float* d_last_hidden, float* d_cell,
                                           const void* weight_hh_transposed, const float* cell, const void* gates,
                                           void* d_gates, int threads);
// Adds each row n of `rows` [N][columns] to row index[n] of `sums`, or to row 0 if `index` is null.
CHARLM_API void charlm_add_rows(const charlm::Kernels*, int storage, const void* rows, const int64_t* index, int64_t N,
                                int64_t columns, float* sums, int threads);
// gradient [inputs][columns] = the sum over n of x [N][inputs] times d_gates [N][columns]. `columns` is a multiple
// of 64.
CHARLM_API int charlm_weight_gradient(const charlm::Kernels*, int storage, int64_t N, int64_t inputs, int64_t columns,
                                      const void* x, const void* d_gates, float* gradient, int threads);
// A block of columns of a weight matrix: `weight`, its gradient and its momentum are arrays [rows][stride], of which
// the block is the first `columns`.
struct CharlmMuonBlock {
  int64_t rows, columns, stride;
  const float* gradient;
  float* momentum;
  float* weight;
  float lr;
};
// A step of Muon: updates the momentum, orthogonalizes it, and sets weight = (1 - decay) * weight - lr * update, for
// each block by itself. `storage` is the type of the factors of all products. Blocks are distributed over threads.
CHARLM_API int charlm_muon_step(const charlm::Kernels*, int storage, int64_t count, const CharlmMuonBlock*,
                                float momentum, float decay, int threads);

// Inference.

// Packs a model. `widths` [layers + 1] are those of the embedding and of each layer; the last equals the first, because
// the decoder's weight is the embedding [V][E]. `weights` [3 * layers] holds W_ih, W_hh and bias of each layer.
CHARLM_API charlm::Model* charlm_model_create(const charlm::Kernels*, int storage, int64_t vocabulary, int64_t layers,
                                              const int64_t* widths, const float* embedding, const float* decoder_bias,
                                              const float* const* weights, int threads);
CHARLM_API void charlm_model_destroy(charlm::Model*);
// Reads ids [T][B] and updates h and c: for one layer after the other [B][width padded to 16]. Writes logits [T][B][V]
// if `logits` is not null, and the cross-entropy with targets [T][B] to losses [T][B] if `losses` is not null.
CHARLM_API int charlm_model_forward(const charlm::Model*, int64_t T, int64_t B, const int64_t* ids, float* h, float* c,
                                    float* logits, const int64_t* targets, float* losses, int threads);

// How ids are sampled; charlm.config.SamplingConfig explains the fields.
struct CharlmSampling {
  double temperature;
  int64_t top_k;
  double top_p;
  double min_p;
};
// Prepares generation under a constraint, a finite automaton over ids. `candidates` are the ids that any state allows,
// in ascending order. `allowed` [states][candidate_count] tells which of them a state allows, `transitions` of the same
// shape to which state each leads. The model must outlive the generator.
CHARLM_API charlm::Generator* charlm_generator_create(const charlm::Model*, int64_t candidate_count,
                                                      const int64_t* candidates, int64_t states, const uint8_t* allowed,
                                                      const int64_t* transitions);
CHARLM_API void charlm_generator_destroy(charlm::Generator*);
// Generates N ids in each of B streams: samples from logits [B][candidate_count] with the numbers uniform [N][B], reads
// the sampled ids, and so on. Updates h, c, logits and constraint_state [B], and writes ids_out [N][B].
CHARLM_API int charlm_generator_generate(const charlm::Generator*, int64_t N, int64_t B, const CharlmSampling*,
                                         float* h, float* c, float* logits, int64_t* constraint_state,
                                         const double* uniform, int64_t* ids_out, int threads);
