#pragma once
// JSON Lines out of a memory-mapped file: one JSON value a line; a byte order mark, CRLF and blank lines are tolerated.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <variant>
#include <vector>

#include "hone/base/files.h"
#include "hone/data/rows.h"

namespace hone::data {

/// A line longer than this is refused before it is parsed.
inline constexpr size_t longest_line = size_t{64} << 20;

/// A line that is not blank, without its line end. `bytes` points into the reader's mapping.
struct RawLine {
  int64_t number = 0;  // 1-based
  std::string_view bytes;
};

/// Hands out the lines of a file in order. What is no JSONL at all (missing, a folder, empty, compressed, Parquet, UTF-16, binary) is a
/// UserError of the constructor that says what it is and what to do.
class JsonlReader {
 public:
  explicit JsonlReader(const std::filesystem::path& path);

  /// Replaces `lines` by the next ones, about `bytes` bytes of them and at least one; false when there are no more.
  bool next(std::vector<RawLine>& lines, size_t bytes = size_t{8} << 20);

  /// All bytes of the file, for hashing.
  std::string_view text() const { return file_.text(); }
  size_t bytes_read() const { return at_; }
  int64_t blank_lines() const { return blank_lines_; }

 private:
  MappedFile file_;
  size_t at_ = 0;
  int64_t line_ = 0;
  int64_t blank_lines_ = 0;
};

/// Parses one line. Hostile nesting, invalid UTF-8, repeated keys and over-long lines are errors, never a crash.
std::variant<nlohmann::json, RowError> parse_json_line(std::string_view bytes, const Place& place);

}  // namespace hone::data
