// Checks of the engine's step of Muon: it agrees with the iteration written out, with any number of threads.
#pragma once

#include "api.h"
#include "native_laws.h"

namespace {

// The iteration multiplies small singular values by 40, and with them the errors of rounding.
constexpr double kMuonTolerance[] = {1e-5, 5e-2};

// A block of a matrix [rows][stride] that begins at column `first`, as a matrix of doubles [rows][columns].
Reals block_of(const Floats& matrix, long rows, long stride, long first, long columns) {
  Reals block;
  for (long r = 0; r < rows; ++r)
    block.insert(block.end(), &matrix[r * stride + first], &matrix[r * stride + first] + columns);
  return block;
}

// left [N][rows]^T times right [N][columns].
Reals transposed_product(const Reals& left, const Reals& right, long N) {
  const long rows = long(left.size()) / N, columns = long(right.size()) / N;
  Reals product(rows * columns);
  for (long n = 0; n < N; ++n)
    for (long r = 0; r < rows; ++r)
      for (long c = 0; c < columns; ++c) product[r * columns + c] += left[n * rows + r] * right[n * columns + c];
  return product;
}

double sum_of_squares(const Reals& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return sum;
}

// Three iterations of X p(X^T X) for a block [rows][columns], which is orthonormal afterwards.
Reals plain_orthogonalization(Reals x, long rows, long columns) {
  const double norm = std::pow(sum_of_squares(transposed_product(x, x, rows)), 0.25);
  for (double& value : x) value /= norm;
  for (int iteration = 0; iteration < 3; ++iteration) {
    const Reals gram = transposed_product(x, x, rows), square = transposed_product(gram, gram, columns);
    Reals next(rows * columns);
    for (long r = 0; r < rows; ++r)
      for (long k = 0; k < columns; ++k)
        for (long c = 0; c < columns; ++c)
          next[r * columns + c] += x[r * columns + k] * ((k == c ? 3.4445 : 0.0) - 4.7750 * gram[k * columns + c] +
                                                         2.0315 * square[k * columns + c]);
    x = next;
  }
  return x;
}

void check_muon(const Kernels* kernels, int storage, long rows, const std::vector<long>& widths) {
  constexpr float kMomentum = 0.75f, kDecay = 0.125f, kLr = 0.5f;
  long stride = 0;
  for (const long width : widths) stride += width;
  const Floats gradient = random_floats(rows * stride), momentum = random_floats(rows * stride),
               weight = random_floats(rows * stride, 0.1);
  const Results stepped = with_any_threads("Muon", [&](int threads) {
    Floats new_momentum = momentum, new_weight = weight;
    std::vector<CharlmMuonBlock> blocks;
    long first = 0;
    for (const long width : widths) {
      blocks.push_back({rows, width, stride, &gradient[first], &new_momentum[first], &new_weight[first], kLr});
      first += width;
    }
    require_memory(charlm_muon_step(kernels, storage, long(blocks.size()), blocks.data(), kMomentum, kDecay, threads));
    return Results{new_weight, new_momentum};
  });
  Reals expected;
  for (long at = 0; at < rows * stride; ++at)
    expected.push_back(double(gradient[at]) + kMomentum * (double(momentum[at]) - gradient[at]));
  require_close(stepped[1], expected, kFloatTolerance, "momentum");
  long first = 0;
  for (const long width : widths) {
    const Reals g = block_of(gradient, rows, stride, first, width),
                m = block_of(stepped[1], rows, stride, first, width),
                before = block_of(weight, rows, stride, first, width),
                after = block_of(stepped[0], rows, stride, first, width);
    Reals direction;
    for (size_t j = 0; j < g.size(); ++j) direction.push_back(g[j] + kMomentum * (m[j] - g[j]));
    Floats update;
    for (size_t j = 0; j < g.size(); ++j) update.push_back(float((before[j] * (1 - kDecay) - after[j]) / kLr));
    require_close(update, plain_orthogonalization(direction, rows, width), kMuonTolerance[storage], "update");
    first += width;
  }
}

}  // namespace
