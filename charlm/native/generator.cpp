#include "generator.h"

#include <cstring>

#include "sampling.h"

namespace charlm {

Generator::Generator(const Model& model, long candidate_count, const int64_t* candidates, long states,
                     const uint8_t* allowed, const int64_t* transitions)
    : model_(model),
      candidate_count_(candidate_count),
      candidates_(candidates, candidates + candidate_count),
      transitions_(transitions, transitions + states * candidate_count),
      allowed_(allowed, allowed + states * candidate_count),
      decoder_(model.pack_decoder(candidate_count, candidates)),
      bias_(Buffer::zeros(size_t(ceil_to(candidate_count, 4 * model.kernels_->lanes)) * sizeof(float))) {
  for (long v = 0; v < candidate_count; ++v) bias_.data<float>()[v] = model.decoder_bias_.data<float>()[candidates[v]];
}

// The arguments and the memory of one call of `generate`.
struct Generator::Workspace {
  long B = 0;
  const CharlmSampling* sampling = nullptr;
  float* h = nullptr;       // [layers][B][H]
  float* c = nullptr;       // [layers][B][H]
  float* logits = nullptr;  // [B][logits_stride]
  long logits_stride = 0;
  int64_t* constraint_state = nullptr;  // [B]
  const double* uniform = nullptr;      // [N][B]
  int64_t* ids_out = nullptr;           // [N][B]

