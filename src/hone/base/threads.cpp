#include "hone/base/threads.h"

#include <sched.h>
#include <xmmintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "hone/base/error.h"

namespace hone {
namespace {

using Body = std::function<void(int64_t, int64_t)>;
using Clock = std::chrono::steady_clock;

// Waking a thread that sleeps takes longer than most of what a training step runs in parallel: workers stay awake over the short serial parts
// between (docs/log.md has what that gave). Waiting for a row of input, they sleep.
constexpr auto spin_time = std::chrono::milliseconds(2);
constexpr int most_threads = 1024;
constexpr int64_t shares = 3;  // a chunk is this part of a thread's share of what is left: long runs first, and the threads end together

thread_local bool inside_parallel_for = false;

/// Spins while `pending()` for about spin_time; false when it gave up. The clock is read rarely: it costs more than a pause.
template <class Pending>
bool spin_while(Pending pending) {
  const auto deadline = Clock::now() + spin_time;
  do {
    for (int i = 0; i < 64; ++i) {
      if (!pending()) return true;
      _mm_pause();
    }
  } while (Clock::now() < deadline);
  return !pending();
}

/// Processors that a cgroup CPU quota allows, or most_threads where there is none.
int quota_processors() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max"), v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(v2 >> quota >> period) && !(v1_quota >> quota && v1_period >> period)) return most_threads;
  if (!(quota > 0 && period > 0)) return most_threads;
  return static_cast<int>(std::clamp((quota + period - 1) / period, 1.0, double{most_threads}));
}

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int affine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min({affine, quota_processors(), most_threads}));
}

/// The work of one parallel_for. Lives on in the pool; written only while the gate is shut and nobody is inside.
struct Job {
  const Body* body = nullptr;
  int64_t count = 0, grain = 1, threads = 1;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  void run_chunks() {
    for (;;) {
      int64_t begin = next.load(std::memory_order_relaxed), end;
      do {
        if (begin >= count) return;
        end = std::min(count, begin + grain * std::max<int64_t>(1, (count - begin) / (grain * threads * shares)));
      } while (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed));
      try {
        (*body)(begin, end);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
        next.store(count, std::memory_order_relaxed);
      }
    }
  }
};

/// Workers enter a job through the gate: generation << 16 | open bit | number of workers inside. Only workers that entered are waited
/// for, so that one that is asleep or preempted costs nothing.
class Pool {
 public:
  explicit Pool(int count) : size_(count) { start(); }

  int size() const { return size_.load(std::memory_order_relaxed); }

  void resize(int count) {
    check(!inside_parallel_for, "set_threads: called from inside a parallel_for");
    const std::lock_guard user(user_mutex_);
    stop();
    size_ = count;
    start();
  }

  /// False when another thread uses the pool.
  bool run(int64_t count, int64_t grain, const Body& body) {
    std::unique_lock user(user_mutex_, std::try_to_lock);
    if (!user.owns_lock()) return false;
    job_.body = &body;
    job_.count = count;
    job_.grain = grain;
    job_.threads = size();
    job_.next.store(0, std::memory_order_relaxed);
    job_.failed.store(false, std::memory_order_relaxed);
    const uint64_t generation = (gate_.load() >> 16) + 1;
    gate_.store(generation << 16 | open_bit);
    wake_sleepers();
    job_.run_chunks();
    gate_.fetch_and(~open_bit);
    wait_until_empty();
    if (job_.failed.load()) std::rethrow_exception(std::exchange(job_.error, nullptr));
    return true;
  }

 private:
  static constexpr uint64_t open_bit = 1 << 15, inside_mask = open_bit - 1;

  void start() {
    stopping_ = false;
    try {
      while (static_cast<int>(workers_.size()) + 1 < size_) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      size_ = static_cast<int>(workers_.size()) + 1;  // the system grants no more threads; threads() tells
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  void wake_sleepers() {
    // The gate is stored before `sleepers_` is read, and a sleeper counts itself before it reads the gate: one of the two sees the other.
    if (sleepers_.load() == 0) return;
    { const std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }

  void wait_until_empty() {
    const auto occupied = [this] { return (gate_.load() & inside_mask) != 0; };
    if (spin_while(occupied)) return;
    std::unique_lock lock(mutex_);
    caller_waits_.store(true);
    empty_.wait(lock, [&] { return !occupied(); });
    caller_waits_.store(false);
  }

  bool nothing_new(uint64_t seen) const {
    const uint64_t gate = gate_.load();
    return !stopping_.load() && (!(gate & open_bit) || gate >> 16 == seen);
  }

  void work() {
    inside_parallel_for = true;
    const ScopedFlushDenormals flush;
    uint64_t seen = 0;
    for (;;) {
      if (!spin_while([&] { return nothing_new(seen); })) {
        std::unique_lock lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return !nothing_new(seen); });
        sleepers_.fetch_sub(1);
      }
      if (stopping_.load()) return;
      uint64_t gate = gate_.load();
      if (!(gate & open_bit) || gate >> 16 == seen || !gate_.compare_exchange_strong(gate, gate + 1)) continue;
      seen = gate >> 16;
      job_.run_chunks();
      const uint64_t left = gate_.fetch_sub(1) - 1;
      if ((left & (open_bit | inside_mask)) == 0 && caller_waits_.load()) {
        { const std::lock_guard lock(mutex_); }
        empty_.notify_one();
      }
    }
  }

  std::atomic<int> size_;
  std::mutex user_mutex_;  // held by the one caller that uses the pool
  Job job_;
  std::atomic<uint64_t> gate_{0};
  std::atomic<bool> stopping_{false}, caller_waits_{false};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_, empty_;
  std::vector<std::thread> workers_;
};

/// Never destroyed: at exit the workers sleep, and joining them then would only risk a deadlock with static destructors.
Pool& pool() {
  static Pool& instance = *new Pool(usable_processors());
  return instance;
}

struct ScopedInside {
  ScopedInside() { inside_parallel_for = true; }
  ~ScopedInside() { inside_parallel_for = false; }
};

}  // namespace

ScopedFlushDenormals::ScopedFlushDenormals() : saved_(_mm_getcsr()) {
  constexpr unsigned all_masked_nearest = 0x1F80, flush_to_zero = 0x8000, denormals_are_zero = 0x0040;
  _mm_setcsr(all_masked_nearest | flush_to_zero | denormals_are_zero);
}

ScopedFlushDenormals::~ScopedFlushDenormals() { _mm_setcsr(saved_); }

int threads() { return pool().size(); }

void set_threads(int count) {
  check(count >= 0, "set_threads: {} threads", count);
  const int wanted = count == 0 ? usable_processors() : std::min(count, most_threads);
  if (wanted != threads()) pool().resize(wanted);
}

void parallel_for(int64_t count, int64_t grain, const Body& body) {
  check(count >= 0 && grain >= 1, "parallel_for: count {} and grain {}", count, grain);
  if (count == 0) return;
  const ScopedFlushDenormals flush;
  if (inside_parallel_for || count <= grain || threads() == 1) return body(0, count);
  const ScopedInside inside;
  if (!pool().run(count, grain, body)) body(0, count);
}

}  // namespace hone
