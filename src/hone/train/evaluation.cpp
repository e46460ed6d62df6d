#include "hone/train/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "hone/train/micro_batch.h"

namespace hone::train {
namespace {

// What a glance at an evaluation wants, as far as the method has it.
constexpr const char* kHeadlines[] = {"eval_loss",     "eval_pass@1",         "eval_reward", "eval_mean_length", "eval_rewards/accuracies",
                                      "eval_accuracy", "eval_rewards/margins"};
constexpr const char* kTokenHeadline = "eval_mean_token_accuracy";  // where there is no accuracy of rows

// NAME, NAME_low, NAME_high: the ratio sum(values)/sum(counts) and its 95 % interval over rows, by the linearised variance of a ratio
// (Cochran, Sampling Techniques, 1977, section 6.3): rows are the units that were drawn, not tokens. That of a share is cut at 0 and 1.
void add_interval(Json& out, const std::string& name, double ratio, const std::vector<double>& values, const std::vector<double>& counts) {
  out[name] = ratio;
  if (values.size() < 2 || values.size() != counts.size()) return;  // an extreme has no interval
  const auto n = static_cast<double>(values.size());
  double count = 0, squares = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    count += counts[i];
    squares += (values[i] - ratio * counts[i]) * (values[i] - ratio * counts[i]);
  }
  if (!(count > 0)) return;
  const double half = 1.959963984540054 * std::sqrt(n / (n - 1) * squares) / count;
  const bool share = name.ends_with("accuracy") || name.ends_with("accuracies");  // between 0 and 1, and so is its interval
  out[name + "_low"] = share ? std::max(0.0, ratio - half) : ratio - half;
  out[name + "_high"] = share ? std::min(1.0, ratio + half) : ratio + half;
}

}  // namespace

Json evaluation(model::Model& model, ops::AdapterSet* adapters, const methods::Method& method, int64_t micro_batch_tokens) {
  std::vector<int64_t> rows(method.num_rows());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  const StepSums sums = run_rows(model, method, rows, {.micro_batch_tokens = micro_batch_tokens, .adapters = adapters, .row_counts = true});
  Json out;
  // The loss of several terms is no ratio of one pair of sums.
  add_interval(out, "eval_loss", sums.loss, sums.row_loss, sums.loss_terms == 1 ? sums.row_loss_counts : std::vector<double>());
  for (size_t i = 0; i < sums.metrics.size(); ++i)
    add_interval(out, "eval_" + sums.metrics[i].first, sums.metrics[i].second, sums.row_metrics[i], sums.row_metric_counts[i]);
  out["eval_num_tokens"] = sums.tokens;
  return out;
}

std::string headline(const Json& evaluation) {
  std::string text;
  const auto add = [&](const char* name) {
    if (evaluation.contains(name)) text += fmt::format("{}{} {:.4f}", text.empty() ? "" : ", ", name, evaluation.at(name).get<double>());
  };
  for (const char* name : kHeadlines) add(name);
  if (!evaluation.contains("eval_rewards/accuracies") && !evaluation.contains("eval_accuracy")) add(kTokenHeadline);
  return text;
}

}  // namespace hone::train
