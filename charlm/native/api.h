// The engine's C functions, as charlm/native/__init__.py declares them for ctypes. All memory is the caller's,
// row-major and without gaps; shapes and the meaning of each array stand in kernels.h. Storage: 0 float32, 1 bfloat16,
// 2 int8.
#pragma once

#include <cstdint>

#include "kernels.h"

#if defined(_WIN32)
#define CHARLM_API extern "C" __declspec(dllexport)
#else
#define CHARLM_API extern "C" __attribute__((visibility("default")))
#endif

namespace charlm {
class Model;
class Writer;
}  // namespace charlm

// Raised with every change of these functions, so that a library built from other sources is found out.
constexpr int kInterface = 1;

CHARLM_API int charlm_interface();
// The kernels for an instruction set, or the best here for ""; null where there are none of that name.
CHARLM_API const charlm::Kernels* charlm_kernels(const char* name);
CHARLM_API const char* charlm_kernels_name(const charlm::Kernels*);
CHARLM_API void charlm_use_openmp(void* gomp_parallel);

// Training. H and the widths of inputs are multiples of 16; weights [4H][inputs] as torch has them, packed as many
// numbers.
CHARLM_API void charlm_pack_gates(const charlm::Kernels*, int storage, const float* weights, int64_t H, int64_t inputs,
                                  void* out, int threads);
// The recurrent weights [4H][H] for the way back, charlm_transposed_size numbers.
CHARLM_API void charlm_pack_transposed(const charlm::Kernels*, int storage, const float* weights, int64_t H,
                                       void* transposed, int threads);
CHARLM_API int64_t charlm_transposed_size(const charlm::Kernels*, int64_t H);
CHARLM_API void charlm_recurrence(const charlm::Kernels*, int storage, int64_t T, int64_t B, int64_t H, const void* x,
                                  int64_t x_width, const void* x_weights, const void* gates_in, const int64_t* index,
                                  const float* bias, const void* weights, void* hidden, float* cell, void* gates,
                                  int threads);
CHARLM_API void charlm_recurrence_gradient(const charlm::Kernels*, int storage, int64_t T, int64_t B, int64_t H,
                                           const void* d_out, const float* d_last, float* d_cell, const void* weights,
                                           const float* cell, const void* gates, void* d_gates, int threads);
CHARLM_API void charlm_add_rows(const charlm::Kernels*, int storage, const void* rows, const int64_t* index, int64_t N,
                                int64_t columns, float* sums, int threads);
// sums [inputs][columns] = the sum over n of x [N][inputs] times d [N][columns], which are in the storage's type;
// columns is a multiple of 64. 0, or 1 where memory is short.
CHARLM_API int charlm_weight_gradient(const charlm::Kernels*, int storage, int64_t N, int64_t inputs, int64_t columns,
                                      const void* x, const void* d, float* sums, int threads);

// Inference. `widths` holds the layers + 1 widths from the embedding to the last layer; `weights` for each layer W_ih,
// W_hh and bias. Null where memory is short.
CHARLM_API charlm::Model* charlm_model_create(const charlm::Kernels*, int storage, int64_t vocabulary, int64_t layers,
                                              const int64_t* widths, const float* embedding, const float* decoder_bias,
                                              const float* const* weights, int threads);
CHARLM_API void charlm_model_destroy(charlm::Model*);
// Reads ids [T][B]. h and c are updated; each has for every layer [B][width padded to 16], one layer after the other.
// Writes logits [T][B][V], or, with targets [T][B], losses [T][B]. 0, or 1 where memory is short.
CHARLM_API int charlm_model_read(const charlm::Model*, int64_t T, int64_t B, const int64_t* ids, float* h, float* c,
                                 float* logits, const int64_t* targets, float* losses, int threads);

// How ids are drawn (charlm/sampling.py says what the numbers mean).
struct CharlmDraw {
  double temperature;
  int64_t top_k;
  double top_p, min_p;
};
// What writes with a model: the `count` ids that may be written, ascending, and for each place [places] which of them
// may come there (`allowed` [places][count]) and to which place it leads (`following`). Null where memory is short. The
// model must outlive it.
CHARLM_API charlm::Writer* charlm_writer_create(const charlm::Model*, int64_t count, const int64_t* ids, int64_t places,
                                                const uint8_t* allowed, const int64_t* following);
CHARLM_API void charlm_writer_destroy(charlm::Writer*);
// Writes N ids in each of B streams: draw from logits [B][count] with uniform [N][B], read what was drawn, and so on.
// h, c, logits and place [B] are updated, written [N][B] is filled. 0, or 1 where memory is short.
CHARLM_API int charlm_writer_write(const charlm::Writer*, int64_t N, int64_t B, const CharlmDraw*, float* h, float* c,
                                   float* logits, int64_t* place, const double* uniform, int64_t* written, int threads);
