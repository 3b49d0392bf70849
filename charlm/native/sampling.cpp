// From logits and a uniform number to the next id: charlm/sampling.py's next_ids for one stream.

#include <algorithm>
#include <limits>

#include "model.h"

namespace charlm {
namespace {

// Leaves only the likeliest candidates their weight: top_k of them, and of these the smallest set with top_p of the
// whole.
void keep_likeliest(const CharlmDraw& draw, std::vector<double>& weights, std::vector<long>& order) {
  const long count = long(weights.size());
  for (long v = 0; v < count; ++v) order[size_t(v)] = v;
  std::stable_sort(order.begin(), order.end(), [&](long a, long b) { return weights[size_t(a)] > weights[size_t(b)]; });
  const long kept = draw.top_k ? std::min<long>(count, draw.top_k) : count;
  double total = 0.0, before = 0.0;
  for (long rank = 0; rank < kept; ++rank) total += weights[size_t(order[size_t(rank)])];
  for (long rank = 0; rank < count; ++rank) {
    double& weight = weights[size_t(order[size_t(rank)])];
    const bool stays = rank < kept && (draw.top_p >= 1.0 || before / total < draw.top_p);
    before += weight;
    if (!stays) weight = 0.0;
  }
}

}  // namespace

long draw_one(const Kernels* kernels, const CharlmDraw& draw, const float* logits, const uint8_t* allowed, long count,
              double uniform, DrawMemory& memory) {
  std::vector<double>& weights = memory.weights;
  double most = -std::numeric_limits<double>::infinity();
  long best = 0;
  for (long v = 0; v < count; ++v)
    if (allowed[v] && double(logits[v]) > most) {
      most = double(logits[v]);
      best = v;
    }
  if (draw.temperature == 0.0) return best;
  kernels->weights(logits, allowed, count, most, draw.temperature, weights.data());
  if (draw.top_k || draw.top_p < 1.0) keep_likeliest(draw, weights, memory.order);
  if (draw.min_p > 0.0) {
    const double least = draw.min_p * *std::max_element(weights.begin(), weights.end());
    for (double& weight : weights)
      if (weight < least) weight = 0.0;
  }
  double sum = 0.0;
  for (double& weight : weights) weight = sum += weight;
  const auto chosen = std::upper_bound(weights.begin(), weights.end(), uniform * sum);
  // Rounding may carry uniform * sum up to the sum itself; the answer is then the last that has any weight.
  return long((chosen == weights.end() ? std::lower_bound(weights.begin(), weights.end(), sum) : chosen) -
              weights.begin());
}

}  // namespace charlm
