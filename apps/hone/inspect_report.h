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
  text::TokenizedRow tokens;
  std::string error;  // why the row cannot be trained on; tokens holds what could be made
  std::string hash;   // of its JSON, keys sorted
};

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
  const config::RunConfig& config_;
  int64_t rows_ = 0, bad_rows_ = 0, duplicates_ = 0, overlong_ = 0, trained_ = 0, tokens_ = 0, cut_tokens_ = 0, untrained_after_cut_ = 0;
  std::string first_error_, first_duplicate_, first_overlong_;
  std::map<std::string, int64_t> kinds_;
  std::vector<int32_t> lengths_;
  std::unordered_set<std::string> seen_;
};

}  // namespace hone::app
