#include "hone/train/rollout_source.h"

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/rng.h"
#include "hone/base/signals.h"
#include "hone/methods/advantages.h"
#include "hone/train/rollout_report.h"

namespace hone::train {

int64_t rollout_steps(const config::RunConfig& config, int64_t prompts, const RolloutPlan& plan) {
  if (config.max_steps > 0) return config.max_steps;
  return static_cast<int64_t>(std::ceil(config.num_train_epochs * static_cast<double>(prompts) / static_cast<double>(plan.prompts))) * plan.steps;
}

RolloutPlan sliced_plan(int64_t prompts_per_step, int64_t steps_per_generation, int64_t num_iterations) {
  RolloutPlan plan;
  plan.prompts = prompts_per_step * steps_per_generation;
  plan.steps = steps_per_generation * num_iterations;
  plan.rows = [=](int64_t, int64_t step) {
    std::vector<int64_t> rows;
    const int64_t slice = step % steps_per_generation;
    for (int64_t i = 0; i < prompts_per_step; ++i) rows.push_back(slice * prompts_per_step + i);
    return rows;
  };
  return plan;
}

bool sample_groups(std::span<const DrawnGroup> groups, const PromptData& prompts, const SamplingSetup& setup, model::Model& model,
                   const ops::AdapterSet* adapters, const GroupSampling& calls) {
  std::vector<rollout::SampleRequest> requests;
  std::vector<size_t> owners;
  for (size_t g = 0; g < groups.size(); ++g) {
    bool whole = true;
    for (uint32_t s = 0; s < setup.num_generations && whole; ++s) whole = calls.has(g, s);
    if (whole) continue;
    requests.push_back({prompts.rows[groups[g].row].ids, static_cast<uint32_t>(groups[g].draw)});
    owners.push_back(g);
  }
  if (requests.empty()) return true;
  rollout::SampleOptions options;
  options.law = setup.law;
  options.num_generations = setup.num_generations;
  options.max_new_tokens = setup.max_completion_length;
  options.seed = setup.seed;
  options.stop_ids = setup.stop_ids;
  options.adapters = adapters;
  options.skip = [&](size_t request, uint32_t sample) { return calls.has(owners[request], sample); };
  const auto total = static_cast<int64_t>(groups.size()) * setup.num_generations;
  int64_t finished = total - static_cast<int64_t>(requests.size()) * setup.num_generations;
  options.finished = [&](size_t request, uint32_t sample, const rollout::Completion& completion) {
    calls.done(owners[request], sample, completion);
    log_progress("sampling", ++finished, total, "completions");
  };
  bool whole = true;
  if (calls.go_on) options.go_on = [&] { return whole = whole && calls.go_on(); };
  rollout::sample(model, requests, options);
  return whole;
}

std::string completion_text(const rollout::Completion& completion, const SamplingSetup& setup) {
  std::span<const int32_t> ids = completion.ids;
  if (!ids.empty() && std::find(setup.stop_ids.begin(), setup.stop_ids.end(), ids.back()) != setup.stop_ids.end()) ids = ids.first(ids.size() - 1);
  return setup.tokenizer->decode_text(ids);
}

bool is_broken(const Trajectory& trajectory) {
  return std::any_of(trajectory.judgements.begin(), trajectory.judgements.end(), [](const rewards::Judgement& j) {
    return !j.reward && (j.verdict == rewards::Verdict::crashed || j.verdict == rewards::Verdict::timed_out);
  });
}

std::optional<double> total_reward(const Trajectory& trajectory, const SamplingSetup& setup) {
  std::optional<double> total;
  if (is_broken(trajectory)) return total;
  for (size_t r = 0; r < trajectory.judgements.size(); ++r)
    if (const auto& reward = trajectory.judgements[r].reward) total = total.value_or(0) + *reward * setup.reward_weights[r];
  return total;
}

bool has_spread(const DrawnGroup& group, const SamplingSetup& setup) {
  methods::Group scored;
  for (const Trajectory& t : group.samples) {
    methods::SampledCompletion& c = scored.completions.emplace_back();
    c.broken = is_broken(t);
    for (const rewards::Judgement& j : t.judgements) c.rewards.push_back(j.reward);
  }
  config::OnPolicyOptions options;
  options.reward_weights = setup.reward_weights;
  options.multi_objective_aggregation = setup.aggregation;
  return methods::has_spread(scored, options);
}

RolloutSource::RolloutSource(std::filesystem::path run, const PromptData& prompts, SamplingSetup setup, RolloutPlan plan,
                             methods::OnPolicyMethod& method)
    : run_(std::move(run)), prompts_(prompts), setup_(std::move(setup)), plan_(std::move(plan)), method_(method) {
  check(plan_.prompts > 0 && plan_.steps > 0 && plan_.rows, "a rollout of {} prompts for {} steps", plan_.prompts, plan_.steps);
  check(setup_.rewards && setup_.reward_weights.size() == setup_.rewards->size(), "{} reward weights", setup_.reward_weights.size());
}

int64_t RolloutSource::row_of(int64_t draw) {
  const auto rows = static_cast<int64_t>(prompts_.rows.size());
  if (!plan_.shuffle) return draw % rows;
  if (epoch_ != draw / rows) {
    epoch_ = draw / rows;
    order_.resize(static_cast<size_t>(rows));
    random_permutation(setup_.seed, static_cast<uint32_t>(epoch_), static_cast<uint32_t>(rows), order_.data());
  }
  return order_[static_cast<size_t>(draw % rows)];
}

std::vector<DrawnGroup> RolloutSource::draw(int64_t count) {
  std::vector<DrawnGroup> groups;
  for (int64_t i = 0; i < count; ++i, ++draws_) groups.push_back({draws_, row_of(draws_), std::vector<Trajectory>(setup_.num_generations)});
  check(draws_ < (int64_t{1} << 31), "more than 2^31 draws");
  return groups;
}

bool RolloutSource::before_step(int64_t step, model::Model& model, const ops::AdapterSet* adapters,
                                const std::function<void(int64_t groups)>& begun) {
  const int64_t rollout = step / plan_.steps;
  for (const NamedReward& reward : *setup_.rewards) reward.reward->at_step(rollout * plan_.steps);
  if (rollout == rollout_) return true;
  if (!journal_ || journal_rollout_ != rollout) journal_ = std::make_unique<Journal>(run_, rollout, key_);
  journal_rollout_ = rollout;
  if (!collect(model, adapters)) {
    draws_ = draws_begin_;
    return false;
  }
  rollout_ = rollout;
  hand_over();
  if (begun) begun(static_cast<int64_t>(groups_.size()));
  write_completions(rollout * plan_.steps);
  return true;
}

bool RolloutSource::collect(model::Model& model, const ops::AdapterSet* adapters) {
  draws_begin_ = draws_;
  groups_.clear();
  replaced_.clear();
  std::vector<DrawnGroup> flat;  // without spread: replaced as long as there are fresh ones
  for (int64_t round = 0; static_cast<int64_t>(groups_.size()) < plan_.prompts; ++round) {
    std::vector<DrawnGroup> fresh = draw(plan_.prompts - static_cast<int64_t>(groups_.size()));
    if (!sample(fresh, model, adapters)) return false;
    judge(fresh);
    for (DrawnGroup& group : fresh) (!plan_.dynamic_sampling || has_spread(group, setup_) ? groups_ : flat).push_back(std::move(group));
    if (round == plan_.max_resample) break;
  }
  for (DrawnGroup& group : flat) (static_cast<int64_t>(groups_.size()) < plan_.prompts ? groups_ : replaced_).push_back(std::move(group));
  return true;
}

bool RolloutSource::sample(std::vector<DrawnGroup>& groups, model::Model& model, const ops::AdapterSet* adapters) {
  const double begin = monotonic_seconds();
  const auto has = [&](size_t g, uint32_t s) { return journal_->completion(groups[g].draw, s) != nullptr; };
  const auto done = [&](size_t g, uint32_t s, const rollout::Completion& completion) {
    journal_->add(groups[g].draw, s, completion);
    times_.sampled_tokens += static_cast<int64_t>(completion.ids.size());
  };
  const bool whole = sample_groups(groups, prompts_, setup_, model, adapters, {has, done, [] { return interrupt_signal() == 0; }});
  times_.sampling += monotonic_seconds() - begin;
  if (!whole) return false;
  for (DrawnGroup& group : groups)
    for (uint32_t s = 0; s < group.samples.size(); ++s) {
      const rollout::Completion* completion = journal_->completion(group.draw, s);
      check(completion != nullptr, "draw {} sample {} was not sampled", group.draw, s);
      group.samples[s].completion = *completion;
      group.samples[s].text = completion_text(*completion, setup_);
      group.samples[s].judgements.resize(setup_.rewards->size());
    }
  return true;
}

void RolloutSource::judge(std::vector<DrawnGroup>& groups) {
  const double begin = monotonic_seconds();
  for (size_t r = 0; r < setup_.rewards->size(); ++r) judge_with(r, groups);
  times_.scoring += monotonic_seconds() - begin;
}

// One call for all samples: what a reward function of the user's computes over its batch must not depend on a kill. So a call that the
// journal has only in part is made again as a whole.
void RolloutSource::judge_with(size_t reward, std::vector<DrawnGroup>& groups) {
  bool whole = true;
  std::vector<rewards::Sample> samples;
  for (const DrawnGroup& group : groups)
    for (uint32_t s = 0; s < group.samples.size(); ++s) {
      const Trajectory& t = group.samples[s];
      whole = whole && journal_->judgement(reward, group.draw, s);
      samples.push_back({&prompts_.rows[group.row].columns, t.text, t.completion.ids, t.completion.finish == rollout::Finish::length});
    }
  std::vector<rewards::Judgement> fresh;
  if (!whole) {
    fresh = setup_.rewards->at(reward).reward->judge(samples);
    check(fresh.size() == samples.size(), "reward {} judged {} of {} samples", setup_.rewards->at(reward).name, fresh.size(), samples.size());
    for (const rewards::Sample& s : samples) times_.judged_tokens += static_cast<int64_t>(s.ids.size());
  }
  size_t next = 0;
  for (DrawnGroup& group : groups)
    for (uint32_t s = 0; s < group.samples.size(); ++s) {
      rewards::Judgement& j = group.samples[s].judgements[reward];
      j = whole ? *journal_->judgement(reward, group.draw, s) : std::move(fresh[next++]);
      j.detail = text::utf8_lossy(j.detail);
      if (j.reward && !std::isfinite(*j.reward)) j = {rewards::Verdict::crashed, std::nullopt, "the reward is not finite"};
      if (!whole) journal_->add(reward, group.draw, s, j);
    }
  if (!whole) journal_->flush();
}

void RolloutSource::hand_over() {
  std::vector<methods::Group> groups;
  for (const DrawnGroup& drawn : groups_) {
    methods::Group& group = groups.emplace_back();
    group.prompt = prompts_.rows[drawn.row].ids;
    for (const Trajectory& t : drawn.samples) {
      methods::SampledCompletion& c = group.completions.emplace_back();
      c.ids = t.completion.ids;
      c.logprobs = t.completion.tempered_logprobs;
      c.sampler_logprobs = t.completion.sampler_logprobs;
      c.truncated = t.completion.finish == rollout::Finish::length;
      for (const rewards::Judgement& j : t.judgements) c.rewards.push_back(j.reward);
      c.broken = is_broken(t);
    }
  }
  method_.begin(std::move(groups));
}

// Each rollout's lines stand once, under the first step that trains on it.
void RolloutSource::write_completions(int64_t step) {
  if (!completions_) completions_ = std::make_unique<MetricsWriter>(run_ / "completions.jsonl", written_to_);
  if (step < written_to_) return;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const std::vector<double> advantages = method_.advantages(static_cast<int64_t>(g));
    for (size_t s = 0; s < groups_[g].samples.size(); ++s)
      completions_->write(completion_line(step + 1, groups_[g], s, prompts_, *setup_.rewards, advantages.at(s)));
  }
  for (const DrawnGroup& group : replaced_)
    for (size_t s = 0; s < group.samples.size(); ++s)
      completions_->write(completion_line(step + 1, group, s, prompts_, *setup_.rewards, std::nan("")));
}

