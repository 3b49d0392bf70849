// A trained model, packed for inference. Shapes: see kernels.h; E is the embedding's width, which is also that of the
// last layer, because the decoder's weight is the embedding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "threads.h"

namespace charlm {

inline long ceil_to(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Layer {
  long input_width = 0, hidden_width = 0;  // as trained
  long I = 0, H = 0;                       // the same, padded to kUnitPadding
  Buffer weight_ih;                        // packed; empty in the first layer, whose input is one of V embeddings
  Buffer weight_hh;                        // packed
  Buffer bias;                             // [4H]
  // Per gate [4H], and used only by int8 except for initial_hh, which holds the bias otherwise: what the integer sums
  // are multiplied by, and what they begin with (CellStep).
  Buffer scale_ih, scale_hh;
  Buffer initial_ih, initial_hh;
};

class Model {
 public:
  Model(const Kernels* kernels, int storage, long vocabulary, long layers, const int64_t* widths,
        const float* embedding, const float* decoder_bias, const float* const* weights, int threads);

  void forward(long T, long B, const int64_t* ids, float* h, float* c, float* logits, const int64_t* targets,
               float* losses, int threads) const;

 private:
  friend class Generator;
  struct Chunk;

  void pack_layer(Layer& layer, bool first, const float* const* weights);
  Buffer pack_gates(const Layer& layer, const float* weight, long inputs, Buffer& scale, Buffer& initial) const;
  void prepare_first_layer(const float* weight_ih, int threads);
  Buffer pack_decoder(long count, const int64_t* ids) const;

  void first_layer_sums(const int64_t* ids, long count, float* embedded, float* sums, const Member& member) const;
  void run_layer(const Chunk& chunk, size_t number, const Member& member) const;
  void decode(const Chunk& chunk, const Member& member, float* logits, const int64_t* targets, float* losses) const;

  // The number of threads that is worth starting for so many multiplications.
  int team_size(double multiplications, int threads) const;
  double multiplications_per_id() const;
  size_t value_bytes() const { return storage_ == kFp32 ? 4 : storage_ == kBf16 ? 2 : 1; }
  // The decoder does not use int8: it would cost the logits too much precision.
  int decoder_storage() const { return storage_ == kFp32 ? kFp32 : kBf16; }

  const Kernels* kernels_;
  int storage_;
  long vocabulary_, embedding_width_;
  std::vector<Layer> layers_;
  Buffer embedding_;        // [V][E]
  Buffer input_table_;      // [V][4H] W_ih x + bias of the first layer for each id, unless that is too large
  Buffer first_weight_ih_;  // packed as floats; only without the table
  Buffer decoder_;          // packed
  Buffer decoder_bias_;     // [V], padded to 4 vectors
};

}  // namespace charlm
