// hone score: per-token log-probabilities of rows (a JSONL filter).
#include <algorithm>
#include <cmath>
#include <optional>

#include "commands.h"
#include "hone/base/error.h"
#include "hone/text/render.h"
#include "hone/train/scoring.h"
#include "jsonl_filter.h"
#include "loaded_model.h"
#include "long_rows.h"

namespace hone::app {
namespace {

constexpr int64_t kTokens = 1024;  // a micro-batch

struct Scored {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Scored tokens_of(const FilterRow& row, const config::RunConfig& config, const std::optional<TextModel>& model) {
  if (const auto ids = row.in.find("ids"); ids != row.in.end()) {
    Scored scored{read_ids(*ids), {}};
    scored.weights.assign(scored.ids.size(), 1.0f);
    return scored;
  }
  if (!model) fail("the model has no tokenizer: only rows of {{\"ids\"}} can be scored");
  data::RowRules rules;
  rules.accepted = {data::RowKind::text, data::RowKind::messages, data::RowKind::prompt_completion};
  rules.for_training = rules.needs_assistant = rules.keep_columns = false;
  auto parsed = data::parse_row(row.in, row.place, rules);
  if (const auto* error = std::get_if<data::RowError>(&parsed)) fail("{}", data::describe(*error));
  text::RenderOptions render;
  render.assistant_only_loss = config.assistant_only_loss;
  render.completion_only_loss = config.completion_only_loss;
  render.text_eos = false;
  text::RowResult result = text::try_tokenize_row(std::get<data::Row>(parsed), model->tokenizer, model->chat, render);
  if (result.problem && result.problem->kind != text::RowProblem::Kind::no_trained_token)
    fail("{}:{}: {}", row.place.file, row.place.line, result.problem->message);
  return {std::move(result.row.ids), std::move(result.row.weights)};
}

void check_ids(const Scored& scored, const FilterRow& row, int64_t vocab) {
  if (scored.ids.empty()) fail("{}:{}: there is no token to score", row.place.file, row.place.line);
  for (int32_t id : scored.ids)
    if (id < 0 || id >= vocab) fail("{}:{}: id {} is not in the model's vocabulary of {}", row.place.file, row.place.line, id, vocab);
}

}  // namespace

int run_score(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  const train::Machine machine = train::apply_machine_options(config);
  // {"ids"} needs no tokenizer.
  const std::unique_ptr<model::ModelSource> source = model::open_model(config.model_name_or_path);
  std::optional<TextModel> text;
  if (source->tokenizer()) text = make_text_model(*source->tokenizer(), config);
  const std::unique_ptr<model::Model> model = load_weights(*source, machine, config, 1024);
  const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *source, config, false);
  LongRows long_rows(model->config.max_position_embeddings);
  const auto score = [&](std::span<FilterRow> rows) {
    std::vector<Scored> scored(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i].error.empty()) continue;
      try {
        scored[i] = tokens_of(rows[i], config, text);
        check_ids(scored[i], rows[i], model->config.vocab_size);
        long_rows.add(rows[i].place, static_cast<int64_t>(scored[i].ids.size()));
      } catch (const UserError& error) {
        rows[i].error = at_place(rows[i], error.what());
      }
    }
    std::vector<std::vector<int32_t>> ids;
    for (size_t i = 0; i < rows.size(); ++i)
      if (rows[i].error.empty()) ids.push_back(scored[i].ids);
    const std::vector<std::vector<float>> logprobs = train::score_rows(*model, ids, kTokens, set_of(adapter));
    size_t next = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i].error.empty()) continue;
      const std::vector<float>& p = logprobs[next++];
      if (!std::all_of(p.begin(), p.end(), [](float x) { return std::isfinite(x); })) {
        rows[i].error =
            at_place(rows[i], "the model gives log-probabilities that are not finite: its values overflow float32; take another checkpoint");
        continue;
      }
      double sum = 0;
      for (size_t t = 0; t < p.size(); ++t)
        if (scored[i].weights[t + 1] != 0.0f) sum += p[t];
      rows[i].out = with_fields(rows[i], {{"ids", json_text(std::span<const int32_t>(scored[i].ids))},
                                          {"logprobs", json_text(std::span<const float>(p))},
                                          {"sum_logprob", json_text(static_cast<float>(sum))}});
    }
  };
  return run_filter(config, score, [&] { long_rows.warn(); });
}

}  // namespace hone::app
