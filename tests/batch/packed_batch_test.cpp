// Packing documents, the planner of micro-batches, and every invariant that validate names.
#include "hone/batch/packed_batch.h"

#include <gtest/gtest.h>

#include <array>

#include "hone/base/error.h"
#include "hone/base/rng.h"

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

struct Sequence {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

std::vector<Branch> branches(const std::vector<Sequence>& sequences) {
  std::vector<Branch> out;
  for (const Sequence& s : sequences) out.push_back({s.ids.data(), s.weights.data(), static_cast<int64_t>(s.ids.size())});
  return out;
}

PackedBatch tree_of(const std::vector<Sequence>& sequences, int64_t max_tree_tokens = 1 << 20) {
  PackedBatch batch;
  append_tree(batch, branches(sequences), max_tree_tokens);
  validate(batch);
  EXPECT_EQ(batch.num_tokens(), tree_tokens(branches(sequences), max_tree_tokens));
  return batch;
}

/// The token that stands at a place, with everything it sees: itself and the earlier tokens of its segment, then its ancestors'.
std::vector<int64_t> context_of(const PackedBatch& batch, int64_t place) {
  size_t segment = 0;
  while (batch.segments[segment].end <= place) ++segment;
  std::vector<int64_t> context;
  int64_t last = place;
  for (auto s = static_cast<int32_t>(segment); s >= 0; s = batch.segments[s].parent) {
    for (int64_t t = last; t >= batch.segments[s].begin; --t) context.push_back(batch.token_ids[t]);
    if (batch.segments[s].parent >= 0) last = batch.segments[batch.segments[s].parent].end - 1;
  }
  return {context.rbegin(), context.rend()};
}

/// What a batch predicts, in order, independent of where things stand in the pack.
struct Prediction {
  int64_t sequence, position, target;
  float weight;
  std::vector<int64_t> seen;
  bool operator==(const Prediction&) const = default;
};

std::vector<Prediction> predictions(const PackedBatch& b) {
  std::vector<Prediction> out;
  for (int64_t n = 0; n < b.num_predictions(); ++n)
    out.push_back({b.sequence_ids[n], b.positions[b.predict_from[n]], b.targets[n], b.weights[n], context_of(b, b.predict_from[n])});
  return out;
}

TEST(Tree, SharedPromptIsARootAndTheRestsAreItsChildren) {
  const PackedBatch b = tree_of({{{1, 2, 3, 4, 5}, {0, 0, 0, 1, 1}}, {{1, 2, 3, 6}, {0, 0, 0, 0.5f}}});
  EXPECT_EQ(b.token_ids, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(b.positions, (std::vector<int64_t>{0, 1, 2, 3, 4, 3}));
  ASSERT_EQ(b.segments.size(), 3u);
  const auto segment = [&](size_t s) { return std::array{b.segments[s].begin, b.segments[s].end, b.segments[s].parent}; };
  EXPECT_EQ(segment(0), (std::array{0, 3, -1}));
  EXPECT_EQ(segment(1), (std::array{3, 5, 0}));
  EXPECT_EQ(segment(2), (std::array{5, 6, 0}));
  EXPECT_EQ(b.predict_from, (std::vector<int64_t>{2, 3, 2}));
  EXPECT_EQ(b.targets, (std::vector<int64_t>{4, 5, 6}));
  EXPECT_EQ(b.sequence_ids, (std::vector<int64_t>{0, 0, 1}));
  EXPECT_EQ(b.weights, (std::vector<float>{1, 1, 0.5f}));
  EXPECT_EQ(b.score_at, (std::vector<int64_t>{4, 5}));
}

TEST(Tree, ASharedCompletionTokenIsPredictedOncePerSequence) {
  const PackedBatch b = tree_of({{{1, 2, 3, 4}, {0, 1, 1, 1}}, {{1, 2, 3, 5}, {0, 0.5f, 1, 0}}});
  EXPECT_EQ(b.num_tokens(), 5);
  EXPECT_EQ(b.predict_from, (std::vector<int64_t>{0, 1, 2, 0, 1}));
  EXPECT_EQ(b.targets, (std::vector<int64_t>{2, 3, 4, 2, 3}));
  EXPECT_EQ(b.sequence_ids, (std::vector<int64_t>{0, 0, 0, 1, 1}));
  EXPECT_EQ(b.weights, (std::vector<float>{1, 1, 1, 0.5f, 1}));
}

TEST(Tree, EverySequenceKeepsATokenOfItsOwn) {
  const PackedBatch same = tree_of({{{1, 2, 3}, {0, 1, 1}}, {{1, 2, 3}, {0, 1, 1}}});
  EXPECT_EQ(same.token_ids, (std::vector<int64_t>{1, 2, 3, 3}));
  EXPECT_EQ(same.score_at, (std::vector<int64_t>{2, 3}));
  const PackedBatch beginning = tree_of({{{1, 2, 3, 4}, {0, 1, 1, 1}}, {{1, 2}, {0, 1}}});
  EXPECT_EQ(beginning.token_ids, (std::vector<int64_t>{1, 2, 3, 4, 2}));
  EXPECT_EQ(tree_of({{{1}, {0}}, {{1, 2}, {0, 1}}}).segments.size(), 2u);  // nothing is left to share
}

TEST(Tree, WithoutACommonPrefixOrOverTheLimitEachIsADocument) {
  const std::vector<Sequence> apart{{{1, 2}, {0, 1}}, {{3, 2}, {0, 1}}};
  const PackedBatch b = tree_of(apart);
  EXPECT_EQ(b.num_tokens(), 4);
  for (const Segment& s : b.segments) EXPECT_EQ(s.parent, -1);
  const std::vector<Sequence> pair{{{1, 2, 3, 4}, {0, 0, 1, 1}}, {{1, 2, 5}, {0, 0, 1}}};
  EXPECT_EQ(tree_of(pair, 5).num_tokens(), 5);
  EXPECT_EQ(tree_of(pair, 4).num_tokens(), 7);
  EXPECT_EQ(predictions(tree_of(pair, 5)), predictions(tree_of(pair, 4)));
  EXPECT_EQ(tree_of({{{1, 2, 3}, {0, 1, 1}}}).segments.size(), 1u);
  PackedBatch none;
  const std::vector<Sequence> empty{{{}, {}}, {{1}, {0}}};
  EXPECT_THROW(append_tree(none, branches(empty), 100), ProgrammerError);
}

TEST(Tree, IsCutIntoSubTreesThatFit) {
  const auto with = [](std::vector<int32_t> completion) {
    Sequence s{{1, 2, 3}, {0, 0, 0}};
    s.ids.insert(s.ids.end(), completion.begin(), completion.end());
    s.weights.resize(s.ids.size(), 1);
    return s;
  };
  const std::vector<Sequence> group{with({10}), with({11, 12}), with({13}), with({14, 15, 16})};
  const auto parents = [](const PackedBatch& b) {
    std::vector<int32_t> all;
    for (const Segment& s : b.segments) all.push_back(s.parent);
    return all;
  };
  const PackedBatch whole = tree_of(group, 10), three = tree_of(group, 9), two = tree_of(group, 6);
  EXPECT_EQ(whole.num_tokens(), 10);
  EXPECT_EQ(parents(whole), (std::vector<int32_t>{-1, 0, 0, 0, 0}));
  EXPECT_EQ(three.num_tokens(), 7 + 6);  // the prompt stands twice
  EXPECT_EQ(parents(three), (std::vector<int32_t>{-1, 0, 0, 0, -1}));
  EXPECT_EQ(parents(two), (std::vector<int32_t>{-1, 0, 0, -1, -1}));
  EXPECT_EQ(parents(tree_of(group, 8)), parents(three));
  const std::vector<Sequence> even{with({10}), with({11}), with({12}), with({13})};
  EXPECT_EQ(parents(tree_of(even, 5)), (std::vector<int32_t>{-1, 0, 0, -1, 3, 3}));
  for (const PackedBatch* b : {&three, &two}) EXPECT_EQ(predictions(*b), predictions(whole));
}

TEST(Tree, EqualsTheFlattenedDocumentsForAnySequences) {
  uint32_t draws = 0;
  const auto below = [&](uint64_t n) { return static_cast<int32_t>(random_bits(7, Purpose::test, draws++, 0, 0) % n); };
  PackedBatch trees, documents;  // many rows in one batch: offsets must be right, too
  int64_t saved = 0;
  for (int row = 0; row < 300; ++row) {
    std::vector<Sequence> sequences(static_cast<size_t>(1 + below(4)));
    for (Sequence& s : sequences) {
      const int length = 1 + below(12);
      for (int t = 0; t < length; ++t) {
        s.ids.push_back(below(2) == 0 ? t : below(3));  // often the same beginning
        s.weights.push_back(0.5f * static_cast<float>(below(3)));
      }
    }
    const int64_t limit = below(40);
    append_tree(trees, branches(sequences), limit);
    for (const Sequence& s : sequences) append_document(documents, s.ids.data(), s.weights.data(), static_cast<int64_t>(s.ids.size()));
    saved = documents.num_tokens() - trees.num_tokens();
  }
  validate(trees);
  EXPECT_GT(saved, 0);
  EXPECT_EQ(trees.num_sequences, documents.num_sequences);
  EXPECT_EQ(predictions(trees), predictions(documents));
  ASSERT_EQ(trees.score_at.size(), documents.score_at.size());
  for (size_t s = 0; s < trees.score_at.size(); ++s)
    EXPECT_EQ(context_of(trees, trees.score_at[s]), context_of(documents, documents.score_at[s])) << s;
}

}  // namespace
}  // namespace hone::batch
