#include "hone/train/rollout_guards.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hone/methods/ppo_rollout.h"

namespace hone::train {
namespace {

double mean(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()); }

}  // namespace

bool surely_below(int64_t k, int64_t n, double share) {
  if (static_cast<double>(k) >= share * static_cast<double>(n)) return false;  // not even the estimate is below
  const double odds = std::log(share / (1.0 - share));
  double log_term = static_cast<double>(n) * std::log1p(-share), sum = std::exp(log_term);  // P(X = 0)
  for (int64_t i = 1; i <= k; ++i) {
    log_term += std::log(static_cast<double>(n - i + 1) / static_cast<double>(i)) + odds;
    sum += std::exp(log_term);
  }
  return sum < 0.05;
}

SignalGuard::Facts SignalGuard::facts_of(const DrawnGroup& group, const SamplingSetup& setup) {
  Facts f;
  f.spread = has_spread(group, setup);
  f.scored.assign(setup.rewards->size(), 0);
  bool first = true;
  for (const Trajectory& t : group.samples) {
    ++f.samples;
    f.ended += t.completion.finish == rollout::Finish::stop;
    bool right = !t.judgements.empty(), unparsed = false;
    for (size_t r = 0; r < t.judgements.size(); ++r) {
      f.scored[r] += t.judgements[r].reward.has_value();
      right = right && t.judgements[r].verdict == rewards::Verdict::right;
      unparsed = unparsed || t.judgements[r].verdict == rewards::Verdict::unparsed;
    }
    f.right += right;
    f.unparsed += unparsed;
    if (const std::optional<double> total = total_reward(t, setup)) {
      f.least = first ? *total : std::min(f.least, *total);
      f.greatest = first ? *total : std::max(f.greatest, *total);
      first = false;
    }
  }
  return f;
}

std::string SignalGuard::after_rollout(std::span<const DrawnGroup> groups, std::span<const DrawnGroup> replaced, const SamplingSetup& setup) {
  for (const auto& part : {groups, replaced})
    for (const DrawnGroup& group : part) window_.push_back(facts_of(group, setup));
  while (window_.size() > kWindow) window_.pop_front();
  const auto n = static_cast<int64_t>(window_.size());
  int64_t samples = 0, ended = 0, useful = 0;
  std::vector<int64_t> scored(names_.size(), 0);
  for (const Facts& f : window_) {
    samples += f.samples;
    ended += f.ended;
    useful += f.spread;
    for (size_t r = 0; r < scored.size(); ++r) scored[r] += f.scored[r];
  }
  if (n >= kLeastGroups) {
    for (size_t r = 0; r < scored.size(); ++r)
      if (surely_below(scored[r], samples, kUseful))
        return fmt::format(
            "the reward {} does not work: it gave {} of the last {} completions a score, the verdicts of the others are crashed or timed-out "
            "(details in completions.jsonl)",
            names_[r], scored[r], samples);
    if (surely_below(ended, samples, kUseful))
      return fmt::format(
          "all cut: {} of the last {} completions ended before --max_completion_length {}; raise it, or start from a model that ends "
          "its answers (after hone sft it does)",
          ended, samples, max_completion_length_);
  }
  return needs_spread_ && surely_below(useful, n, kUseful)
             ? fmt::format("too few groups with spread: {} of the last {}, and only those teach; {}", useful, n, why_no_spread())
             : std::string();
}

std::string SignalGuard::why_no_spread() const {
  int64_t samples = 0, right = 0, unparsed = 0;
  double least = 0, greatest = 0;
  bool first = true;
  for (const Facts& f : window_) {
    samples += f.samples;
    right += f.right;
    unparsed += f.unparsed;
    least = first ? f.least : std::min(least, f.least);
    greatest = first ? f.greatest : std::max(greatest, f.greatest);
    first = false;
  }
  const auto most = [&](int64_t count) { return count * 10 >= samples * 9; };
  if (most(unparsed))
    return fmt::format("{} of {} completions hold no answer that the reward can read (verdict unparsed): show the form in the prompt, or in hone sft",
                       unparsed, samples);
  if (most(right)) return fmt::format("{} of {} completions are right: these prompts are solved, take harder ones", right, samples);
  if (least == 0 && greatest == 0)
    return "no completion has had any reward: the prompts are too hard for this model, or the reward looks for something else; take easier ones, "
           "more "
           "--num_generations, or hone sft first";
  if (least == greatest) return fmt::format("every completion got the same reward {}: it tells nothing apart", least);
  return "the samples of a prompt nearly always get the same reward: raise --temperature or --num_generations, or take prompts of middle difficulty";
}

