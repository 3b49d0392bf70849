#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace charlm {
namespace {

constexpr size_t kMostTableBytes = size_t(256) << 20;
constexpr size_t kScratchNumbers = size_t(4) << 20;  // sums of one layer held at a time
constexpr long kStrip = 96;                          // rows that stay in the cache while all weights pass
constexpr double kWorkPerThread = 1.5e5;  // multiplications below which another thread costs more than it helps

// Rows [rows][columns] with zeros up to `wide` columns, or the rows themselves if that is what they have.
const float* widened(const float* rows, long count, long columns, long wide, Buffer& held) {
  if (columns == wide) return rows;
  held = Buffer::zeros(size_t(count) * wide * sizeof(float));
  for (long row = 0; row < count; ++row)
    memcpy(held.data<float>(size_t(row) * wide), rows + row * columns, size_t(columns) * sizeof(float));
  return held.data<float>();
}

Buffer packed(const Kernels* kernels, int storage, const Matrix& matrix) {
  Buffer out = Buffer::zeros(size_t(kernels->packed_bytes(storage, matrix)));
  const long lanes = kernels->lanes;
  const long blocks = matrix.gates ? ceil_to(matrix.outputs / 4, kUnitPadding) / lanes
                                   : ceil_to(matrix.outputs, 4 * lanes) / (4 * lanes);
  kernels->pack[storage](matrix, out.data(), 0, blocks);
  return out;
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
    layer.width_in = widths[number];
    layer.width = widths[number + 1];
    layer.in = ceil_to(layer.width_in, kUnitPadding);
    layer.H = ceil_to(layer.width, kUnitPadding);
    pack_layer(layer, number == 0, weights + 3 * number);
    layers_.push_back(std::move(layer));
  }
  pack_first_input(weights[0], threads);
  decoder_ = pack_decoder(vocabulary, nullptr);
  decoder_bias_ = Buffer::zeros(size_t(ceil_to(vocabulary, 4 * kernels->lanes)) * sizeof(float));
  memcpy(decoder_bias_.data(), decoder_bias, size_t(vocabulary) * sizeof(float));
}

void Model::pack_layer(Layer& layer, bool first, const float* const* weights) {
  const long rows = 4 * layer.width;
  Buffer wide_x, wide_h;
  const float* x = first ? nullptr : widened(weights[0], rows, layer.width_in, layer.in, wide_x);
  const float* h = widened(weights[1], rows, layer.width, layer.H, wide_h);
  for (Buffer* per_gate : {&layer.bias, &layer.scale, &layer.x_scale, &layer.start, &layer.x_start})
    *per_gate = Buffer::zeros(size_t(4 * layer.H) * 4);
  for (long row = 0; row < rows; ++row)
    layer.bias.data<float>()[row / layer.width * layer.H + row % layer.width] = weights[2][row];
  if (storage_ != kInt8) memcpy(layer.start.data(), layer.bias.data(), size_t(4 * layer.H) * 4);
  if (x) layer.x_weights = pack_gates(layer, x, layer.in, layer.x_scale, layer.x_start);
  layer.h_weights = pack_gates(layer, h, layer.H, layer.scale, layer.start);
}

// Weights [4 width][inputs] packed; for int8 each row with a factor of its own, which makes its largest weight 127.
Buffer Model::pack_gates(const Layer& layer, const float* weights, long inputs, Buffer& scale, Buffer& start) const {
  const long rows = 4 * layer.width;
  std::vector<float> factors(size_t(rows), 1.0f);
  for (long row = 0; row < rows && storage_ == kInt8; ++row) {
    const float* values = weights + row * inputs;
    float most = 1e-12f;
    for (long k = 0; k < inputs; ++k) most = std::max(most, std::fabs(values[k]));
    const float factor = factors[size_t(row)] = 127.0f / most;
    int32_t sum = 0;
    for (long k = 0; k < inputs; ++k) sum += int32_t(lrintf(values[k] * factor));
    const long place = row / layer.width * layer.H + row % layer.width;
    start.data<int32_t>()[place] = -128 * sum;
    scale.data<float>()[place] = most / (127.0f * 127.0f);
  }
  return packed(kernels_, storage_, Matrix{weights, rows, inputs, true, factors.data()});
}

