#pragma once
// What `hone inspect` prints for people: rows token by token, then figures of the whole data set.
#include <map>
#include <string>
#include <unordered_set>
#include <vector>

#include "hone/base/hash.h"
#include "hone/config/run_config.h"
#include "hone/data/rows.h"
#include "hone/text/render.h"

namespace hone::app {

struct InspectedRow {
  data::Place place;
  data::RowKind kind = data::RowKind::text;
  text::TokenizedRow tokens;    // of a pair: the chosen side
  text::TokenizedRow rejected;  // of a pair
  bool label = false;           // unpaired rows
  double margin = 0;            // pairs
  bool differs_early = false;   // pairs: before the last turn
  std::string error;            // why the row cannot be trained on; tokens holds what could be made
  std::string hash;             // of its JSON, keys sorted
};

/// Tokens at the beginning of both sides of a pair that are the same: computed once in training. Each side keeps a token of its own.
int64_t shared_prefix(const InspectedRow& row);

class InspectReport {
 public:
  explicit InspectReport(const config::RunConfig& config) : config_(config) {}

  /// Counts a row; what to print for it (nothing once --rows have been shown).
  std::string add(const InspectedRow& row, const text::Tokenizer& tokenizer);
  /// The figures of all rows so far.
  std::string statistics() const;

  int64_t rows() const { return rows_; }
  int64_t bad_rows() const { return bad_rows_; }
  const std::string& first_error() const { return first_error_; }

 private:
  void count(const InspectedRow& row);
  void count_pair(const InspectedRow& row);
  void count_overlong(const InspectedRow& row, int64_t length);
  std::string pair_statistics() const;
  std::string overlong_statistics() const;

  const config::RunConfig& config_;
  int64_t rows_ = 0, bad_rows_ = 0, duplicates_ = 0, overlong_ = 0, trained_ = 0, tokens_ = 0, cut_tokens_ = 0, untrained_after_cut_ = 0;
  int64_t preferences_ = 0, too_long_to_cut_ = 0, good_ = 0, bad_ = 0;           // preferences: pairs and labelled completions
  int64_t chosen_longer_ = 0, shared_ = 0, differ_early_ = 0, with_margin_ = 0;  // of pairs
  std::vector<int32_t> chosen_lengths_, rejected_lengths_;                       // trained tokens
  std::string first_error_, first_duplicate_, first_overlong_;
  std::map<std::string, int64_t> kinds_;
  std::vector<int32_t> lengths_;
  std::unordered_set<std::string> seen_;
};

}  // namespace hone::app
