// hone sample: completions of prompts, as text for people or as a JSONL filter.
#include "commands.h"
#include "completion_text.h"
#include "console.h"
#include "hone/base/error.h"
#include "hone/rollout/sampler.h"
#include "hone/text/render.h"
#include "jsonl_filter.h"
#include "loaded_model.h"

namespace hone::app {
namespace {

// A prompt's tokens, checked against what the model can hold.
std::vector<int32_t> prompt_ids(const data::Row& row, const OpenedModel& opened, const config::RunConfig& config) {
  nlohmann::json variables = nlohmann::json::object();
  if (!row.tools.is_null()) variables["tools"] = row.tools;
  std::vector<int32_t> ids = text::render_prompt(row.prompt, opened.text.tokenizer, opened.text.chat, variables);
  if (ids.empty()) fail("the prompt is empty");
  const int64_t limit = opened.source->config().max_position_embeddings, wanted = static_cast<int64_t>(ids.size()) + config.max_new_tokens;
  if (wanted > limit)
    fail("the prompt has {} tokens; with --max_new_tokens {} that is more than the model's {} positions", ids.size(), config.max_new_tokens, limit);
  return ids;
}

class Sampler {
 public:
  Sampler(const config::RunConfig& config, const OpenedModel& opened, model::Model& model, const ops::AdapterSet* adapters)
      : text_(opened, config.stop), model_(model) {
    options_.adapters = adapters;
    options_.law = {config.temperature, config.top_p, config.top_k, config.min_p};
    options_.num_generations = config.num_generations;
    options_.max_new_tokens = config.max_new_tokens;
    options_.seed = static_cast<uint64_t>(config.seed);
    options_.stop_ids = stop_ids(opened);
    if (!config.stop.empty()) options_.stop = [this](std::span<const int32_t> ids) { return text_.stopped(ids); };
  }

  std::vector<std::vector<rollout::Completion>> run(std::span<const rollout::SampleRequest> requests) {
    return rollout::sample(model_, requests, options_);
  }

  std::string text_of(const rollout::Completion& completion) const { return text_.text(completion.ids); }

 private:
  CompletionText text_;
  model::Model& model_;
  rollout::SampleOptions options_;
};

std::string completions_json(const std::vector<rollout::Completion>& completions, const Sampler& sampler) {
  std::string out = "[";
  for (const rollout::Completion& c : completions) {
    if (out.size() > 1) out += ",";
    out += fmt::format("{{\"text\":{},\"ids\":{},\"logprobs\":{},\"finish_reason\":{}}}", json_text(std::string_view(sampler.text_of(c))),
                       json_text(std::span<const int32_t>(c.ids)), json_text(std::span<const float>(c.logprobs)),
                       json_text(std::string_view(rollout::finish_name(c.finish))));
  }
  return out + "]";
}

std::string completions_text(const std::string& prompt, const std::vector<rollout::Completion>& completions, const Sampler& sampler) {
  std::string out = "> " + prompt + "\n";
  for (const rollout::Completion& c : completions) out += sampler.text_of(c) + (c.finish == rollout::Finish::length ? " ...\n" : "\n");
  return out;
}

std::string prompt_text(const data::Content& prompt) { return prompt.is_messages ? prompt.messages.back().content : prompt.text; }

// The prompt in the form that gives the same completions when it is read from a file.
std::string prompt_json(const std::string& words, bool as_message) {
  const std::string content = json_text(std::string_view(words));
  return as_message ? fmt::format("[{{\"role\":\"user\",\"content\":{}}}]", content) : content;
}

// Prompts from the command line are conversations of one user message where the model has a template, else plain text.
int sample_words(const config::RunConfig& config, const OpenedModel& opened, Sampler& sampler) {
  std::vector<rollout::SampleRequest> requests;
  for (const std::string& words : config.prompt) {
    data::Row row;
    data::Content& prompt = row.prompt;
    prompt.is_messages = opened.text.chat.exists();
    if (prompt.is_messages)
      prompt.messages.push_back({"user", words, nlohmann::json::object()});
    else
      prompt.text = words;
    requests.push_back({prompt_ids(row, opened, config), static_cast<uint32_t>(requests.size())});
  }
  const auto completions = sampler.run(requests);
  for (size_t i = 0; i < completions.size(); ++i)
    print_result(config.format == config::Format::jsonl
                     ? fmt::format("{{\"prompt\":{},\"completions\":{}}}\n", prompt_json(config.prompt[i], opened.text.chat.exists()),
                                   completions_json(completions[i], sampler))
                     : completions_text(config.prompt[i], completions[i], sampler));
  return static_cast<int>(Exit::ok);
}

}  // namespace

int run_sample(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  const train::Machine machine = train::apply_machine_options(config);
  const OpenedModel opened = open_checked_model(config);
  const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, 1024);
  const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *opened.source, config, false);
  Sampler sampler(config, opened, *model, set_of(adapter));
  if (!config.prompt.empty()) return sample_words(config, opened, sampler);
  return run_filter(config, [&](std::span<FilterRow> rows) {
    std::vector<rollout::SampleRequest> requests;
    std::vector<std::pair<size_t, std::string>> owners;
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto row_index = static_cast<uint32_t>(rows[i].place.line - 1);  // keys the row's noise
      if (!rows[i].error.empty()) continue;
      try {
        data::RowRules rules;
        rules.accepted = {data::RowKind::prompt_only};
        rules.for_training = rules.needs_assistant = rules.keep_columns = false;
        auto parsed = data::parse_row(rows[i].in, rows[i].place, rules);
        if (const auto* error = std::get_if<data::RowError>(&parsed)) fail("{}", data::describe(*error));
        const data::Row& row = std::get<data::Row>(parsed);
        requests.push_back({prompt_ids(row, opened, config), row_index});
        owners.emplace_back(i, prompt_text(row.prompt));
      } catch (const UserError& error) {
        rows[i].error = at_place(rows[i], error.what());
      }
    }
    const auto completions = sampler.run(requests);
    for (size_t j = 0; j < owners.size(); ++j) {
      const auto& [i, prompt] = owners[j];
      rows[i].out = config.format == config::Format::jsonl ? with_fields(rows[i], {{"completions", completions_json(completions[j], sampler)}})
                                                           : completions_text(prompt, completions[j], sampler);
    }
  });
}

}  // namespace hone::app
