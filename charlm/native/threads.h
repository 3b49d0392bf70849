// Parallel work without a thread pool. Threads are created for one call and joined before it returns, so a fork cannot
// lose them and two callers cannot compete for them.
//
// Where torch's OpenMP library is loaded, tasks that do not wait for each other run on its threads instead: a second
// set of threads would compete with them for the cores.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace charlm {

// Where the threads of a team wait for each other. A thread spins for a short time and then yields its core.
class Barrier {
 public:
  explicit Barrier(int team_size);
  void wait();
  // Whether the team has waited so often and so long for threads without a core that a single thread may be faster.
  bool oversubscribed() const;
  bool never_late() const { return late_arrivals_.load(std::memory_order_relaxed) == 0; }

 private:
  static constexpr int kMaxLateArrivals = 6;
  static constexpr double kMaxWaitingShare = 0.25;

  const int team_size_;
  const int64_t began_;
  std::atomic<int> late_arrivals_{0};
  std::atomic<int64_t> microseconds_waited_{0};  // for late arrivals, by all members
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> phase_{0};
};

// What one thread of a team knows about itself and the team.
struct Member {
  int index, team_size;
  Barrier* barrier;

  // Returns when every member has called it.
  void wait() const {
    if (team_size > 1) barrier->wait();
  }
  // This member's share of the range [0, count) is [first(count), last(count)).
  long first(long count) const { return count * index / team_size; }
  long last(long count) const { return count * (index + 1) / team_size; }
};

// Calls `work` on `team_size` threads at once, the calling thread among them. The team may be smaller than asked for: a
// single thread runs `work` while the team of another call is running and for some time after an oversubscribed team,
// and a team has as many members as threads can be created. So no result may depend on the size of the team.
void run_team(int team_size, const std::function<void(const Member&)>& work);

// Calls task(i) for each i in [0, count), on torch's OpenMP threads if they are available. Tasks must not wait for each
// other.
void run_tasks(int count, const std::function<void(int)>& task);

// Takes GOMP_parallel of the OpenMP library that torch has loaded, or null.
void use_openmp(void* gomp_parallel);

}  // namespace charlm
