// What the native driver uses for its checks: assertions, random data, and a plain implementation of an LSTM step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

namespace {

using namespace charlm;

using Bytes = std::vector<unsigned char>;
using Floats = std::vector<float>;
using Reals = std::vector<double>;
using Ids = std::vector<int64_t>;
using Results = std::vector<Floats>;  // all outputs of a call; ids are so small that floats hold them exactly

const char* const kStorages[] = {"fp32", "bf16", "int8"};
// The largest relative error of an array that was computed with floats, and with each storage.
constexpr double kFloatTolerance = 2e-6;
constexpr double kTolerance[] = {kFloatTolerance, 2e-2, 2e-2};

std::string subject;  // what is being checked

void require(bool holds, const std::string& message) {
  if (holds) return;
  printf("FAILED %s: %s\n", subject.c_str(), message.c_str());
  exit(1);
}

void require_memory(int status) { require(status == 0, "out of memory"); }

bool same(const Results& a, const Results& b) {  // bit by bit, so that the sign of a zero counts
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Floats& x, const Floats& y) {
    return x.size() == y.size() && (x.empty() || !memcmp(x.data(), y.data(), x.size() * sizeof(float)));
  });
}

void require_close(const Floats& result, const Reals& expected, double tolerance, const std::string& name) {
  double error = 0, size = 0;
  for (size_t j = 0; j < expected.size(); ++j) {
    error += std::pow(result[j] - expected[j], 2);
    size += std::pow(expected[j], 2);
  }
  const double relative = std::sqrt(error / size);  // NaN fails the comparison below
  require(relative <= tolerance,
          name + " differs from the plain computation by " + std::to_string(1e6 * relative) + "e-6");
}

// The results of `compute` with one thread, which must be the same with more.
template <class Compute>
Results with_any_threads(const std::string& name, const Compute& compute) {
  const Results results = compute(1);
  for (const int threads : {2, 3}) require(same(compute(threads), results), name + " depends on the number of threads");
  return results;
}

std::mt19937 random_bits(1997);

double uniform() { return random_bits() / 4294967296.0; }

Floats random_floats(long count, double size = 1) {
  Floats values(count);
  for (float& value : values) value = float(size * (2 * uniform() - 1));
  return values;
}

Ids random_ids(long count, long limit) {
  Ids ids(count);
  for (int64_t& id : ids) id = int64_t(uniform() * double(limit));
  return ids;
}

// An array of floats or bfloat16 for a training function, filled with NaN.
Bytes unwritten(int storage, long count) { return Bytes(count * (storage == kFp32 ? 4 : 2), 0xff); }

Bytes stored(int storage, const Floats& values) {
  Bytes bytes = unwritten(storage, long(values.size()));
  for (size_t j = 0; j < values.size(); ++j) {
    uint32_t bits;
    memcpy(&bits, &values[j], 4);
    const uint16_t half = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest even
    if (storage == kFp32) memcpy(&bytes[4 * j], &bits, 4);
    if (storage == kBf16) memcpy(&bytes[2 * j], &half, 2);
  }
  return bytes;
}

Floats loaded(int storage, const Bytes& bytes) {
  Floats values(bytes.size() / (storage == kFp32 ? 4 : 2));
  for (size_t j = 0; j < values.size(); ++j) {
    uint16_t half;
    if (storage == kFp32) memcpy(&values[j], &bytes[4 * j], 4);
    if (storage == kFp32) continue;
    memcpy(&half, &bytes[2 * j], 2);
    const uint32_t bits = uint32_t(half) << 16;
    memcpy(&values[j], &bits, 4);
  }
  return values;
}

// ------------------------------------------------------------------------------------------------- plain computations

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Replaces one stream's gate sums [4H] by the activations, and computes the next c and h [H].
void plain_cell(double* gates, long H, const double* c, double* c_new, double* h_new) {
  for (long k = 0; k < H; ++k) {
    double &i = gates[k], &f = gates[H + k], &g = gates[2 * H + k], &o = gates[3 * H + k];
    i = sigmoid(i), f = sigmoid(f), g = std::tanh(g), o = sigmoid(o);
    c_new[k] = f * c[k] + i * g;
    h_new[k] = o * std::tanh(c_new[k]);
  }
}

// sums += W x for weights W [outputs][inputs].
template <class Number>
void plain_product(const Floats& weights, long inputs, const Number* x, double* sums) {
  for (size_t at = 0; at < weights.size(); ++at) sums[at / inputs] += double(weights[at]) * x[at % inputs];
}

}  // namespace
