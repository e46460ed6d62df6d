// hone grade: verdicts and rewards of given completions (a JSONL filter).
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "commands.h"
#include "hone/base/error.h"
#include "hone/rewards/reward.h"
#include "hone/text/render.h"
#include "hone/train/scoring.h"
#include "jsonl_filter.h"
#include "reward_models.h"

namespace hone::app {
namespace {

// Prompt and completion up to and including the token that ends the turn, where the score is read.
std::vector<int32_t> tokens_of(const FilterRow& row, const TextModel& text, int64_t vocab) {
  data::RowRules rules;
  rules.accepted = {data::RowKind::prompt_completion};
  rules.for_training = rules.needs_assistant = rules.keep_columns = false;
  auto parsed = data::parse_row(row.in, row.place, rules);
  if (const auto* error = std::get_if<data::RowError>(&parsed)) fail("{}", data::describe(*error));
  text::RowResult result = text::try_tokenize_row(std::get<data::Row>(parsed), text.tokenizer, text.chat);
  if (result.problem) fail("{}:{}: {}", row.place.file, row.place.line, result.problem->message);
  for (const int32_t id : result.row.ids)
    if (id < 0 || id >= vocab) fail("{}:{}: id {} is not in the model's vocabulary of {}", row.place.file, row.place.line, id, vocab);
  if (result.row.ids.empty()) fail("{}:{}: there is no token to score", row.place.file, row.place.line);
  return std::move(result.row.ids);
}

// A reward model, ready to score rows.
struct ModelScorer {
  RewardModelFiles files;
  LoadedReward reward;
  int64_t micro_batch_tokens = 1024;

  ModelScorer(const config::RunConfig& config, const train::Machine& machine, const std::string& spec)
      : files(open_reward_model(config, reward_folder({spec}))),
        reward(load_reward_model(files, machine, 1024)),
        micro_batch_tokens(config.micro_batch_tokens.value_or(1024)) {}

  // The scores of the rows without an error; a row that cannot be scored gets one.
  std::vector<float> scores(std::span<FilterRow> rows) const {
    std::vector<std::vector<int32_t>> good;
    for (FilterRow& row : rows) {
      if (!row.error.empty()) continue;
      try {
        good.push_back(tokens_of(row, files.opened.text, reward.model->config.vocab_size));
      } catch (const UserError& error) {
        row.error = at_place(row, error.what());
      }
    }
    const std::vector<float> found = train::reward_scores(*reward.model, good, micro_batch_tokens, set_of(reward.adapter));
    std::vector<float> all(rows.size());
    for (size_t i = 0, next = 0; i < rows.size(); ++i) {
      if (!rows[i].error.empty()) continue;
      all[i] = found[next++];
      if (!std::isfinite(all[i]))
        rows[i].error = at_place(rows[i], "its score is not finite: the reward model's values overflow float32; take another checkpoint");
    }
    return all;
  }
};

struct Grader {
  std::string name;
  std::unique_ptr<rewards::Reward> verifier;  // empty: the reward model
  std::unique_ptr<ModelScorer> model;
};

std::vector<Grader> make_graders(const config::RunConfig& config, const train::Machine& machine) {
  if (config.reward.empty()) fail("a reward is missing: add --reward SPEC (math, exact, ..., model:DIR)");
  std::vector<Grader> graders;
  std::set<std::string> names;
  int models = 0;
  for (const std::string& text : config.reward) {
    const rewards::NamedSpec spec = rewards::split_spec(text);
    if (!names.insert(spec.name).second) fail("two rewards are named {}: give one a name of its own, --reward NAME={}", spec.name, spec.spec);
    Grader grader{spec.name, nullptr, nullptr};
    const bool is_folder = std::filesystem::exists(std::filesystem::path(spec.spec) / "config.json") ||
                           std::filesystem::exists(std::filesystem::path(spec.spec) / "adapter_config.json");
    if (spec.spec.starts_with("model:") || spec.spec == "model" || is_folder) {
      if (++models > 1) fail("--reward model:DIR is given 2 times; one reward model is used here");
      grader.model = std::make_unique<ModelScorer>(config, machine, spec.spec);
    } else {
      grader.verifier = rewards::make_reward(spec.spec, reward_settings(config));
    }
    graders.push_back(std::move(grader));
  }
  return graders;
}

// The completion's text: a string, or messages, whose contents count.
std::string completion_text(const FilterRow& row) {
  const auto it = row.in.find("completion");
  if (it == row.in.end()) fail("there is no \"completion\"");
  if (it->is_string()) return *it;
  std::string text;
  const auto refuse = [&] { fail("\"completion\" is neither a text nor a list of messages with a \"content\" each"); };
  if (!it->is_array()) refuse();
  for (const nlohmann::json& message : *it) {
    const auto content = message.is_object() ? message.find("content") : message.end();
    if (content == message.end() || !content->is_string()) refuse();
    text += content->get_ref<const std::string&>();
  }
  return text;
}

// What one verifier says of every row without an error. A row that it cannot judge is gold-unparsed, with the reason.
std::vector<rewards::Judgement> judge(rewards::Reward& verifier, std::span<FilterRow> rows, const std::vector<std::string>& texts,
                                      const std::vector<std::vector<int32_t>>& ids) {
  std::vector<rewards::Judgement> judged(rows.size());
  std::vector<rewards::Sample> samples;
  std::vector<size_t> places;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].error.empty()) continue;
    if (std::string fault = verifier.check_row(rows[i].in); !fault.empty()) {
      judged[i] = {rewards::Verdict::gold_unparsed, std::nullopt, std::move(fault)};
      continue;
    }
    samples.push_back({&rows[i].in, texts[i], ids[i], rows[i].in.value("finish_reason", nlohmann::json()) == "length"});
    places.push_back(i);
  }
  std::vector<rewards::Judgement> found = verifier.judge(samples);
  check(found.size() == samples.size(), "{} judgements of {} samples", found.size(), samples.size());
  for (size_t k = 0; k < places.size(); ++k) judged[places[k]] = std::move(found[k]);
  return judged;
}

