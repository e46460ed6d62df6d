#include "hone/train/preference_data.h"

#include <algorithm>

#include "hone/base/error.h"
#include "hone/base/log.h"
#include "hone/base/threads.h"

namespace hone::train {
namespace {

using Json = nlohmann::ordered_json;
using Kind = text::RowProblem::Kind;

/// One side of a pair, or one labelled completion.
struct Side {
  text::TokenizedRow tokens;
  bool good = false;
};

/// What became of a row of the file: one side, two (chosen first), or a problem.
struct Sides {
  std::vector<Side> sides;
  std::optional<text::RowProblem> problem;
};

Sides sides_of(const data::Row& row, const text::Tokenizer& tokenizer, const text::ChatTemplate& chat) {
  Sides out;
  if (row.kind == data::RowKind::preference) {
    text::PairResult pair = text::try_tokenize_pair(row, tokenizer, chat);
    out.sides.push_back({std::move(pair.chosen), true});
    out.sides.push_back({std::move(pair.rejected), false});
    out.problem = std::move(pair.problem);
  } else {
    text::RowResult result = text::try_tokenize_row(row, tokenizer, chat);
    out.sides.push_back({std::move(result.row), row.label});
    out.problem = std::move(result.problem);
  }
  return out;
}

/// Writes the sides of all rows, the number of the row they come from with each; labels and margins go into the note.
void tokenize(const RowDataOptions& o, const data::Dataset& dataset, data::TokenCacheWriter& writer, Json& note) {
  const auto count = static_cast<int64_t>(dataset.rows.size());
  std::vector<Sides> results(dataset.rows.size());
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) results[i] = sides_of(dataset.rows[i], *o.tokenizer, *o.chat);
  });
  std::vector<Fault> faults;
  for (int64_t i = 0; i < count; ++i)
    if (results[i].problem && results[i].problem->kind != Kind::no_trained_token)  // those are dropped and counted
      faults.push_back({dataset.rows[i].place, slug(results[i].problem->kind), results[i].problem->message});
  if (!faults.empty()) fail_faults(faults, count, o.bad_rows);
  std::string labels;
  Json margins = Json::array();
  int64_t pairs = 0, differ = 0;
  const data::Row* first = nullptr;
  for (int64_t i = 0; i < count; ++i) {
    const data::Row& row = dataset.rows[i];
    for (const Side& side : results[i].sides) {
      writer.add({side.tokens.ids, side.tokens.weights, side.tokens.roles, side.tokens.prompt_length, i});
      labels += side.good ? '1' : '0';
    }
    if (row.margin != 0) margins.push_back({i, row.margin});
    pairs += row.kind == data::RowKind::preference;
    if (data::differs_before_last_turn(row) && differ++ == 0) first = &row;
  }
  note["labels"] = labels;
  note["margins"] = margins;
  note["pairs"] = pairs;
  note["differ"] = differ;
  if (first) note["first_differ"] = note_place(first->place, o.files);
}

Json open_preferences(const RowDataOptions& o, std::vector<data::RowKind> accepted, const std::string& form, RowData& out) {
  data::RowRules rules;
  rules.accepted = std::move(accepted);
  const auto tokenize_rows = [&](const data::Dataset& dataset, data::TokenCacheWriter& writer, Json& note) { tokenize(o, dataset, writer, note); };
  Json note = open_rows(o, rules, form, tokenize_rows, out);
  if (const auto differ = note.at("differ").get<int64_t>(); differ > 0)
    log_warning("{} of {} pairs differ before the last turn, first {}: the loss compares all that the assistant says from there on", differ,
                note.at("pairs").get<int64_t>(), place_text(note.at("first_differ"), o.files));
  return note;
}

/// The row without the first `count` tokens, which are all of its prompt.
data::TokenRow without_front(const data::TokenRow& row, int64_t count) {
  const auto n = static_cast<size_t>(count);
  return {row.ids.subspan(n), row.weights.subspan(n), row.roles.subspan(n), row.prompt_length - static_cast<int32_t>(count), row.source};
}

enum class Fit { fits, cut, dropped };

/// Applies --overlong to sequences of one prompt.
Fit fit(const config::RunConfig& c, std::span<data::TokenRow> sides) {
  int64_t longest = 0, prompt = INT64_MAX;
  for (const data::TokenRow& side : sides) {
    longest = std::max(longest, static_cast<int64_t>(side.ids.size()));
    prompt = std::min<int64_t>(prompt, side.prompt_length);
  }
  const int64_t excess = longest - c.max_length;
  if (excess <= 0) return Fit::fits;
  if (c.overlong != config::Overlong::cut || excess >= prompt) return Fit::dropped;
  for (data::TokenRow& side : sides) side = without_front(side, excess);
  return Fit::cut;
}

int64_t trained_of(const data::TokenRow& row) {
  int64_t trained = 0;
  for (size_t t = 1; t < row.weights.size(); ++t) trained += row.weights[t] != 0.0f;
  return trained;
}

