// The step of the Muon optimizer (Jordan et al. 2024) for blocks of columns of weight matrices.
//
// A step adds to the weights an approximation of the matrix with orthonormal columns that is nearest to the momentum X,
// X (X^T X)^(-1/2). Newton-Schulz iterations replace X by X p(X^T X) with p(G) = a + b G + c G^2. They need X only at
// the start and at the end if the Gram matrix G = X^T X is iterated instead: G <- p(G) G p(G), Q <- Q p(G), finally
// X Q. All these factors are polynomials of the first G, so their products are symmetric, and half of each is computed.

#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "api.h"
#include "buffer.h"
#include "kernels.h"
#include "threads.h"

namespace charlm {
namespace {

// Jordan's coefficients. Three iterations bring singular values from 0.03 to 1 into the range 0.7 to 1.2.
constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
constexpr int kIterations = 3;

constexpr long kStripRows = 64;  // rows of the update at a time, so that they stay in the cache

long padded(long count, long to) { return (count + to - 1) / to * to; }

// One thread's arithmetic and memory, for blocks of at most the given size. Matrices are padded with zeros: rows to
// kUnitPadding, columns to whole blocks of the kernels. R and C stand for the padded numbers of rows and columns.
class MuonStep {
 public:
  MuonStep(const Kernels* kernels, int storage, long max_rows, long max_columns)
      : kernels_(*kernels), storage_(storage), column_block_(4 * kernels->lanes) {
    const long R = padded(max_rows, kUnitPadding), C = padded(max_columns, column_block_);
    const size_t value = storage == kFp32 ? 4 : 2;
    const auto allocate = [](long count, size_t size) { return Buffer::uninitialized(size_t(count) * size); };
    row_ = allocate(C, sizeof(float));
    x_ = allocate(R * C, value);
    words_ = allocate(padded(R > C ? R : C, kChunkRows) * (C + kUnitPadding), value);
    scratch_ = allocate(kChunkRows * column_block_, value);
    strip_ = allocate(kStripRows * C, sizeof(float));
    no_sums_ = Buffer::zeros(size_t(C) * sizeof(float));
    square_ = allocate(C * C, sizeof(float));
    gram_ = allocate(C * C, sizeof(float));
    polynomial_ = allocate(C * C, sizeof(float));
    total_ = allocate(C * C, sizeof(float));
    left_ = allocate(C * C, value);
    right_ = allocate(C * C, value);
  }

  void run(const CharlmMuonBlock& block, float momentum, float decay) {
    rows_ = padded(block.rows, kUnitPadding);
    columns_ = padded(block.columns, column_block_);
    update_momentum(block, momentum);
    multiply_symmetric(x_, x_, rows_, gram_);
    const float norm = frobenius_norm(gram_);
    if (norm > 0.0f) {
      scale(gram_, 1.0f / norm);
      iterate();
      scale(total_, block.lr / std::sqrt(norm));
    } else {
      memset(total_.data(), 0, size_t(columns_ * columns_) * sizeof(float));
    }
    update_weight(block, decay);
  }

 private:
  // Updates the momentum, and sets x to the direction of Nesterov's momentum.
  void update_momentum(const CharlmMuonBlock& block, float momentum) {
    float* row = row_.data<float>();
    memset(row, 0, size_t(columns_) * sizeof(float));
    const long row_bytes = columns_ * value_bytes();
    for (long r = 0; r < rows_; ++r) {
      if (r < block.rows) {
        const float* gradient = block.gradient + r * block.stride;
        float* average = block.momentum + r * block.stride;
        for (long c = 0; c < block.columns; ++c) {
          average[c] = gradient[c] + momentum * (average[c] - gradient[c]);
          row[c] = gradient[c] + momentum * (average[c] - gradient[c]);
        }
      } else if (r == block.rows) {
        memset(row, 0, size_t(columns_) * sizeof(float));
      }
      kernels_.convert[storage_](row, x_.data(size_t(r * row_bytes)), columns_);
    }
  }

  // Replaces the Gram matrix by its iterates, and computes the product of all polynomials in total_.
  void iterate() {
    for (int iteration = 0; iteration < kIterations; ++iteration) {
      const bool is_first = iteration == 0, is_last = iteration == kIterations - 1;
      convert(gram_, right_);
      multiply_symmetric(right_, right_, columns_, square_);
      polynomial();
      convert(polynomial_, left_);
      if (!is_last) multiply_symmetric(left_, right_, columns_, gram_);
      if (is_first) {
        std::swap(total_, polynomial_);
      } else {
        convert(total_, right_);
        multiply_symmetric(right_, left_, columns_, total_);
      }
      if (!is_last) {
        convert(gram_, right_);
        multiply_symmetric(right_, left_, columns_, gram_);
      }
    }
  }

