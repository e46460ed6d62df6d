#include "hone/methods/orpo.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "hone/base/error.h"

namespace hone::methods {
namespace {

// 1 where a prediction belongs to a completion, 0 in the prompt of a chosen sequence.
at::Tensor completion_mask(const Orpo& method, const Forward& forward) {
  std::vector<float> mask;
  for (int64_t r : forward.rows) {
    const data::PairRow& pair = method.row(r);
    for (size_t t = 1; t < pair.chosen.weights.size(); ++t) mask.push_back(pair.chosen.weights[t] != 0.0f ? 1.0f : 0.0f);
    mask.insert(mask.end(), trained_tokens(pair.rejected), 1.0f);
  }
  check(static_cast<int64_t>(mask.size()) == forward.weights.numel(), "{} predictions, {} expected", forward.weights.numel(), mask.size());
  return at::tensor(mask, at::kFloat).to(forward.weights.device());
}

at::Tensor log_odds(const at::Tensor& mean) { return mean - log1mexp(mean); }

}  // namespace

at::Tensor log1mexp(const at::Tensor& x) {
  // The branch that is not taken gets a harmless argument: its gradient would be 0 * infinity.
  const double half = -0.6931471805599453;  // log 1/2
  const at::Tensor low = x < half;
  return at::where(low, at::log1p(-at::exp(x.clamp_max(half))), at::log(-at::expm1(at::where(low, at::full_like(x, half), x))));
}

Orpo::Orpo(std::vector<data::PairRow> rows, const config::PreferenceOptions& options, int64_t max_tree_tokens)
    : PairMethod(std::move(rows), max_tree_tokens), options_(options) {
  size_t longest = 0;
  for (int64_t i = 0; i < num_rows(); ++i) longest = std::max(longest, row(i).chosen.ids.size());
  ones_.assign(longest, 1.0f);
}

void Orpo::append(batch::PackedBatch& batch, int64_t index) const {
  const data::PairRow& pair = row(index);
  const std::array<batch::Branch, 2> branches{
      batch::Branch{pair.chosen.ids.data(), ones_.data(), static_cast<int64_t>(pair.chosen.ids.size())},
      batch::Branch{pair.rejected.ids.data(), pair.rejected.weights.data(), static_cast<int64_t>(pair.rejected.ids.size())}};
  batch::append_tree(batch, branches, max_tree_tokens());
}

std::vector<double> Orpo::counts(std::span<const int64_t> rows) const {
  std::vector<double> counts = PairMethod::counts(rows);
  double predicted = 0;
  for (int64_t r : rows) predicted += static_cast<double>(row(r).chosen.ids.size() - 1);
  counts.push_back(predicted);
  return counts;
}

MethodOutput Orpo::evaluate(const Forward& forward, const StepInputs& step) const {
  const PairCounts counts = pair_counts(step);
  const at::Tensor mask = completion_mask(*this, forward), logprobs = forward.logprobs.logprobs;
  const Sides sums = side_sums(forward, logprobs * mask);
  const std::vector<at::Tensor> chosen_sums = sums.chosen.unbind(0), rejected_sums = sums.rejected.unbind(0);
  const auto pairs = static_cast<int64_t>(forward.rows.size());
  const auto mean = [](const at::Tensor& sum, const data::TokenRow& r) { return sum / static_cast<double>(std::max<int64_t>(1, trained_tokens(r))); };
  const at::Tensor chosen = each_pair(pairs, [&](int64_t i) { return mean(chosen_sums[i], row(forward.rows[i]).chosen); });
  const at::Tensor rejected = each_pair(pairs, [&](int64_t i) { return mean(rejected_sums[i], row(forward.rows[i]).rejected); });
  const std::vector<at::Tensor> c = chosen.unbind(0), r = rejected.unbind(0);
  const at::Tensor odds = each_pair(pairs, [&](int64_t i) { return log_odds(c[i]) - log_odds(r[i]); });
  const std::vector<at::Tensor> o = odds.unbind(0);
  const at::Tensor ratio = each_pair(pairs, [&](int64_t i) { return at::log_sigmoid(o[i]); });
  const at::Tensor nll = -side_sums(forward, logprobs).chosen;
  MethodOutput out;
  out.losses.push_back({"loss", ratio * -options_.beta, counts.pairs});
  out.losses.push_back({"nll_loss", nll, step.counts[4]});
  report_rewards(out.metrics, {options_.beta * chosen.detach(), options_.beta * rejected.detach()}, counts.pairs);
  report_logps(out.metrics, {chosen.detach(), rejected.detach()}, counts.pairs);
  report_completions(out.metrics, forward, mask, counts);
  out.metrics.push_back({"nll_loss", nll.detach(), step.counts[4]});
  out.metrics.push_back({"log_odds_ratio", ratio.detach(), counts.pairs});
  out.metrics.push_back({"log_odds_chosen", odds.detach(), counts.pairs});
  return out;
}

}  // namespace hone::methods
