#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace charlm {
namespace {

constexpr size_t kMaxTableBytes = size_t(256) << 20;
constexpr size_t kMaxChunkSums = size_t(4) << 20;       // sums of one layer that are held at a time
constexpr long kStripRows = 96;                         // rows that stay in the cache while all weights are read
constexpr double kMinMultiplicationsPerThread = 1.5e5;  // below this a thread costs more time than it saves

// Returns rows [count][columns] padded with zeros to `padded_columns`. The padded copy is kept in `copy`; without
// padding the rows themselves are returned.
const float* pad_columns(const float* rows, long count, long columns, long padded_columns, Buffer& copy) {
  if (columns == padded_columns) return rows;
  copy = Buffer::zeros(size_t(count) * padded_columns * sizeof(float));
  for (long row = 0; row < count; ++row)
    memcpy(copy.data<float>(size_t(row) * padded_columns), rows + row * columns, size_t(columns) * sizeof(float));
  return copy.data<float>();
}

Buffer pack(const Kernels* kernels, int storage, const Matrix& matrix) {
  Buffer packed = Buffer::zeros(size_t(kernels->packed_bytes(storage, matrix)));
  const long lanes = kernels->lanes;
  const long blocks = matrix.by_gates ? ceil_to(matrix.outputs / 4, kUnitPadding) / lanes
                                      : ceil_to(matrix.outputs, 4 * lanes) / (4 * lanes);
  kernels->pack[storage](matrix, packed.data(), 0, blocks);
  return packed;
}

}  // namespace

// ------------------------------------------------------------------------------------------------- packing

Model::Model(const Kernels* kernels, int storage, long vocabulary, long layers, const int64_t* widths,
             const float* embedding, const float* decoder_bias, const float* const* weights, int threads)
    : kernels_(kernels), storage_(storage), vocabulary_(vocabulary), embedding_width_(widths[0]) {
  embedding_ = Buffer::zeros(size_t(vocabulary) * widths[0] * sizeof(float));
  memcpy(embedding_.data(), embedding, size_t(vocabulary) * widths[0] * sizeof(float));
  for (long number = 0; number < layers; ++number) {
    Layer layer;
    layer.input_width = widths[number];
    layer.hidden_width = widths[number + 1];
    layer.I = ceil_to(layer.input_width, kUnitPadding);
    layer.H = ceil_to(layer.hidden_width, kUnitPadding);
    pack_layer(layer, number == 0, weights + 3 * number);
    layers_.push_back(std::move(layer));
  }
  prepare_first_layer(weights[0], threads);
  decoder_ = pack_decoder(vocabulary, nullptr);
  decoder_bias_ = Buffer::zeros(size_t(ceil_to(vocabulary, 4 * kernels->lanes)) * sizeof(float));
  memcpy(decoder_bias_.data(), decoder_bias, size_t(vocabulary) * sizeof(float));
}

void Model::pack_layer(Layer& layer, bool first, const float* const* weights) {
  const long rows = 4 * layer.hidden_width;
  Buffer copy_ih, copy_hh;
  const float* weight_ih = first ? nullptr : pad_columns(weights[0], rows, layer.input_width, layer.I, copy_ih);
  const float* weight_hh = pad_columns(weights[1], rows, layer.hidden_width, layer.H, copy_hh);
  for (Buffer* per_gate : {&layer.bias, &layer.scale_ih, &layer.scale_hh, &layer.initial_ih, &layer.initial_hh})
    *per_gate = Buffer::zeros(size_t(4 * layer.H) * 4);
  for (long row = 0; row < rows; ++row)
    layer.bias.data<float>()[row / layer.hidden_width * layer.H + row % layer.hidden_width] = weights[2][row];
  if (storage_ != kInt8) memcpy(layer.initial_hh.data(), layer.bias.data(), size_t(4 * layer.H) * 4);
  if (weight_ih) layer.weight_ih = pack_gates(layer, weight_ih, layer.I, layer.scale_ih, layer.initial_ih);
  layer.weight_hh = pack_gates(layer, weight_hh, layer.H, layer.scale_hh, layer.initial_hh);
}

