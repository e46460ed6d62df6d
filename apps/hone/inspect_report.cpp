#include "inspect_report.h"

#include <fmt/format.h>

#include <algorithm>

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

std::string token_lines(const text::TokenizedRow& row, const text::Tokenizer& tokenizer) {
  std::string out = fmt::format("  {:>5} {:>6}  {:>6}  {:<10} {}\n", "token", "id", "weight", "role", "text");
  for (size_t i = 0; i < row.ids.size(); ++i) {
    out += fmt::format("  {:>5} {:>6}  {:>6}  {:<10} |{}|\n", i, row.ids[i], row.weights[i], text::role_names()[row.roles[i]],
                       visible(tokenizer.token_bytes(row.ids[i])));
  }
  return out;
}

double percent(int64_t part, int64_t whole) { return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole); }

}  // namespace

std::string InspectReport::add(const InspectedRow& row, const text::Tokenizer& tokenizer) {
  ++rows_;
  const auto length = static_cast<int64_t>(row.tokens.ids.size());
  const int64_t trained = std::count_if(row.tokens.weights.begin(), row.tokens.weights.end(), [](float weight) { return weight != 0; });
  if (!row.error.empty()) {
    if (bad_rows_++ == 0) first_error_ = row.error;
  } else {
    ++kinds_[std::string(data::columns_of(row.kind))];
    lengths_.push_back(static_cast<int32_t>(length));
    tokens_ += length;
    trained_ += trained;
    if (length > config_.max_length) {
      if (overlong_++ == 0) first_overlong_ = place_text(row.place);
      cut_tokens_ += length - config_.max_length;
      const auto kept = row.tokens.weights.begin() + config_.max_length;
      if (std::all_of(row.tokens.weights.begin(), kept, [](float weight) { return weight == 0; })) ++untrained_after_cut_;
    }
    if (!seen_.insert(row.hash).second && duplicates_++ == 0) first_duplicate_ = place_text(row.place);
  }
  if (rows_ > config_.rows) return "";
  std::string out = fmt::format("row {}  {}  {} tokens, {} trained on\n", rows_, place_text(row.place), length, trained);
  if (!row.error.empty()) out += fmt::format("  cannot be trained on: {}\n", row.error);
  if (length > 0) out += fmt::format("  segment [0, {}): a root, sees no other row\n{}", length, token_lines(row.tokens, tokenizer));
  return out + "\n";
}

std::string InspectReport::statistics() const {
  std::string out = fmt::format("rows           {}\n", rows_);
  for (const auto& [kind, count] : kinds_) out += fmt::format("  {:<12} {}\n", kind, count);
  if (bad_rows_ > 0) out += fmt::format("bad rows       {}; the first: {}\n", bad_rows_, first_error_);
  if (duplicates_ > 0) out += fmt::format("duplicates     {}; the first: {}\n", duplicates_, first_duplicate_);
  if (lengths_.empty()) return out;
  std::vector<int32_t> sorted = lengths_;
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double share) { return sorted[static_cast<size_t>(share * static_cast<double>(sorted.size() - 1))]; };
  out += fmt::format("tokens         {}; a row: least {}, median {}, 90 % {}, most {}\n", tokens_, sorted.front(), quantile(0.5), quantile(0.9),
                     sorted.back());
  out += fmt::format("trained on     {} tokens, {:.1f} %\n", trained_, percent(trained_, tokens_));
  if (overlong_ == 0) return out + fmt::format("over-long      none (--max_length {})\n", config_.max_length);
  out += fmt::format("over-long      {} rows, {:.1f} % (--max_length {}); the first: {}\n", overlong_,
                     percent(overlong_, static_cast<int64_t>(lengths_.size())), config_.max_length, first_overlong_);
  switch (config_.overlong) {
    case config::Overlong::drop:
      return out + fmt::format("  hone sft would drop them{}\n",
                               overlong_ * 100 > static_cast<int64_t>(lengths_.size()) ? ", and stop: more than 1 % of the rows" : "");
    case config::Overlong::cut:
      return out +
             fmt::format("  hone sft would cut {} tokens; {} rows are left without a trained token and dropped\n", cut_tokens_, untrained_after_cut_);
    case config::Overlong::error:
      return out + "  hone sft would stop\n";
  }
  return out;
}

}  // namespace hone::app
