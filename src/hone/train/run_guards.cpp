#include "hone/train/run_guards.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace hone::train {
namespace {

constexpr size_t kKlWindow = 10;  // steps whose median is taken: a few noisy ones stop nothing
constexpr const char* kGap = "sampling/sampling_logp_difference/mean";

std::vector<std::string> names_of(const std::vector<NamedReward>& rewards) {
  std::vector<std::string> names;
  for (const NamedReward& r : rewards) names.push_back(r.name);
  return names;
}

double value_of(const Json& line, const char* key) {
  return line.contains(key) && line.at(key).is_number() ? line.at(key).get<double>() : std::nan("");
}

}  // namespace

RunGuards::RunGuards(std::vector<ops::Parameter*> parameters, const TrainJob& job)
    : fall_metric_(job.method->fall_metric()),
      max_kl_(job.config->max_kl),
      max_gap_(job.config->max_sampling_gap),
      trainable_(std::move(parameters)),
      fall_(job.config->max_chosen_drop),
      kl_(job.rollouts ? job.config->max_kl : 0, kKlWindow),
      drift_(job.config->max_length_drift, job.config->max_repetition_drift),
      parting_(job.rollouts ? job.config->parting_level : 0) {
  if (job.rollouts)
    signal_.emplace(names_of(*job.rollouts->setup().rewards), job.rollouts->setup().max_completion_length,
                    /*needs_spread=*/job.more_passes.empty() && job.rollouts->setup().num_generations > 1);
}

std::string RunGuards::after_rollout(const RolloutSource& rollouts) {
  if (!signal_) return {};
  const std::string drift = drift_.after_rollout(rollouts.groups());
  const std::string problem = signal_->after_rollout(rollouts.groups(), rollouts.replaced(), rollouts.setup());
  return problem.empty() ? drift : problem;
}

std::string RunGuards::after_step(const Json& line, bool fresh) {
  if (fall_metric_) return fall_.after_step(line.value(fall_metric_, 0.0));
  if (!signal_) return {};
  if (fresh) parting_.rollout(value_of(line, "reward"));
  const double gap = value_of(line, kGap);
  if (fresh && max_gap_ > 0 && gap > max_gap_)
    return fmt::format(
        "sampler and trainer disagree: the log-probabilities of the same tokens differ by {:.3g} nats in the mean, --max_sampling_gap is {}; what is "
        "trained is not what was sampled, please report this",
        gap, max_gap_);
  if (kl_.exceeded(value_of(line, "kl")))
    return fmt::format(
        "the policy has run away from its start: the median KL of the last {} steps is {:.3g} nats a token, --max_kl is {}; lower --learning_rate or "
        "raise the weight of the KL (--beta, in hone ppo --kl_coef)",
        kKlWindow, kl_.median(), max_kl_);
  return {};
}

void RunGuards::write(Json& progress) const {
  if (!fall_.window().empty()) progress["fall"] = fall_.window();
  if (!kl_.window().empty()) progress["kl"] = kl_.window();
  if (!signal_) return;
  progress["signal"] = signal_->state();
  progress["drift"] = drift_.state();
  progress["parting"] = parting_.state();
}

void RunGuards::restore(const Json& progress) {
  fall_.restore(progress.value("fall", std::vector<double>()));
  kl_.restore(progress.value("kl", std::vector<double>()));
  if (!signal_ || !progress.contains("signal")) return;
  signal_->restore(progress.at("signal"));
  if (progress.contains("drift")) drift_.restore(progress.at("drift"));
  if (progress.contains("parting")) parting_.restore(progress.at("parting"));
}

}  // namespace hone::train
