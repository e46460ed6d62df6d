#include "hone/methods/pairs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "hone/base/error.h"

namespace hone::methods {
namespace {

std::array<batch::Branch, 2> branches(const data::PairRow& pair) {
  const auto branch = [](const data::TokenRow& r) { return batch::Branch{r.ids.data(), r.weights.data(), static_cast<int64_t>(r.ids.size())}; };
  return {branch(pair.chosen), branch(pair.rejected)};
}

}  // namespace

int64_t trained_tokens(const data::TokenRow& row) {
  return row.weights.empty() ? 0 : std::count_if(row.weights.begin() + 1, row.weights.end(), [](float w) { return w != 0.0f; });
}

int64_t PairMethod::row_tokens(int64_t row) const { return batch::tree_tokens(branches(rows_[row]), max_tree_tokens_); }

int64_t PairMethod::input_tokens(int64_t row) const { return static_cast<int64_t>(rows_[row].chosen.ids.size() + rows_[row].rejected.ids.size()); }

void PairMethod::append(batch::PackedBatch& batch, int64_t row) const { batch::append_tree(batch, branches(rows_[row]), max_tree_tokens_); }

std::vector<double> PairMethod::counts(std::span<const int64_t> rows) const {
  const PairCounts c = pair_counts(rows);
  return {c.pairs, c.pairs, c.chosen_tokens, c.rejected_tokens};
}

PairCounts PairMethod::pair_counts(std::span<const int64_t> rows) const {
  PairCounts c;
  for (int64_t row : rows) {
    c.pairs += 1;
    c.chosen_tokens += static_cast<double>(trained_tokens(rows_[row].chosen));
    c.rejected_tokens += static_cast<double>(trained_tokens(rows_[row].rejected));
  }
  return c;
}

Sides side_sums(const Forward& forward, const at::Tensor& values) {
  check(forward.num_sequences == 2 * static_cast<int64_t>(forward.rows.size()), "{} sequences of {} pairs", forward.num_sequences,
        forward.rows.size());
  const std::vector<at::Tensor> sides = ops::sequence_sum(values, forward.sequence_ids, forward.num_sequences).view({-1, 2}).unbind(1);
  return {sides[0].contiguous(), sides[1].contiguous()};
}

void report_completions(std::vector<Term>& metrics, const Forward& forward, const at::Tensor& mask, const PairCounts& counts) {
  const ops::TokenLogprobs& p = forward.logprobs;
  const Sides hits = side_sums(forward, p.hits.to(at::kFloat) * mask);
  const Sides entropy = side_sums(forward, p.entropy.detach() * mask);
  const Sides logits = side_sums(forward, p.mean_logit * mask);
  metrics.push_back({"mean_token_accuracy", hits.chosen, counts.chosen_tokens});
  metrics.push_back({"entropy", entropy.chosen + entropy.rejected, counts.chosen_tokens + counts.rejected_tokens});
  metrics.push_back({"logits/chosen", logits.chosen, counts.chosen_tokens});
  metrics.push_back({"logits/rejected", logits.rejected, counts.rejected_tokens});
}

void report_rewards(std::vector<Term>& metrics, const Sides& rewards, double pairs) {
  metrics.push_back({"rewards/chosen", rewards.chosen, pairs});
  metrics.push_back({"rewards/rejected", rewards.rejected, pairs});
  metrics.push_back({"rewards/accuracies", (rewards.chosen > rewards.rejected).to(at::kDouble), pairs});
  metrics.push_back({"rewards/margins", rewards.chosen - rewards.rejected, pairs});
}

void report_logps(std::vector<Term>& metrics, const Sides& logps, double pairs) {
  metrics.push_back({"logps/chosen", logps.chosen, pairs});
  metrics.push_back({"logps/rejected", logps.rejected, pairs});
}

at::Tensor k3(const at::Tensor& policy, const at::Tensor& reference) {
  const at::Tensor d = (reference.to(at::kCPU, at::kDouble) - policy.detach().to(at::kCPU, at::kDouble)).contiguous();
  double* value = d.mutable_data_ptr<double>();
  for (int64_t n = 0; n < d.numel(); ++n) value[n] = std::expm1(value[n]) - value[n];  // scalar code: its bits depend on the token alone
  return d;
}

at::Tensor each_pair(int64_t pairs, const std::function<at::Tensor(int64_t)>& loss) {
  std::vector<at::Tensor> values;
  for (int64_t i = 0; i < pairs; ++i) values.push_back(loss(i));
  return at::stack(values);
}

}  // namespace hone::methods
