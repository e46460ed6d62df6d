#include "hone/batch/packed_batch.h"

#include <algorithm>

#include "hone/base/error.h"

namespace hone::batch {
namespace {

/// Consecutive sequences with `shared` tokens in common, which stand in a root segment of their own; 0: one document.
struct SubTree {
  size_t begin, end;
  int64_t shared;
};

/// The cut into sub-trees: each takes the next sequences while they share something and all of it stays within max_tree_tokens.
std::vector<SubTree> sub_trees(std::span<const Branch> sequences, int64_t max_tree_tokens) {
  std::vector<SubTree> trees;
  int64_t total = 0;  // tokens of the last tree's sequences, shared ones in each
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Branch& s = sequences[i];
    check(s.count > 0, "append_tree: an empty sequence");
    if (!trees.empty()) {
      SubTree& tree = trees.back();
      const Branch& first = sequences[tree.begin];
      const auto others = static_cast<int64_t>(i - tree.begin);
      const int64_t most = std::min({s.count - 1, first.count - 1, others > 1 ? tree.shared : first.count - 1});
      const int64_t shared = std::mismatch(s.ids, s.ids + most, first.ids).first - s.ids;
      if (shared > 0 && total + s.count - shared * others <= max_tree_tokens) {
        tree = {tree.begin, i + 1, shared};
        total += s.count;
        continue;
      }
    }
    trees.push_back({i, i + 1, 0});
    total = s.count;
  }
  return trees;
}

}  // namespace

int64_t append_document(PackedBatch& batch, const int32_t* ids, const float* weights, int64_t count, bool keep_all) {
  check(count > 0, "append_document: an empty document");
  const int64_t begin = batch.num_tokens();
  const int64_t sequence = batch.num_sequences++;
  for (int64_t i = 0; i < count; ++i) {
    batch.token_ids.push_back(ids[i]);
    batch.positions.push_back(i);
    if (i + 1 == count) continue;
    if (!keep_all && weights && weights[i + 1] == 0.0f) continue;
    batch.predict_from.push_back(begin + i);
    batch.targets.push_back(ids[i + 1]);
    batch.sequence_ids.push_back(sequence);
    batch.weights.push_back(weights ? weights[i + 1] : 1.0f);
  }
  batch.segments.push_back({static_cast<int32_t>(begin), static_cast<int32_t>(begin + count), -1});
  batch.score_at.push_back(begin + count - 1);
  return sequence;
}

namespace {

void append_sub_tree(PackedBatch& batch, std::span<const Branch> sequences, int64_t shared) {
  const int64_t root = batch.num_tokens();
  const auto parent = static_cast<int32_t>(batch.segments.size());
  const auto add_segment = [&](const Branch& s, int64_t begin, int64_t end, int32_t parent_segment) {
    const int64_t at = batch.num_tokens();
    batch.segments.push_back({static_cast<int32_t>(at), static_cast<int32_t>(at + end - begin), parent_segment});
    for (int64_t i = begin; i < end; ++i) {
      batch.token_ids.push_back(s.ids[i]);
      batch.positions.push_back(i);
    }
  };
  add_segment(sequences[0], 0, shared, -1);
  for (const Branch& s : sequences) {
    const int64_t child = batch.num_tokens();
    const int64_t sequence = batch.num_sequences++;
    add_segment(s, shared, s.count, parent);
    for (int64_t i = 1; i < s.count; ++i) {
      const float weight = s.weights ? s.weights[i] : 1.0f;
      if (weight == 0.0f) continue;
      batch.predict_from.push_back(i <= shared ? root + i - 1 : child + i - 1 - shared);
      batch.targets.push_back(s.ids[i]);
      batch.sequence_ids.push_back(sequence);
      batch.weights.push_back(weight);
    }
    batch.score_at.push_back(batch.num_tokens() - 1);
  }
}

}  // namespace

void append_tree(PackedBatch& batch, std::span<const Branch> sequences, int64_t max_tree_tokens) {
  for (const SubTree& tree : sub_trees(sequences, max_tree_tokens)) {
    const Branch& first = sequences[tree.begin];
    if (tree.shared == 0)
      append_document(batch, first.ids, first.weights, first.count);
    else
      append_sub_tree(batch, sequences.subspan(tree.begin, tree.end - tree.begin), tree.shared);
  }
}

int64_t tree_tokens(std::span<const Branch> sequences, int64_t max_tree_tokens) {
  int64_t total = 0;
  for (const SubTree& tree : sub_trees(sequences, max_tree_tokens)) {
    total += tree.shared;
    for (const Branch& s : sequences.subspan(tree.begin, tree.end - tree.begin)) total += s.count - tree.shared;
  }
  return total;
}

void validate(const PackedBatch& batch) {
  const int64_t T = batch.num_tokens(), N = batch.num_predictions(), S = batch.num_sequences;
  check(static_cast<int64_t>(batch.positions.size()) == T, "positions {} but token_ids {}", batch.positions.size(), T);
  check(static_cast<int64_t>(batch.predict_from.size()) == N && static_cast<int64_t>(batch.sequence_ids.size()) == N &&
            static_cast<int64_t>(batch.weights.size()) == N,
        "predictions: targets {}, predict_from {}, sequence_ids {}, weights {}", N, batch.predict_from.size(), batch.sequence_ids.size(),
        batch.weights.size());
  check(static_cast<int64_t>(batch.score_at.size()) == S, "score_at {} but {} sequences", batch.score_at.size(), S);
  int64_t covered = 0;
  for (size_t s = 0; s < batch.segments.size(); ++s) {
    const Segment& segment = batch.segments[s];
    check(segment.begin == covered && segment.end > segment.begin, "segment {} is [{}, {}) after {} tokens", s, segment.begin, segment.end, covered);
    check(segment.parent >= -1 && segment.parent < static_cast<int32_t>(s), "segment {} has parent {}", s, segment.parent);
    const int64_t base = segment.parent < 0 ? 0 : batch.positions[batch.segments[segment.parent].end - 1] + 1;
    for (int64_t t = segment.begin; t < segment.end && t < T; ++t)
      check(batch.positions[t] == base + t - segment.begin, "token {} of segment {} has position {}, expected {}", t, s, batch.positions[t],
            base + t - segment.begin);
    covered = segment.end;
  }
  check(covered == T, "segments cover {} of {} tokens", covered, T);
  for (int64_t n = 0; n < N; ++n) {
    check(batch.predict_from[n] >= 0 && batch.predict_from[n] < T, "predict_from[{}] = {} of {} tokens", n, batch.predict_from[n], T);
    check(batch.sequence_ids[n] >= 0 && batch.sequence_ids[n] < S, "sequence_ids[{}] = {} of {} sequences", n, batch.sequence_ids[n], S);
  }
}

std::vector<int64_t> plan_micro_batches(const std::vector<int64_t>& lengths, int64_t budget) {
  check(budget > 0, "plan_micro_batches: budget {}", budget);
  std::vector<int64_t> ends;
  int64_t filled = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    check(lengths[i] > 0, "plan_micro_batches: row {} has length {}", i, lengths[i]);
    if (filled > 0 && filled + lengths[i] > budget) {
      ends.push_back(static_cast<int64_t>(i));
      filled = 0;
    }
    filled += lengths[i];
  }
  if (filled > 0) ends.push_back(static_cast<int64_t>(lengths.size()));
  return ends;
}

}  // namespace hone::batch
