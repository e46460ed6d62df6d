// hone grade: the rewards of given completions (a JSONL filter). So far with reward models.
#include <cmath>

#include "commands.h"
#include "hone/base/error.h"
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

}  // namespace

int run_grade(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  const std::string folder = reward_folder(config.reward);
  const train::Machine machine = train::apply_machine_options(config);
  const RewardModelFiles files = open_reward_model(config, folder);
  const LoadedReward reward = load_reward_model(files, machine, 1024);
  return run_filter(config, [&](std::span<FilterRow> rows) {
    std::vector<std::vector<int32_t>> ids(rows.size()), good;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i].error.empty()) continue;
      try {
        ids[i] = tokens_of(rows[i], files.opened.text, reward.model->config.vocab_size);
        good.push_back(ids[i]);
      } catch (const UserError& error) {
        rows[i].error = at_place(rows[i], error.what());
      }
    }
    const std::vector<float> scores = train::reward_scores(*reward.model, good, config.micro_batch_tokens.value_or(1024), set_of(reward.adapter));
    size_t next = 0;
    for (FilterRow& row : rows) {
      if (!row.error.empty()) continue;
      const float score = scores[next++];
      if (std::isfinite(score))
        row.out = with_fields(row, {{"reward", json_text(score)}});
      else
        row.error = at_place(row, "its score is not finite: the reward model's values overflow float32; take another checkpoint");
    }
  });
}

}  // namespace hone::app
