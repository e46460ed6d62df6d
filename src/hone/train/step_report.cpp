#include "hone/train/step_report.h"

#include <fmt/format.h>

namespace hone::train {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

double rate(int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0; }

}  // namespace

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s >= 3600 ? fmt::format("{}h{:02}m", s / 3600, s / 60 % 60) : s >= 60 ? fmt::format("{}m{:02}s", s / 60, s % 60) : fmt::format("{}s", s);
}

MemoryParts memory_parts(std::span<const Pass> passes, const Adamw& optimizer, double activation_bytes) {
  MemoryParts parts;
  for (const Pass& pass : passes) {
    const bool shared = &pass != &passes.front() && pass.model == passes.front().model;  // adapters on one base
    if (!shared)
      for (const ops::Parameter* p : pass.model->parameters()) parts.weights += static_cast<double>(ops::value_bytes(*p)) / kMiB;
    if (pass.adapter)
      for (const ops::Parameter* p : pass.adapter->parameters) parts.adapters += static_cast<double>(ops::value_bytes(*p)) / kMiB;
  }
  for (const ops::Parameter* p : optimizer.parameters())
    parts.optimizer += static_cast<double>(p->grad.nbytes()) / kMiB;  // gradients stand with the optimizer's state
  parts.optimizer += static_cast<double>(optimizer.resident_state_bytes()) / kMiB;
  parts.activations = activation_bytes / kMiB;
  return parts;
}

void add_times(Json& line, const RolloutTimes& times, double training, int64_t tokens) {
  line["time/sampling"] = times.sampling;
  line["time/scoring"] = times.scoring;
  line["time/training"] = training;
  line["tokens_per_second/sampling"] = rate(times.sampled_tokens, times.sampling);
  line["tokens_per_second/scoring"] = rate(times.judged_tokens, times.scoring);
  line["tokens_per_second/training"] = rate(tokens, training);
}

std::string rollout_words(const Json& line) {
  if (!line.contains("reward")) return {};
  std::string words;
  // What a method does not measure is not said.
  const auto say = [&](const char* key, double times, auto format) {
    if (line.contains(key) && line.at(key).is_number())
      words += (words.empty() ? "" : ", ") + fmt::format(fmt::runtime(format), times * line.at(key).template get<double>());
  };
  say("reward", 1, "reward {:.3f}");
  say("objective/kl", 1, "KL {:.3g} nats an answer");
  say("val/explained_var", 100, "value model explains {:.0f} %");
  say("completions/clipped_ratio", 100, "cut {:.0f} %");
  say("frac_reward_zero_std", 100, "no spread {:.0f} %");
  say("verdicts/unparsed", 100, "unparsed {:.0f} %");
  say("sampling/sampling_logp_difference/max", 1, "gap {:.2g}");
  if (!line.contains("sampling/sampling_logp_difference/max")) say("sampling/sampling_logp_difference/mean", 1, "mean gap {:.2g}");
  const auto seconds = [&](const char* key) { return line.value(key, 0.0); };
  return words + fmt::format("; sampled {:.1f} s, scored {:.1f} s, trained {:.1f} s", seconds("time/sampling"), seconds("time/scoring"),
                             seconds("time/training"));
}

}  // namespace hone::train
