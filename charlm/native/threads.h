// Work shared by several threads, without a pool: threads are made for a call and end with it, so there is nothing that
// a fork could lose or that two callers could fight over. Inside a process that has torch's OpenMP, work without
// barriers goes to that instead, because two sets of threads would take the cores from one another.
#pragma once

#include <atomic>
#include <functional>

namespace charlm {

// Threads of a team wait for one another here. They spin for a short while, and then let others run.
class Barrier {
 public:
  explicit Barrier(int members) : members_(members) {}
  void wait();
  // Whether the team has had to wait so often for a member that had no core that one thread alone would be faster.
  bool crowded() const { return late_.load(std::memory_order_relaxed) > kMostLate; }
  // Whether nobody was late at all.
  bool smooth() const { return late_.load(std::memory_order_relaxed) == 0; }

 private:
  static constexpr int kMostLate = 6;

  const int members_;
  std::atomic<int> late_{0};
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> phase_{0};
};

// What one member of a team is told. `wait` is a barrier for the whole team.
struct Member {
  int number, of;
  Barrier* barrier;
  void wait() const {
    if (of > 1) barrier->wait();
  }
  // This member's share of `count` things: [first, last).
  long first(long count) const { return count * number / of; }
  long last(long count) const { return count * (number + 1) / of; }
};

// Runs `work` in `members` threads at once, this one included. While another call's team is at work, where no thread
// can be made, and for a while after a crowded team, this one does it alone: results never depend on the number of
// members.
void run_team(int members, const std::function<void(const Member&)>& work);

// Calls work(part) for each part in [0, parts), on torch's OpenMP threads where they are known. Parts must not wait for
// one another.
void run_parts(int parts, const std::function<void(int)>& work);

// GOMP_parallel of the OpenMP library that torch has loaded, or null.
void use_openmp(void* gomp_parallel);

}  // namespace charlm
