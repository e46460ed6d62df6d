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
  const auto number = [&](const char* key) { return line.contains(key) && line.at(key).is_number() ? line.at(key).get<double>() : 0.0; };
  return fmt::format(
      "reward {:.3f}, cut {:.0f} %, no spread {:.0f} %, unparsed {:.0f} %, gap {:.2g}; sampled {:.1f} s, scored {:.1f} s, trained {:.1f} s",
      number("reward"), 100 * number("completions/clipped_ratio"), 100 * number("frac_reward_zero_std"), 100 * number("verdicts/unparsed"),
      number("sampling/sampling_logp_difference/max"), number("time/sampling"), number("time/scoring"), number("time/training"));
}

}  // namespace hone::train
