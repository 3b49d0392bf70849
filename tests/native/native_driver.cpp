// Drives the C functions of the native engine without Python or torch, so that sanitizers and foreign processors can
// have it: tests/native/test_native_sanitizers.py builds this file with charlm/native/*.cpp and runs it.
//
// It checks laws on small random shapes, for each instruction set that this machine and this build have. Every array
// lies on the heap in exactly the size that api.h asks for, where the address sanitizer sees a step too far; results
// begin as NaN, so that a number never written is found. A broken law is told in one line, with exit status 1.
//
// Link with -Wl,--wrap=_ZNSt6chrono3_V212steady_clock3nowEv, for the sake of the clock below.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "api.h"
#include "native_laws.h"
#include "native_training.h"

namespace {

constexpr long kWritten = 12;  // ids in each stream
constexpr long kPlaces = 3;    // of a grammar

// ------------------------------------------------------------------------------------------------- models

// A packed model, something to read, and a grammar to write by.
struct Reader {
  long V;
  Ids widths;  // the last equals the first, because the decoder is the embedding
  long T, B;
  long layers = long(widths.size()) - 1;
  Floats embedding = random_floats(V * widths[0]), decoder_bias = random_floats(V);
  Results weights = {};  // for each layer W_ih, W_hh and bias
  Ids ids = random_ids(T * B, V), targets = random_ids(T * B, V);
  Floats h = {}, c = {};  // for each layer [B][units]
  Ids candidates = {};
  Bytes allowed = {};
  Ids following = {};
  std::unique_ptr<Model, void (*)(Model*)> model{nullptr, charlm_model_destroy};
  std::unique_ptr<Writer, void (*)(Writer*)> writer{nullptr, charlm_writer_destroy};
  Reals uniforms = Reals(kWritten * B);

  long units(long layer) const { return (widths[layer + 1] + 15) / 16 * 16; }

  void pack(const Kernels* kernels, int storage) {
    for (long layer = 0; layer < layers; ++layer) {
      const long width = widths[layer + 1];
      for (const long inputs : {long(widths[layer]), width})
        weights.push_back(random_floats(4 * width * inputs, 1.7 / std::sqrt(double(inputs))));
      weights.push_back(random_floats(4 * width));
      for (Floats* state : {&h, &c})
        for (long at = 0; at < B * units(layer); ++at)  // what pads a state is zero
          state->push_back(at % units(layer) < width ? float(2 * uniform() - 1) : 0.0f);
    }
    std::vector<const float*> pointers(weights.size());
    std::transform(weights.begin(), weights.end(), pointers.begin(),
                   [](const Floats& matrix) { return matrix.data(); });
    model.reset(charlm_model_create(kernels, storage, V, layers, widths.data(), embedding.data(), decoder_bias.data(),
                                    pointers.data(), 2));
    for (int64_t id = 1; id < V; id += 1 + V / 40) candidates.push_back(id);
    const long count = long(candidates.size());
    for (long at = 0; at < kPlaces * count; ++at) allowed.push_back(at % count == at / count || uniform() < 0.6);
    following = random_ids(kPlaces * count, kPlaces);
    candidates.shrink_to_fit(), allowed.shrink_to_fit();
    writer.reset(
        charlm_writer_create(model.get(), count, candidates.data(), kPlaces, allowed.data(), following.data()));
    require(model && writer, "no memory");
    for (double& number : uniforms) number = uniform();
  }

  // One stream's part of rows that stand as a state does.
  Floats stream_of(const Floats& state, long b) const {
    Floats one;
    for (long layer = 0, at = 0; layer < layers; at += B * units(layer), ++layer)
      one.insert(one.end(), &state[at + b * units(layer)], &state[at + b * units(layer)] + units(layer));
    return Floats(one);  // a copy has no room to spare
  }

