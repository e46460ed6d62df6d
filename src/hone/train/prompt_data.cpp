#include "hone/train/prompt_data.h"

#include <algorithm>
#include <optional>

#include "hone/base/error.h"
#include "hone/base/hash.h"
#include "hone/base/threads.h"

namespace hone::train {
namespace {

/// What became of a row: its tokens, or a fault.
struct Tokenised {
  std::vector<int32_t> ids;
  std::optional<std::pair<std::string, std::string>> fault;  // kind, message
};

Tokenised tokenise(const data::Row& row, const RowDataOptions& o) {
  Tokenised out;
  try {
    nlohmann::json variables = nlohmann::json::object();
    if (!row.tools.is_null()) variables["tools"] = row.tools;
    out.ids = text::render_prompt(row.prompt, *o.tokenizer, *o.chat, variables);
    if (out.ids.empty()) out.fault = {"empty-prompt", "prompt: no token is left of it"};
  } catch (const UserError& error) {
    out.fault = {"bad-text", error.what()};
  }
  return out;
}

data::Dataset read(const RowDataOptions& o) {
  data::LoadOptions load;
  load.files.assign(o.files.begin(), o.files.end());
  load.rules.accepted = {data::RowKind::prompt_only};
  load.rules.needs_assistant = false;
  load.rules.keep_columns = true;
  load.bad_rows = o.bad_rows;
  return data::load_rows(load);
}

void check_ids(const RowDataOptions& o, const std::vector<int32_t>& ids) {
  const int32_t largest = *std::max_element(ids.begin(), ids.end());
  if (o.vocab_size > 0 && largest >= o.vocab_size)
    fail("the tokenizer gives id {} but the model has only {} embeddings: tokenizer and model do not belong together", largest, o.vocab_size);
}

}  // namespace

PromptData load_prompt_data(const RowDataOptions& o, int64_t prompt_limit, const std::vector<NamedReward>& rewards) {
  data::Dataset dataset = read(o);
  const auto count = static_cast<int64_t>(dataset.rows.size());
  std::vector<Tokenised> tokens(dataset.rows.size());
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) tokens[i] = tokenise(dataset.rows[i], o);
  });
  std::vector<Fault> faults;
  for (int64_t i = 0; i < count; ++i) {
    const data::Row& row = dataset.rows[i];
    if (tokens[i].fault) faults.push_back({row.place, tokens[i].fault->first, tokens[i].fault->second});
    for (const NamedReward& r : rewards)
      if (const std::string problem = r.reward->check_row(row.columns); !problem.empty())
        faults.push_back({row.place, "reward-" + r.name, fmt::format("{}: {}", r.name, problem)});
  }
  if (!faults.empty()) fail_faults(faults, count, o.bad_rows);

  PromptData out;
  out.rows_read = count;
  out.duplicates = dataset.stats.duplicates;
  out.content_hash = dataset.stats.content_hash;
  out.cache_key = data::token_cache_key({out.content_hash, o.tokenizer->hash(), o.chat->source(), "prompts 1"});
  std::vector<Overlong> dropped;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<int32_t>& ids = tokens[i].ids;
    check_ids(o, ids);
    const auto length = static_cast<int64_t>(ids.size());
    if (length > prompt_limit) {
      ++out.overlong;
      if (o.config->overlong != config::Overlong::cut) {
        dropped.push_back({i, length});
        continue;
      }
      ids.erase(ids.begin(), ids.end() - prompt_limit);
      ++out.cut;
    }
    out.longest = std::max(out.longest, static_cast<int64_t>(ids.size()));
    out.tokens += static_cast<int64_t>(ids.size());
    out.rows.push_back({std::move(ids), std::move(dataset.rows[i].columns), dataset.rows[i].place, i});
  }
  check_overlong(o, dropped, count, fmt::format("the {} that --max_length {} leaves a prompt", prompt_limit, o.config->max_length));
  if (out.rows.empty())
    fail("{}: no prompt is left ({} longer than the {} tokens that --max_length leaves)", o.files.front(), out.overlong, prompt_limit);
  return out;
}

std::string describe(const PromptData& d) {
  const auto rows = static_cast<int64_t>(d.rows.size());
  std::string text = fmt::format("{} prompts, {} tokens each (longest {})", rows, d.tokens / std::max<int64_t>(1, rows), d.longest);
  if (d.overlong > d.cut) text += fmt::format("; {} over-long dropped", d.overlong - d.cut);
  if (d.cut > 0) text += fmt::format("; {} over-long, their front cut", d.cut);
  if (d.duplicates > 0) text += fmt::format("; {} duplicates", d.duplicates);
  return text;
}

}  // namespace hone::train