Json SignalGuard::state() const {
  Json list = Json::array();
  for (const Facts& f : window_) list.push_back({f.samples, f.ended, f.right, f.unparsed, f.spread, f.least, f.greatest, f.scored});
  return list;
}

void SignalGuard::restore(const Json& state) {
  window_.clear();
  for (const Json& f : state) window_.push_back({f.at(0), f.at(1), f.at(2), f.at(3), f.at(4), f.at(5), f.at(6), f.at(7).get<std::vector<int64_t>>()});
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n == 0 ? std::nan("") : (values[(n - 1) / 2] + values[n / 2]) / 2;
}

bool LevelGuard::exceeded(double value) {
  if (!std::isfinite(value)) return false;
  window_.push_back(value);
  if (window_.size() > size_) window_.erase(window_.begin());
  if (!(bound_ > 0) || fired_ || window_.size() < size_ || median() <= bound_) return false;
  fired_ = true;
  return true;
}

std::string DriftGuard::after_rollout(std::span<const DrawnGroup> groups) {
  double length = 0, repeated = 0, count = 0;
  for (const DrawnGroup& group : groups)
    for (const Trajectory& t : group.samples) {
      length += static_cast<double>(t.completion.ids.size());
      repeated += methods::repetition(t.completion.ids);
      count += 1;
    }
  if (count == 0) return {};
  length /= count;
  repeated /= count;
  if (start_lengths_.size() < kStart) {
    start_lengths_.push_back(length);
    start_repetitions_.push_back(repeated);
  }
  const double start_length = mean(start_lengths_), start_repetition = mean(start_repetitions_);
  figures_ = {{"completions/repetition", repeated},
              {"completions/length_drift", start_length > 0 ? length / start_length : 1.0},
              {"completions/repetition_drift", repeated - start_repetition}};
  if (start_length > 0 && length_.exceeded((length - kSlack) / start_length))
    return fmt::format(
        "completions have grown from {:.0f} tokens to {:.0f} (median of {} rollouts above {} times the start's and {} tokens, --max_length_drift): "
        "length may be what the reward likes; add a length penalty (--reward length:MAX,CACHE), raise --kl_coef or --beta, or raise the bound",
        start_length, length, kWindow, max_length_, kSlack);
  if (repetition_.exceeded(repeated - start_repetition))
    return fmt::format(
        "completions have begun to repeat themselves: {:.0f} % of their runs of four tokens have been there before, {:.0f} % at the start "
        "(--max_repetition_drift {}); raise --kl_coef or --beta, lower --learning_rate, or add --reward repetition:N,MAX",
        100 * repeated, 100 * start_repetition, max_repetition_);
  return {};
}

Json DriftGuard::state() const {
  return {{"start_lengths", start_lengths_},
          {"start_repetitions", start_repetitions_},
          {"lengths", length_.window()},
          {"repetitions", repetition_.window()},
          {"figures", figures_}};
}

void DriftGuard::restore(const Json& state) {
  start_lengths_ = state.at("start_lengths").get<std::vector<double>>();
  start_repetitions_ = state.at("start_repetitions").get<std::vector<double>>();
  length_.restore(state.at("lengths"));
  repetition_.restore(state.at("repetitions"));
  figures_ = state.at("figures");
}

bool LevelGuard::sound() const { return !(bound_ > 0) || window_.empty() || (median() <= bound_ / 2 && window_.back() <= bound_); }

}  // namespace hone::train
