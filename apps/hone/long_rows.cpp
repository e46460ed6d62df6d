#include "long_rows.h"

#include <algorithm>
#include <vector>

#include "hone/base/log.h"
#include "hone/data/jsonl.h"

namespace hone::app {
namespace {

// Where the row of that number over all files stands: every line that is not blank is a row.
data::Place place_of(int64_t source, std::span<const std::string> files) {
  int64_t seen = 0;
  for (const std::string& file : files) {
    data::JsonlReader reader(file);
    std::vector<data::RawLine> lines;
    while (reader.next(lines))
      for (const data::RawLine& line : lines)
        if (seen++ == source) return {file, line.number};
  }
  return {files.front(), 0};
}

}  // namespace

void LongRows::add(const data::Place& place, int64_t tokens) {
  if (tokens <= limit_) return;
  if (count_++ == 0) first_ = place;
  longest_ = std::max(longest_, tokens);
}

void LongRows::add(std::span<const data::TokenRow> rows, std::span<const std::string> files) {
  for (const data::TokenRow& row : rows) {
    const auto tokens = static_cast<int64_t>(row.ids.size());
    if (tokens > limit_) add(count_ == 0 ? place_of(row.source, files) : first_, tokens);
  }
}

void LongRows::warn() const {
  if (count_ == 0) return;
  log_warning("{} row{} longer than the {} tokens that the model was made for, first {}:{}; longest {} tokens: what is said of them means little",
              count_, count_ == 1 ? " is" : "s are", limit_, first_.file, first_.line, longest_);
}

}  // namespace hone::app
