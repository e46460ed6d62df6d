#include "hone/methods/reward_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::methods {
namespace {

// log(1 + exp(-z)) and sigmoid(-z), neither of which overflows.
std::pair<double, double> softplus(double z) {
  if (std::isnan(z)) return {z, z};
  const double small = kernels::exact_exp(-std::abs(z));
  return {std::max(-z, 0.0) + kernels::exact_log(1.0 + small), (z >= 0 ? small : 1.0) / (1.0 + small)};
}

}  // namespace

PairLoss bradley_terry(double chosen, double rejected, double margin, double label_smoothing, double center_rewards_coefficient) {
  const double z = chosen - rejected - margin, sum = chosen + rejected;
  const auto [as_labelled, wrong] = softplus(z);
  const auto [as_flipped, right] = softplus(-z);
  const double slope = label_smoothing * right - (1 - label_smoothing) * wrong, centring = 2 * center_rewards_coefficient * sum;
  return {(1 - label_smoothing) * as_labelled + label_smoothing * as_flipped + center_rewards_coefficient * sum * sum, slope + centring,
          centring - slope};
}

RewardModel::RewardModel(std::vector<data::PairRow> rows, const config::PreferenceOptions& options, int64_t max_tree_tokens)
    : PairMethod(std::move(rows), max_tree_tokens), label_smoothing_(options.label_smoothing), center_(options.center_rewards_coefficient) {
  size_t longest = 0;
  for (int64_t i = 0; i < num_rows(); ++i) longest = std::max({longest, row(i).chosen.ids.size(), row(i).rejected.ids.size()});
  no_weights_.assign(longest, 0.0f);
}

void RewardModel::append(batch::PackedBatch& batch, int64_t index) const {
  const auto branch = [&](const data::TokenRow& r) { return batch::Branch{r.ids.data(), no_weights_.data(), static_cast<int64_t>(r.ids.size())}; };
  const std::array<batch::Branch, 2> sequences{branch(row(index).chosen), branch(row(index).rejected)};
  batch::append_tree(batch, sequences, max_tree_tokens());
}

MethodOutput RewardModel::evaluate(const Forward& forward, const StepInputs& step) const {
  const auto pairs = static_cast<int64_t>(forward.rows.size());
  check(forward.scores.defined() && forward.scores.numel() == 2 * pairs, "{} pairs need two scores each", pairs);
  const at::Tensor scores = forward.scores.to(at::kDouble).view({pairs, 2});
  const at::Tensor fixed = scores.detach().cpu().contiguous();
  const double* r = fixed.const_data_ptr<double>();
  at::Tensor loss = at::empty({pairs}, at::kDouble), slopes = at::empty({pairs, 2}, at::kDouble);
  for (int64_t i = 0; i < pairs; ++i) {
    const PairLoss p = bradley_terry(r[2 * i], r[2 * i + 1], row(forward.rows[i]).margin, label_smoothing_, center_);
    loss.mutable_data_ptr<double>()[i] = p.loss;
    slopes.mutable_data_ptr<double>()[2 * i] = p.by_chosen;
    slopes.mutable_data_ptr<double>()[2 * i + 1] = p.by_rejected;
  }
  // The value is the loss, the derivative that of the loss: each pair by the same scalar operations, whatever stands beside it.
  const at::Tensor zero = (slopes.to(scores.device()) * (scores - scores.detach())).sum(1);
  MethodOutput out;
  out.losses.push_back({"loss", loss.to(scores.device()) + zero, step.counts[0]});
  const at::Tensor chosen = fixed.select(1, 0), rejected = fixed.select(1, 1);
  out.metrics.push_back({"accuracy", (chosen > rejected).to(at::kDouble), step.counts[0]});
  out.metrics.push_back({"margin", chosen - rejected, step.counts[0]});
  out.metrics.push_back({"min_reward", at::minimum(chosen, rejected), step.counts[0], Reduce::minimum});
  out.metrics.push_back({"mean_reward", (chosen + rejected) / 2, step.counts[0]});
  out.metrics.push_back({"max_reward", at::maximum(chosen, rejected), step.counts[0], Reduce::maximum});
  return out;
}

}  // namespace hone::methods