void Model::pack_first_input(const float* w_ih, int threads) {
  const Layer& layer = layers_.front();
  first_weights_ = packed(kernels_, kFp32, Matrix{w_ih, 4 * layer.width, layer.width_in, true, nullptr});
  if (size_t(vocabulary_) * 4 * layer.H * sizeof(float) > kMostTableBytes) return;
  Buffer table = Buffer::zeros(size_t(vocabulary_) * 4 * layer.H * sizeof(float));
  const Affine a{embedding_.data(),
                 embedding_width_,
                 layer.width_in,
                 first_weights_.data(),
                 layer.bias.data(),
                 table.data<float>(),
                 4 * layer.H,
                 true,
                 layer.H,
                 nullptr,
                 nullptr};
  run_team(members(double(vocabulary_) * 4 * layer.H * layer.width_in, threads), [&](const Member& member) {
    kernels_->affine[kFp32](a, 0, vocabulary_, member.first(layer.H / kernels_->lanes),
                            member.last(layer.H / kernels_->lanes));
  });
  table_ = std::move(table);
  first_weights_ = Buffer();
}

// The decoder's rows, all of them or those of `ids`; they are the embedding's.
Buffer Model::pack_decoder(long count, const int64_t* ids) const {
  const long E = embedding_width_, H = layers_.back().H;
  Buffer rows = Buffer::zeros(size_t(count) * H * sizeof(float));
  for (long row = 0; row < count; ++row)
    memcpy(rows.data<float>(size_t(row) * H), embedding_.data<float>(size_t(ids ? ids[row] : row) * E),
           size_t(E) * sizeof(float));
  return packed(kernels_, decoder_storage(), Matrix{rows.data<float>(), count, H, false, nullptr});
}

double Model::multiplications() const {
  double count = 0;
  for (const Layer& layer : layers_) count += 4.0 * layer.H * (layer.H + (layer.x_weights ? layer.in : 0));
  return count;
}

int Model::members(double work, int threads) const {
  return std::max(1, std::min(threads, int(std::min(work / kWorkPerThread, 1e6))));
}

// ------------------------------------------------------------------------------------------------- reading

// Some steps of a text, read layer by layer.
struct Model::Chunk {
  long T, B;
  const int64_t* ids;
  float* h;
  float* c;
  bool by_rows;
  float* sums;                       // [T][B][4H] the input sums of a layer
  float* first;                      // [T][B][4H] input sums of the first layer where there is no table
  float* embedded;                   // [T][B][E] likewise
  std::vector<const void*>* starts;  // [T][B]
  std::vector<const float*>* addends;
  char* outputs[2];     // [T + 1][B][H] values of the layer below and of this one, taking turns
  uint16_t* last_bf16;  // [T][B][H] for the decoder of int8
  float* logits;        // [members][kStrip][V]
};

void Model::first_inputs(const int64_t* ids, long count, float* rows, float* out, const Member& member) const {
  const Layer& layer = layers_.front();
  for (long n = member.first(count); n < member.last(count); ++n)
    memcpy(rows + n * embedding_width_, embedding_.data<float>(size_t(ids[n]) * embedding_width_),
           size_t(embedding_width_) * sizeof(float));
  member.wait();
  const Affine a{
      rows,    embedding_width_, layer.width_in, first_weights_.data(), layer.bias.data(), out, 4 * layer.H, true,
      layer.H, nullptr,          nullptr};
  const long blocks = layer.H / kernels_->lanes;
  kernels_->affine[kFp32](a, 0, count, member.first(blocks), member.last(blocks));
  member.wait();
}