// Packs a weight [4 hidden_width][inputs]. For int8 each row is scaled so that its largest value becomes 127, and
// `initial` subtracts the offset of 128 of the activations from the row's sum.
Buffer Model::pack_gates(const Layer& layer, const float* weight, long inputs, Buffer& scale, Buffer& initial) const {
  const long rows = 4 * layer.hidden_width;
  std::vector<float> factors(size_t(rows), 1.0f);
  for (long row = 0; row < rows && storage_ == kInt8; ++row) {
    const float* values = weight + row * inputs;
    float largest = 1e-12f;
    for (long k = 0; k < inputs; ++k) largest = std::max(largest, std::fabs(values[k]));
    const float factor = factors[size_t(row)] = 127.0f / largest;
    int32_t sum = 0;
    for (long k = 0; k < inputs; ++k) sum += int32_t(lrintf(values[k] * factor));
    const long gate = row / layer.hidden_width * layer.H + row % layer.hidden_width;
    initial.data<int32_t>()[gate] = -128 * sum;
    scale.data<float>()[gate] = largest / (127.0f * 127.0f);
  }
  Matrix matrix;
  matrix.values = weight;
  matrix.outputs = rows;
  matrix.inputs = inputs;
  matrix.by_gates = true;
  matrix.scale = factors.data();
  return pack(kernels_, storage_, matrix);
}

// Computes the table of the first layer's input sums, or keeps the layer's weight if the table would be too large.
void Model::prepare_first_layer(const float* weight_ih, int threads) {
  const Layer& layer = layers_.front();
  Matrix matrix;
  matrix.values = weight_ih;
  matrix.outputs = 4 * layer.hidden_width;
  matrix.inputs = layer.input_width;
  matrix.by_gates = true;
  first_weight_ih_ = pack(kernels_, kFp32, matrix);
  if (size_t(vocabulary_) * 4 * layer.H * sizeof(float) > kMaxTableBytes) return;
  Buffer table = Buffer::zeros(size_t(vocabulary_) * 4 * layer.H * sizeof(float));
  Affine affine;
  affine.x = embedding_.data();
  affine.x_stride = embedding_width_;
  affine.inputs = layer.input_width;
  affine.weight = first_weight_ih_.data();
  affine.initial_sums = layer.bias.data();
  affine.out = table.data<float>();
  affine.out_stride = 4 * layer.H;
  affine.by_gates = true;
  affine.units = layer.H;
  const double multiplications = double(vocabulary_) * 4 * layer.H * layer.input_width;
  run_team(team_size(multiplications, threads), [&](const Member& member) {
    const long blocks = layer.H / kernels_->lanes;
    kernels_->affine[kFp32](affine, 0, vocabulary_, member.first(blocks), member.last(blocks));
  });
  input_table_ = std::move(table);
  first_weight_ih_ = Buffer();
}

// Packs the decoder for the given ids, or for all ids if `ids` is null. Its rows are those of the embedding.
Buffer Model::pack_decoder(long count, const int64_t* ids) const {
  const long E = embedding_width_, H = layers_.back().H;
  Buffer rows = Buffer::zeros(size_t(count) * H * sizeof(float));
  for (long row = 0; row < count; ++row)
    memcpy(rows.data<float>(size_t(row) * H), embedding_.data<float>(size_t(ids ? ids[row] : row) * E),
           size_t(E) * sizeof(float));
  Matrix matrix;
  matrix.values = rows.data<float>();
  matrix.outputs = count;
  matrix.inputs = H;
  return pack(kernels_, decoder_storage(), matrix);
}

double Model::multiplications_per_id() const {
  double count = 0;
  for (const Layer& layer : layers_) count += 4.0 * layer.H * (layer.H + (layer.weight_ih ? layer.I : 0));
  return count;
}

int Model::team_size(double multiplications, int threads) const {
  return std::max(1, std::min(threads, int(std::min(multiplications / kMinMultiplicationsPerThread, 1e6))));
}

// ------------------------------------------------------------------------------------------------- forward

// Some steps of a text, which pass through one layer after the other. What `forward` allocates is reused by each chunk.
struct Model::Chunk {
  long T = 0, B = 0;
  const int64_t* ids = nullptr;                      // [T][B]
  float* h = nullptr;                                // [layers][B][H]
  float* c = nullptr;                                // [layers][B][H]
  bool split_rows = false;                           // threads divide the rows among themselves, and not the units
  float* input_sums = nullptr;                       // [T][B][4H] W_ih x + bias of a layer above the first
  float* first_input_sums = nullptr;                 // [T][B][4H] of the first layer, without an input table
  float* embedded = nullptr;                         // [T][B][E] without an input table
  std::vector<const void*>* initial_sums = nullptr;  // [T][B] for CellStep
  std::vector<const float*>* addends = nullptr;      // [T][B] for CellStep
  char* outputs[2] = {};  // [T + 1][B][H] of this layer and of the one below, alternating; row 0 is the state before
  uint16_t* top_bf16 = nullptr;  // [T][B][H] outputs of the last layer for the decoder of int8
  float* logits = nullptr;       // [members][kStripRows][V] scratch
};

