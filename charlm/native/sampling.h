// Sampling of the next id of one stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "api.h"
#include "kernels.h"

namespace charlm {

// Memory for sampling from `count` candidates.
struct SamplingScratch {
  std::vector<double> probabilities;  // not normalized, at the end cumulative
  std::vector<long> order;
  explicit SamplingScratch(long count) : probabilities(size_t(count)), order(size_t(count)) {}
};

// The index of the candidate that `uniform`, a number in [0, 1), selects among those that are allowed, as next_ids of
// charlm/generation/sampling.py does. `logits` and `allowed` have `count` elements; at least one candidate must be
// allowed.
long sample(const Kernels* kernels, const CharlmSampling& sampling, const float* logits, const uint8_t* allowed,
            long count, double uniform, SamplingScratch& scratch);

}  // namespace charlm
