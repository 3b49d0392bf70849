// Calls the C functions of the native engine without Python or torch, so that it can run under sanitizers and on an
// emulated processor: tests/native/test_native_sanitizers.py builds this file with charlm/native/*.cpp and runs it.
//
// It checks properties on small random shapes, for each instruction set that this machine and this build have. Every
// array is on the heap and has exactly the size that api.h requires, so that the address sanitizer detects accesses
// beyond its end. Results are initialized with NaN, so that elements that are never written are detected. A property
// that does not hold is reported in one line, with exit status 1.
//
// Link with -Wl,--wrap=_ZNSt6chrono3_V212steady_clock3nowEv, which replaces the engine's clock with the one below.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "api.h"
#include "native_laws.h"
#include "native_muon.h"
#include "native_training.h"

namespace {

constexpr long kGenerated = 12;  // ids in each stream
constexpr long kStates = 3;      // of a constraint

// ------------------------------------------------------------------------------------------------- models

// A packed model, ids to read, and a constraint for generation.
struct ModelCase {
  long V;
  Ids widths;  // the last equals the first, because the decoder is the embedding
  long T, B;
  long layers = long(widths.size()) - 1;
  Floats embedding = random_floats(V * widths[0]), decoder_bias = random_floats(V);
  Results weights = {};  // for each layer W_ih, W_hh and bias
  Ids ids = random_ids(T * B, V), targets = random_ids(T * B, V);
  Floats h = {}, c = {};  // [layers][B][units]
  Ids candidates = {};
  Bytes allowed = {};
  Ids transitions = {};
  std::unique_ptr<Model, void (*)(Model*)> model{nullptr, charlm_model_destroy};
  std::unique_ptr<Generator, void (*)(Generator*)> generator{nullptr, charlm_generator_destroy};
  Reals uniforms = Reals(kGenerated * B);

  long units(long layer) const { return (widths[layer + 1] + 15) / 16 * 16; }

  void pack(const Kernels* kernels, int storage) {
    for (long layer = 0; layer < layers; ++layer) {
      const long width = widths[layer + 1];
      for (const long inputs : {long(widths[layer]), width})
        weights.push_back(random_floats(4 * width * inputs, 1.7 / std::sqrt(double(inputs))));
      weights.push_back(random_floats(4 * width));
      for (Floats* state : {&h, &c})
        for (long at = 0; at < B * units(layer); ++at)  // the padding of a state is zero
          state->push_back(at % units(layer) < width ? float(2 * uniform() - 1) : 0.0f);
    }
    std::vector<const float*> pointers(weights.size());
    std::transform(weights.begin(), weights.end(), pointers.begin(),
                   [](const Floats& matrix) { return matrix.data(); });
    model.reset(charlm_model_create(kernels, storage, V, layers, widths.data(), embedding.data(), decoder_bias.data(),
                                    pointers.data(), 2));
    for (int64_t id = 1; id < V; id += 1 + V / 40) candidates.push_back(id);
    const long count = long(candidates.size());
    for (long at = 0; at < kStates * count; ++at) allowed.push_back(at % count == at / count || uniform() < 0.6);
    transitions = random_ids(kStates * count, kStates);
    candidates.shrink_to_fit(), allowed.shrink_to_fit();
    generator.reset(
        charlm_generator_create(model.get(), count, candidates.data(), kStates, allowed.data(), transitions.data()));
    require(model && generator, "out of memory");
    for (double& number : uniforms) number = uniform();
  }

  // One stream's part of a state.
  Floats stream_of(const Floats& state, long b) const {
    Floats one;
    for (long layer = 0, at = 0; layer < layers; at += B * units(layer), ++layer)
      one.insert(one.end(), &state[at + b * units(layer)], &state[at + b * units(layer)] + units(layer));
    return Floats(one);  // a copy has no spare capacity
  }

  // Logits, h and c after `text` has been read in pieces of some steps, beginning with the h and c of `results`.
  Results forward(const Ids& text, long streams, Results results, long steps, int threads) const {
    const long length = long(text.size()) / streams;
    for (long t = 0; t < length; t += steps) {
      const Ids piece(text.begin() + t * streams, text.begin() + std::min(t + steps, length) * streams);
      Floats logits(piece.size() * V, NAN);
      require_memory(charlm_model_forward(model.get(), long(piece.size()) / streams, streams, piece.data(),
                                          results[1].data(), results[2].data(), logits.data(), nullptr, nullptr,
                                          threads));
      results[0].insert(results[0].end(), logits.begin(), logits.end());
    }
    return results;
  }
  Results forward(const Ids& text, long steps, int threads) const {
    return forward(text, B, {{}, h, c}, steps, threads);
  }

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

