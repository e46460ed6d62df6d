#include "hone/methods/kto.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "hone/base/error.h"
#include "hone/methods/pairs.h"

namespace hone::methods {
namespace {

std::span<const int32_t> prompt_of(const data::UnpairedRow& row) { return row.row.ids.first(static_cast<size_t>(row.row.prompt_length)); }

// Rows of the same prompt that follow each other (cyclically) are a run; the j-th of a run meets the j-th of the run before.
std::vector<int64_t> mismatch(const std::vector<data::UnpairedRow>& rows) {
  const auto n = static_cast<int64_t>(rows.size());
  const auto starts_run = [&](int64_t i) { return !std::ranges::equal(prompt_of(rows[i]), prompt_of(rows[(i + n - 1) % n])); };
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < n; ++i)
    if (starts_run(i)) starts.push_back(i);
  std::vector<int64_t> partners(n);
  if (starts.empty()) {  // one prompt for all
    for (int64_t i = 0; i < n; ++i) partners[i] = (i + n - 1) % n;
    return partners;
  }
  const auto runs = static_cast<int64_t>(starts.size());
  for (int64_t k = 0; k < runs; ++k) {
    const auto length = [&](int64_t run) { return (starts[(run + 1) % runs] - starts[run] + n - 1) % n + 1; };
    const int64_t before = (k + runs - 1) % runs;
    for (int64_t j = 0; j < length(k); ++j) partners[(starts[k] + j) % n] = (starts[before] + j % length(before)) % n;
  }
  return partners;
}

}  // namespace

Kto::Kto(std::vector<data::UnpairedRow> rows, const config::PreferenceOptions& options)
    : rows_(std::move(rows)), options_(options), partners_(mismatch(rows_)), reference_(num_rows()) {
  const std::string loss = options.loss_type.empty() ? "kto" : options.loss_type[0];
  check(options.loss_type.size() <= 1 && (loss == "kto" || loss == "apo_zero_unpaired"), "no loss_type {}", loss);
  baseline_ = loss == "kto";
  for (int64_t i = 0; i < num_rows(); ++i) longest_ = std::max(longest_, row_tokens(i));
}

void Kto::append(batch::PackedBatch& batch, int64_t row) const {
  const data::TokenRow& r = rows_[row].row;
  batch::append_document(batch, r.ids.data(), r.weights.data(), row_tokens(row));
}

int64_t Kto::first_tokens(int64_t row) const {
  const data::TokenRow& other = rows_[partners_[row]].row;
  return std::min(longest_, rows_[row].row.prompt_length + static_cast<int64_t>(other.ids.size()) - other.prompt_length);
}

void Kto::append_first(batch::PackedBatch& batch, int64_t row) const {
  const data::TokenRow &own = rows_[row].row, &other = rows_[partners_[row]].row;
  std::vector<int32_t> ids(own.ids.begin(), own.ids.begin() + own.prompt_length);
  std::vector<float> weights(ids.size(), 0.0f);
  ids.insert(ids.end(), other.ids.begin() + other.prompt_length, other.ids.end());
  weights.insert(weights.end(), other.weights.begin() + other.prompt_length, other.weights.end());
  batch::append_document(batch, ids.data(), weights.data(), first_tokens(row));
}

void Kto::append_reference(batch::PackedBatch& batch, int64_t row) const {
  append(batch, row);
  if (baseline_) append_first(batch, row);
}

std::vector<double> Kto::counts(std::span<const int64_t> rows) const {
  std::vector<double> counts(5, 0.0);
  for (int64_t r : rows) {
    const int bad = rows_[r].label ? 0 : 1;
    counts[0] += 1;
    counts[1 + bad] += 1;
    counts[3 + bad] += static_cast<double>(trained_tokens(rows_[r].row));
  }
  return counts;
}

