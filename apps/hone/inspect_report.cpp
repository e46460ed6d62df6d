#include "inspect_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace hone::app {
namespace {

/// One token on one line: invisible characters escaped.
std::string visible(std::string_view bytes) {
  std::string out;
  for (const char c : text::utf8_lossy(bytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string place_text(const data::Place& place) { return fmt::format("{}:{}", place.file, place.line); }

/// Tokens [begin, end) of a row, one a line.
std::string token_lines(const text::TokenizedRow& row, const text::Tokenizer& tokenizer, size_t begin, size_t end) {
  std::string out = fmt::format("  {:>5} {:>6}  {:>6}  {:<10} {}\n", "token", "id", "weight", "role", "text");
  for (size_t i = begin; i < end; ++i) {
    out += fmt::format("  {:>5} {:>6}  {:>6}  {:<10} |{}|\n", i, row.ids[i], row.weights[i], text::role_names()[row.roles[i]],
                       visible(tokenizer.token_bytes(row.ids[i])));
  }
  return out;
}

double percent(int64_t part, int64_t whole) { return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole); }

int64_t trained_tokens(const text::TokenizedRow& row) {
  return std::count_if(row.weights.begin(), row.weights.end(), [](float weight) { return weight != 0; });
}

/// The value below which this share of the values lies.
int32_t quantile(std::vector<int32_t> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

double mean(const std::vector<int32_t>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(std::max<size_t>(1, values.size()));
}

/// The row as the segments that training packs.
std::string segment_lines(const InspectedRow& row, const text::Tokenizer& tokenizer) {
  const size_t length = row.tokens.ids.size(), other = row.rejected.ids.size();
  if (row.kind != data::RowKind::preference)
    return length == 0 ? "" : fmt::format("  segment [0, {}): a root, sees no other row\n{}", length, token_lines(row.tokens, tokenizer, 0, length));
  if (length == 0 || other == 0) return "";
  const auto shared = static_cast<size_t>(shared_prefix(row));
  std::string out;
  if (shared > 0) out += fmt::format("  segment [0, {}): the root that both sides share\n{}", shared, token_lines(row.tokens, tokenizer, 0, shared));
  out += fmt::format("  segment [{}, {}): chosen\n{}", shared, length, token_lines(row.tokens, tokenizer, shared, length));
  return out + fmt::format("  segment [{}, {}): rejected\n{}", length, length + other - shared, token_lines(row.rejected, tokenizer, shared, other));
}

}  // namespace

int64_t shared_prefix(const InspectedRow& row) {
  const auto &a = row.tokens.ids, &b = row.rejected.ids;
  const auto most = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  if (most == 0) return 0;
  return std::mismatch(a.begin(), a.begin() + most - 1, b.begin()).first - a.begin();
}

std::string InspectReport::add(const InspectedRow& row, const text::Tokenizer& tokenizer) {
  ++rows_;
  if (row.error.empty()) {
    count(row);
  } else if (bad_rows_++ == 0) {
    first_error_ = row.error;
  }
  if (rows_ > config_.rows) return "";
  std::string out = fmt::format("row {}  {}  ", rows_, place_text(row.place));
  if (row.kind == data::RowKind::preference) {
    out += fmt::format("chosen {} tokens, {} trained on; rejected {}, {}\n", row.tokens.ids.size(), trained_tokens(row.tokens),
                       row.rejected.ids.size(), trained_tokens(row.rejected));
  } else {
    out += fmt::format("{} tokens, {} trained on{}\n", row.tokens.ids.size(), trained_tokens(row.tokens),
                       row.kind != data::RowKind::unpaired ? ""
                       : row.label                         ? ", labelled good"
                                                           : ", labelled bad");
  }
  if (!row.error.empty()) out += fmt::format("  cannot be trained on: {}\n", row.error);
  return out + segment_lines(row, tokenizer) + "\n";
}

void InspectReport::count(const InspectedRow& row) {
  ++kinds_[std::string(data::columns_of(row.kind))];
  preferences_ += row.kind == data::RowKind::preference || row.kind == data::RowKind::unpaired;
  if (row.kind == data::RowKind::unpaired) ++(row.label ? good_ : bad_);
  if (row.kind == data::RowKind::preference) count_pair(row);
  const auto length = static_cast<int64_t>(std::max(row.tokens.ids.size(), row.rejected.ids.size()));
  lengths_.push_back(static_cast<int32_t>(length));
  tokens_ += static_cast<int64_t>(row.tokens.ids.size() + row.rejected.ids.size());
  trained_ += trained_tokens(row.tokens) + trained_tokens(row.rejected);
  if (length > config_.max_length) count_overlong(row, length);
  if (!seen_.insert(row.hash).second && duplicates_++ == 0) first_duplicate_ = place_text(row.place);
}

void InspectReport::count_pair(const InspectedRow& row) {
  const int64_t chosen = trained_tokens(row.tokens), rejected = trained_tokens(row.rejected);
  chosen_lengths_.push_back(static_cast<int32_t>(chosen));
  rejected_lengths_.push_back(static_cast<int32_t>(rejected));
  chosen_longer_ += chosen > rejected;
  shared_ += shared_prefix(row);
  differ_early_ += row.differs_early;
  with_margin_ += row.margin != 0;
}

void InspectReport::count_overlong(const InspectedRow& row, int64_t length) {
  if (overlong_++ == 0) first_overlong_ = place_text(row.place);
  const int64_t excess = length - config_.max_length;
  if (row.kind == data::RowKind::preference || row.kind == data::RowKind::unpaired) {  // these lose the front of their prompt
    const bool fits = excess < row.tokens.prompt_length;
    cut_tokens_ += fits ? excess : 0;
    too_long_to_cut_ += !fits;
    return;
  }
  cut_tokens_ += excess;
  const auto kept = row.tokens.weights.begin() + config_.max_length;
  if (std::all_of(row.tokens.weights.begin(), kept, [](float weight) { return weight == 0; })) ++untrained_after_cut_;
}

std::string InspectReport::pair_statistics() const {
  std::string out;
  if (good_ + bad_ > 0) out += fmt::format("labels         {} good, {} bad\n", good_, bad_);
  if (chosen_lengths_.empty()) return out;
  const auto pairs = static_cast<int64_t>(chosen_lengths_.size());
  const auto line = [](const char* name, const std::vector<int32_t>& lengths) {
    return fmt::format("{:<14} {:.1f} tokens a completion; median {}, 90 % {}, most {}\n", name, mean(lengths), quantile(lengths, 0.5),
                       quantile(lengths, 0.9), quantile(lengths, 1));
  };
  out += line("chosen", chosen_lengths_) + line("rejected", rejected_lengths_);
  out += fmt::format("chosen longer  {} pairs, {:.1f} %\n", chosen_longer_, percent(chosen_longer_, pairs));
  out += fmt::format("shared         {} tokens, {:.1f} %: computed once for both sides\n", shared_, percent(2 * shared_, tokens_));
  if (with_margin_ > 0) out += fmt::format("margins        {} pairs\n", with_margin_);
  if (differ_early_ > 0) out += fmt::format("differ early   {} pairs, before the last turn\n", differ_early_);
  return out;
}

std::string InspectReport::statistics() const {
  std::string out = fmt::format("rows           {}\n", rows_);
  for (const auto& [kind, count] : kinds_) out += fmt::format("  {:<12} {}\n", kind, count);
  if (bad_rows_ > 0) out += fmt::format("bad rows       {}; the first: {}\n", bad_rows_, first_error_);
  if (duplicates_ > 0) out += fmt::format("duplicates     {}; the first: {}\n", duplicates_, first_duplicate_);
  if (lengths_.empty()) return out;
  out += fmt::format("tokens         {}; a row: least {}, median {}, 90 % {}, most {}\n", tokens_, quantile(lengths_, 0), quantile(lengths_, 0.5),
                     quantile(lengths_, 0.9), quantile(lengths_, 1));
  out += fmt::format("trained on     {} tokens, {:.1f} %\n", trained_, percent(trained_, tokens_));
  return out + pair_statistics() + overlong_statistics();
}

std::string InspectReport::overlong_statistics() const {
  const auto rows = static_cast<int64_t>(lengths_.size());
  if (overlong_ == 0) return fmt::format("over-long      none (--max_length {})\n", config_.max_length);
  std::string out = fmt::format("over-long      {} rows, {:.1f} % (--max_length {}); the first: {}\n", overlong_, percent(overlong_, rows),
                                config_.max_length, first_overlong_);
  const char* trainer = preferences_ > 0 ? "training" : "hone sft";
  switch (config_.overlong) {
    case config::Overlong::drop:
      return out + fmt::format("  {} would drop them{}\n", trainer, overlong_ * 100 > rows ? ", and stop: more than 1 % of the rows" : "");
    case config::Overlong::cut:
      if (preferences_ > 0)
        return out + fmt::format("  training would cut {} tokens of prompts; {} rows are too long without their prompt and dropped{}\n", cut_tokens_,
                                 too_long_to_cut_, too_long_to_cut_ * 100 > rows ? ", and stop: more than 1 % of the rows" : "");
      return out +
             fmt::format("  hone sft would cut {} tokens; {} rows are left without a trained token and dropped\n", cut_tokens_, untrained_after_cut_);
    case config::Overlong::error:
      return out + fmt::format("  {} would stop\n", trainer);
  }
  return out;
}

}  // namespace hone::app