  void check_forward(double tolerance) const {
    const Results whole = with_any_threads("forward", [&](int threads) { return forward(ids, T, threads); });
    require_close(whole[0], plain_logits(), tolerance, "logits");
    require(same(forward(ids, (T + 1) / 2, 2), whole), "reading in halves differs from reading at once");
    require(same(forward(ids, 1, 1), whole), "reading step by step differs from reading at once");
    for (const long b : {0L, B / 2, B - 1}) {
      Results alone = {{}, stream_of(whole[1], b), stream_of(whole[2], b)};
      Ids text;
      for (long n = b; n < T * B; n += B) {
        text.push_back(ids[n]);
        alone[0].insert(alone[0].end(), &whole[0][n * V], &whole[0][n * V] + V);
      }
      const Results now = forward(text, 1, {{}, stream_of(h, b), stream_of(c, b)}, T, 2);
      require(same(now, alone), "a stream depends on the other streams");
    }
    Floats losses(T * B, NAN);
    Results end = {whole[0], h, c};
    require_memory(charlm_model_forward(model.get(), T, B, ids.data(), end[1].data(), end[2].data(), nullptr,
                                        targets.data(), losses.data(), 2));
    require(same(end, whole), "the state depends on whether losses are computed");
    Reals expected;
    for (long n = 0; n < T * B; ++n) {
      double sum = 0;
      for (long v = 0; v < V; ++v) sum += std::exp(double(whole[0][n * V + v]));
      expected.push_back(std::log(sum) - whole[0][n * V + targets[n]]);
    }
    require_close(losses, expected, kFloatTolerance, "losses");
  }

  // Ids, constraint states, logits of the candidates, h and c after ids have been generated in pieces of some steps.
  Results generate(const CharlmSampling& sampling, long piece, int threads) const {
    Floats first_logits(B * candidates.size());
    for (size_t j = 0; j < first_logits.size(); ++j) first_logits[j] = float(j * 7 % 11) / 8;
    Results results = {{}, {}, first_logits, h, c};
    Ids constraint_state(B);
    for (long n = 0; n < kGenerated; n += piece) {
      const Reals numbers(&uniforms[n * B], uniforms.data() + std::min(n + piece, kGenerated) * B);
      Ids ids_out(numbers.size(), -1);
      require_memory(charlm_generator_generate(generator.get(), long(numbers.size()) / B, B, &sampling,
                                               results[3].data(), results[4].data(), results[2].data(),
                                               constraint_state.data(), numbers.data(), ids_out.data(), threads));
      results[0].insert(results[0].end(), ids_out.begin(), ids_out.end());
    }
    results[1].assign(constraint_state.begin(), constraint_state.end());
    return results;
  }

