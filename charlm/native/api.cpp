#include "api.h"

#include "buffer.h"
#include "dispatch.h"
#include "model.h"
#include "threads.h"

using namespace charlm;

int charlm_interface() { return kInterface; }

const Kernels* charlm_kernels(const char* name) { return find_kernels(name); }

const char* charlm_kernels_name(const Kernels* kernels) { return kernels->name; }

void charlm_use_openmp(void* gomp_parallel) { use_openmp(gomp_parallel); }

Model* charlm_model_create(const Kernels* kernels, int storage, int64_t vocabulary, int64_t layers,
                           const int64_t* widths, const float* embedding, const float* decoder_bias,
                           const float* const* weights, int threads) {
  Model* model = nullptr;
  allocation_status([&] {
    model = new Model(kernels, storage, vocabulary, layers, widths, embedding, decoder_bias, weights, threads);
  });
  return model;
}

void charlm_model_destroy(Model* model) { delete model; }

int charlm_model_read(const Model* model, int64_t T, int64_t B, const int64_t* ids, float* h, float* c, float* logits,
                      const int64_t* targets, float* losses, int threads) {
  return allocation_status([&] { model->read(T, B, ids, h, c, logits, targets, losses, threads); });
}

Writer* charlm_writer_create(const Model* model, int64_t count, const int64_t* ids, int64_t places,
                             const uint8_t* allowed, const int64_t* following) {
  Writer* writer = nullptr;
  allocation_status([&] { writer = new Writer(*model, count, ids, places, allowed, following); });
  return writer;
}

void charlm_writer_destroy(Writer* writer) { delete writer; }

int charlm_writer_write(const Writer* writer, int64_t N, int64_t B, const CharlmDraw* draw, float* h, float* c,
                        float* logits, int64_t* place, const double* uniform, int64_t* written, int threads) {
  return allocation_status([&] { writer->write(N, B, *draw, h, c, logits, place, uniform, written, threads); });
}