/// Counts sequences of one prompt, fitted to max_length; whether they are kept.
template <class Data>
bool keep(const RowDataOptions& o, Data& out, std::span<data::TokenRow> sides, std::vector<Overlong>& dropped) {
  int64_t longest = 0;
  for (const data::TokenRow& side : sides) longest = std::max(longest, static_cast<int64_t>(side.ids.size()));
  const Fit how = fit(*o.config, sides);
  out.overlong += how != Fit::fits;
  out.cut += how == Fit::cut;
  if (how == Fit::dropped) {
    dropped.push_back({sides.front().source, longest});
    return false;
  }
  if (!std::all_of(sides.begin(), sides.end(), has_trained)) {
    ++out.without_trained;
    return false;
  }
  for (const data::TokenRow& side : sides) {
    out.longest = std::max(out.longest, static_cast<int64_t>(side.ids.size()));
    out.tokens += static_cast<int64_t>(side.ids.size());
  }
  return true;
}

void require_rows(const RowDataOptions& o, bool any, const RowData& out) {
  if (!any) fail("{}: no row is left to train on ({} over-long, {} without a trained token)", o.files.front(), out.overlong, out.without_trained);
}

void require_both_labels(const RowDataOptions& o, const UnpairedData& out) {
  if (out.good > 0 && out.bad > 0) return;
  fail("{}: the label of every row is {}; kto learns from the difference between good and bad completions: add rows labelled {}", o.files.front(),
       out.good > 0, out.good == 0);
}

std::string dropped_text(const RowData& d, int64_t cut, const char* what) {
  std::string text;
  if (d.overlong > cut) text += fmt::format("; {} over-long dropped", d.overlong - cut);
  if (cut > 0) text += fmt::format("; {} over-long, the front of their prompt cut", cut);
  if (d.without_trained > 0) text += fmt::format("; {} without a trained token dropped", d.without_trained);
  if (d.duplicates > 0) text += fmt::format("; {} duplicate {}", d.duplicates, what);
  return text;
}

double mean(int64_t sum, int64_t count) { return static_cast<double>(sum) / static_cast<double>(std::max<int64_t>(1, count)); }

}  // namespace

PairData load_pair_data(const RowDataOptions& o) {
  PairData out;
  const Json note = open_preferences(o, {data::RowKind::preference}, "pairs 2", out);
  out.differ_early = note.at("differ").get<int64_t>();
  const Json& margins = note.at("margins");
  out.margins = static_cast<int64_t>(margins.size());
  std::vector<Overlong> dropped;
  auto margin = margins.begin();  // in the order of the rows
  for (int64_t i = 0; i + 1 < out.cache->size(); i += 2) {
    data::TokenRow sides[] = {out.cache->row(i), out.cache->row(i + 1)};
    const bool has_margin = margin != margins.end() && margin->at(0).get<int64_t>() == sides[0].source;
    const double value = has_margin ? (margin++)->at(1).get<double>() : 0.0;
    if (!keep(o, out, sides, dropped)) continue;
    out.rows.push_back({sides[0], sides[1], value});
    const int64_t chosen = trained_of(sides[0]), rejected = trained_of(sides[1]);
    out.chosen_tokens += chosen;
    out.rejected_tokens += rejected;
    out.chosen_longer += chosen > rejected;
  }
  check_overlong(o, dropped, out.rows_read);
  require_rows(o, !out.rows.empty(), out);
  return out;
}

UnpairedData load_unpaired_data(const RowDataOptions& o) {
  UnpairedData out;
  const Json note = open_preferences(o, {data::RowKind::unpaired, data::RowKind::preference}, "unpaired 2", out);
  const auto labels = note.at("labels").get<std::string>();
  out.from_pairs = note.at("pairs").get<int64_t>();
  std::vector<Overlong> dropped;
  for (int64_t i = 0; i < out.cache->size(); ++i) {
    data::TokenRow side[] = {out.cache->row(i)};
    if (!keep(o, out, side, dropped)) continue;
    const bool good = labels.at(static_cast<size_t>(i)) == '1';
    out.rows.push_back({side[0], good});
    (good ? out.good : out.bad) += 1;
    out.trained_tokens += trained_of(side[0]);
  }
  check_overlong(o, dropped, out.cache->size());
  require_rows(o, !out.rows.empty(), out);
  require_both_labels(o, out);
  return out;
}

std::string describe(const PairData& d, const config::RunConfig& c) {
  (void)c;
  const auto pairs = static_cast<int64_t>(d.rows.size());
  std::string text =
      fmt::format("{} pairs, {} tokens, longest {}; completions {:.0f} (chosen) and {:.0f} (rejected) tokens, chosen longer in {:.0f} %", pairs,
                  d.tokens, d.longest, mean(d.chosen_tokens, pairs), mean(d.rejected_tokens, pairs), 100 * mean(d.chosen_longer, pairs));
  text += dropped_text(d, d.cut, "pairs");
  if (d.differ_early > 0) text += fmt::format("; {} differ before the last turn", d.differ_early);
  if (d.margins > 0) text += fmt::format("; {} with a margin", d.margins);
  return text;
}

std::string describe(const UnpairedData& d, const config::RunConfig& c) {
  (void)c;
  const auto rows = static_cast<int64_t>(d.rows.size());
  std::string text = fmt::format("{} rows ({} good, {} bad), {} tokens, longest {}; completions {:.0f} tokens", rows, d.good, d.bad, d.tokens,
                                 d.longest, mean(d.trained_tokens, rows));
  if (d.from_pairs > 0) text += fmt::format("; {} pairs taken apart", d.from_pairs);
  return text + dropped_text(d, d.cut, "rows");
}

}  // namespace hone::train
