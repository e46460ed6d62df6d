#include "hone/data/dataset.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/base/threads.h"
#include "hone/data/jsonl.h"

namespace hone::data {
namespace {

using nlohmann::json;

constexpr size_t most_bad_rows = 100000;  // a hostile file of short bad lines would otherwise grow a hundredfold in memory
constexpr size_t kinds_shown = 4;         // with the first and the last line the message has at most 6

/// Whether a conversation has the column "tools", or a message with "tool_calls".
bool has_tools(const Row& row, std::string_view name) {
  const Content* const parts[] = {&row.prompt, &row.completion, &row.chosen, &row.rejected};
  if (name == "tools")
    return !row.tools.is_null() && std::any_of(std::begin(parts), std::end(parts), [](const Content* part) { return part->is_messages; });
  return std::any_of(std::begin(parts), std::end(parts), [](const Content* part) {
    return std::any_of(part->messages.begin(), part->messages.end(), [](const Message& m) { return m.extra.contains("tool_calls"); });
  });
}

/// One line after parsing: a row with the hash of its canonical JSON, or what is wrong with it.
struct Parsed {
  std::variant<Row, RowError> result;
  uint64_t hash = 0;
};

/// The first 64 bits of the hash of the JSON with sorted keys and no spaces.
uint64_t canonical_hash(const json& value) {
  const std::string hex = hash_hex(value.dump());
  uint64_t bits = 0;
  std::from_chars(hex.data(), hex.data() + 16, bits, 16);
  return bits;
}

Parsed parse(const RawLine& line, const std::string& file, const RowRules& rules) {
  Place place{file, line.number};
  auto value = parse_json_line(line.bytes, place);
  if (auto* error = std::get_if<RowError>(&value)) return {std::move(*error)};
  json& object = std::get<json>(value);
  const uint64_t hash = canonical_hash(object);
  return {parse_row(std::move(object), std::move(place), rules), hash};
}

class Loader {
 public:
  explicit Loader(const LoadOptions& options) : options_(options) {}

  Dataset load() {
    if (options_.files.empty()) fail("no data file given; name one or more with --data FILE");
    for (const auto& file : options_.files) load_file(file);
    if (!errors_.empty()) report();
    data_.stats.rows = static_cast<int64_t>(data_.rows.size());
    data_.stats.content_hash = hasher_.hex();
    count_duplicates();
    return std::move(data_);
  }

 private:
  void load_file(const std::filesystem::path& path) {
    JsonlReader reader(path);
    const std::string name = path.string();
    hasher_.add(reader.text());
    data_.stats.bytes += static_cast<int64_t>(reader.text().size());
    const size_t seen_before = seen_;
    std::vector<RawLine> lines;
    std::vector<Parsed> parsed;
    while (errors_.size() < most_bad_rows && reader.next(lines)) {
      parsed.assign(lines.size(), Parsed{});
      parallel_for(static_cast<int64_t>(lines.size()), 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) parsed[static_cast<size_t>(i)] = parse(lines[static_cast<size_t>(i)], name, options_.rules);
      });
      for (Parsed& line : parsed) take(std::move(line));
      log_progress("reading " + name, static_cast<int64_t>(reader.bytes_read()), static_cast<int64_t>(reader.text().size()), "bytes");
    }
    data_.stats.blank_lines += reader.blank_lines();
    if (seen_ == seen_before) fail("{}: has no rows, only blank lines; JSONL is needed: one JSON object a line", name);
  }

