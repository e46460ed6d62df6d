#include "rlhf_gates.h"

#include <fmt/format.h>

#include <cmath>

namespace hone::app {
namespace {

using train::Json;

double number_at(const Json& object, const std::string& key) {
  return object.contains(key) && object.at(key).is_number() ? object.at(key).get<double>() : std::nan("");
}

// What a gate looks at: a figure of the summary, its interval where it has one, and which of them counts.
struct Figure {
  std::string name, threshold_name;
  double value = 0, low = 0, high = 0, counts = 0, threshold = 0;
  bool at_most = true;
};

Figure figure_of(const Json& group, const std::string& key, const std::string& name, const char* threshold_name, double threshold, bool at_most) {
  Figure f{name, threshold_name, number_at(group, key), number_at(group, key + "_low"), number_at(group, key + "_high"), 0, threshold, at_most};
  f.counts = at_most ? f.value : f.low;
  return f;
}

GateVerdict verdict(const Figure& f, std::string advice) {
  const bool passed = f.at_most ? f.counts <= f.threshold : f.counts >= f.threshold;  // false for NaN
  const bool interval = std::isfinite(f.low) && std::isfinite(f.high);
  std::string words = std::isfinite(f.value) ? fmt::format("{} {:.4f}", f.name, f.value) : fmt::format("{} was not measured", f.name);
  if (interval) words += fmt::format(" (95 %: {:.4f} to {:.4f})", f.low, f.high);
  words += fmt::format(fmt::runtime(f.at_most ? "; the value may be at most {} {}" : "; the interval's lower end must be at least {} {}"),
                       f.threshold_name, f.threshold);
  Json json{{f.threshold_name, f.threshold}, {"figure", f.name}, {"value", f.value}};
  if (interval) json.update({{"low", f.low}, {"high", f.high}});
  json["counts"] = f.at_most ? "value" : "low";
  json["passed"] = passed;
  return {passed, std::move(words), std::move(advice), std::move(json)};
}

}  // namespace

GateVerdict judge(const config::Gates& gates, config::Command stage, const Json& summary) {
  const Json eval = summary.value("eval", Json()), train = summary.value("train", Json());
  if (stage == config::sft && gates.max_eval_loss)
    return verdict(figure_of(eval, "eval_loss", "eval_loss", "max_eval_loss", *gates.max_eval_loss, true),
                   "train longer, on more rows like the held-out ones or from a better model (section sft), or raise max_eval_loss");
  if (stage == config::reward && gates.min_reward_accuracy)
    return verdict(figure_of(eval, "eval_rewards/accuracies", "held-out accuracy", "min_reward_accuracy", *gates.min_reward_accuracy, false),
                   "train longer or on more pairs (section reward), give more held-out pairs for a narrower interval, or lower min_reward_accuracy");
  if (stage == config::ppo && gates.max_kl)
    return verdict(figure_of(train, "kl_median", "KL to the start (median of the last ten steps)", "max_kl", *gates.max_kl, true),
                   "raise kl_coef, give a kl_target, lower learning_rate or take fewer steps (section ppo), or raise max_kl");
  return {};
}

}  // namespace hone::app