  void check_generation(const CharlmSampling& sampling) const {
    const Results whole =
        with_any_threads("generation", [&](int threads) { return generate(sampling, kGenerated, threads); });
    require(same(generate(sampling, 5, 2), whole), "generating in pieces differs from generating at once");
    const long count = long(candidates.size());
    const Ids generated(whole[0].begin(), whole[0].end());
    Ids constraint_state(B);
    for (long n = 0; n < kGenerated * B; ++n) {
      const long at = std::find(candidates.begin(), candidates.end(), generated[n]) - candidates.begin();
      require(at < count && allowed[constraint_state[n % B] * count + at], "an id was generated that is not allowed");
      constraint_state[n % B] = transitions[constraint_state[n % B] * count + at];
    }
    Results expected = forward(generated, kGenerated, 1);
    Floats logits;
    for (long n = (kGenerated - 1) * B; n < kGenerated * B; ++n)
      for (const int64_t id : candidates) logits.push_back(expected[0][n * V + id]);
    require(same(whole, {whole[0], Floats(constraint_state.begin(), constraint_state.end()), logits, expected[1],
                         expected[2]}),
            "generating ids differs from reading the same ids");
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
    // With this many rows, threads divide the rows and not the units.
    {70, {24, 64, 24}, 9, 17},
};
// With this many ids, the model has no input table. It is slow, so only fp32 and int8 are checked.
const ModelShape kWithoutTable = {87382, {1, 192, 1}, 2, 3};
// T, B, H and the width of the input.
constexpr long kTrainings[][4] = {{1, 1, 16, 16},  {2, 3, 48, 80},  {9, 7, 80, 16},  {9, 13, 48, 48},
                                  {2, 13, 16, 80}, {3, 41, 32, 64}, {4, 18, 96, 32}, {3, 17, 64, 80}};
// Temperature, top_k, top_p and min_p.
const CharlmSampling kSamplings[] = {{1.0, 0, 1.0, 0.0}, {0.0, 0, 1.0, 0.0}, {0.8, 5, 1.0, 0.0}, {1.3, 9, 0.8, 0.05}};

// ------------------------------------------------------------------------------------------------- concurrency

void check_two_at_once(const ModelCase& one, const ModelCase& other) {
  const Results alone[] = {one.generate(kSamplings[0], 5, 1), other.generate(kSamplings[3], 5, 1)};
  for (int round = 0; round < 3; ++round) {
    Results together;
    std::thread thread([&] { together = other.generate(kSamplings[3], 5, 2); });
    require(same(one.generate(kSamplings[0], 5, 2), alone[0]), "a model depends on another that runs at the same time");
    thread.join();
    require(same(together, alone[1]), "a model depends on another that runs at the same time");
  }
}

#ifdef __SANITIZE_THREAD__
constexpr size_t kSamplingsOfAModel = 1;  // all run in the same threads
#else
constexpr size_t kSamplingsOfAModel = std::size(kSamplings);
#endif

// Replaces libgomp's GOMP_parallel.
std::atomic<bool> openmp_used{false};

void parallel(void (*work)(void*), void* data, unsigned threads, unsigned) {
  openmp_used = true;
  std::vector<std::thread> others;
  for (unsigned number = 1; number < threads; ++number) others.emplace_back(work, data);
  work(data);
  for (std::thread& other : others) other.join();
}

void check_openmp_and_fork(const Training& training, const ModelCase& model) {
  const Results pass = training.forward(false, true, 2), generated = model.generate(kSamplings[0], 5, 2);
  const auto again = [&] {
    return same(training.forward(false, true, 2), pass) && same(model.generate(kSamplings[0], 5, 2), generated);
  };
  charlm_use_openmp(reinterpret_cast<void*>(parallel));
  require(again() && openmp_used, "results differ on OpenMP's threads");
#ifndef __SANITIZE_THREAD__  // it cannot follow threads into a child process
  openmp_used = false;
  const pid_t child = fork();
  if (child == 0) _exit(again() ? openmp_used ? 2 : 0 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) != 1, "results differ in a child after a fork");
  require(WEXITSTATUS(status) == 0, "a child after a fork uses OpenMP's threads, which it does not have");
#endif
  charlm_use_openmp(nullptr);
}

void check_model(const Kernels* kernels, int storage, const ModelShape& shape, size_t samplings) {
  const auto& [V, widths, T, B] = shape;
  subject = std::string(charlm_kernels_name(kernels)) + " " + kStorages[storage] +
            " model with V=" + std::to_string(V) + " B=" + std::to_string(B);
  ModelCase model{V, widths, T, B};
  model.pack(kernels, storage);
  model.check_forward(kTolerance[storage]);
  for (size_t j = 0; j < samplings; ++j) model.check_generation(kSamplings[j]);
}

void check(const Kernels* kernels) {
  const std::string name = charlm_kernels_name(kernels);
  // Only training in bfloat16 uses tiles; the other kernels of amx are those of avx512_bf16.
  const bool tiles = name == "amx";
  const std::vector<int> storages = tiles ? std::vector<int>{kBf16} : std::vector<int>{kFp32, kBf16};
  for (const int storage : storages)
    for (const auto& [T, B, H, width] : kTrainings) {
      subject = name + " " + kStorages[storage] + " training with T=" + std::to_string(T) + " H=" + std::to_string(H);
      Training{kernels, storage, T, B, H, width}.check();
      for (const bool by_index : {false, true}) check_add_rows(kernels, storage, T * B, 4 * H, by_index);
      check_weight_gradient(kernels, storage, T * B, width, 4 * H);
      if (H != 80) continue;
      check_muon(kernels, storage, 4 * H, {48, 128, 7});
      for (const long inputs : {19, 32})
        check_weight_gradient(kernels, storage, kChunkRows + 77, inputs, 192);  // two chunks
    }
  ModelCase one{70, {24, 80, 33, 24}, 9, 13}, other{33, {40, 90, 40}, 9, 13};
  one.pack(kernels, kFp32), other.pack(kernels, kInt8);
  subject = name + " concurrency";
  for (const int storage : storages) check_openmp_and_fork(Training{kernels, storage, 9, 41, 32, 64}, one);
  if (tiles) return;
  check_two_at_once(one, other);
  for (const ModelShape& shape : kModels)
    for (const int storage : {kFp32, kBf16, kInt8}) check_model(kernels, storage, shape, kSamplingsOfAModel);
  for (const int storage : {kFp32, kInt8}) check_model(kernels, storage, kWithoutTable, 1);
  subject = name + " text that is read in several chunks";
  ModelCase model{5, {16, 16}, 35, 2048};
  model.pack(kernels, kFp32);
  require(same(model.forward(model.ids, 20, 2), model.forward(model.ids, 35, 2)), "results depend on the chunks");
}

}  // namespace

// The clock that the engine reads. After an oversubscribed team the engine runs a single thread for some seconds, and
// would run almost all of these checks so. This clock advances by a minute with each reading, so that the pause is
// always over.
std::atomic<int64_t> clock_readings{0};

extern "C" std::chrono::steady_clock::time_point __wrap__ZNSt6chrono3_V212steady_clock3nowEv() {
  return std::chrono::steady_clock::time_point(std::chrono::minutes(++clock_readings));
}

// Checks the instruction sets whose names are given.
int main(int count, char** names) {
  for (int at = 1; at < count; ++at) {
    const Kernels* kernels = charlm_kernels(names[at]);
    if (kernels) check(kernels);
    printf("%s %s\n", names[at], kernels ? "checked" : "absent");
  }
  require(clock_readings > 0, "the engine does not read this program's clock");
  printf("ok\n");
}
