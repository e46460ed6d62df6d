#include "eval_pairs.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/data/jsonl.h"
#include "hone/train/pair_scoring.h"
#include "hone/train/preference_data.h"
#include "reward_models.h"

namespace hone::app {
namespace {

train::PairPass pass_of(const config::RunConfig& config, const std::unique_ptr<adapters::Adapter>& adapter) {
  return {config.micro_batch_tokens.value_or(1024), config.max_tree_tokens, set_of(adapter)};
}

int print(const config::RunConfig& config, const train::Json& json, const std::string& text) {
  const bool as_json = config.format == config::Format::json || !config.output.empty();
  const std::string result = as_json ? json.dump() + "\n" : text;
  if (config.output.empty())
    print_result(result);
  else
    write_atomic(config.output, result);
  return static_cast<int>(Exit::ok);
}

void add(train::Json& json, const std::string& key, const train::Estimate& e) {
  json[key] = e.value;
  json[key + "_low"] = e.low;
  json[key + "_high"] = e.high;
}

}  // namespace

bool holds_pairs(const std::string& file) {
  data::JsonlReader reader(file);
  std::vector<data::RawLine> lines;
  while (reader.next(lines))
    if (!lines.empty()) {
      const auto row = data::parse_json_line(lines.front().bytes, {file, lines.front().number});
      const auto* object = std::get_if<nlohmann::json>(&row);
      return object && object->is_object() && (object->contains("chosen") || object->contains("rejected"));
    }
  return false;
}

int eval_reward_model(const config::RunConfig& config) {
  const std::string folder = reward_folder(config.reward);
  const train::Machine machine = train::apply_machine_options(config);
  const RewardModelFiles files = open_reward_model(config, folder);
  const train::PairData data = train::load_pair_data(row_options(config, files.opened, config.data));
  const LoadedReward reward = load_reward_model(files, machine, data.longest);
  const train::RewardReport report = train::held_out_report(*reward.model, data.rows, pass_of(config, reward.adapter));
  train::Json json = train::to_json(report);
  json["rows_dropped"] = data.rows_read - static_cast<int64_t>(data.rows.size());
  return print(config, json, train::to_text(report));
}

int eval_policy_on_pairs(const config::RunConfig& config) {
  const train::Machine machine = train::apply_machine_options(config);
  const OpenedModel opened = open_checked_model(config);
  const train::PairData data = train::load_pair_data(row_options(config, opened, config.data));
  const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, data.longest);
  const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *opened.source, config, false);
  std::vector<train::ScoredPair> sums, means;
  std::vector<double> chosen, rejected, margins;
  for (const train::PairLogprobs& p : train::pair_logprobs(*model, data.rows, pass_of(config, adapter))) {
    if (!std::isfinite(p.sum[0]) || !std::isfinite(p.sum[1]))
      fail("{}: log-probabilities are not finite: the model's values overflow float32; take another checkpoint", config.data.front());
    sums.push_back({p.sum[0], p.sum[1]});
    means.push_back({p.sum[0] / static_cast<double>(p.tokens[0]), p.sum[1] / static_cast<double>(p.tokens[1])});
    chosen.push_back(p.sum[0]);
    rejected.push_back(p.sum[1]);
    margins.push_back(p.sum[0] - p.sum[1]);
  }
  const train::Accuracy by_sum = train::accuracy_of(sums), by_mean = train::accuracy_of(means);
  const train::Estimate margin = train::mean_of(margins);
  train::Json json{{"rows", data.rows.size()}, {"rows_dropped", data.rows_read - static_cast<int64_t>(data.rows.size())}};
  add(json, "eval_rewards/accuracies", by_sum.share);
  add(json, "eval_rewards/accuracies_per_token", by_mean.share);
  add(json, "eval_rewards/margins", margin);
  add(json, "eval_logps/chosen", train::mean_of(chosen));
  add(json, "eval_logps/rejected", train::mean_of(rejected));
  const auto line = [](const char* name, const train::Estimate& e) {
    return fmt::format("{:<46} {:.4f}{}\n", name, e.value, std::isfinite(e.low) ? fmt::format("  ({:.4f} to {:.4f})", e.low, e.high) : "");
  };
  const std::string text = fmt::format("{} pairs; 95 % intervals in brackets\n", data.rows.size()) +
                           line("accuracy: chosen has the higher log-probability", by_sum.share) +
                           line("the same per token of the completion", by_mean.share) + line("mean difference of log-probability, nats", margin);
  return print(config, json, text);
}

}  // namespace hone::app
