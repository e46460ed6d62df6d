// The guard against collapse, step by step; and the cache of the reference's log-probabilities.
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "hone/train/guards.h"
#include "hone/train/reference_cache.h"
#include "support/run_job.h"

namespace hone {
namespace {

TEST(FallGuard, FiresWhenTheMedianOfTenStepsIsAboveTheBoundAndOnlyOnce) {
  train::FallGuard guard(2.0);
  for (int step = 0; step < 5; ++step) EXPECT_EQ(guard.after_step(0.1), "");
  for (int step = 0; step < 5; ++step) EXPECT_EQ(guard.after_step(3.0), "") << step;  // 5 of 10: the median is (0.1 + 3) / 2
  EXPECT_FALSE(guard.sound());
  const std::string problem = guard.after_step(3.0);
  EXPECT_NE(problem.find("3.00 nats a token"), std::string::npos) << problem;
  EXPECT_NE(problem.find("--max_chosen_drop 2"), std::string::npos) << problem;
  EXPECT_EQ(guard.after_step(3.0), "");
}

TEST(FallGuard, NoisyStepsStopNothing) {
  train::FallGuard guard(2.0);
  for (int step = 0; step < 40; ++step) EXPECT_EQ(guard.after_step(step % 3 == 0 ? 1000.0 : 0.0), "") << step;
  EXPECT_EQ(guard.after_step(std::numeric_limits<double>::quiet_NaN()), "");
  EXPECT_EQ(guard.window().size(), train::FallGuard::kWindow);
}

TEST(FallGuard, IsSoundUntilHalfTheBound) {
  train::FallGuard guard(2.0);
  EXPECT_TRUE(guard.sound());
  guard.after_step(0.9);
  EXPECT_TRUE(guard.sound());
  guard.after_step(2.5);  // one step beyond the bound: what it made is not trusted
  EXPECT_FALSE(guard.sound());
  train::FallGuard other(2.0);
  other.restore({1.5, 1.5, 1.5});
  EXPECT_FALSE(other.sound());
  train::FallGuard off(0);
  EXPECT_EQ(off.after_step(1e9), "");
  EXPECT_TRUE(off.sound());
}

batch::PackedBatch row_of(std::vector<int32_t> ids) {
  batch::PackedBatch packed;
  batch::append_document(packed, ids.data(), nullptr, static_cast<int64_t>(ids.size()));
  return packed;
}

TEST(ReferenceCache, GivesBackTheBitsOfTheSameRowAndPolicy) {
  test::TemporaryRun folder;
  const std::vector<float> logprobs{-0.1f, -1e-38f, -123.456f};
  {
    train::ReferenceCache cache(folder.path, "policy", "data");
    EXPECT_FALSE(cache.find(row_of({1, 2, 3, 4})));
    cache.add(row_of({1, 2, 3, 4}), logprobs);
    cache.write();
    cache.add(row_of({1, 2, 9, 4}), std::vector<float>{-1, -2, -3});
    cache.write();
  }
  train::ReferenceCache cache(folder.path, "policy", "data");
  const auto found = cache.find(row_of({1, 2, 3, 4}));
  ASSERT_TRUE(found);
  EXPECT_EQ(std::vector<float>(found->begin(), found->end()), logprobs);
  EXPECT_EQ(cache.find(row_of({1, 2, 9, 4})).value()[2], -3.0f);
  EXPECT_FALSE(cache.find(row_of({1, 2, 3})));
  EXPECT_FALSE(cache.find(row_of({2, 2, 3, 4})));  // another prompt, the same predicted tokens
  EXPECT_FALSE(train::ReferenceCache(folder.path, "another", "data").find(row_of({1, 2, 3, 4})));
  EXPECT_FALSE(train::ReferenceCache(folder.path, "policy", "more").find(row_of({1, 2, 3, 4})));
}

TEST(ReferenceCache, ADamagedFileIsNotTrusted) {
  test::TemporaryRun folder;
  train::ReferenceCache(folder.path, "policy", "data");
  {
    train::ReferenceCache cache(folder.path, "policy", "data");
    cache.add(row_of({1, 2, 3}), std::vector<float>{-1, -2});
    cache.write();
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder.path)) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(30);
    file.put('\x7f');
  }
  EXPECT_FALSE(train::ReferenceCache(folder.path, "policy", "data").find(row_of({1, 2, 3})));
}

}  // namespace
}  // namespace hone