// sums [count][4H] = W_ih x + bias of the first layer for the embeddings x of `ids`.
void Model::first_layer_sums(const int64_t* ids, long count, float* embedded, float* sums, const Member& member) const {
  const Layer& layer = layers_.front();
  for (long n = member.first(count); n < member.last(count); ++n)
    memcpy(embedded + n * embedding_width_, embedding_.data<float>(size_t(ids[n]) * embedding_width_),
           size_t(embedding_width_) * sizeof(float));
  member.wait();
  Affine affine;
  affine.x = embedded;
  affine.x_stride = embedding_width_;
  affine.inputs = layer.input_width;
  affine.weight = first_weight_ih_.data();
  affine.initial_sums = layer.bias.data();
  affine.out = sums;
  affine.out_stride = 4 * layer.H;
  affine.by_gates = true;
  affine.units = layer.H;
  const long blocks = layer.H / kernels_->lanes;
  kernels_->affine[kFp32](affine, 0, count, member.first(blocks), member.last(blocks));
  member.wait();
}

void Model::run_layer(const Chunk& chunk, size_t number, const Member& member) const {
  const Layer& layer = layers_[number];
  const long T = chunk.T, B = chunk.B, H = layer.H, units = H / kernels_->lanes, rows = T * B;
  const size_t bytes = value_bytes();
  size_t offset = 0;
  for (size_t below = 0; below < number; ++below) offset += size_t(layers_[below].H) * B;
  float* h = chunk.h + offset;
  float* c = chunk.c + offset;
  char* input = chunk.outputs[(number + 1) % 2] + size_t(B) * layer.I * bytes;  // without the state before
  char* output = chunk.outputs[number % 2];
  if (number == 0 && !input_table_) first_layer_sums(chunk.ids, rows, chunk.embedded, chunk.first_input_sums, member);
  if (number > 0) {
    Affine affine;
    affine.x = input;
    affine.x_stride = layer.I;
    affine.inputs = layer.I;
    affine.weight = layer.weight_ih.data();
    affine.initial_sums = storage_ == kInt8 ? layer.initial_ih.data() : layer.initial_hh.data();
    affine.out = chunk.input_sums;
    affine.out_stride = 4 * H;
    affine.by_gates = true;
    affine.units = H;
    affine.scale = layer.scale_ih.data<float>();
    affine.bias = layer.bias.data<float>();
    for (long row = member.first(rows); row < member.last(rows); row += kStripRows)
      kernels_->affine[storage_](affine, row, std::min(row + kStripRows, member.last(rows)), 0, units);
  }
  for (long n = member.first(rows); n < member.last(rows); ++n) {
    const float* sums = number         ? chunk.input_sums + n * 4 * H
                        : input_table_ ? input_table_.data<float>(size_t(chunk.ids[n]) * 4 * H)
                                       : chunk.first_input_sums + n * 4 * H;
    (*chunk.addends)[size_t(n)] = sums;
    (*chunk.initial_sums)[size_t(n)] =
        storage_ == kInt8 ? layer.initial_hh.data() : reinterpret_cast<const char*>(sums);
  }
  if (member.index == 0) kernels_->convert[storage_](h, output, B * H);
  member.wait();
  for (long t = 0; t < T; ++t) {
    CellStep step;
    step.H = H;
    step.initial_sums = chunk.initial_sums->data() + t * B;
    step.addends = chunk.addends->data() + t * B;
    step.scale_hh = layer.scale_hh.data<float>();
    step.hidden = output + size_t(t) * B * H * bytes;
    step.weight_hh = layer.weight_hh.data();
    step.cell = c;
    step.new_hidden = output + size_t(t + 1) * B * H * bytes;
    step.new_hidden_fp32 = h;
    if (number + 1 == layers_.size() && chunk.top_bf16) step.new_hidden_bf16 = chunk.top_bf16 + t * B * H;
    if (chunk.split_rows) {
      kernels_->cell_step[storage_](step, member.first(B), member.last(B), 0, units);
    } else {
      kernels_->cell_step[storage_](step, 0, B, member.first(units), member.last(units));
      member.wait();
    }
  }
  member.wait();
}

