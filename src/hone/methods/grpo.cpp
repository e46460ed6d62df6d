#include "hone/methods/grpo.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "hone/base/error.h"
#include "hone/methods/advantages.h"
#include "hone/methods/rl_math.h"

namespace hone::methods {

// What the completions of one forward share.
struct Grpo::Step {
  std::vector<double> logprobs, entropy;  // (N)
  std::vector<char> kept;                 // (N) or empty
};

Grpo::Grpo(const config::RunConfig& config, std::vector<std::string> reward_names) : GroupMethod(config, std::move(reward_names)) {
  const std::string name = config.loss_type.empty() ? "dapo" : config.loss_type[0];
  loss_ = find_grpo_loss(name);
  check(loss_ && config.loss_type.size() <= 1, "no loss_type {}", name);
}

void Grpo::begin(std::vector<Group> groups) {
  GroupMethod::begin(std::move(groups));
  advantages_ = advantages_of(this->groups(), options_);
  std::vector<int64_t> rows(num_rows());
  for (int64_t i = 0; i < num_rows(); ++i) rows[i] = i;
  rollout_ = count(rows);
}

bool Grpo::has_gradient(int64_t row) const {
  if (!options_.skip_zero_advantage || beta_ != 0 || options_.entropy_coef != 0) return true;
  for (size_t i = 0; i < advantages_[row].size(); ++i)
    if (advantages_[row][i] != 0 && trained_tokens(row, static_cast<int64_t>(i)) > 0) return true;
  return false;
}

std::vector<double> Grpo::counts(std::span<const int64_t> rows) const {
  const Counts c = count(rows);
  double normaliser = c.completions;
  switch (loss_->normaliser) {
    case Normaliser::completion_mean:
    case Normaliser::completion_sum:
      break;
    case Normaliser::step_tokens:
      normaliser = std::max(1.0, c.tokens);
      break;
    case Normaliser::max_length:
      normaliser *= static_cast<double>(options_.max_completion_length);
      break;
    case Normaliser::rollout_tokens:
      normaliser = std::max(1.0, rollout_.tokens) * (c.completions / rollout_.completions);
  }
  return {normaliser, c.completions, c.tokens, c.trained_completions};
}

double Grpo::scale(const Place& place) const {
  return loss_->normaliser == Normaliser::completion_mean ? 1.0 / static_cast<double>(std::max<int64_t>(1, place.count)) : 1.0;
}

CompletionInputs Grpo::inputs(const Place& place, const Step& step) const {
  const SampledCompletion& sampled = completion(place.row, place.index);
  const auto part = [&](const auto& values) { return std::span(values).subspan(place.begin, place.count); };
  CompletionInputs c;
  c.advantage = advantages_[place.row][place.index];
  if (place.count == 0) return c;
  c.logprobs = part(step.logprobs);
  if (!one_update()) c.old = sampled.logprobs;
  if (corrected()) c.sampler = sampled.sampler_logprobs;
  if (beta_ != 0) c.reference = reference_of(place);
  if (!step.kept.empty()) c.kept = part(step.kept);
  return c;
}

std::optional<at::Tensor> Grpo::known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const {
  if (!one_update() || corrected() || beta_ != 0 || options_.entropy_coef != 0 || step.shared.defined()) return std::nullopt;
  Forward forward;  // no slope of a loss at ratio 1 depends on the log-probability itself
  forward.rows = rows;
  forward.num_sequences = batch.num_sequences;
  forward.weights = batch.weights;
  const Step zero{std::vector<double>(batch.weights.numel(), 0.0), {}, {}};
  std::vector<double> slopes(zero.logprobs.size());
  for (const Place& place : places(forward)) {
    const std::span<double> own = std::span(slopes).subspan(place.begin, place.count);
    completion_loss(*loss_, inputs(place, zero), beta_, options_, own);
    for (double& s : own) s *= scale(place);
  }
  // The same roundings as the backward of evaluate: 1/count to float32, times the slope in float32.
  return at::tensor(slopes, at::kDouble).to(batch.weights.device(), at::kFloat) * static_cast<float>(1.0 / step.counts[0]);
}

at::Tensor Grpo::first_pass(const Forward& all) const {
  const std::vector<double> entropy = cpu_doubles(all.logprobs.entropy);
  const double threshold = quantile(entropy, 1.0 - options_.top_entropy_quantile);
  const auto kept = static_cast<double>(std::count_if(entropy.begin(), entropy.end(), [&](double h) { return h >= threshold; }));
  return at::tensor({threshold, kept}, at::kDouble);
}

MethodOutput Grpo::evaluate(const Forward& forward, const StepInputs& inputs_of_step) const {
  const std::vector<double>& reported = inputs_of_step.pass_counts.empty() ? inputs_of_step.counts : inputs_of_step.pass_counts;
  const Counts counts{reported[1], reported[2], reported[3]};
  Step step{cpu_doubles(forward.logprobs.logprobs), cpu_doubles(forward.logprobs.entropy), {}};
  double bonus_tokens = counts.tokens;
  if (inputs_of_step.shared.defined()) {
    const double threshold = inputs_of_step.shared[0].item<double>();
    bonus_tokens = inputs_of_step.shared[1].item<double>();
    for (double h : step.entropy) step.kept.push_back(h >= threshold);
  }
  const std::vector<Place> all = places(forward);
  std::vector<CompletionLoss> losses;
  std::vector<double> values, slopes(step.logprobs.size());
  for (const Place& place : all) {
    const std::span<double> own = std::span(slopes).subspan(place.begin, place.count);
    losses.push_back(completion_loss(*loss_, inputs(place, step), beta_, options_, own));
    values.push_back(losses.back().value * scale(place));
    for (double& s : own) s *= scale(place);
  }
  MethodOutput out;
  out.losses.push_back({"loss", with_slopes(values, forward.logprobs.logprobs, slopes, forward), inputs_of_step.counts[0]});
  const auto per_sequence = [&](const at::Tensor& v) { return ops::sequence_sum(v, forward.sequence_ids, forward.num_sequences); };
  out.metrics.push_back({"entropy", per_sequence(forward.logprobs.entropy.detach()), counts.tokens});
  if (options_.entropy_coef != 0) {
    const at::Tensor& entropy = forward.logprobs.entropy;
    at::Tensor trained = entropy;
    if (!step.kept.empty()) {
      const std::vector<float> kept(step.kept.begin(), step.kept.end());
      trained = entropy * at::tensor(kept, at::kFloat).to(entropy.device());
    }
    out.losses.push_back({"entropy_loss", per_sequence(trained) * -options_.entropy_coef, std::max(1.0, bonus_tokens)});
    out.metrics.push_back({"policy_loss", at::tensor(values, at::kDouble), inputs_of_step.counts[0]});
    out.metrics.push_back({"entropy_coef", at::full({forward.num_sequences}, options_.entropy_coef, at::kDouble), 1, Reduce::maximum});
  }
  report(out.metrics, all, losses, counts);
  report_gap(out.metrics, all, step.logprobs, counts);
  return out;
}

void Grpo::report(std::vector<Term>& metrics, const std::vector<Place>& places, const std::vector<CompletionLoss>& losses,
                  const Counts& counts) const {
  const bool by_sequence = options_.importance_sampling_level == config::ImportanceLevel::sequence;
  const double units = by_sequence ? counts.trained_completions : counts.tokens;
  const auto add = [&](const char* name, double count, Reduce reduce, auto value) {
    std::vector<double> values;
    for (size_t i = 0; i < losses.size(); ++i)
      if (reduce == Reduce::sum || places[i].count > 0) values.push_back(value(losses[i]));
    metrics.push_back({name, at::tensor(values, at::kDouble), count, reduce});
  };
  if (beta_ != 0) add("kl", counts.tokens, Reduce::sum, [](const CompletionLoss& l) { return l.kl; });
  const auto low = [](const CompletionLoss& l) { return l.low; };
  const auto high = [](const CompletionLoss& l) { return l.high; };
  if (loss_->clips) {
    add("clip_ratio/low_mean", units, Reduce::sum, low);
    add("clip_ratio/low_min", counts.trained_completions, Reduce::minimum, [](const CompletionLoss& l) { return l.low / l.units; });
    add("clip_ratio/high_mean", units, Reduce::sum, high);
    add("clip_ratio/high_max", counts.trained_completions, Reduce::maximum, [](const CompletionLoss& l) { return l.high / l.units; });
    add("clip_ratio/region_mean", units, Reduce::sum, [](const CompletionLoss& l) { return l.low + l.high; });
  } else if (loss_->name == "cispo") {
    add("cispo_clip_ratio", units, Reduce::sum, high);
  } else if (loss_->phi) {
    add("vespo/phi_seq_mean", counts.trained_completions, Reduce::sum, [](const CompletionLoss& l) { return l.phi; });
  }
  if (!corrected()) return;
  const bool one = options_.importance_sampling_mode == config::ImportanceMode::sequence_truncate ||
                   options_.importance_sampling_mode == config::ImportanceMode::sequence_mask;
  add("sampling/importance_sampling_ratio/min", counts.trained_completions, Reduce::minimum, [](const CompletionLoss& l) { return l.ratio_min; });
  add("sampling/importance_sampling_ratio/mean", one ? counts.trained_completions : counts.tokens, Reduce::sum,
      [](const CompletionLoss& l) { return l.ratio_sum; });
  add("sampling/importance_sampling_ratio/max", counts.trained_completions, Reduce::maximum, [](const CompletionLoss& l) { return l.ratio_max; });
}

}  // namespace hone::methods
