#include "hone/methods/group_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/methods/advantages.h"

namespace hone::methods {

GroupMethod::GroupMethod(const config::RunConfig& config, std::vector<std::string> reward_names)
    : options_(config),
      beta_(config.beta),
      temperature_(config.temperature),
      max_tree_tokens_(config.max_tree_tokens),
      reward_names_(std::move(reward_names)) {
  check(temperature_ > 0, "temperature {}: no law to train", temperature_);
}

void GroupMethod::begin(std::vector<Group> groups) {
  groups_ = std::move(groups);
  update_ = 0;
  tokens_.clear();
  reference_ = ReferenceLogprobs(num_rows());
  for (int64_t row = 0; row < num_rows(); ++row) {
    const Group& group = groups_[row];
    check(!group.prompt.empty() && !group.completions.empty(), "group {}: {} prompt tokens, {} completions", row, group.prompt.size(),
          group.completions.size());
    std::vector<Tokens>& sequences = tokens_.emplace_back();
    for (int64_t i = 0; i < std::ssize(group.completions); ++i) {
      const SampledCompletion& c = group.completions[i];
      check(!c.ids.empty() && c.logprobs.size() == c.ids.size() && c.sampler_logprobs.size() == c.ids.size(),
            "completion {} of group {}: {} tokens, {} log-probabilities, {} of the sampler", i, row, c.ids.size(), c.logprobs.size(),
            c.sampler_logprobs.size());
      check(c.rewards.size() == reward_names_.size(), "{} rewards, {} expected", c.rewards.size(), reward_names_.size());
      Tokens tokens{group.prompt, std::vector<float>(group.prompt.size(), 0.0f)};
      tokens.ids.insert(tokens.ids.end(), c.ids.begin(), c.ids.end());
      tokens.weights.resize(tokens.ids.size(), masked(row, i) ? 0.0f : 1.0f);
      sequences.push_back(std::move(tokens));
    }
  }
}

std::vector<batch::Branch> GroupMethod::branches(int64_t row) const {
  std::vector<batch::Branch> all;
  for (const Tokens& t : tokens_[row]) all.push_back({t.ids.data(), t.weights.data(), std::ssize(t.ids)});
  return all;
}

int64_t GroupMethod::row_tokens(int64_t row) const { return batch::tree_tokens(branches(row), max_tree_tokens_); }

void GroupMethod::append(batch::PackedBatch& batch, int64_t row) const { batch::append_tree(batch, branches(row), max_tree_tokens_); }

int64_t GroupMethod::input_tokens(int64_t row) const {
  int64_t sum = 0;
  for (const Tokens& t : tokens_[row]) sum += std::ssize(t.ids);
  return sum;
}

GroupMethod::Counts GroupMethod::count(std::span<const int64_t> rows) const {
  Counts c;
  for (int64_t row : rows)
    for (int64_t i = 0; i < std::ssize(groups_[row].completions); ++i) {
      const int64_t trained = trained_tokens(row, i);
      c.completions += 1;
      c.tokens += static_cast<double>(trained);
      c.trained_completions += trained > 0 ? 1 : 0;
    }
  return c;
}

std::vector<GroupMethod::Place> GroupMethod::places(const Forward& forward) const {
  std::vector<Place> all;
  int64_t begin = 0;
  for (int64_t row : forward.rows)
    for (int64_t i = 0; i < std::ssize(groups_[row].completions); ++i) {
      all.push_back({row, i, std::ssize(all), begin, trained_tokens(row, i)});
      begin += all.back().count;
    }
  check(std::ssize(all) == forward.num_sequences && begin == forward.weights.numel(), "{} completions of {} tokens, {} sequences of {}", all.size(),
        begin, forward.num_sequences, forward.weights.numel());
  return all;
}

std::span<const float> GroupMethod::reference_of(const Place& place) const {
  int64_t begin = 0;
  for (int64_t i = 0; i < place.index; ++i) begin += trained_tokens(place.row, i);
  const std::span<const float> row = reference_.of(place.row);
  check(begin + place.count <= std::ssize(row), "group {}: {} log-probabilities of the reference", place.row, row.size());
  return row.subspan(begin, place.count);
}

std::vector<std::pair<std::string, double>> GroupMethod::rollout_metrics() const {
  auto all = reward_metrics(groups_, reward_names_, options_);
  for (auto& metric : length_metrics(groups_)) all.push_back(std::move(metric));
  return all;
}

void GroupMethod::report_gap(std::vector<Term>& metrics, const std::vector<Place>& places, std::span<const double> logprobs,
                             const Counts& counts) const {
  if (update_ != 0) return;
  std::vector<double> sums, largest;
  for (const Place& p : places) {
    double sum = 0, most = 0;
    for (int64_t t = 0; t < p.count; ++t) {
      const double gap = std::fabs(logprobs[p.begin + t] - static_cast<double>(completion(p.row, p.index).logprobs[t]));
      sum += gap;
      if (!(gap <= most)) most = gap;
    }
    sums.push_back(sum);
    largest.push_back(most);
  }
  metrics.push_back({"sampling/sampling_logp_difference/mean", at::tensor(sums, at::kDouble), counts.tokens});
  metrics.push_back({"sampling/sampling_logp_difference/max", at::tensor(largest, at::kDouble), counts.trained_completions, Reduce::maximum});
}

std::vector<double> cpu_doubles(const at::Tensor& values) {
  const at::Tensor v = values.detach().to(at::kCPU, at::kDouble).contiguous();
  return {v.const_data_ptr<double>(), v.const_data_ptr<double>() + v.numel()};
}

at::Tensor with_slopes(std::span<const double> values, const at::Tensor& logprobs, std::span<const double> slopes, const Forward& forward) {
  const at::Tensor known = at::tensor(values, at::kDouble);
  if (!logprobs.requires_grad()) return known;
  const at::Tensor slope = at::tensor(slopes, at::kDouble).to(logprobs.device(), logprobs.scalar_type());
  const at::Tensor linear = ops::sequence_sum(logprobs * slope, forward.sequence_ids, forward.num_sequences);
  return known + (linear - linear.detach());  // the second summand is 0, and carries the gradient
}

}  // namespace hone::methods
