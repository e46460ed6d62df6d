#include "eval_prompts.h"

#include <filesystem>

#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/process.h"
#include "on_policy.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

std::string line_of(const train::Json& json, const std::string& key, const char* words) {
  if (!json.contains(key)) return {};
  return fmt::format("{:<34} {:.4f}  ({:.4f} to {:.4f})\n", words, json.at(key).get<double>(), json.at(key + "_low").get<double>(),
                     json.at(key + "_high").get<double>());
}

std::string to_text(const train::Json& json, std::span<const int64_t> ks) {
  std::string text = fmt::format("{} prompts x {} completions; 95 % intervals in brackets\n", json.at("rows").get<int64_t>(),
                                 json.at("num_generations").get<int64_t>());
  for (const int64_t k : ks) text += line_of(json, fmt::format("pass@{}", k), fmt::format("pass@{}", k).c_str());
  for (const int64_t k : ks) text += line_of(json, fmt::format("majority@{}", k), fmt::format("majority@{}", k).c_str());
  text += line_of(json, "reward", "mean reward");
  text += line_of(json, "mean_length", "mean length, tokens");
  text += line_of(json, "unparsed", "share without a readable answer");
  text += line_of(json, "clipped_ratio", "share cut at --max_new_tokens");
  if (const auto unscored = json.at("unscored").get<int64_t>(); unscored > 0) text += fmt::format("{} completions got no score\n", unscored);
  return text;
}

}  // namespace

int eval_prompts(const config::RunConfig& given) {
  config::RunConfig config = given;
  config.max_completion_length = config.max_new_tokens;
  if (config.max_length <= config.max_new_tokens)
    fail("--max_new_tokens {} leaves no room for a prompt within --max_length {}; raise --max_length", config.max_new_tokens, config.max_length);
  const train::Machine machine = train::apply_machine_options(config);
  const OpenedModel opened = open_checked_model(config);
  std::vector<train::NamedReward> rewards = load_rewards(config, config.reward, machine, &opened);
  const train::PromptData prompts =
      train::load_prompt_data(row_options(config, opened, config.data), config.max_length - config.max_completion_length, rewards);
  const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, prompts.longest + config.max_completion_length);
  const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *opened.source, config, false);
  const train::SamplingSetup setup = sampling_setup(config, opened, rewards);
  const double begin = monotonic_seconds();
  const std::vector<train::DrawnGroup> groups = train::sample_and_judge(*model, set_of(adapter), prompts, setup);
  std::vector<int64_t> ks;
  for (const double k : config.pass_k) ks.push_back(static_cast<int64_t>(k));
  train::Json json = train::prompt_figures(groups, setup, ks, "");
  json["rows"] = prompts.rows.size();
  json["rows_dropped"] = prompts.rows_read - static_cast<int64_t>(prompts.rows.size());
  json["num_generations"] = config.num_generations;
  json["seconds"] = monotonic_seconds() - begin;
  if (config.output.empty()) {
    print_result(config.format == config::Format::json ? json.dump() + "\n" : to_text(json, ks));
    return static_cast<int>(Exit::ok);
  }
  std::string rows;
  for (const train::DrawnGroup& group : groups) rows += train::verdict_line(group, prompts).dump() + "\n";
  write_atomic(fs::path(config.output).replace_extension(".rows.jsonl"), rows);
  write_atomic(config.output, json.dump() + "\n");
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
