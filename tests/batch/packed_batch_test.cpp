// Packing documents, the planner of micro-batches, and every invariant that validate names.
#include "hone/batch/packed_batch.h"

#include <gtest/gtest.h>

#include "hone/base/error.h"

namespace hone::batch {
namespace {

PackedBatch two_documents() {
  PackedBatch batch;
  const std::vector<int32_t> a{5, 6, 7, 8}, b{9, 10};
  const std::vector<float> wa{0, 0, 1, 0.5f}, wb{1, 1};
  EXPECT_EQ(append_document(batch, a.data(), wa.data(), 4), 0);
  EXPECT_EQ(append_document(batch, b.data(), wb.data(), 2), 1);
  return batch;
}

TEST(PackedBatch, DocumentsBecomeRootsAndTrainedTokensPredictions) {
  const PackedBatch batch = two_documents();
  validate(batch);
  EXPECT_EQ(batch.token_ids, (std::vector<int64_t>{5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 3, 0, 1}));
  EXPECT_EQ(batch.predict_from, (std::vector<int64_t>{1, 2, 4}));  // the hidden state before the token predicted
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{7, 8, 10}));
  EXPECT_EQ(batch.sequence_ids, (std::vector<int64_t>{0, 0, 1}));
  EXPECT_EQ(batch.weights, (std::vector<float>{1, 0.5f, 1}));
  EXPECT_EQ(batch.score_at, (std::vector<int64_t>{3, 5}));
}

TEST(PackedBatch, KeepAllScoresEveryToken) {
  PackedBatch batch;
  const std::vector<int32_t> ids{1, 2, 3};
  append_document(batch, ids.data(), nullptr, 3, true);
  validate(batch);
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(batch.weights, (std::vector<float>{1, 1}));
}

TEST(PackedBatch, ValidateNamesEveryBrokenInvariant) {
  const auto broken = [](auto change) {
    PackedBatch batch = two_documents();
    change(batch);
    EXPECT_THROW(validate(batch), ProgrammerError);
  };
  broken([](PackedBatch& b) { b.positions[1] = 2; });
  broken([](PackedBatch& b) { b.positions.pop_back(); });
  broken([](PackedBatch& b) { b.segments[1].begin = 3; });
  broken([](PackedBatch& b) { b.segments[1].end = 5; });
  broken([](PackedBatch& b) { b.segments[1].parent = 1; });
  broken([](PackedBatch& b) { b.segments[1].parent = 0; });  // a child would continue at position 4
  broken([](PackedBatch& b) { b.predict_from[0] = 6; });
  broken([](PackedBatch& b) { b.predict_from[0] = -1; });
  broken([](PackedBatch& b) { b.sequence_ids[2] = 2; });
  broken([](PackedBatch& b) { b.weights.pop_back(); });
  broken([](PackedBatch& b) { b.score_at.pop_back(); });
  PackedBatch child = two_documents();
  child.segments[1].parent = 0;
  child.positions[4] = 4, child.positions[5] = 5;
  validate(child);
}

TEST(Planner, FillsInOrderUpToTheBudget) {
  EXPECT_EQ(plan_micro_batches({3, 3, 3, 3}, 6), (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(plan_micro_batches({3, 3, 3}, 7), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(plan_micro_batches({9, 1, 1}, 4), (std::vector<int64_t>{1, 3}));  // a row over the budget stands alone
  EXPECT_EQ(plan_micro_batches({1, 9, 1}, 4), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(plan_micro_batches({}, 4), std::vector<int64_t>{});
  EXPECT_THROW(plan_micro_batches({1}, 0), ProgrammerError);
  EXPECT_THROW(plan_micro_batches({0}, 4), ProgrammerError);
}

}  // namespace
}  // namespace hone::batch