  // Logits, h and c, when `text` is read in pieces of some steps; `results` comes without logits.
  Results read(const Ids& text, long streams, Results results, long steps, int threads) const {
    const long length = long(text.size()) / streams;
    for (long t = 0; t < length; t += steps) {
      const Ids piece(text.begin() + t * streams, text.begin() + std::min(t + steps, length) * streams);
      Floats logits(piece.size() * V, NAN);
      require_memory(charlm_model_read(model.get(), long(piece.size()) / streams, streams, piece.data(),
                                       results[1].data(), results[2].data(), logits.data(), nullptr, nullptr, threads));
      results[0].insert(results[0].end(), logits.begin(), logits.end());
    }
    return results;
  }
  Results read(const Ids& text, long steps, int threads) const { return read(text, B, {{}, h, c}, steps, threads); }

  Reals plain_logits() const {
    Reals logits(T * B * V);
    for (long b = 0; b < B; ++b) {
      const Floats first_h = stream_of(h, b), first_c = stream_of(c, b);
      Reals own_h(first_h.begin(), first_h.end()), own_c(first_c.begin(), first_c.end());
      for (long n = b; n < T * B; n += B) {
        const float* row = &embedding[ids[n] * widths[0]];
        Reals x(row, row + widths[0]);
        for (long layer = 0, at = 0; layer < layers; at += units(layer), ++layer) {
          Reals gates(weights[3 * layer + 2].begin(), weights[3 * layer + 2].end());
          plain_product(weights[3 * layer], widths[layer], x.data(), gates.data());
          plain_product(weights[3 * layer + 1], widths[layer + 1], &own_h[at], gates.data());
          plain_cell(gates.data(), widths[layer + 1], &own_c[at], &own_c[at], &own_h[at]);
          x.assign(&own_h[at], &own_h[at] + widths[layer + 1]);
        }
        std::copy(decoder_bias.begin(), decoder_bias.end(), &logits[n * V]);
        plain_product(embedding, widths[0], x.data(), &logits[n * V]);
      }
    }
    return logits;
  }

  void check_reading(double tolerance) const {
    const Results whole = with_any_threads("reading", [&](int threads) { return read(ids, T, threads); });
    require_close(whole[0], plain_logits(), tolerance, "logits");
    require(same(read(ids, (T + 1) / 2, 2), whole), "reading in halves is not reading at once");
    require(same(read(ids, 1, 1), whole), "reading step by step is not reading at once");
    for (const long b : {0L, B / 2, B - 1}) {
      Results alone = {{}, stream_of(whole[1], b), stream_of(whole[2], b)};
      Ids text;
      for (long n = b; n < T * B; n += B) {
        text.push_back(ids[n]);
        alone[0].insert(alone[0].end(), &whole[0][n * V], &whole[0][n * V] + V);
      }
      const Results now = read(text, 1, {{}, stream_of(h, b), stream_of(c, b)}, T, 2);
      require(same(now, alone), "a stream depends on those beside it");
    }
    Floats losses(T * B, NAN);
    Results end = {whole[0], h, c};
    require_memory(charlm_model_read(model.get(), T, B, ids.data(), end[1].data(), end[2].data(), nullptr,
                                     targets.data(), losses.data(), 2));
    require(same(end, whole), "the state after reading depends on asking for losses");
    Reals expected;
    for (long n = 0; n < T * B; ++n) {
      double sum = 0;
      for (long v = 0; v < V; ++v) sum += std::exp(double(whole[0][n * V + v]));
      expected.push_back(std::log(sum) - whole[0][n * V + targets[n]]);
    }
    require_close(losses, expected, kFine, "losses");
  }

  // Ids, places, logits of the candidates, h and c, when writing in pieces of some ids.
  Results write(const CharlmDraw& draw, long piece, int threads) const {
    Floats first_logits(B * candidates.size());
    for (size_t j = 0; j < first_logits.size(); ++j) first_logits[j] = float(j * 7 % 11) / 8;
    Results results = {{}, {}, first_logits, h, c};
    Ids place(B);
    for (long n = 0; n < kWritten; n += piece) {
      const Reals numbers(&uniforms[n * B], uniforms.data() + std::min(n + piece, kWritten) * B);
      Ids written(numbers.size(), -1);
      require_memory(charlm_writer_write(writer.get(), long(numbers.size()) / B, B, &draw, results[3].data(),
                                         results[4].data(), results[2].data(), place.data(), numbers.data(),
                                         written.data(), threads));
      results[0].insert(results[0].end(), written.begin(), written.end());
    }
    results[1].assign(place.begin(), place.end());
    return results;
  }

