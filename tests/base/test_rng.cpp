#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "hone/base/rng.h"

namespace hone {
namespace {

using Words = std::array<uint32_t, 4>;

// The known answers of Random123 (kat_vectors, philox4x32 10).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32(0, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomBits, EveryArgumentMatters) {
  std::set<uint64_t> seen;
  seen.insert(random_bits(0, Purpose::test, 0, 0, 0));
  seen.insert(random_bits(1, Purpose::test, 0, 0, 0));
  seen.insert(random_bits(uint64_t{1} << 32, Purpose::test, 0, 0, 0));
  seen.insert(random_bits(0, Purpose::sample, 0, 0, 0));
  seen.insert(random_bits(0, Purpose::test, 1, 0, 0));
  seen.insert(random_bits(0, Purpose::test, 0, 1, 0));
  seen.insert(random_bits(0, Purpose::test, 0, 0, 1));
  EXPECT_EQ(seen.size(), 7u);
  EXPECT_EQ(random_bits(5, Purpose::test, 1, 2, 3), random_bits(5, Purpose::test, 1, 2, 3));
}

TEST(RandomUnit, OpenIntervalAndUniform) {
  constexpr int draws = 20000;
  double sum = 0;
  for (uint32_t i = 0; i < draws; ++i) {
    const double u = random_unit(7, Purpose::test, i, 0, 0);
    ASSERT_TRUE(u > 0 && u < 1);
    ASSERT_TRUE(std::isfinite(std::log(u)));
    sum += u;
  }
  // The mean of 20,000 uniforms has a standard deviation of 0.002; the draw is fixed, so this cannot flicker.
  EXPECT_NEAR(sum / draws, 0.5, 0.008);
}

TEST(RandomPermutation, IsAPermutationAndAFunctionOfSeedAndEpoch) {
  for (const uint32_t n : {0u, 1u, 2u, 3u, 17u, 1000u}) {
    std::vector<uint32_t> order(n), sorted(n);
    random_permutation(3, 1, n, order.data());
    std::iota(sorted.begin(), sorted.end(), 0u);
    EXPECT_TRUE(std::is_permutation(order.begin(), order.end(), sorted.begin())) << n;
  }
  std::vector<uint32_t> a(100), again(100), other_seed(100), other_epoch(100);
  random_permutation(3, 1, 100, a.data());
  random_permutation(3, 1, 100, again.data());
  random_permutation(4, 1, 100, other_seed.data());
  random_permutation(3, 2, 100, other_epoch.data());
  EXPECT_EQ(a, again);
  EXPECT_NE(a, other_seed);
  EXPECT_NE(a, other_epoch);
}

TEST(RandomPermutation, AllOrdersOfFourComeUpEquallyOften) {
  std::map<std::vector<uint32_t>, int> counts;
  constexpr int draws = 24000;
  for (uint32_t epoch = 0; epoch < draws; ++epoch) {
    std::vector<uint32_t> order(4);
    random_permutation(11, epoch, 4, order.data());
    ++counts[order];
  }
  ASSERT_EQ(counts.size(), 24u);
  // 1000 expected with a standard deviation of 31; five of them.
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, draws / 24, 155);
}

// The order of an epoch is part of what a checkpoint promises: it may never change between versions. Computed by ten lines of Python.
TEST(RandomPermutation, IsFrozen) {
  std::vector<uint32_t> order(8);
  random_permutation(42, 0, 8, order.data());
  EXPECT_EQ(order, (std::vector<uint32_t>{1, 7, 3, 2, 0, 4, 5, 6}));
  // 200,000 rows: enough for one draw to be rejected. Also from Python.
  std::vector<uint32_t> many(200000);
  random_permutation(42, 0, 200000, many.data());
  uint64_t sum = 0;
  for (const uint32_t row : many) sum = sum * 1000003 + row;
  EXPECT_EQ(sum, 0x46b8d2c27098bbdau);
}

}  // namespace
}  // namespace hone
