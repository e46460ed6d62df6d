#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "hone/base/error.h"
#include "hone/base/threads.h"

namespace hone {
namespace {

struct Threads : testing::TestWithParam<int> {
  void SetUp() override { set_threads(GetParam()); }
  void TearDown() override { set_threads(0); }
};

TEST_P(Threads, EveryIndexOnceInChunksThatBeginAtTheGrain) {
  for (const int64_t count : {0, 1, 2, 7, 64, 1000, 12345}) {
    for (const int64_t grain : {1, 3, 16, 5000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      std::atomic<bool> aligned{true};
      parallel_for(count, grain, [&](int64_t begin, int64_t end) {
        if (begin % grain != 0 || begin >= end || end > count) aligned = false;
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      EXPECT_TRUE(aligned) << count << " " << grain;
      for (const auto& hit : hits) ASSERT_EQ(hit, 1) << count << " " << grain;
    }
  }
}

TEST_P(Threads, ManyShortCallsEndAndCoverEverything) {
  std::atomic<int64_t> sum{0};
  for (int i = 0; i < 3000; ++i) {
    parallel_for(32, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    if (i % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // lets the workers fall asleep
  }
  EXPECT_EQ(sum, 3000 * 32);
}

TEST_P(Threads, NestedCallsRunSerially) {
  std::atomic<int64_t> sum{0};
  std::atomic<bool> same_thread{true};
  parallel_for(16, 1, [&](int64_t begin, int64_t end) {
    const auto outer = std::this_thread::get_id();
    parallel_for(100 * (end - begin), 1, [&](int64_t b, int64_t e) {
      if (std::this_thread::get_id() != outer) same_thread = false;
      sum += e - b;
    });
  });
  EXPECT_EQ(sum, 1600);
  EXPECT_TRUE(same_thread);
}

TEST_P(Threads, AnExceptionIsRethrownAndThePoolGoesOn) {
  for (int round = 0; round < 50; ++round) {
    EXPECT_THROW(parallel_for(100, 1,
                              [](int64_t begin, int64_t) {
                                if (begin >= 50 || begin == 0) throw std::runtime_error("body");
                              }),
                 std::runtime_error);
    std::atomic<int64_t> sum{0};
    parallel_for(100, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    ASSERT_EQ(sum, 100);
  }
}

TEST_P(Threads, CallersOnSeveralThreadsDoNotDisturbEachOther) {
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      for (int call = 0; call < 300; ++call) parallel_for(50, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 3 * 300 * 50);
}

TEST_P(Threads, BodiesFlushDenormalsWhoeverRunsThem) {
  const unsigned before = _mm_getcsr();
  std::atomic<int> kept{0};
  std::mutex mutex;
  std::condition_variable entered;
  std::set<std::thread::id> seen;
  parallel_for(256, 1, [&](int64_t, int64_t) {
    volatile float tiny = std::numeric_limits<float>::min();
    volatile float half = tiny * 0.5f;
    if (half != 0.0f) ++kept;
    std::unique_lock lock(mutex);  // holds every thread back until all have run a body
    seen.insert(std::this_thread::get_id());
    entered.notify_all();
    entered.wait_for(lock, std::chrono::seconds(20), [&] { return seen.size() == static_cast<size_t>(GetParam()); });
  });
  EXPECT_EQ(seen.size(), static_cast<size_t>(GetParam()));
  EXPECT_EQ(kept, 0);
  EXPECT_EQ(_mm_getcsr() & ~0x3Fu, before & ~0x3Fu);  // the low six bits are sticky exception flags
}

INSTANTIATE_TEST_SUITE_P(Counts, Threads, testing::Values(1, 2, 5));

TEST(SetThreads, CountsAndDefaults) {
  set_threads(3);
  EXPECT_EQ(threads(), 3);
  set_threads(0);
  EXPECT_GE(threads(), 1);
  EXPECT_THROW(set_threads(-1), ProgrammerError);
  EXPECT_THROW(parallel_for(4, 0, [](int64_t, int64_t) {}), ProgrammerError);
}

TEST(SetThreads, RefusedInsideAParallelFor) {
  set_threads(2);
  EXPECT_THROW(parallel_for(8, 1, [](int64_t, int64_t) { set_threads(4); }), ProgrammerError);
  set_threads(0);
}

}  // namespace
}  // namespace hone
