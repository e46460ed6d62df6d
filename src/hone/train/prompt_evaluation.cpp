#include "hone/train/prompt_evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "hone/base/error.h"
#include "hone/text/tokenizer.h"
#include "hone/train/pass_at_k.h"

namespace hone::train {
namespace {

bool is_right(const Trajectory& t) { return t.judgements.front().verdict == rewards::Verdict::right; }

void judge_groups(std::vector<DrawnGroup>& groups, const PromptData& prompts, const SamplingSetup& setup) {
  std::vector<rewards::Sample> samples;
  for (const DrawnGroup& group : groups)
    for (const Trajectory& t : group.samples)
      samples.push_back({&prompts.rows[group.row].columns, t.text, t.completion.ids, t.completion.finish == rollout::Finish::length});
  for (const NamedReward& reward : *setup.rewards) {
    std::vector<rewards::Judgement> judged = reward.reward->judge(samples);
    check(judged.size() == samples.size(), "reward {} judged {} of {} samples", reward.name, judged.size(), samples.size());
    size_t next = 0;
    for (DrawnGroup& group : groups)
      for (Trajectory& t : group.samples) {
        judged[next].detail = text::utf8_lossy(judged[next].detail);
        t.judgements.push_back(std::move(judged[next++]));
      }
  }
}

class Figures {
 public:
  Figures(Json& out, const std::string& prefix) : out_(out), prefix_(prefix) {}
  /// NaN of no values.
  void add(const std::string& name, const std::vector<double>& values) {
    const double nan = std::nan("");
    const Estimate e = values.empty() ? Estimate{nan, nan, nan} : bootstrap_mean(values, 0);
    out_[prefix_ + name] = e.value;
    out_[prefix_ + name + "_low"] = e.low;
    out_[prefix_ + name + "_high"] = e.high;
  }

 private:
  Json& out_;
  const std::string& prefix_;
};

/// The mean over a group's completions of what `value` says.
template <class Value>
std::vector<double> means(std::span<const DrawnGroup> groups, Value value) {
  std::vector<double> all;
  for (const DrawnGroup& group : groups) {
    double sum = 0;
    for (const Trajectory& t : group.samples) sum += value(t);
    all.push_back(sum / static_cast<double>(group.samples.size()));
  }
  return all;
}

double majority_of(const DrawnGroup& group, int64_t k) {
  std::vector<std::string> keys;
  const auto right = std::make_unique<bool[]>(static_cast<size_t>(k));
  for (int64_t s = 0; s < k; ++s) {
    const Trajectory& t = group.samples[static_cast<size_t>(s)];
    keys.push_back(answer_key(t.text));
    right[static_cast<size_t>(s)] = is_right(t);
  }
  return majority_right(keys, {right.get(), static_cast<size_t>(k)}) ? 1.0 : 0.0;
}

}  // namespace

std::vector<DrawnGroup> sample_and_judge(model::Model& model, const ops::AdapterSet* adapters, const PromptData& prompts,
                                         const SamplingSetup& setup) {
  std::vector<DrawnGroup> groups;
  for (size_t i = 0; i < prompts.rows.size(); ++i)
    groups.push_back({static_cast<int64_t>(i), static_cast<int64_t>(i), std::vector<Trajectory>(static_cast<size_t>(setup.num_generations))});
  sample_groups(groups, prompts, setup, model, adapters,
                {[](size_t, uint32_t) { return false; },
                 [&](size_t g, uint32_t s, const rollout::Completion& completion) {
                   groups[g].samples[s].completion = completion;
                   groups[g].samples[s].text = completion_text(completion, setup);
                 },
                 {}});
  judge_groups(groups, prompts, setup);
  return groups;
}

Json prompt_figures(std::span<const DrawnGroup> groups, const SamplingSetup& setup, std::span<const int64_t> pass_k, const std::string& prefix) {
  Json out;
  Figures figures(out, prefix);
  for (const int64_t k : pass_k) {
    std::vector<double> values;
    for (const DrawnGroup& group : groups)
      values.push_back(pass_at_k(setup.num_generations, std::count_if(group.samples.begin(), group.samples.end(), is_right), k));
    figures.add(fmt::format("pass@{}", k), values);
  }
  for (const int64_t k : pass_k) {
    if (k < 2) continue;
    std::vector<double> values;
    for (const DrawnGroup& group : groups) values.push_back(majority_of(group, k));
    figures.add(fmt::format("majority@{}", k), values);
  }
  std::vector<double> scored = prompt_scores(groups, setup);
  std::erase_if(scored, [](double score) { return std::isnan(score); });
  figures.add("reward", scored);
  figures.add("mean_length", means(groups, [](const Trajectory& t) { return static_cast<double>(t.completion.ids.size()); }));
  figures.add("unparsed", means(groups, [](const Trajectory& t) { return t.judgements.front().verdict == rewards::Verdict::unparsed ? 1.0 : 0.0; }));
  figures.add("clipped_ratio", means(groups, [](const Trajectory& t) { return t.completion.finish == rollout::Finish::length ? 1.0 : 0.0; }));
  int64_t unscored = 0;
  for (const DrawnGroup& group : groups)
    for (const Trajectory& t : group.samples) unscored += !total_reward(t, setup);
  out[prefix + "unscored"] = unscored;
  return out;
}

std::vector<double> prompt_scores(std::span<const DrawnGroup> groups, const SamplingSetup& setup) {
  std::vector<double> scores;
  for (const DrawnGroup& group : groups) {
    double sum = 0, count = 0;
    for (const Trajectory& t : group.samples)
      if (const std::optional<double> total = total_reward(t, setup)) sum += *total, count += 1;
    scores.push_back(count > 0 ? sum / count : std::nan(""));
  }
  return scores;
}

Json verdict_line(const DrawnGroup& group, const PromptData& prompts) {
  Json line{{"row", prompts.rows[group.row].source},
            {"line", prompts.rows[group.row].place.line},
            {"right", std::count_if(group.samples.begin(), group.samples.end(), is_right)}};
  line["completions"] = Json::array();
  for (const Trajectory& t : group.samples) {
    const rewards::Judgement& j = t.judgements.front();
    Json one{{"text", t.text}, {"finish_reason", rollout::finish_name(t.completion.finish)}, {"verdict", rewards::verdict_name(j.verdict)}};
    one["reward"] = j.reward ? Json(*j.reward) : Json(nullptr);
    if (!j.detail.empty()) one["detail"] = j.detail;
    line["completions"].push_back(std::move(one));
  }
  return line;
}

}  // namespace hone::train
