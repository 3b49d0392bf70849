#include "sampling.h"

#include <algorithm>
#include <limits>

namespace charlm {
namespace {

// Sets to 0 all probabilities except the top_k largest, and of these all except the smallest set with a share of top_p.
void apply_top_k_and_top_p(const CharlmSampling& sampling, std::vector<double>& probabilities,
                           std::vector<long>& order) {
  const long count = long(probabilities.size());
  for (long v = 0; v < count; ++v) order[size_t(v)] = v;
  std::stable_sort(order.begin(), order.end(),
                   [&](long a, long b) { return probabilities[size_t(a)] > probabilities[size_t(b)]; });
  const long kept = sampling.top_k ? std::min<long>(count, sampling.top_k) : count;
  double total = 0.0, before = 0.0;
  for (long rank = 0; rank < kept; ++rank) total += probabilities[size_t(order[size_t(rank)])];
  for (long rank = 0; rank < count; ++rank) {
    double& probability = probabilities[size_t(order[size_t(rank)])];
    const bool keep = rank < kept && (sampling.top_p >= 1.0 || before / total < sampling.top_p);
    before += probability;
    if (!keep) probability = 0.0;
  }
}

}  // namespace

long sample(const Kernels* kernels, const CharlmSampling& sampling, const float* logits, const uint8_t* allowed,
            long count, double uniform, SamplingScratch& scratch) {
  std::vector<double>& probabilities = scratch.probabilities;
  double max_logit = -std::numeric_limits<double>::infinity();
  long argmax = 0;
  for (long v = 0; v < count; ++v)
    if (allowed[v] && double(logits[v]) > max_logit) {
      max_logit = double(logits[v]);
      argmax = v;
    }
  if (sampling.temperature == 0.0) return argmax;
  kernels->unnormalized_softmax(logits, allowed, count, max_logit, sampling.temperature, probabilities.data());
  if (sampling.top_k || sampling.top_p < 1.0) apply_top_k_and_top_p(sampling, probabilities, scratch.order);
  if (sampling.min_p > 0.0) {
    const double threshold = sampling.min_p * *std::max_element(probabilities.begin(), probabilities.end());
    for (double& probability : probabilities)
      if (probability < threshold) probability = 0.0;
  }
  double sum = 0.0;
  for (double& probability : probabilities) probability = sum += probability;
  const auto begin = probabilities.begin(), end = probabilities.end();
  auto chosen = std::upper_bound(begin, end, uniform * sum);
  // uniform * sum may be rounded up to the sum. The last candidate with a probability above 0 is then the right one.
  if (chosen == end) chosen = std::lower_bound(begin, end, sum);
  return long(chosen - begin);
}

}  // namespace charlm