  std::vector<size_t> offsets;  // [layers] number of units in the layers below
  // Hidden states in the storage's type, those of a layer beginning at offsets[layer] * B. Steps alternate: step n
  // reads hidden[n % 2] and writes the other.
  Buffer hidden[2];
  Buffer top_bf16;                        // [B][H] output of the last layer for the decoder of int8
  Buffer embedded;                        // [B][E] if the model has no input table
  Buffer first_input_sums;                // [B][4H] if the model has no input table
  std::vector<const void*> initial_sums;  // [layers][B] for CellStep
  std::vector<const float*> addends;      // [layers][B] for CellStep
  std::vector<SamplingScratch> scratch;   // [members]
  long steps_done = 0;
  bool oversubscribed = false;
};

bool Generator::sample_ids(Workspace& work, long n, const Member& member) const {
  SamplingScratch& scratch = work.scratch[size_t(member.index)];
  const Layer& first_layer = model_.layers_.front();
  for (long b = member.first(work.B); b < member.last(work.B); ++b) {
    int64_t& state = work.constraint_state[b];
    const long sampled =
        sample(model_.kernels_, *work.sampling, work.logits + b * work.logits_stride,
               allowed_.data() + state * candidate_count_, candidate_count_, work.uniform[n * work.B + b], scratch);
    const int64_t id = candidates_[size_t(sampled)];
    state = transitions_[size_t(state * candidate_count_ + sampled)];
    work.ids_out[n * work.B + b] = id;
    const float* input_sums = model_.input_table_ ? model_.input_table_.data<float>(size_t(id) * 4 * first_layer.H)
                                                  : work.first_input_sums.data<float>(size_t(b) * 4 * first_layer.H);
    work.addends[size_t(b)] = input_sums;
    work.initial_sums[size_t(b)] =
        model_.storage_ == kInt8 ? first_layer.initial_hh.data() : reinterpret_cast<const char*>(input_sums);
  }
  if (member.index == 0) work.oversubscribed = member.team_size > 1 && member.barrier->oversubscribed();
  member.wait();
  // Read between two barriers, where no member writes it: all members must come to the same answer.
  const bool oversubscribed = work.oversubscribed;
  if (!model_.input_table_)
    model_.first_layer_sums(work.ids_out + n * work.B, work.B, work.embedded.data<float>(),
                            work.first_input_sums.data<float>(), member);
  return oversubscribed;
}

void Generator::step(Workspace& work, int parity, const Member& member) const {
  const long B = work.B;
  const int storage = model_.storage_;
  const size_t bytes = model_.value_bytes();
  const Kernels* kernels = model_.kernels_;
  const Buffer& hidden = work.hidden[parity];
  const Buffer& new_hidden = work.hidden[1 - parity];
  for (size_t number = 0; number < model_.layers_.size(); ++number) {
    const Layer& layer = model_.layers_[number];
    const size_t offset = work.offsets[number] * B;
    CellStep step;
    step.H = layer.H;
    step.initial_sums = work.initial_sums.data() + number * B;
    step.addends = work.addends.data() + number * B;
    step.scale_hh = layer.scale_hh.data<float>();
    if (number > 0) {
      step.x = new_hidden.data(work.offsets[number - 1] * B * bytes);
      step.input_width = layer.I;
      step.weight_ih = layer.weight_ih.data();
      step.initial_ih = layer.initial_ih.data<int32_t>();
      step.scale_ih = layer.scale_ih.data<float>();
    }
    step.hidden = hidden.data(offset * bytes);
    step.weight_hh = layer.weight_hh.data();
    step.cell = work.c + offset;
    step.new_hidden = new_hidden.data(offset * bytes);
    step.new_hidden_fp32 = work.h + offset;
    if (number + 1 == model_.layers_.size() && storage == kInt8) step.new_hidden_bf16 = work.top_bf16.data<uint16_t>();
    const long units = layer.H / kernels->lanes;
    kernels->cell_step[storage](step, 0, B, member.first(units), member.last(units));
    member.wait();
  }
  const long H = model_.layers_.back().H, blocks = work.logits_stride / (4 * kernels->lanes);
  Affine affine;
  affine.x = storage == kInt8 ? work.top_bf16.data() : new_hidden.data(work.offsets.back() * B * bytes);
  affine.x_stride = H;
  affine.inputs = H;
  affine.weight = decoder_.data();
  affine.initial_sums = bias_.data();
  affine.out = work.logits;
  affine.out_stride = work.logits_stride;
  kernels->affine[model_.decoder_storage()](affine, 0, B, member.first(blocks), member.last(blocks));
  member.wait();
}

void Generator::generate(long N, long B, const CharlmSampling& sampling, float* h, float* c, float* logits,
                         int64_t* constraint_state, const double* uniform, int64_t* ids_out, int threads) const {
  const size_t bytes = model_.value_bytes();
  const long stride = ceil_to(candidate_count_, 4 * model_.kernels_->lanes);
  const Buffer padded_logits = Buffer::uninitialized(size_t(B) * stride * sizeof(float));
  for (long b = 0; b < B; ++b)
    memcpy(padded_logits.data<float>(size_t(b) * stride), logits + b * candidate_count_,
           size_t(candidate_count_) * sizeof(float));
  Workspace work;
  work.B = B;
  work.sampling = &sampling;
  work.h = h;
  work.c = c;
  work.logits = padded_logits.data<float>();
  work.logits_stride = stride;
  work.constraint_state = constraint_state;
  work.uniform = uniform;
  work.ids_out = ids_out;
  size_t units = 0;
  for (const Layer& layer : model_.layers_) {
    work.offsets.push_back(units);
    units += size_t(layer.H);
    for (long b = 0; b < B; ++b) {
      work.initial_sums.push_back(layer.initial_hh.data());
      work.addends.push_back(layer.bias.data<float>());
    }
  }
  for (Buffer& hidden : work.hidden) hidden = Buffer::uninitialized(units * B * bytes);
  if (model_.storage_ == kInt8) work.top_bf16 = Buffer::uninitialized(size_t(B) * model_.layers_.back().H * 2);
  if (!model_.input_table_) {
    work.embedded = Buffer::uninitialized(size_t(B) * model_.embedding_width_ * 4);
    work.first_input_sums = Buffer::uninitialized(size_t(B) * 4 * model_.layers_.front().H * 4);
  }
  for (size_t number = 0; number < model_.layers_.size(); ++number) {
    const size_t offset = work.offsets[number] * B;
    model_.kernels_->convert[model_.storage_](h + offset, work.hidden[0].data(offset * bytes),
                                              B * model_.layers_[number].H);
  }
  const int team_size = model_.team_size(model_.multiplications_per_id() * double(B), threads);
  work.scratch.assign(size_t(team_size), SamplingScratch(candidate_count_));
  // A team that is oversubscribed ends early; run_team then continues with a single thread.
  while (work.steps_done < N)
    run_team(team_size, [&](const Member& member) {
      const long first = work.steps_done;
      member.wait();
      for (long n = first; n < N; ++n) {
        const bool oversubscribed = sample_ids(work, n, member);
        step(work, int(n % 2), member);
        if (member.index == 0) work.steps_done = n + 1;
        if (oversubscribed) return;
      }
    });
  for (long b = 0; b < B; ++b)
    memcpy(logits + b * candidate_count_, padded_logits.data<float>(size_t(b) * stride),
           size_t(candidate_count_) * sizeof(float));
}

}  // namespace charlm
