// A trained model packed for inference, and what writes with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "api.h"
#include "buffer.h"
#include "kernels.h"
#include "threads.h"

namespace charlm {

struct Layer {
  long width_in, width;  // as trained
  long in, H;            // padded to kUnitPadding
  Buffer x_weights;      // none in the first layer, whose input is one of V rows
  Buffer h_weights;
  Buffer bias;            // [4H]
  Buffer scale, x_scale;  // [4H] what the integer sums of int8 are multiplied by
  Buffer start, x_start;  // [4H] what sums begin with: the bias, for int8 the integers that take off the 128 of inputs
};

class Model {
 public:
  Model(const Kernels* kernels, int storage, long vocabulary, long layers, const int64_t* widths,
        const float* embedding, const float* decoder_bias, const float* const* weights, int threads);

  void read(long T, long B, const int64_t* ids, float* h, float* c, float* logits, const int64_t* targets,
            float* losses, int threads) const;

 private:
  friend class Writer;
  struct Chunk;

  void pack_layer(Layer& layer, bool first, const float* const* weights);
  Buffer pack_gates(const Layer& layer, const float* weights, long inputs, Buffer& scale, Buffer& start) const;
  void pack_first_input(const float* w_ih, int threads);
  Buffer pack_decoder(long count, const int64_t* ids) const;
  void first_inputs(const int64_t* ids, long count, float* rows, float* out, const Member& member) const;
  void run_layer(const Chunk& chunk, size_t number, const Member& member) const;
  void decode(const Chunk& chunk, const Member& member, float* logits, const int64_t* targets, float* losses) const;
  int members(double work, int threads) const;
  size_t value_size() const { return storage_ == kFp32 ? 4 : storage_ == kBf16 ? 2 : 1; }
  // Logits are computed from floats or bf16; int8 would cost them too much.
  int decoder_storage() const { return storage_ == kFp32 ? kFp32 : kBf16; }
  double multiplications() const;

  const Kernels* kernels_;
  int storage_;
  long vocabulary_, embedding_width_;
  std::vector<Layer> layers_;
  Buffer embedding_;      // [V][E]
  Buffer table_;          // [V][4H] the first layer's input sums for every id, if they fit
  Buffer first_weights_;  // else its weights, as floats
  Buffer decoder_;        // packed
  Buffer decoder_bias_;   // [V], padded
};

class Writer {
 public:
  Writer(const Model& model, long count, const int64_t* ids, long places, const uint8_t* allowed,
         const int64_t* following);
  void write(long N, long B, const CharlmDraw& draw, float* h, float* c, float* logits, int64_t* place,
             const double* uniform, int64_t* written, int threads) const;

 private:
  struct Work;
  // Whether the team had better end after this step, to make room.
  bool draw_ids(Work& work, long n, const Member& member) const;
  void step(Work& work, int parity, const Member& member) const;

  const Model& model_;
  long count_;
  std::vector<int64_t> ids_, following_;
  std::vector<uint8_t> allowed_;
  Buffer decoder_, bias_;
};

// Memory for drawing among `count` candidates.
struct DrawMemory {
  std::vector<double> weights;
  std::vector<long> order;
  explicit DrawMemory(long count) : weights(size_t(count)), order(size_t(count)) {}
};

// Which of `count` candidates, of those that are allowed, the uniform number chooses.
long draw_one(const Kernels* kernels, const CharlmDraw& draw, const float* logits, const uint8_t* allowed, long count,
              double uniform, DrawMemory& memory);

inline long ceil_to(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace charlm