Json RolloutSource::metrics() const {
  Json line;
  for (const auto& [name, value] : method_.rollout_metrics()) line[name] = value;
  add_verdicts(line, groups_, *setup_.rewards);
  if (plan_.dynamic_sampling) line["resampled_groups"] = replaced_.size();
  return line;
}

RolloutTimes RolloutSource::take_times() { return std::exchange(times_, RolloutTimes{}); }

void RolloutSource::saved(int64_t step) {
  if (begins(step)) journal_.reset();
  Journal::remove_before(run_, step / plan_.steps);
}

Json RolloutSource::state(int64_t step) const {
  const bool whole = begins(step);  // the rollout before is used up
  Json state{{"draws", whole ? draws_ : draws_begin_}};
  if (!whole) state["journal"] = journal_->lines();
  if (Json method = method_.state(whole); !method.is_null()) state["method"] = std::move(method);
  return state;
}

void RolloutSource::restore(const Json& state, int64_t step) {
  draws_ = draws_begin_ = state.at("draws");
  written_to_ = step;
  rollout_ = -1;
  journal_.reset();
  if (state.contains("method")) method_.restore(state.at("method"));
  if (!state.contains("journal")) return;
  journal_rollout_ = step / plan_.steps;
  journal_ = std::make_unique<Journal>(run_, journal_rollout_, key_, state.at("journal").get<std::string>());
}

void RolloutSource::finished() {
  journal_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(run_ / "rollouts", ignored);
}

}  // namespace hone::train
