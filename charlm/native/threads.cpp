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

long process_id() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;
#endif
}

std::atomic<GompParallel> openmp{nullptr};
std::atomic<long> openmp_process{0};

// The process in which a team is running, or 0. It holds a process and not a flag because a child forked while a team
// was running inherits the value but not the team.
std::atomic<long> team_process{0};

// After an oversubscribed team no team is started for a pause in microseconds, which doubles each time: other programs
// are using the cores.
constexpr int64_t kMinPause = 50'000, kMaxPause = 8'000'000;
std::atomic<int64_t> pause_end{0}, next_pause{kMinPause};

int64_t now() {
  using namespace std::chrono;
  return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

void update_pause(const Barrier& barrier) {
  const int64_t pause = next_pause.load();
  if (barrier.oversubscribed()) {
    pause_end.store(now() + pause);
    next_pause.store(std::min(2 * pause, kMaxPause));
  } else if (barrier.never_late()) {
    next_pause.store(std::max(pause / 2, kMinPause));
  }
}

void spin_wait_hint() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Acquires the right to run this process's only team, without waiting for it.
class TeamLock {
 public:
  TeamLock() {
    const long process = process_id();
    long owner = team_process.load();
    while (owner != process && !team_process.compare_exchange_weak(owner, process)) {
    }
    acquired_ = owner != process;
  }
  ~TeamLock() {
    if (acquired_) team_process.store(0);
  }
  bool acquired() const { return acquired_; }

 private:
  bool acquired_ = false;
};

// Tasks that any number of threads take from until none is left.
struct TaskQueue {
  const std::function<void(int)>& task;
  const int count;
  std::atomic<int> next{0};

  void run() {
    for (int i; (i = next.fetch_add(1)) < count;) task(i);
  }
  static void openmp_entry(void* queue) { static_cast<TaskQueue*>(queue)->run(); }
};

}  // namespace

Barrier::Barrier(int team_size) : team_size_(team_size), began_(now()) {}

bool Barrier::oversubscribed() const {
  if (late_arrivals_.load(std::memory_order_relaxed) <= kMaxLateArrivals) return false;
  // Members that have cores of their own wait, too, where their shares of long work take unequal times, but not long.
  const double time_of_others = double(team_size_ - 1) * double(now() - began_);
  return double(microseconds_waited_.load(std::memory_order_relaxed)) > kMaxWaitingShare * time_of_others;
}

void Barrier::wait() {
  const unsigned phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team_size_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  constexpr int kSpins = 4000;
  for (int spins = 0; spins < kSpins; ++spins) {
    if (phase_.load(std::memory_order_acquire) != phase) return;
    spin_wait_hint();
  }
  const int64_t began = now();
  while (phase_.load(std::memory_order_acquire) == phase) std::this_thread::yield();
  late_arrivals_.fetch_add(1, std::memory_order_relaxed);
  microseconds_waited_.fetch_add(now() - began, std::memory_order_relaxed);
}

void run_team(int team_size, const std::function<void(const Member&)>& work) {
  if (team_size > 1 && now() >= pause_end.load()) {
    TeamLock lock;
    if (lock.acquired()) {
      std::vector<std::thread> threads;
      threads.reserve(size_t(team_size - 1));
      std::atomic<int> final_size{0};  // 0 until all threads have been created
      Barrier* barrier = nullptr;
      const auto join = [&](int index) {
        while (final_size.load(std::memory_order_acquire) == 0) std::this_thread::yield();
        work(Member{index, final_size.load(), barrier});
      };
      try {
        for (int index = 1; index < team_size; ++index) threads.emplace_back(join, index);
      } catch (const std::system_error&) {
        // The system refuses more threads; those that exist share the work.
      }
      const int created = int(threads.size()) + 1;
      Barrier shared_barrier(created);
      barrier = &shared_barrier;
      final_size.store(created, std::memory_order_release);
      work(Member{0, created, barrier});
      for (std::thread& thread : threads) thread.join();
      update_pause(shared_barrier);
      return;
    }
  }
  Barrier barrier(1);
  work(Member{0, 1, &barrier});
}

void run_tasks(int count, const std::function<void(int)>& task) {
  TaskQueue queue{task, count};
  const GompParallel parallel = openmp.load();
  if (count <= 1) {
    queue.run();
  } else if (parallel && openmp_process.load() == process_id()) {  // OpenMP's threads do not survive a fork
    parallel(TaskQueue::openmp_entry, &queue, unsigned(count), 0);
  } else {
    run_team(count, [&](const Member&) { queue.run(); });
  }
}

void use_openmp(void* gomp_parallel) {
  openmp_process.store(process_id());
  openmp.store(reinterpret_cast<GompParallel>(gomp_parallel));
}

}  // namespace charlm