void Model::run_layer(const Chunk& chunk, size_t number, const Member& member) const {
  const Layer& layer = layers_[number];
  const long T = chunk.T, B = chunk.B, H = layer.H, units = H / kernels_->lanes, rows = T * B;
  const size_t value = value_size();
  size_t offset = 0;
  for (size_t below = 0; below < number; ++below) offset += size_t(layers_[below].H) * B;
  float* h = chunk.h + offset;
  float* c = chunk.c + offset;
  char* in = chunk.outputs[(number + 1) % 2] + size_t(B) * layer.in * value;  // after the state before the first step
  char* out = chunk.outputs[number % 2];
  if (number == 0 && !table_) first_inputs(chunk.ids, rows, chunk.embedded, chunk.first, member);
  if (number > 0) {
    const void* start = storage_ == kInt8 ? layer.x_start.data() : layer.start.data();
    const Affine a{in,
                   layer.in,
                   layer.in,
                   layer.x_weights.data(),
                   start,
                   chunk.sums,
                   4 * H,
                   true,
                   H,
                   layer.x_scale.data<float>(),
                   layer.bias.data<float>()};
    for (long row = member.first(rows); row < member.last(rows); row += kStrip)
      kernels_->affine[storage_](a, row, std::min(row + kStrip, member.last(rows)), 0, units);
  }
  for (long n = member.first(rows); n < member.last(rows); ++n) {
    const float* first =
        table_ ? table_.data<float>(size_t(number ? 0 : chunk.ids[n]) * 4 * H) : chunk.first + n * 4 * H;
    const float* input = number ? chunk.sums + n * 4 * H : first;
    (*chunk.addends)[size_t(n)] = input;
    (*chunk.starts)[size_t(n)] = storage_ == kInt8 ? layer.start.data() : reinterpret_cast<const char*>(input);
  }
  if (member.index == 0) kernels_->convert[storage_](h, out, B * H);
  member.wait();
  for (long t = 0; t < T; ++t) {
    const CellStep step{H,
                        chunk.starts->data() + t * B,
                        chunk.addends->data() + t * B,
                        layer.scale.data<float>(),
                        nullptr,
                        0,
                        nullptr,
                        nullptr,
                        nullptr,
                        out + size_t(t) * B * H * value,
                        layer.h_weights.data(),
                        c,
                        out + size_t(t + 1) * B * H * value,
                        h,
                        number + 1 == layers_.size() && chunk.last_bf16 ? chunk.last_bf16 + t * B * H : nullptr};
    if (chunk.by_rows) {
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
  const size_t last = layers_.size() - 1;
  const long H = layers_[last].H, stride = ceil_to(vocabulary_, 4 * kernels_->lanes), rows = chunk.T * chunk.B;
  const void* x = chunk.last_bf16 ? static_cast<const void*>(chunk.last_bf16)
                                  : chunk.outputs[last % 2] + size_t(chunk.B) * H * value_size();
  float* scratch = chunk.logits + size_t(member.index) * kStrip * stride;
  for (long row = member.first(rows); row < member.last(rows); row += kStrip) {
    const long count = std::min(kStrip, member.last(rows) - row);
    const size_t value = decoder_storage() == kFp32 ? 4 : 2;
    const Affine a{static_cast<const char*>(x) + size_t(row) * H * value,
                   H,
                   H,
                   decoder_.data(),
                   decoder_bias_.data(),
                   scratch,
                   stride,
                   false,
                   0,
                   nullptr,
                   nullptr};
    kernels_->affine[decoder_storage()](a, 0, count, 0, stride / (4 * kernels_->lanes));
    if (losses) kernels_->losses(scratch, stride, vocabulary_, targets + row, losses + row, count);
    if (logits)
      for (long n = 0; n < count; ++n)
        memcpy(logits + (row + n) * vocabulary_, scratch + n * stride, size_t(vocabulary_) * sizeof(float));
  }
}

void Model::read(long T, long B, const int64_t* ids, float* h, float* c, float* logits, const int64_t* targets,
                 float* losses, int threads) const {
  if (T == 0 || B == 0) return;
  long widest = 0;
  for (const Layer& layer : layers_) widest = std::max({widest, layer.H, layer.in});
  const long most = std::max<long>(1, long(kScratchNumbers / size_t(4 * widest * B)));
  const long steps = std::min(T, most), rows = steps * B;
  const int team = members(multiplications() * double(T * B), threads);
  const long stride = ceil_to(vocabulary_, 4 * kernels_->lanes);
  const bool many = layers_.size() > 1;
  const auto scratch = [](bool needed, size_t bytes) { return Buffer::uninitialized(needed ? bytes : 0); };
  const Buffer sums = scratch(many, size_t(rows) * 4 * widest * 4);
  const Buffer outputs[2] = {scratch(true, size_t(rows + B) * widest * value_size()),
                             scratch(true, size_t(rows + B) * widest * value_size())};
  const Buffer first = scratch(!table_, size_t(rows) * 4 * layers_[0].H * 4);
  const Buffer embedded = scratch(!table_, size_t(rows) * embedding_width_ * 4);
  const Buffer bf16 = scratch(storage_ == kInt8, size_t(rows) * layers_.back().H * 2);
  const Buffer strips = scratch(true, size_t(team) * kStrip * stride * 4);
  std::vector<const void*> starts(static_cast<size_t>(rows));
  std::vector<const float*> addends(static_cast<size_t>(rows));
  Chunk chunk{0,
              B,
              ids,
              h,
              c,
              B >= 8 * team,
              sums.data<float>(),
              first.data<float>(),
              embedded.data<float>(),
              &starts,
              &addends,
              {outputs[0].data(), outputs[1].data()},
              storage_ == kInt8 ? bf16.data<uint16_t>() : nullptr,
              strips.data<float>()};
  run_team(team, [&](const Member& member) {
    Chunk mine = chunk;
    for (long t = 0; t < T; t += steps) {
      mine.T = std::min(steps, T - t);
      mine.ids = ids + t * B;
      for (size_t number = 0; number < layers_.size(); ++number) run_layer(mine, number, member);
      if (logits || losses)
        decode(mine, member, logits ? logits + t * B * vocabulary_ : nullptr, targets ? targets + t * B : nullptr,
               losses ? losses + t * B : nullptr);
      member.wait();
    }
  });
}

}  // namespace charlm
