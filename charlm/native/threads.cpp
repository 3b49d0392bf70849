#include "threads.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace charlm {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;
#endif
}

std::atomic<GompParallel> openmp{nullptr};
std::atomic<long> openmp_process{0};
// The process in which a team is at work, 0 if none is. A child made by fork while one was takes no notice of it.
std::atomic<long> busy{0};
// On a machine whose cores others use, no team is tried for a while, each time for longer: times in microseconds.
constexpr int64_t kFirstPause = 50'000, kLongestPause = 8'000'000;
std::atomic<int64_t> alone_until{0}, next_pause{kFirstPause};

int64_t now() {
  using namespace std::chrono;
  return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

void note(const Barrier& barrier) {
  const int64_t pause = next_pause.load();
  if (barrier.crowded()) {
    alone_until.store(now() + pause);
    next_pause.store(std::min(2 * pause, kLongestPause));
  } else if (barrier.smooth()) {
    next_pause.store(std::max(pause / 2, kFirstPause));
  }
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

class Claim {
 public:
  Claim() {
    const long mine = process();
    long found = busy.load();
    while (found != mine && !busy.compare_exchange_weak(found, mine)) {
    }
    granted_ = found != mine;
  }
  ~Claim() {
    if (granted_) busy.store(0);
  }
  bool granted() const { return granted_; }

 private:
  bool granted_ = false;
};

struct Parts {
  const std::function<void(int)>& work;
  const int count;
  std::atomic<int> next{0};

  void take() {
    for (int part; (part = next.fetch_add(1)) < count;) work(part);
  }
  static void entry(void* self) { static_cast<Parts*>(self)->take(); }
};

}  // namespace

void Barrier::wait() {
  const unsigned phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  constexpr int kSpins = 4000;
  for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
    if (spins < kSpins) {
      relax();
    } else {
      if (spins == kSpins) late_.fetch_add(1, std::memory_order_relaxed);
      std::this_thread::yield();
    }
  }
}

void run_team(int members, const std::function<void(const Member&)>& work) {
  if (members > 1 && now() >= alone_until.load()) {
    Claim claim;
    if (claim.granted()) {
      std::vector<std::thread> threads;
      threads.reserve(size_t(members - 1));
      std::atomic<int> size{0};  // 0 until everybody is there
      Barrier* barrier = nullptr;
      const auto join = [&](int number) {
        while (size.load(std::memory_order_acquire) == 0) std::this_thread::yield();
        work(Member{number, size.load(), barrier});
      };
      try {
        for (int number = 1; number < members; ++number) threads.emplace_back(join, number);
      } catch (const std::system_error&) {
        // No more threads to be had: those that are there do it.
      }
      const int there = int(threads.size()) + 1;
      Barrier shared(there);
      barrier = &shared;
      size.store(there, std::memory_order_release);
      work(Member{0, there, barrier});
      for (std::thread& thread : threads) thread.join();
      note(shared);
      return;
    }
  }
  Barrier alone(1);
  work(Member{0, 1, &alone});
}

void run_parts(int parts, const std::function<void(int)>& work) {
  Parts shared{work, parts};
  const GompParallel parallel = openmp.load();
  if (parts <= 1) {
    shared.take();
  } else if (parallel && openmp_process.load() == process()) {  // OpenMP's threads do not survive a fork
    parallel(Parts::entry, &shared, unsigned(parts), 0);
  } else {
    run_team(parts, [&](const Member&) { shared.take(); });
  }
}

void use_openmp(void* gomp_parallel) {
  openmp_process.store(process());
  openmp.store(reinterpret_cast<GompParallel>(gomp_parallel));
}

}  // namespace charlm
