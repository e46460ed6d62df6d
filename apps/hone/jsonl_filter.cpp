#include "jsonl_filter.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "jsonl_io.h"

namespace hone::app {
namespace {

/// Runs the transform over the stretches of rows that could be read.
void transform_good(std::vector<FilterRow>& rows, const FilterTransform& transform) {
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin;
    while (end < rows.size() && rows[end].error.empty()) ++end;
    if (end > begin) transform(std::span(rows).subspan(begin, end - begin));
    begin = end + 1;
  }
}

/// The members of a JSON object's text, which has been parsed before: the key with its quotes, and key and value as written.
std::vector<std::pair<std::string_view, std::string_view>> members(std::string_view text) {
  std::vector<std::pair<std::string_view, std::string_view>> out;
  size_t begin = std::string_view::npos, key_end = 0;  // of the member that is being read
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      const size_t quote = i;
      while (text[++i] != '"') i += text[i] == '\\';
      if (depth == 1 && begin == std::string_view::npos) begin = quote, key_end = i + 1;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    }
    const bool ends = (c == ',' && depth == 1) || (c == '}' && depth == 0);
    if (!ends || begin == std::string_view::npos) continue;
    const size_t last = text.find_last_not_of(" \t\r", i - 1);
    out.emplace_back(text.substr(begin, key_end - begin), text.substr(begin, last + 1 - begin));
    begin = std::string_view::npos;
  }
  return out;
}

template <class Number>
std::string shortest(Number value) {
  if (!std::isfinite(value)) return "null";
  char buffer[32];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  check(error == std::errc(), "a float needs more than {} characters", sizeof buffer);
  return std::string(buffer, end);
}

template <class Values>
std::string list_text(const Values& values, std::string (*text)(typename Values::value_type)) {
  std::string out = "[";
  for (const auto& value : values) {
    if (out.size() > 1) out += ",";
    out += text(value);
  }
  return out + "]";
}

}  // namespace

std::vector<FilterRow> read_rows(const std::vector<data::RawLine>& lines, const std::string& name) {
  std::vector<FilterRow> rows(lines.size());
  parallel_for(static_cast<int64_t>(lines.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      FilterRow& row = rows[static_cast<size_t>(i)];
      row.raw = lines[static_cast<size_t>(i)].bytes;
      row.place = {name, lines[static_cast<size_t>(i)].number};
      auto parsed = data::parse_json_line(lines[static_cast<size_t>(i)].bytes, row.place);
      if (const auto* error = std::get_if<data::RowError>(&parsed)) {
        row.error = data::describe(*error);
      } else if (!std::get<nlohmann::json>(parsed).is_object()) {
        row.error = fmt::format("{}:{}: not a JSON object", name, row.place.line);
      } else {
        row.in = std::move(std::get<nlohmann::json>(parsed));
      }
    }
  });
  return rows;
}

int run_filter(const config::FilterOptions& options, const FilterTransform& transform, const std::function<void()>& at_end) {
  LineSource source(options.file);
  LineSink sink(options.output, options.file);
  int64_t total = 0, bad = 0;
  std::string first_error;
  std::vector<data::RawLine> lines;
  try {
    while (source.next(lines)) {
      std::vector<FilterRow> rows = read_rows(lines, source.name());
      transform_good(rows, transform);
      std::string text;
      for (const FilterRow& row : rows) {
        ++total;
        if (!row.error.empty() && bad++ == 0) first_error = row.error;
        text += row.error.empty() ? row.out : fmt::format("{{\"error\":{}}}", json_text(std::string_view(row.error)));
        text += '\n';
      }
      sink.write(text);
    }
    sink.close();
  } catch (const BrokenPipe&) {
    return static_cast<int>(Exit::ok);
  }
  if (at_end) at_end();
  if (bad > 0) fail("{} of {} rows are bad and have an \"error\" in the output; the first:\n{}", bad, total, first_error);
  return static_cast<int>(Exit::ok);
}

void each_row(std::span<FilterRow> rows, const std::function<void(FilterRow&)>& body) {
  parallel_for(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      FilterRow& row = rows[static_cast<size_t>(i)];
      try {
        body(row);
      } catch (const UserError& error) {
        row.error = fmt::format("{}:{}: {}", row.place.file, row.place.line, error.what());
      }
    }
  });
}

std::string with_fields(const FilterRow& row, const std::vector<std::pair<std::string, std::string>>& fields) {
  std::string out = "{";
  for (const auto& [key, member] : members(row.raw)) {
    const auto name = nlohmann::json::parse(key).get<std::string>();
    if (std::any_of(fields.begin(), fields.end(), [&](const auto& field) { return field.first == name; })) continue;
    if (out.size() > 1) out += ",";
    out += member;
  }
  for (const auto& [name, text] : fields) {
    if (out.size() > 1) out += ",";
    out += json_text(std::string_view(name)) + ":" + text;
  }
  return out + "}";
}

std::string json_text(float value) { return shortest(value); }
std::string json_text(double value) { return shortest(value); }
std::string json_text(std::string_view value) { return nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }
std::string json_text(std::span<const float> values) {
  return list_text(
      values, +[](float value) { return shortest(value); });
}
std::string json_text(std::span<const int32_t> values) {
  return list_text(
      values, +[](int32_t value) { return std::to_string(value); });
}

std::vector<int32_t> read_ids(const nlohmann::json& value) {
  if (!value.is_array()) fail("ids: found {}, wanted a list of token ids", value.type_name());
  std::vector<int32_t> ids;
  for (const nlohmann::json& item : value) {
    const bool whole = item.is_number_unsigned() && item.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
    if (!whole)
      fail("ids[{}]: found {}, wanted a token id", ids.size(), item.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 40));
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

std::string at_place(const FilterRow& row, const std::string& message) {
  const std::string place = fmt::format("{}:{}: ", row.place.file, row.place.line);
  return message.starts_with(place) ? message : place + message;
}

}  // namespace hone::app