  void take(Parsed&& line) {
    ++seen_;
    if (auto* error = std::get_if<RowError>(&line.result)) {
      if (errors_.size() < most_bad_rows) errors_.push_back(std::move(*error));
      return;
    }
    if (!errors_.empty()) return;  // nothing will be returned any more
    Row& row = std::get<Row>(line.result);
    ++data_.stats.kinds[row.kind];
    if (row.kind == RowKind::messages && row.prompt.messages.back().role != "assistant") ++data_.stats.without_last_answer;
    if (!row.unread.empty()) {
      MixedRows& mixed = data_.stats.mixed[{row.kind, row.unread}];
      if (mixed.count++ == 0) mixed.first = row.place;
    }
    for (const char* name : {"tools", "tool_calls"}) {
      if (!has_tools(row, name)) continue;
      MixedRows& group = data_.stats.tools[name];
      if (group.count++ == 0) group.first = row.place;
    }
    hashes_.emplace_back(line.hash, data_.rows.size());
    data_.rows.push_back(std::move(row));
  }

  void count_duplicates() {
    std::sort(hashes_.begin(), hashes_.end());
    size_t first = data_.rows.size(), original = 0;
    for (size_t i = 1, group = 0; i < hashes_.size(); ++i) {
      if (hashes_[i].first != hashes_[i - 1].first) {
        group = i;
        continue;
      }
      ++data_.stats.duplicates;
      if (hashes_[i].second < first) std::tie(first, original) = std::pair(hashes_[i].second, hashes_[group].second);
    }
    if (data_.stats.duplicates == 0) return;
    data_.stats.first_duplicate = data_.rows[first].place;
    data_.stats.first_original = data_.rows[original].place;
  }

  void write_bad_rows() const {
    if (options_.bad_rows.has_parent_path()) {
      std::error_code error;
      std::filesystem::create_directories(options_.bad_rows.parent_path(), error);
      if (error) fail("{}: cannot make the folder: {}", options_.bad_rows.parent_path().string(), error.message());
    }
    std::string text;
    for (const RowError& e : errors_) {
      nlohmann::ordered_json object = {{"file", e.place.file}, {"line", e.place.line},      {"kind", e.kind}, {"field", e.field}, {"found", e.found},
                                       {"wanted", e.wanted},   {"suggestion", e.suggestion}};
      // File names need not be UTF-8; such bytes are replaced.
      text += object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    }
    write_atomic(options_.bad_rows, text);
  }

  [[noreturn]] void report() const {
    struct Kind {
      size_t count = 0;
      const RowError* first = nullptr;
    };
    std::vector<Kind> kinds;
    std::map<std::string, size_t> index;
    for (const RowError& error : errors_) {
      const auto [at, fresh] = index.emplace(error.kind, kinds.size());
      if (fresh) kinds.push_back({0, &error});
      ++kinds[at->second].count;
    }
    std::stable_sort(kinds.begin(), kinds.end(), [](const Kind& a, const Kind& b) { return a.count > b.count; });
    const bool all_seen = errors_.size() < most_bad_rows;
    std::string text = fmt::format("{} of {}{} row{} cannot be used", errors_.size(), all_seen ? "" : "the first ", seen_, seen_ == 1 ? "" : "s");
    if (!options_.bad_rows.empty()) {
      try {
        write_bad_rows();
        text += fmt::format("; all of them: {}", options_.bad_rows.string());
      } catch (const UserError&) {  // a folder that cannot be written must not hide the faults
        text += fmt::format("; {} could not be written", options_.bad_rows.string());
      }
    }
    for (size_t i = 0; i < std::min(kinds.size(), kinds_shown); ++i)
      text += fmt::format("\n  {} x {}, first {}", kinds[i].count, kinds[i].first->kind, describe(*kinds[i].first));
    if (kinds.size() > kinds_shown) text += fmt::format("\n  and {} more kinds of fault", kinds.size() - kinds_shown);
    throw UserError(Exit::usage, text);
  }

  const LoadOptions& options_;
  Dataset data_;
  Hasher hasher_;
  std::vector<RowError> errors_;
  std::vector<std::pair<uint64_t, size_t>> hashes_;
  size_t seen_ = 0;
};

}  // namespace

Dataset load_rows(const LoadOptions& options) { return Loader(options).load(); }

}  // namespace hone::data
