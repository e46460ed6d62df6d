#include "hone/methods/dpo.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"

namespace hone::methods {
namespace {

constexpr at::Tensor PairTerms::*kMembers[] = {
    &PairTerms::chosen,         &PairTerms::rejected,     &PairTerms::ref_chosen,       &PairTerms::ref_rejected,  &PairTerms::chosen_ratio,
    &PairTerms::rejected_ratio, &PairTerms::chosen_score, &PairTerms::rejected_score,   &PairTerms::chosen_tokens, &PairTerms::rejected_tokens,
    &PairTerms::chosen_nll,     &PairTerms::partner_ref,  &PairTerms::partner_rejected, &PairTerms::partner_chosen};

// The terms of every pair by itself: scalars.
std::vector<PairTerms> single_pairs(const PairTerms& all) {
  std::vector<PairTerms> singles(all.chosen.size(0));
  for (const auto member : kMembers) {
    if (!(all.*member).defined()) continue;
    const std::vector<at::Tensor> parts = (all.*member).unbind(0);
    for (size_t i = 0; i < parts.size(); ++i) singles[i].*member = parts[i];
  }
  return singles;
}

// Tokens of the whole completion, as TRL's completion_mask has them: also the first of a sequence without a prompt, which nothing predicts.
double completion_tokens(const data::TokenRow& row) {
  return std::max(1.0, static_cast<double>(std::count_if(row.weights.begin(), row.weights.end(), [](float w) { return w != 0.0f; })));
}

}  // namespace

Dpo::Dpo(std::vector<data::PairRow> rows, const config::PreferenceOptions& options, int64_t max_tree_tokens)
    : PairMethod(std::move(rows), max_tree_tokens), options_(options), reference_(num_rows()) {
  if (options_.loss_type.empty()) options_.loss_type = {"sigmoid"};
  check(options_.loss_weights.empty() || options_.loss_weights.size() == options_.loss_type.size(), "{} loss_weights of {} losses",
        options_.loss_weights.size(), options_.loss_type.size());
  for (size_t k = 0; k < options_.loss_type.size(); ++k) {
    const DpoLoss* loss = find_dpo_loss(options_.loss_type[k]);
    check(loss, "no loss_type {}", options_.loss_type[k]);
    check(loss->name != "exo_pair" || options_.label_smoothing > 0, "exo_pair with label_smoothing {}", options_.label_smoothing);
    check(loss->name != "robust" || options_.label_smoothing < 0.5, "robust with label_smoothing {}", options_.label_smoothing);
    check(!loss->sorted || !options_.use_weighting, "use_weighting with {}", loss->name);
    (loss->tokens ? token_losses_ : pair_losses_).push_back({loss, options_.loss_weights.empty() ? 1.0 : options_.loss_weights[k]});
    has_reference_ |= loss->reference;
    sorted_ |= loss->sorted;
  }
}

std::vector<double> Dpo::counts(std::span<const int64_t> rows) const {
  const PairCounts c = pair_counts(rows);
  return {pair_losses_.empty() ? c.chosen_tokens : c.pairs, c.pairs, c.chosen_tokens, c.rejected_tokens};
}

// (N) what each prediction counts in its completion's log-probability: 1, behind the shorter completion's length ld_alpha.
at::Tensor Dpo::tail_weights(const Forward& forward) const {
  const double tail = options_.ld_alpha.value_or(1.0);
  std::vector<float> weights;
  for (int64_t r : forward.rows) {
    const int64_t lengths[] = {trained_tokens(row(r).chosen), trained_tokens(row(r).rejected)};
    const int64_t shorter = std::min(lengths[0], lengths[1]);
    for (int64_t length : lengths) {
      weights.insert(weights.end(), shorter, 1.0f);
      weights.insert(weights.end(), length - shorter, static_cast<float>(tail));
    }
  }
  check(static_cast<int64_t>(weights.size()) == forward.weights.numel(), "{} predictions, {} expected", forward.weights.numel(), weights.size());
  return at::tensor(weights, at::kFloat).to(forward.weights.device());
}

at::Tensor Dpo::reference_logprobs(const Forward& forward) const {
  std::vector<float> all;
  for (int64_t r : forward.rows) all.insert(all.end(), reference_.of(r).begin(), reference_.of(r).end());
  check(static_cast<int64_t>(all.size()) == forward.weights.numel(), "{} predictions, {} of the reference", forward.weights.numel(), all.size());
  return at::tensor(all, at::kFloat).to(forward.weights.device());
}

PairTerms Dpo::terms(const Forward& forward, const at::Tensor& reference, const StepInputs& step) const {
  PairTerms t;
  const at::Tensor tail = tail_weights(forward);
  const auto sums = [&](const at::Tensor& values, at::Tensor& chosen, at::Tensor& rejected) {
    const Sides sides = side_sums(forward, values);
    chosen = sides.chosen, rejected = sides.rejected;
  };
  sums(forward.logprobs.logprobs * tail, t.chosen, t.rejected);
  std::vector<double> chosen_tokens, rejected_tokens;
  for (int64_t r : forward.rows) {
    chosen_tokens.push_back(completion_tokens(row(r).chosen));
    rejected_tokens.push_back(completion_tokens(row(r).rejected));
  }
  t.chosen_tokens = at::tensor(chosen_tokens, at::kDouble);
  t.rejected_tokens = at::tensor(rejected_tokens, at::kDouble);
  if (!token_losses_.empty()) t.chosen_nll = -side_sums(forward, forward.logprobs.logprobs).chosen;
  if (!has_reference_) return t;
  sums(reference * tail, t.ref_chosen, t.ref_rejected);
  t.chosen_ratio = t.chosen - t.ref_chosen;
  t.rejected_ratio = t.rejected - t.ref_rejected;
  const auto score = [&](const at::Tensor& ratio) {
    const std::vector<at::Tensor> ratios = ratio.unbind(0);
    return each_pair(ratio.size(0), [&](int64_t i) { return divergence_score(ratios[i], options_); });
  };
  t.chosen_score = score(t.chosen_ratio);
  t.rejected_score = score(t.rejected_ratio);
  if (step.shared.defined()) {
    const at::Tensor mine = step.shared.slice(1, forward.first, forward.first + static_cast<int64_t>(forward.rows.size()));
    t.partner_ref = mine[0], t.partner_rejected = mine[1], t.partner_chosen = mine[2];
  }
  return t;
}

// WPO: how likely each pair is under the policy, per token and against its own most likely continuations; a constant.
at::Tensor Dpo::policy_weights(const Forward& forward) const {
  if (!options_.use_weighting) return {};
  const at::Tensor aligned = forward.logprobs.logprobs.detach() - forward.logprobs.log_sum_p2;
  const Sides sums = side_sums(forward, aligned);
  return each_pair(static_cast<int64_t>(forward.rows.size()), [&](int64_t i) {
    const data::PairRow& pair = row(forward.rows[i]);
    const auto mean = [](const at::Tensor& sum, const data::TokenRow& r) {
      return sum / static_cast<double>(std::max<int64_t>(1, trained_tokens(r)));
    };
    return at::exp(mean(sums.chosen[i], pair.chosen)) * at::exp(mean(sums.rejected[i], pair.rejected));
  });
}

std::vector<Term> Dpo::losses(const PairTerms& terms, const at::Tensor& weights, const StepInputs& step) const {
  const std::vector<PairTerms> pairs = single_pairs(terms);
  const PairCounts counts = pair_counts(step);
  std::vector<Term> out;
  const auto add = [&](const char* name, const std::vector<Weighted>& losses, double count) {
    if (losses.empty()) return;
    const at::Tensor values = each_pair(static_cast<int64_t>(pairs.size()), [&](int64_t i) {
      at::Tensor sum;
      for (const Weighted& l : losses) {
        const at::Tensor value = l.loss->loss(pairs[i], options_) * l.weight;
        sum = sum.defined() ? sum + value : value;
      }
      return sum;
    });
    out.push_back({name, weights.defined() ? values * weights : values, count});
  };
  add("loss", pair_losses_, counts.pairs);
  add("sft_loss", token_losses_, counts.chosen_tokens);
  return out;
}

at::Tensor Dpo::first_pass(const Forward& all) const {
  const PairTerms t = terms(all, reference_logprobs(all), {});
  return aot_partners(t.chosen - t.rejected, t.ref_chosen - t.ref_rejected, t.chosen_ratio, t.rejected_ratio);
}

MethodOutput Dpo::evaluate(const Forward& forward, const StepInputs& step) const {
  const PairCounts counts = pair_counts(step);
  const at::Tensor reference = has_reference_ ? reference_logprobs(forward) : at::Tensor();
  const PairTerms t = terms(forward, reference, step);
  MethodOutput out;
  out.losses = losses(t, policy_weights(forward), step);
  report_logps(out.metrics, {t.chosen.detach(), t.rejected.detach()}, counts.pairs);
  report_completions(out.metrics, forward, (forward.weights != 0).to(at::kFloat), counts);
  if (!has_reference_) return out;
  report_rewards(out.metrics, {options_.beta * t.chosen_ratio.detach(), options_.beta * t.rejected_ratio.detach()}, counts.pairs);
  const at::Tensor policy = forward.logprobs.logprobs.detach();
  const Sides kl = side_sums(forward, k3(policy, reference));
  const at::Tensor drop = side_sums(forward, reference).chosen - side_sums(forward, policy).chosen;
  out.metrics.push_back({"kl/chosen", kl.chosen, counts.chosen_tokens});
  out.metrics.push_back({"kl/rejected", kl.rejected, counts.rejected_tokens});
  out.metrics.push_back({"chosen_drop", drop, counts.chosen_tokens});
  out.metrics.push_back({"chosen_fell", (drop > 0).to(at::kDouble), counts.pairs});
  return out;
}

}  // namespace hone::methods