// The cached reference (N) of the rows' predictions, or of their mismatched sequences' that stand behind them.
at::Tensor Kto::reference_of(const Forward& forward, bool mismatched) const {
  std::vector<float> all;
  for (int64_t r : forward.rows) {
    const std::span<const float> cached = reference_.of(r);
    const auto own = static_cast<size_t>(trained_tokens(rows_[r].row));
    check(cached.size() >= own, "{} predictions, {} of the reference", own, cached.size());
    const std::span<const float> part = mismatched ? cached.subspan(own) : cached.first(own);
    all.insert(all.end(), part.begin(), part.end());
  }
  check(static_cast<int64_t>(all.size()) == forward.weights.numel(), "{} predictions, {} of the reference", forward.weights.numel(), all.size());
  return at::tensor(all, at::kFloat).to(forward.weights.device());
}

at::Tensor Kto::first_pass(const Forward& all) const {
  const auto sums = [&](const at::Tensor& values) { return ops::sequence_sum(values, all.sequence_ids, all.num_sequences); };
  const at::Tensor moved = (sums(all.logprobs.logprobs) - sums(reference_of(all, true))).contiguous();
  double sum = 0;
  for (int64_t i = 0; i < moved.numel(); ++i) sum += moved.const_data_ptr<double>()[i];
  const double mean = sum / static_cast<double>(moved.numel());
  return at::full({1}, mean < 0 ? 0.0 : mean, at::kDouble);  // a NaN stays one
}

MethodOutput Kto::evaluate(const Forward& forward, const StepInputs& step) const {
  const auto sums = [&](const at::Tensor& values) { return ops::sequence_sum(values, forward.sequence_ids, forward.num_sequences); };
  const auto rows = static_cast<int64_t>(forward.rows.size());
  const at::Tensor reference = reference_of(forward, false), policy = forward.logprobs.logprobs.detach();
  const at::Tensor logps = sums(forward.logprobs.logprobs), moved = logps - sums(reference);
  const double baseline = baseline_ ? step.shared.item<double>() : 0.0;
  const std::vector<at::Tensor> x = moved.unbind(0);
  const at::Tensor values = each_pair(rows, [&](int64_t i) {
    const at::Tensor gain = options_.beta * (x[i] - baseline);
    return rows_[forward.rows[i]].label ? options_.desirable_weight * at::sigmoid(-gain) : options_.undesirable_weight * at::sigmoid(gain);
  });
  std::vector<double> good;
  for (int64_t r : forward.rows) good.push_back(rows_[r].label ? 1.0 : 0.0);
  const at::Tensor is_good = at::tensor(good, at::kDouble), is_bad = 1 - is_good;
  const double good_rows = step.counts[1], bad_rows = step.counts[2], good_tokens = step.counts[3], bad_tokens = step.counts[4];

  MethodOutput out;
  out.losses.push_back({"loss", values, step.counts[0]});
  const auto report = [&](const std::string& name, const at::Tensor& of_rows, double of_good, double of_bad) {
    out.metrics.push_back({name + "/chosen", of_rows * is_good, of_good});
    out.metrics.push_back({name + "/rejected", of_rows * is_bad, of_bad});
  };
  const at::Tensor rewards = options_.beta * moved.detach();
  report("rewards", rewards, good_rows, bad_rows);
  const bool both = good_rows > 0 && bad_rows > 0;
  const at::Tensor share = both ? is_good / good_rows - is_bad / bad_rows : at::zeros_like(is_good);
  out.metrics.push_back({"rewards/margins", rewards * share, both ? 1.0 : 0.0});
  report("logps", logps.detach(), good_rows, bad_rows);
  report("logits", sums(forward.logprobs.mean_logit), good_tokens, bad_tokens);
  out.metrics.push_back({"entropy", sums(forward.logprobs.entropy.detach()), good_tokens + bad_tokens});
  if (baseline_) out.metrics.push_back({"kl", at::full({rows}, baseline, at::kDouble), step.counts[0]});
  report("kl", sums(k3(policy, reference)), good_tokens, bad_tokens);
  const at::Tensor drop = -moved.detach() * is_good;
  out.metrics.push_back({"chosen_drop", drop, good_tokens});
  out.metrics.push_back({"chosen_fell", (drop > 0).to(at::kDouble), good_rows});
  return out;
}

}  // namespace hone::methods
