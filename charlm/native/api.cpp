#include "api.h"

#include "buffer.h"
#include "dispatch.h"
#include "generator.h"
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

int charlm_model_forward(const Model* model, int64_t T, int64_t B, const int64_t* ids, float* h, float* c,
                         float* logits, const int64_t* targets, float* losses, int threads) {
  return allocation_status([&] { model->forward(T, B, ids, h, c, logits, targets, losses, threads); });
}

Generator* charlm_generator_create(const Model* model, int64_t candidate_count, const int64_t* candidates,
                                   int64_t states, const uint8_t* allowed, const int64_t* transitions) {
  Generator* generator = nullptr;
  allocation_status(
      [&] { generator = new Generator(*model, candidate_count, candidates, states, allowed, transitions); });
  return generator;
}

void charlm_generator_destroy(Generator* generator) { delete generator; }

int charlm_generator_generate(const Generator* generator, int64_t N, int64_t B, const CharlmSampling* sampling,
                              float* h, float* c, float* logits, int64_t* constraint_state, const double* uniform,
                              int64_t* ids_out, int threads) {
  return allocation_status(
      [&] { generator->generate(N, B, *sampling, h, c, logits, constraint_state, uniform, ids_out, threads); });
}
