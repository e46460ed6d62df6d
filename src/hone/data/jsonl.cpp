#include "hone/data/jsonl.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "hone/base/error.h"
#include "hone/data/json_scan.h"

namespace hone::data {
namespace {

namespace fs = std::filesystem;
using std::string_view_literals::operator""sv;

constexpr auto byte_order_mark = "\xEF\xBB\xBF"sv;
constexpr auto what_is_needed = "JSONL is needed: one JSON object a line";

struct Magic {
  std::string_view bytes;
  std::string_view what;
  std::string_view advice;
};

constexpr Magic magics[] = {
    {"\x1F\x8B"sv, "gzip-compressed", "unpack it first (gunzip)"},
    {"PK\x03\x04"sv, "a zip archive", "unpack it first (unzip)"},
    {"\x28\xB5\x2F\xFD"sv, "zstd-compressed", "unpack it first (unzstd)"},
    {"\xFD\x37zXZ\0"sv, "xz-compressed", "unpack it first (unxz)"},
    {"BZh"sv, "bzip2-compressed", "unpack it first (bunzip2)"},
    {"PAR1"sv, "a Parquet file", "Parquet comes with a later version; convert it to JSONL (pandas: to_json(orient=\"records\", lines=True))"},
    {"ARROW1"sv, "an Arrow file", "convert it to JSONL (pandas: to_json(orient=\"records\", lines=True))"},
    {"GGUF"sv, "a GGUF model", "give the data with --data and the model with --model"},
    {"\xFF\xFE"sv, "UTF-16 text", "save it as UTF-8"},
    {"\xFE\xFF"sv, "UTF-16 text", "save it as UTF-8"},
};

bool is_blank(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; });
}

/// A missing file: the nearest name in its folder is most often the one that was meant.
void require_there(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error) || error) return;  // other errors are told by the opening itself
  if (path.extension() == ".parquet") fail("{}: no such file; Parquet comes with a later version anyway, {}", path.string(), what_is_needed);
  std::vector<std::string> names;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end && names.size() < 1000; entry.increment(error))
    names.push_back(entry->path().filename().string());
  std::sort(names.begin(), names.end());  // the order of a folder is arbitrary, the message is not
  const std::string near = nearest_name(path.filename().string(), names.data(), names.data() + names.size());
  if (near.empty()) fail("{}: no such file", path.string());
  fail("{}: no such file; did you mean {}?", path.string(), (path.parent_path() / near).string());
}

void refuse_other_formats(const fs::path& path, std::string_view text) {
  if (text.empty()) fail("{}: is empty; {}", path.string(), what_is_needed);
  for (const Magic& magic : magics)
    if (text.starts_with(magic.bytes)) fail("{}: is {}; {}", path.string(), magic.what, magic.advice);
  const size_t nul = text.substr(0, 4096).find('\0');
  if (nul != std::string_view::npos) fail("{}: is a binary file (byte {} is NUL); {}", path.string(), nul, what_is_needed);
  if (path.extension() == ".csv" || path.extension() == ".tsv")
    fail("{}: is a table of comma- or tab-separated values; {}", path.string(), what_is_needed);
}

/// What the parser stopped at, in our words: its own message is about its insides.
RowError not_json(std::string_view text, size_t at, const Place& place) {
  RowError error{place, "not-json", "", "", "one JSON object", ""};
  at = std::min(at, text.size());
  error.field = fmt::format("byte {}", at + 1);
  if (at == text.size())
    error.found = "the end of the line";
  else
    error.found = in_quotes(text.substr(at), 20);
  const std::string_view whole = text.substr(std::min(text.find_first_not_of(" \t\r"), text.size()));
  if (place.line == 1 && (whole == "[" || whole == "{"))
    error.suggestion = "JSON over several lines is not JSONL; jq -c . makes one line of each value";
  if (whole.find('\'') < 3) error.suggestion = "JSON strings stand in double quotes";
  return error;
}

}  // namespace

JsonlReader::JsonlReader(const fs::path& path) {
  require_there(path);
  file_ = MappedFile(path);
  refuse_other_formats(path, text());
  if (text().starts_with(byte_order_mark)) at_ = byte_order_mark.size();
}

bool JsonlReader::next(std::vector<RawLine>& lines, size_t bytes) {
  lines.clear();
  const std::string_view all = text();
  const size_t begin = at_;
  while (at_ < all.size() && (at_ - begin < bytes || lines.empty())) {
    const size_t end = std::min(all.find('\n', at_), all.size());
    std::string_view line = all.substr(at_, end - at_);
    if (line.ends_with('\r')) line.remove_suffix(1);
    at_ = std::min(end + 1, all.size());
    ++line_;
    if (is_blank(line))
      ++blank_lines_;
    else
      lines.push_back({line_, line});
  }
  return !lines.empty();
}

std::variant<nlohmann::json, RowError> parse_json_line(std::string_view bytes, const Place& place) {
  if (bytes.size() > longest_line)
    return RowError{place, "line-too-long", "", fmt::format("{} bytes", bytes.size()), fmt::format("at most {} bytes", longest_line), ""};
  if (const auto fault = scan_json(bytes))
    return RowError{place, fault->kind, fmt::format("byte {}", fault->offset + 1), fault->found, fault->wanted, ""};
  try {
    return nlohmann::json::parse(bytes);
  } catch (const nlohmann::json::parse_error& error) {
    return not_json(bytes, error.byte > 0 ? error.byte - 1 : 0, place);
  } catch (const nlohmann::json::exception&) {
    return RowError{place, "number-range", "", "a number beyond the range of a double", "finite numbers", ""};
  }
}

}  // namespace hone::data
