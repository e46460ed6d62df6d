#include "hone/train/sft_data.h"

#include <algorithm>

#include "hone/base/error.h"
#include "hone/base/threads.h"

namespace hone::train {
namespace {

data::RowRules rules_of(const config::RunConfig& c) {
  data::RowRules rules;
  rules.accepted = {data::RowKind::messages, data::RowKind::prompt_completion, data::RowKind::text};
  rules.needs_assistant = c.assistant_only_loss;
  return rules;
}

void tokenize(const RowDataOptions& o, const data::Dataset& dataset, data::TokenCacheWriter& writer) {
  text::RenderOptions render;
  render.assistant_only_loss = o.config->assistant_only_loss;
  render.completion_only_loss = o.config->completion_only_loss;
  const auto count = static_cast<int64_t>(dataset.rows.size());
  std::vector<text::RowResult> results(dataset.rows.size());
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) results[i] = text::try_tokenize_row(dataset.rows[i], *o.tokenizer, *o.chat, render);
  });
  std::vector<Fault> faults;
  for (int64_t i = 0; i < count; ++i)
    if (results[i].problem && results[i].problem->kind != text::RowProblem::Kind::no_trained_token)  // those are dropped and counted
      faults.push_back({dataset.rows[i].place, slug(results[i].problem->kind), results[i].problem->message});
  if (!faults.empty()) fail_faults(faults, count, o.bad_rows);
  for (int64_t i = 0; i < count; ++i) {
    const text::TokenizedRow& r = results[i].row;
    writer.add({r.ids, r.weights, r.roles, r.prompt_length, i});
  }
}

// Applies --overlong; keeps the row or not.
void keep_rows(const RowDataOptions& o, SftData& out) {
  const config::RunConfig& c = *o.config;
  std::vector<Overlong> dropped;
  for (int64_t i = 0; i < out.cache->size(); ++i) {
    data::TokenRow row = out.cache->row(i);
    const auto length = static_cast<int64_t>(row.ids.size());
    if (length > c.max_length) {
      ++out.overlong;
      if (c.overlong != config::Overlong::cut) {
        dropped.push_back({row.source, length});
        continue;
      }
      const auto keep = static_cast<size_t>(c.max_length);
      row = {row.ids.first(keep), row.weights.first(keep), row.roles.first(keep), std::min<int32_t>(row.prompt_length, static_cast<int32_t>(keep)),
             row.source};
    }
    if (!has_trained(row)) {
      ++out.without_trained;
      continue;
    }
    out.longest = std::max(out.longest, static_cast<int64_t>(row.ids.size()));
    out.tokens += static_cast<int64_t>(row.ids.size());
    for (size_t t = 1; t < row.weights.size(); ++t) out.trained_tokens += row.weights[t] != 0.0f;
    out.rows.push_back(row);
  }
  check_overlong(o, dropped, out.cache->size());
  if (out.rows.empty())
    fail("{}: no row is left to train on ({} over-long, {} without a trained token)", o.files.front(), out.overlong, out.without_trained);
}

}  // namespace

SftData load_sft_data(const RowDataOptions& o) {
  SftData out;
  const std::string form = fmt::format("sft 4 assistant={} completion={}", o.config->assistant_only_loss, o.config->completion_only_loss);
  const auto tokenize_rows = [&](const data::Dataset& dataset, data::TokenCacheWriter& writer, auto&) { tokenize(o, dataset, writer); };
  open_rows(o, rules_of(*o.config), form, tokenize_rows, out);
  keep_rows(o, out);
  return out;
}

std::string describe(const SftData& d, const config::RunConfig& c) {
  std::string text = fmt::format("{} rows, {} tokens ({:.0f} % trained), longest {}", d.rows.size(), d.tokens,
                                 100.0 * static_cast<double>(d.trained_tokens) / static_cast<double>(std::max<int64_t>(1, d.tokens)), d.longest);
  if (d.overlong > 0) text += fmt::format("; {} over-long {}", d.overlong, c.overlong == config::Overlong::cut ? "cut" : "dropped");
  if (d.without_trained > 0) text += fmt::format("; {} without a trained token dropped", d.without_trained);
  if (d.duplicates > 0) text += fmt::format("; {} duplicates", d.duplicates);
  return text;
}

}  // namespace hone::train