  void check_writing(const CharlmDraw& draw) const {
    const Results whole = with_any_threads("writing", [&](int threads) { return write(draw, kWritten, threads); });
    require(same(write(draw, 5, 2), whole), "writing in pieces is not writing at once");
    const long count = long(candidates.size());
    const Ids written(whole[0].begin(), whole[0].end());
    Ids place(B);
    for (long n = 0; n < kWritten * B; ++n) {
      const long at = std::find(candidates.begin(), candidates.end(), written[n]) - candidates.begin();
      require(at < count && allowed[place[n % B] * count + at], "an id came that is not allowed");
      place[n % B] = following[place[n % B] * count + at];
    }
    Results expected = read(written, kWritten, 1);
    Floats logits;
    for (long n = (kWritten - 1) * B; n < kWritten * B; ++n)
      for (const int64_t id : candidates) logits.push_back(expected[0][n * V + id]);
    require(same(whole, {whole[0], Floats(place.begin(), place.end()), logits, expected[1], expected[2]}),
            "writing does not leave what reading the same ids does");
  }
};

struct ModelShape {
  long V;
  Ids widths;
  long T, B;
};
const ModelShape kModels[] = {
    {5, {16, 16}, 1, 1},
    {33, {17, 50, 17}, 2, 3},
    {33, {10, 10}, 9, 7},
    {70, {24, 80, 33, 24}, 9, 13},
    // Enough rows for threads to part these and not the units.
    {70, {24, 64, 24}, 9, 17},
};
// So many ids that a table of their input sums is not made. It is slow: only its own ways of beginning a sum are
// checked.
const ModelShape kUntabled = {87382, {1, 192, 1}, 2, 3};
// T, B, H and the width of the input.
constexpr long kTrainings[][4] = {{1, 1, 16, 16}, {2, 3, 48, 80},  {9, 7, 80, 16}, {9, 13, 48, 48},
                                  {2, 13, 16, 80}, {3, 41, 32, 64}, {4, 18, 96, 32}, {3, 17, 64, 80}};
const CharlmDraw kDraws[] = {{1.0, 0, 1.0, 0.0}, {0.0, 0, 1.0, 0.0}, {0.8, 5, 1.0, 0.0}, {1.3, 9, 0.8, 0.05}};

// ------------------------------------------------------------------------------------------------- side by side

void check_two_at_once(const Reader& one, const Reader& other) {
  const Results alone[] = {one.write(kDraws[0], 5, 1), other.write(kDraws[3], 5, 1)};
  for (int round = 0; round < 3; ++round) {
    Results together;
    std::thread thread([&] { together = other.write(kDraws[3], 5, 2); });
    require(same(one.write(kDraws[0], 5, 2), alone[0]), "a model that writes beside another is disturbed");
    thread.join();
    require(same(together, alone[1]), "a model that writes beside another is disturbed");
  }
}

// Stands in for libgomp's GOMP_parallel.
std::atomic<bool> openmp_used{false};

void parallel(void (*work)(void*), void* data, unsigned threads, unsigned) {
  openmp_used = true;
  std::vector<std::thread> others;
  for (unsigned number = 1; number < threads; ++number) others.emplace_back(work, data);
  work(data);
  for (std::thread& other : others) other.join();
}

void check_openmp_and_fork(const Training& training, const Reader& reader) {
  const Results pass = training.forward(false, true, 2), written = reader.write(kDraws[0], 5, 2);
  const auto again = [&] {
    return same(training.forward(false, true, 2), pass) && same(reader.write(kDraws[0], 5, 2), written);
  };
  charlm_use_openmp(reinterpret_cast<void*>(parallel));
  require(again() && openmp_used, "work given to OpenMP gives something else");
#ifndef __SANITIZE_THREAD__  // which cannot follow threads into a child
  openmp_used = false;
  const pid_t child = fork();
  if (child == 0) _exit(again() ? openmp_used ? 2 : 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) != 1, "a child made by fork cannot compute the same");
  require(WEXITSTATUS(status) == 0, "a child made by fork relies on OpenMP's threads, which did not come along");
#endif
  charlm_use_openmp(nullptr);
}