// One reward: verdict, reward and, where there is something to say, detail. Several: verdicts, rewards and details by name.
std::string graded(const FilterRow& row, const std::vector<Grader>& graders, const std::vector<const rewards::Judgement*>& judged, float score) {
  std::string verdicts, numbers, details;
  std::vector<std::pair<std::string, std::string>> fields;
  const auto add = [](std::string& object, const std::string& name, const std::string& value) {
    object += (object.empty() ? "{" : ",") + json_text(std::string_view(name)) + ":" + value;
  };
  for (size_t k = 0; k < graders.size(); ++k) {
    const rewards::Judgement* j = judged[k];
    const std::string number = !j ? json_text(score) : j->reward ? json_text(*j->reward) : "null";
    if (graders.size() == 1) {
      if (j) fields.emplace_back("verdict", json_text(std::string_view(rewards::verdict_name(j->verdict))));
      fields.emplace_back("reward", number);
      if (j && !j->detail.empty()) fields.emplace_back("detail", json_text(std::string_view(j->detail)));
      continue;
    }
    if (j) add(verdicts, graders[k].name, json_text(std::string_view(rewards::verdict_name(j->verdict))));
    add(numbers, graders[k].name, number);
    if (j && !j->detail.empty()) add(details, graders[k].name, json_text(std::string_view(j->detail)));
  }
  if (!verdicts.empty()) fields.emplace_back("verdicts", verdicts + "}");
  if (!numbers.empty()) fields.emplace_back("rewards", numbers + "}");
  if (!details.empty()) fields.emplace_back("details", details + "}");
  return with_fields(row, fields);
}

}  // namespace

int run_grade(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  const train::Machine machine = train::apply_machine_options(config);
  const std::vector<Grader> graders = make_graders(config, machine);
  return run_filter(config, [&](std::span<FilterRow> rows) {
    std::vector<std::string> texts(rows.size());
    std::vector<std::vector<int32_t>> ids(rows.size());
    std::vector<float> scores(rows.size());
    for (const Grader& grader : graders)
      if (grader.model) scores = grader.model->scores(rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      const bool has_verifier = graders.size() > 1 || graders[0].verifier;
      if (!rows[i].error.empty() || !has_verifier) continue;
      try {
        texts[i] = completion_text(rows[i]);
        if (const auto it = rows[i].in.find("ids"); it != rows[i].in.end()) ids[i] = read_ids(*it);
      } catch (const UserError& error) {
        rows[i].error = at_place(rows[i], error.what());
      }
    }
    std::map<size_t, std::vector<rewards::Judgement>> judged;
    for (size_t k = 0; k < graders.size(); ++k)
      if (graders[k].verifier) judged[k] = judge(*graders[k].verifier, rows, texts, ids);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i].error.empty()) continue;
      std::vector<const rewards::Judgement*> of_row;
      for (size_t k = 0; k < graders.size(); ++k) of_row.push_back(judged.count(k) ? &judged[k][i] : nullptr);
      rows[i].out = graded(rows[i], graders, of_row, scores[i]);
    }
  });
}

}  // namespace hone::app
