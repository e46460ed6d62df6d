#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "hone/base/error.h"
#include "hone/data/shuffle.h"

namespace hone::data {
namespace {

using Batches = std::vector<std::vector<int64_t>>;

Batches take(RowOrder& order, int steps) {
  Batches batches;
  for (int i = 0; i < steps; ++i) batches.push_back(order.next());
  return batches;
}

TEST(RowOrder, EachEpochHoldsEachRowOnceAndEndsWithASmallerStep) {
  RowOrder order(10, 4, 1, true);
  EXPECT_EQ(order.steps_per_epoch(), 3);
  Batches epochs[2];
  for (auto& epoch : epochs) {
    epoch = take(order, 3);
    EXPECT_EQ(epoch[0].size(), 4u);
    EXPECT_EQ(epoch[2].size(), 2u);
    std::vector<int64_t> rows, all(10);
    for (const auto& batch : epoch) rows.insert(rows.end(), batch.begin(), batch.end());
    std::sort(rows.begin(), rows.end());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(rows, all);
  }
  EXPECT_NE(epochs[0], epochs[1]);
}

TEST(RowOrder, DataOrderWithoutShuffle) {
  RowOrder order(5, 2, 1, false);
  EXPECT_EQ(take(order, 4), (Batches{{0, 1}, {2, 3}, {4}, {0, 1}}));
}

TEST(RowOrder, SeedMatters) {
  RowOrder a(100, 100, 1, true), b(100, 100, 2, true);
  EXPECT_NE(a.next(), b.next());
}

TEST(RowOrder, ABatchLargerThanTheDataIsTheData) {
  RowOrder order(3, 8, 1, true);
  EXPECT_EQ(order.steps_per_epoch(), 1);
  EXPECT_EQ(order.next().size(), 3u);
  EXPECT_EQ(order.position(), (Position{1, 0}));
}

TEST(RowOrder, ResumingAnywhereGoesOnExactly) {
  for (const bool shuffle : {true, false}) {
    RowOrder whole(23, 5, 9, shuffle);
    const Batches expected = take(whole, 20);
    for (int stop = 0; stop < 20; ++stop) {
      RowOrder first(23, 5, 9, shuffle);
      take(first, stop);
      EXPECT_EQ(first.position(), first.position_after(stop));
      RowOrder second(23, 5, 9, shuffle);
      second.seek(first.position());
      EXPECT_EQ(take(second, 20 - stop), Batches(expected.begin() + stop, expected.end())) << stop;
    }
  }
}

TEST(RowOrder, SeekBackwards) {
  RowOrder order(7, 3, 9, true);
  const Batches expected = take(order, 6);
  order.seek({0, 3});
  EXPECT_EQ(order.next(), expected[1]);
}

TEST(RowOrder, APositionOutsideTheDataIsRefused) {
  RowOrder order(7, 3, 9, true);
  for (const Position position : {Position{0, 7}, Position{0, -1}, Position{-1, 0}, Position{int64_t{1} << 40, 0}})
    EXPECT_THROW(order.seek(position), UserError);
  EXPECT_THROW(RowOrder(0, 1, 0, true), ProgrammerError);
  EXPECT_THROW(RowOrder(1, 0, 0, true), ProgrammerError);
}

}  // namespace
}  // namespace hone::data