void check_model(const Kernels* kernels, int storage, const ModelShape& shape, size_t draws) {
  const auto& [V, widths, T, B] = shape;
  subject = std::string(charlm_kernels_name(kernels)) + " " + kStorages[storage] +
            " model with V=" + std::to_string(V) + " B=" + std::to_string(B);
  Reader reader{V, widths, T, B};
  reader.pack(kernels, storage);
  reader.check_reading(kTolerance[storage]);
  for (size_t draw = 0; draw < draws; ++draw) reader.check_writing(kDraws[draw]);
}

void check(const Kernels* kernels) {
  const std::string name = charlm_kernels_name(kernels);
  // Tiles are for training in bfloat16; for the rest amx is avx512_bf16's source again.
  const bool tiles = name == "amx";
  const std::vector<int> storages = tiles ? std::vector<int>{kBf16} : std::vector<int>{kFp32, kBf16};
  for (const int storage : storages)
    for (const auto& [T, B, H, width] : kTrainings) {
      subject = name + " " + kStorages[storage] + " training with T=" + std::to_string(T) + " H=" + std::to_string(H);
      Training{kernels, storage, T, B, H, width}.check();
      for (const bool by_index : {false, true}) check_add_rows(kernels, storage, T * B, 4 * H, by_index);
      check_weight_gradient(kernels, storage, T * B, width, 4 * H);
      if (H != 80) continue;
      for (const long inputs : {19, 32}) check_weight_gradient(kernels, storage, kChunkRows + 77, inputs, 192);  // two chunks
    }
  Reader one{70, {24, 80, 33, 24}, 9, 13}, other{33, {40, 90, 40}, 9, 13};
  one.pack(kernels, kFp32), other.pack(kernels, kInt8);
  subject = name + " side by side";
  for (const int storage : storages) check_openmp_and_fork(Training{kernels, storage, 9, 41, 32, 64}, one);
  if (tiles) return;
  check_two_at_once(one, other);
  for (const ModelShape& shape : kModels)
    for (const int storage : {kFp32, kBf16, kInt8}) check_model(kernels, storage, shape, std::size(kDraws));
  for (const int storage : {kFp32, kInt8}) check_model(kernels, storage, kUntabled, 1);
  subject = name + " text that is read in parts for want of memory";
  Reader reader{5, {16, 16}, 35, 2048};
  reader.pack(kernels, kFp32);
  require(same(reader.read(reader.ids, 20, 2), reader.read(reader.ids, 35, 2)), "reading depends on the parts");
}

}  // namespace

// The clock that the engine looks at. It leaves a machine alone for some seconds where a team had to wait for cores,
// and would do nearly all of this with one thread; on this clock those seconds are over at the next look.
std::atomic<int64_t> looks{0};

extern "C" std::chrono::steady_clock::time_point __wrap__ZNSt6chrono3_V212steady_clock3nowEv() {
  return std::chrono::steady_clock::time_point(std::chrono::minutes(++looks));
}

// Checks the instruction sets whose names are given.
int main(int count, char** names) {
  for (int at = 1; at < count; ++at) {
    const Kernels* kernels = charlm_kernels(names[at]);
    if (kernels) check(kernels);
    printf("%s %s\n", names[at], kernels ? "checked" : "absent");
  }
  require(looks > 0, "the engine does not look at the clock that is made for it here");
  printf("ok\n");
}
