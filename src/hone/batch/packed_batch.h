#pragma once
// PackedBatch: the one batch type of every method. T packed tokens, N predictions, S sequences; no padding, no mask tensor.
#include <cstdint>
#include <span>
#include <vector>

namespace hone::batch {

/// Tokens [begin, end) of the pack. A token sees the earlier tokens of its own segment and all tokens of its ancestors.
/// parent is the index of an earlier segment, or -1 for a root. Segments are in data order and cover [0, T) without gaps.
struct Segment {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t parent = -1;
};

struct PackedBatch {
  std::vector<int64_t> token_ids;  // (T)
  std::vector<int64_t> positions;  // (T) rotary position; a child segment continues its parent's count
  std::vector<Segment> segments;
  std::vector<int64_t> predict_from;  // (N) index into T of the hidden state that makes the prediction
  std::vector<int64_t> targets;       // (N) the token predicted
  std::vector<int64_t> sequence_ids;  // (N) which of the S sequences the prediction belongs to
  std::vector<float> weights;         // (N) loss weight of the prediction
  std::vector<int64_t> score_at;      // (S) where a reward head reads a sequence (its end-of-turn token)
  int64_t num_sequences = 0;          // S

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_predictions() const { return static_cast<int64_t>(targets.size()); }
};

/// Appends one root segment with these tokens as sequence number batch.num_sequences; token i+1 is predicted from token i.
/// Only predictions of weight != 0 are kept, unless keep_all (every token is scored); weights may be null (all 1). Returns the sequence index.
int64_t append_document(PackedBatch& batch, const int32_t* ids, const float* weights, int64_t count, bool keep_all = false);

/// A whole sequence (prompt + completion) of a tree: `count` tokens and their loss weights (null: all 1).
struct Branch {
  const int32_t* ids;
  const float* weights;
  int64_t count;
};

/// Appends the sequences with what they have in common packed once: their longest common prefix becomes a root segment (at most the
/// shortest length - 1, so that each keeps a token of its own), the rests become its children, in order. Where the tree would take more than
/// max_tree_tokens (or nothing is shared) it is cut: a sub-tree, with the prefix repeated, takes the next sequences as long as it fits, and one
/// left alone is a document. The same sequences, predictions and weights either way; the cut depends on the sequences and the bound alone.
/// Sequence numbers are consecutive; the predictions of weight != 0 come sequence by sequence (a token of the common prefix is predicted
/// once for each sequence that gives it a weight, from the one place where it stands); score_at is the last token of each.
void append_tree(PackedBatch& batch, std::span<const Branch> sequences, int64_t max_tree_tokens);

/// Packed tokens that append_tree takes for these sequences.
int64_t tree_tokens(std::span<const Branch> sequences, int64_t max_tree_tokens);

/// Throws ProgrammerError naming the first violated invariant (ranges, order of segments, positions, lengths).
void validate(const PackedBatch& batch);

/// Splits rows 0..lengths.size()-1, in order, into micro-batches of at most `budget` tokens each (a row longer than the budget
/// stands alone). Returns the end index of every micro-batch.
std::vector<int64_t> plan_micro_batches(const std::vector<int64_t>& lengths, int64_t budget);

}  // namespace hone::batch
