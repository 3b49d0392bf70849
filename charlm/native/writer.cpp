#include <algorithm>
#include <cstring>

#include "model.h"

namespace charlm {

Writer::Writer(const Model& model, long count, const int64_t* ids, long places, const uint8_t* allowed,
               const int64_t* following)
    : model_(model),
      count_(count),
      ids_(ids, ids + count),
      following_(following, following + places * count),
      allowed_(allowed, allowed + places * count),
      decoder_(model.pack_decoder(count, ids)),
      bias_(Buffer::zeros(size_t(ceil_to(count, 4 * model.kernels_->lanes)) * sizeof(float))) {
  for (long v = 0; v < count; ++v) bias_.data<float>()[v] = model.decoder_bias_.data<float>()[ids[v]];
}

// The memory of one call. Values of layer l stand at values[parity] + offset[l] * B; the parities take turns.
struct Writer::Work {
  long B;
  const CharlmDraw& draw;
  float *h, *c;
  float* logits;  // [B][stride]
  long stride;
  int64_t* place;
  const double* uniform;
  int64_t* written;
  std::vector<size_t> offsets;
  Buffer values[2];
  Buffer last_bf16;                 // [B][H] for the decoder of int8
  Buffer embedded, first;           // where the model has no table
  std::vector<const void*> starts;  // [layers][B]
  std::vector<const float*> addends;
  std::vector<DrawMemory> memories;  // one for each member of the team
  long done;                         // ids written in each stream
  bool oversubscribed;               // whether the team had better make room
};

bool Writer::draw_ids(Work& work, long n, const Member& member) const {
  DrawMemory& memory = work.memories[size_t(member.index)];
  const Layer& layer = model_.layers_.front();
  for (long b = member.first(work.B); b < member.last(work.B); ++b) {
    int64_t& place = work.place[b];
    const long drawn = draw_one(model_.kernels_, work.draw, work.logits + b * work.stride,
                                allowed_.data() + place * count_, count_, work.uniform[n * work.B + b], memory);
    place = following_[size_t(place * count_ + drawn)];
    work.written[n * work.B + b] = ids_[size_t(drawn)];
    const float* input = model_.table_ ? model_.table_.data<float>(size_t(ids_[size_t(drawn)]) * 4 * layer.H)
                                       : work.first.data<float>(size_t(b) * 4 * layer.H);
    work.addends[size_t(b)] = input;
    work.starts[size_t(b)] = model_.storage_ == kInt8 ? layer.start.data() : reinterpret_cast<const char*>(input);
  }
  if (member.index == 0) work.oversubscribed = member.team_size > 1 && member.barrier->oversubscribed();
  member.wait();
  const bool oversubscribed = work.oversubscribed;  // read here, where nobody writes it: all members must see the same
  if (!model_.table_)
    model_.first_inputs(work.written + n * work.B, work.B, work.embedded.data<float>(), work.first.data<float>(),
                        member);
  return oversubscribed;
}

void Writer::step(Work& work, int parity, const Member& member) const {
  const long B = work.B;
  const size_t value = model_.value_size();
  const Kernels* kernels = model_.kernels_;
  for (size_t number = 0; number < model_.layers_.size(); ++number) {
    const Layer& layer = model_.layers_[number];
    const size_t offset = work.offsets[number] * B;
    const bool last = number + 1 == model_.layers_.size();
    const CellStep step{layer.H,
                        work.starts.data() + number * B,
                        work.addends.data() + number * B,
                        layer.scale.data<float>(),
                        number ? work.values[1 - parity].data(work.offsets[number - 1] * B * value) : nullptr,
                        layer.in,
                        number ? layer.x_weights.data() : nullptr,
                        layer.x_start.data<int32_t>(),
                        layer.x_scale.data<float>(),
                        work.values[parity].data(offset * value),
                        layer.h_weights.data(),
                        work.c + offset,
                        work.values[1 - parity].data(offset * value),
                        work.h + offset,
                        last && model_.storage_ == kInt8 ? work.last_bf16.data<uint16_t>() : nullptr};
    const long units = layer.H / kernels->lanes;
    kernels->cell_step[model_.storage_](step, 0, B, member.first(units), member.last(units));
    member.wait();
  }
  const long H = model_.layers_.back().H, blocks = work.stride / (4 * kernels->lanes);
  const void* x =
      model_.storage_ == kInt8 ? work.last_bf16.data() : work.values[1 - parity].data(work.offsets.back() * B * value);
  const Affine a{x, H, H, decoder_.data(), bias_.data(), work.logits, work.stride, false, 0, nullptr, nullptr};
  kernels->affine[model_.decoder_storage()](a, 0, B, member.first(blocks), member.last(blocks));
  member.wait();
}

void Writer::write(long N, long B, const CharlmDraw& draw, float* h, float* c, float* logits, int64_t* place,
                   const double* uniform, int64_t* written, int threads) const {
  const size_t layers = model_.layers_.size(), value = model_.value_size();
  const long stride = ceil_to(count_, 4 * model_.kernels_->lanes);
  const Buffer rows = Buffer::uninitialized(size_t(B) * stride * sizeof(float));
  for (long b = 0; b < B; ++b) memcpy(rows.data<float>(size_t(b) * stride), logits + b * count_, size_t(count_) * 4);
  Work work{B,  draw, h, c,    rows.data<float>(), stride, place, uniform, written, {}, {}, {}, {}, {}, {},
            {}, {},   0, false};
  size_t size = 0;
  for (const Layer& layer : model_.layers_) {
    work.offsets.push_back(size);
    size += size_t(layer.H);
    for (long b = 0; b < B; ++b) {
      work.starts.push_back(layer.start.data());
      work.addends.push_back(layer.bias.data<float>());
    }
  }
  for (Buffer& values : work.values) values = Buffer::uninitialized(size * B * value);
  work.last_bf16 = Buffer::uninitialized(model_.storage_ == kInt8 ? size_t(B) * model_.layers_.back().H * 2 : 0);
  if (!model_.table_) {
    work.embedded = Buffer::uninitialized(size_t(B) * model_.embedding_width_ * 4);
    work.first = Buffer::uninitialized(size_t(B) * 4 * model_.layers_.front().H * 4);
  }
  for (size_t number = 0; number < layers; ++number) {
    const size_t offset = work.offsets[number] * B;
    model_.kernels_->convert[model_.storage_](h + offset, work.values[0].data(offset * value),
                                              B * model_.layers_[number].H);
  }
  const int team = model_.members(model_.multiplications() * double(B), threads);
  work.memories.assign(size_t(team), DrawMemory(count_));
  while (work.done < N)
    run_team(team, [&](const Member& member) {
      const long first = work.done;
      member.wait();
      for (long n = first; n < N; ++n) {
        const bool oversubscribed = draw_ids(work, n, member);
        step(work, int(n % 2), member);
        if (member.index == 0) work.done = n + 1;
        if (oversubscribed) return;
      }
    });
  for (long b = 0; b < B; ++b) memcpy(logits + b * count_, rows.data<float>(size_t(b) * stride), size_t(count_) * 4);
}

}  // namespace charlm
