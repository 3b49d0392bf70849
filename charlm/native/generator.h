// Generation with a model under a constraint: sample an id, read it, and so on.
#pragma once

#include <cstdint>
#include <vector>

#include "api.h"
#include "buffer.h"
#include "model.h"
#include "threads.h"

namespace charlm {

class Generator {
 public:
  // See charlm_generator_create.
  Generator(const Model& model, long candidate_count, const int64_t* candidates, long states, const uint8_t* allowed,
            const int64_t* transitions);

  // See charlm_generator_generate.
  void generate(long N, long B, const CharlmSampling& sampling, float* h, float* c, float* logits,
                int64_t* constraint_state, const double* uniform, int64_t* ids_out, int threads) const;

 private:
  struct Workspace;

  // Samples id number n of every stream. Returns whether the team is oversubscribed and should end after this step.
  bool sample_ids(Workspace& work, long n, const Member& member) const;
  // Reads the sampled ids and computes the next logits. `parity` is that of the step, see Workspace.
  void step(Workspace& work, int parity, const Member& member) const;

  const Model& model_;
  long candidate_count_;
  std::vector<int64_t> candidates_;
  std::vector<int64_t> transitions_;  // [states][candidates]
  std::vector<uint8_t> allowed_;      // [states][candidates]
  Buffer decoder_, bias_;             // of the candidates only
};

}  // namespace charlm