void Model::decode(const Chunk& chunk, const Member& member, float* logits, const int64_t* targets,
                   float* losses) const {
  const size_t last_layer = layers_.size() - 1;
  const long H = layers_[last_layer].H, stride = ceil_to(vocabulary_, 4 * kernels_->lanes), rows = chunk.T * chunk.B;
  const char* outputs = chunk.top_bf16 ? reinterpret_cast<const char*>(chunk.top_bf16)
                                       : chunk.outputs[last_layer % 2] + size_t(chunk.B) * H * value_bytes();
  const size_t bytes = decoder_storage() == kFp32 ? 4 : 2;
  float* scratch = chunk.logits + size_t(member.index) * kStripRows * stride;
  for (long row = member.first(rows); row < member.last(rows); row += kStripRows) {
    const long count = std::min(kStripRows, member.last(rows) - row);
    Affine affine;
    affine.x = outputs + size_t(row) * H * bytes;
    affine.x_stride = H;
    affine.inputs = H;
    affine.weight = decoder_.data();
    affine.initial_sums = decoder_bias_.data();
    affine.out = scratch;
    affine.out_stride = stride;
    kernels_->affine[decoder_storage()](affine, 0, count, 0, stride / (4 * kernels_->lanes));
    if (losses) kernels_->cross_entropy(scratch, stride, vocabulary_, targets + row, losses + row, count);
    if (logits)
      for (long n = 0; n < count; ++n)
        memcpy(logits + (row + n) * vocabulary_, scratch + n * stride, size_t(vocabulary_) * sizeof(float));
  }
}

void Model::forward(long T, long B, const int64_t* ids, float* h, float* c, float* logits, const int64_t* targets,
                    float* losses, int threads) const {
  if (T == 0 || B == 0) return;
  long max_width = 0;
  for (const Layer& layer : layers_) max_width = std::max({max_width, layer.H, layer.I});
  const long max_steps = std::max<long>(1, long(kMaxChunkSums / size_t(4 * max_width * B)));
  const long chunk_steps = std::min(T, max_steps), rows = chunk_steps * B;
  const int members = team_size(multiplications_per_id() * double(T * B), threads);
  const long stride = ceil_to(vocabulary_, 4 * kernels_->lanes);
  const auto scratch = [](bool needed, size_t bytes) { return Buffer::uninitialized(needed ? bytes : 0); };
  const Buffer input_sums = scratch(layers_.size() > 1, size_t(rows) * 4 * max_width * 4);
  const Buffer outputs[2] = {scratch(true, size_t(rows + B) * max_width * value_bytes()),
                             scratch(true, size_t(rows + B) * max_width * value_bytes())};
  const Buffer first_input_sums = scratch(!input_table_, size_t(rows) * 4 * layers_[0].H * 4);
  const Buffer embedded = scratch(!input_table_, size_t(rows) * embedding_width_ * 4);
  const Buffer top_bf16 = scratch(storage_ == kInt8, size_t(rows) * layers_.back().H * 2);
  const Buffer strips = scratch(true, size_t(members) * kStripRows * stride * 4);
  std::vector<const void*> initial_sums(static_cast<size_t>(rows));
  std::vector<const float*> addends(static_cast<size_t>(rows));
  Chunk chunk;
  chunk.B = B;
  chunk.h = h;
  chunk.c = c;
  chunk.split_rows = B >= 8 * members;
  chunk.input_sums = input_sums.data<float>();
  chunk.first_input_sums = first_input_sums.data<float>();
  chunk.embedded = embedded.data<float>();
  chunk.initial_sums = &initial_sums;
  chunk.addends = &addends;
  chunk.outputs[0] = outputs[0].data();
  chunk.outputs[1] = outputs[1].data();
  if (storage_ == kInt8) chunk.top_bf16 = top_bf16.data<uint16_t>();
  chunk.logits = strips.data<float>();
  run_team(members, [&](const Member& member) {
    Chunk own = chunk;  // each member advances its own copy
    for (long t = 0; t < T; t += chunk_steps) {
      own.T = std::min(chunk_steps, T - t);
      own.ids = ids + t * B;
      for (size_t number = 0; number < layers_.size(); ++number) run_layer(own, number, member);
      if (logits || losses)
        decode(own, member, logits ? logits + t * B * vocabulary_ : nullptr, targets ? targets + t * B : nullptr,
               losses ? losses + t * B : nullptr);
      member.wait();
    }
  });
}

}  // namespace charlm
