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
      kl_(job.rollouts ? job.config->max_kl : 0, kKlWindow) {
  if (job.rollouts)
    signal_.emplace(names_of(*job.rollouts->setup().rewards), job.rollouts->setup().max_completion_length,
                    /*needs_spread=*/job.more_passes.empty());
}

std::string RunGuards::after_rollout(const RolloutSource& rollouts) {
  return signal_ ? signal_->after_rollout(rollouts.groups(), rollouts.replaced(), rollouts.setup()) : std::string();
}

std::string RunGuards::after_step(const Json& line, bool fresh) {
  if (fall_metric_) return fall_.after_step(line.value(fall_metric_, 0.0));
  if (!signal_) return {};
  const double gap = value_of(line, kGap);
  if (fresh && max_gap_ > 0 && gap > max_gap_)
    return fmt::format(
        "sampler and trainer disagree: the log-probabilities of the same tokens differ by {:.3g} nats in the mean, --max_sampling_gap is {}; what is "
        "trained is not what was sampled, please report this",
        gap, max_gap_);
  if (kl_.exceeded(value_of(line, "kl")))
    return fmt::format(
        "the policy has run away from its start: the median KL of the last {} steps is {:.3g} nats a token, --max_kl is {}; lower --learning_rate or "
        "raise --beta",
        kKlWindow, kl_.median(), max_kl_);
  return {};
}

void RunGuards::write(Json& progress) const {
  if (!fall_.window().empty()) progress["fall"] = fall_.window();
  if (!kl_.window().empty()) progress["kl"] = kl_.window();
  if (signal_) progress["signal"] = signal_->state();
}

void RunGuards::restore(const Json& progress) {
  fall_.restore(progress.value("fall", std::vector<double>()));
  kl_.restore(progress.value("kl", std::vector<double>()));
  if (signal_ && progress.contains("signal")) signal_->restore(progress.at("signal"));
}

}  // namespace hone::train
