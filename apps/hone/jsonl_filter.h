#pragma once
// The shape of every JSONL filter: one object out for each object in, in the same order, from --file or standard input to --output or
// standard output. A bad row gives {"error"} in its place and exit code 2 at the end.
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/data/jsonl.h"

namespace hone::app {

/// A row on its way through a filter. `out` is the line to write; a transform may set `error` instead.
struct FilterRow {
  data::Place place;
  std::string_view raw;  // the line; lives until the filter reads on
  nlohmann::json in;     // always an object
  std::string out;
  std::string error;
};

/// Fills `out` or `error` of every row. A UserError that it throws itself ends the run; those of one row go through each_row.
using FilterTransform = std::function<void(std::span<FilterRow> rows)>;

/// Runs the filter to the end of the input, then calls `at_end`. Returns the exit code; throws the UserError that sums up the bad rows. A reader
/// that leaves (broken pipe) ends it quietly.
int run_filter(const config::FilterOptions& options, const FilterTransform& transform, const std::function<void()>& at_end = {});

/// The rows of these lines; a line that is no JSON object is a row with an error.
std::vector<FilterRow> read_rows(const std::vector<data::RawLine>& lines, const std::string& name);

/// Calls body(row) for every row, threaded; what it throws as UserError becomes that row's error.
void each_row(std::span<FilterRow> rows, const std::function<void(FilterRow&)>& body);

/// The row's object with further fields as JSON text; a field of the same name is replaced. Everything else stands as it was written: a
/// number that no type of ours holds is not rounded, keys keep their order.
std::string with_fields(const FilterRow& row, const std::vector<std::pair<std::string, std::string>>& fields);

/// The message with the row's place in front, unless it begins with it already.
std::string at_place(const FilterRow& row, const std::string& message);

/// JSON text. A float is the shortest text that reads back to the same float32; what is not finite becomes null.
std::string json_text(float value);
std::string json_text(double value);
std::string json_text(std::string_view value);
std::string json_text(std::span<const float> values);
std::string json_text(std::span<const int32_t> values);

/// The ids of a row's "ids" field; UserError naming the first one that is no token id.
std::vector<int32_t> read_ids(const nlohmann::json& value);

}  // namespace hone::app