  // polynomial = a + b gram + c square, where `square` is that of the Gram matrix.
  void polynomial() {
    const float *gram = gram_.data<float>(), *square = square_.data<float>();
    float* to = polynomial_.data<float>();
    for (long j = 0; j < columns_ * columns_; ++j) to[j] = kB * gram[j] + kC * square[j];
    for (long c = 0; c < columns_; ++c) to[c * (columns_ + 1)] += kA;
  }

  // weight = (1 - decay) weight - x total
  void update_weight(const CharlmMuonBlock& block, float decay) {
    Matrix matrix;
    matrix.values = total_.data<float>();
    matrix.outputs = matrix.inputs = columns_;
    kernels_.pack[storage_](matrix, right_.data(), 0, columns_ / column_block_);
    Affine product;
    product.x_stride = product.inputs = product.out_stride = columns_;
    product.weight = right_.data();
    product.initial_sums = no_sums_.data();
    product.out = strip_.data<float>();
    for (long begin = 0; begin < block.rows; begin += kStripRows) {
      const long rows = block.rows - begin < kStripRows ? block.rows - begin : kStripRows;
      product.x = x_.data(size_t(begin * columns_ * value_bytes()));
      kernels_.affine[storage_](product, 0, rows, 0, columns_ / column_block_);
      for (long r = 0; r < rows; ++r) {
        const float* update = strip_.data<float>(size_t(r * columns_));
        float* weight = block.weight + (begin + r) * block.stride;
        for (long c = 0; c < block.columns; ++c) weight[c] = weight[c] * (1.0f - decay) - update[c];
      }
    }
  }

  long value_bytes() const { return storage_ == kFp32 ? 4 : 2; }

  float frobenius_norm(const Buffer& square) const {
    double sum = 0.0;
    const float* values = square.data<float>();
    for (long j = 0; j < columns_ * columns_; ++j) sum += double(values[j]) * values[j];
    return float(std::sqrt(sum));
  }

  void scale(const Buffer& square, float factor) const {
    float* values = square.data<float>();
    for (long j = 0; j < columns_ * columns_; ++j) values[j] *= factor;
  }

  void convert(const Buffer& square, const Buffer& to) const {
    kernels_.convert[storage_](square.data<float>(), to.data(), columns_ * columns_);
  }

  // out [C][C] = x^T y for x and y [N][C], where the result is known to be symmetric.
  void multiply_symmetric(const Buffer& x, const Buffer& y, long N, const Buffer& out) const {
    kernels_.interleave[storage_](x.data(), N, columns_, words_.data(), 0, (N + kChunkRows - 1) / kChunkRows);
    WeightGradient product;
    product.N = N;
    product.inputs = product.columns = columns_;
    product.x_words = words_.data();
    product.d_gates = y.data();
    product.gradient = out.data<float>();
    for (long block = 0; block < columns_ / column_block_; ++block)
      kernels_.weight_gradient[storage_](product, scratch_.data(), block, block + 1, 0, (block + 1) * column_block_);
    float* values = out.data<float>();
    for (long begin = 0; begin < columns_; begin += kUnitPadding)  // a strip of columns at a time, for the cache
      for (long r = begin + 1; r < columns_; ++r)
        for (long c = begin; c < begin + kUnitPadding && c < r; ++c)
          values[r * columns_ + c] = values[c * columns_ + r];
  }

  const Kernels& kernels_;
  const int storage_;
  const long column_block_;
  long rows_ = 0, columns_ = 0;                // padded
  Buffer row_, strip_, no_sums_;               // [C], [kStripRows][C] and [C] floats
  Buffer x_;                                   // [R][C] in the storage's type
  Buffer words_, scratch_;                     // of WeightGradient
  Buffer gram_, square_, polynomial_, total_;  // [C][C] floats
  Buffer left_, right_;                        // [C][C] in the storage's type
};

}  // namespace
}  // namespace charlm

using namespace charlm;

int charlm_muon_step(const Kernels* kernels, int storage, int64_t count, const CharlmMuonBlock* blocks, float momentum,
                     float decay, int threads) {
  long rows = 0, columns = 0;
  for (long j = 0; j < count; ++j) {
    rows = blocks[j].rows > rows ? blocks[j].rows : rows;
    columns = blocks[j].columns > columns ? blocks[j].columns : columns;
  }
  const int parts = int(count < threads ? count : threads);
  return allocation_status([&] {
    std::vector<MuonStep> steps;
    steps.reserve(size_t(parts));
    for (int part = 0; part < parts; ++part) steps.emplace_back(kernels, storage, rows, columns);
    std::atomic<long> next{0};
    run_tasks(parts, [&](int part) {
      for (long j; (j = next.fetch_add(1)) < count;) steps[size_t(part)].run(blocks[j], momentum, decay);
    });
  });
}
