#include "hone/methods/simpo.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "hone/base/error.h"

namespace hone::methods {
namespace {

using Options = config::PreferenceOptions;
using at::Tensor;

Tensor smoothed(const Tensor& x, const Options& o) { return -at::log_sigmoid(x) * (1 - o.label_smoothing) - at::log_sigmoid(-x) * o.label_smoothing; }
Tensor simpo(const Tensor& d, const Options& o) { return smoothed(o.beta * d - o.simpo_gamma, o); }
Tensor sigmoid_loss(const Tensor& d, const Options& o) { return smoothed(o.beta * d, o); }
Tensor hinge(const Tensor& d, const Options& o) { return at::relu(1 - o.beta * d); }
Tensor ipo(const Tensor& d, const Options& o) { return (d - 1 / (2 * o.beta)).square(); }

Tensor plain(const Tensor& m, const Options&) { return m; }
Tensor alpha_reward(const Tensor& m, const Options& o) {
  return o.alphapo_alpha == 0 ? m : -at::expm1(-o.alphapo_alpha * m) / o.alphapo_alpha;  // its limit at 0 is m
}

struct CpoLoss {
  std::string_view name;
  Tensor (*loss)(const Tensor& difference, const Options& o);
  Tensor (*reward)(const Tensor& m, const Options& o);
  bool mean;  // m is a mean over the completion's tokens, not their sum
};
constexpr CpoLoss kLosses[] = {
    {"simpo", simpo, plain, true}, {"alphapo", simpo, alpha_reward, true}, {"sigmoid", sigmoid_loss, plain, false}, {"hinge", hinge, plain, false},
    {"ipo", ipo, plain, true},
};

size_t index_of(std::string_view name) {
  const auto* found = std::find_if(std::begin(kLosses), std::end(kLosses), [&](const CpoLoss& l) { return l.name == name; });
  check(found != std::end(kLosses), "no loss_type {}", name);
  return found - std::begin(kLosses);
}

}  // namespace

Tensor simpo_loss(std::string_view name, const Tensor& chosen, const Tensor& rejected, const Options& options) {
  const CpoLoss& l = kLosses[index_of(name)];
  return l.loss(l.reward(chosen, options) - l.reward(rejected, options), options);
}

Simpo::Simpo(std::vector<data::PairRow> rows, const Options& options, int64_t max_tree_tokens)
    : PairMethod(std::move(rows), max_tree_tokens), options_(options) {
  check(options.loss_type.size() <= 1, "{} losses: simpo takes one", options.loss_type.size());
  loss_ = index_of(options.loss_type.empty() ? "simpo" : options.loss_type[0]);
}

MethodOutput Simpo::evaluate(const Forward& forward, const StepInputs& step) const {
  const CpoLoss& table = kLosses[loss_];
  const PairCounts counts = pair_counts(step);
  const auto pairs = static_cast<int64_t>(forward.rows.size());
  const Sides sums = side_sums(forward, forward.logprobs.logprobs);
  const std::vector<Tensor> chosen_sums = sums.chosen.unbind(0), rejected_sums = sums.rejected.unbind(0);
  const auto measure = [&](const Tensor& sum, const data::TokenRow& r) {
    return table.mean ? sum / static_cast<double>(std::max<int64_t>(1, trained_tokens(r))) : sum;
  };
  std::vector<Tensor> c, r, losses, chosen_rewards, rejected_rewards;
  for (int64_t i = 0; i < pairs; ++i) {
    c.push_back(measure(chosen_sums[i], row(forward.rows[i]).chosen));
    r.push_back(measure(rejected_sums[i], row(forward.rows[i]).rejected));
    chosen_rewards.push_back(table.reward(c[i], options_));
    rejected_rewards.push_back(table.reward(r[i], options_));
    losses.push_back(table.loss(chosen_rewards[i] - rejected_rewards[i], options_));
  }
  MethodOutput out;
  out.losses.push_back({"loss", at::stack(losses), counts.pairs});
  report_rewards(out.metrics, {options_.beta * at::stack(chosen_rewards).detach(), options_.beta * at::stack(rejected_rewards).detach()},
                 counts.pairs);
  report_logps(out.metrics, {at::stack(c).detach(), at::stack(r).detach()}, counts.pairs);
  report_completions(out.metrics, forward, (forward.weights != 0).to(at::kFloat), counts);
  if (options_.cpo_alpha != 0) {
    out.losses.push_back({"nll_loss", sums.chosen * -options_.cpo_alpha, counts.chosen_tokens});
    out.metrics.push_back({"nll_loss", -sums.chosen.detach(), counts.chosen_tokens});
  }
  return out;
}

}  // namespace hone::methods
