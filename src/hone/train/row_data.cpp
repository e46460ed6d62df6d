#include "hone/train/row_data.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "hone/base/error.h"
#include "hone/base/log.h"
#include "hone/data/jsonl.h"

namespace hone::train {
namespace {

using Json = nlohmann::ordered_json;
constexpr double kOverlongShare = 0.01;  // cli.md: dropping more than 1 % of the rows is an error
constexpr size_t kShownKinds = 4;

/// Writes all faults to bad_rows; the line of the message that says so, empty where there is no such file.
std::string write_faults(const std::vector<Fault>& faults, const std::filesystem::path& bad_rows) {
  if (bad_rows.empty()) return "";
  std::string all;
  for (const Fault& f : faults) {
    all += Json{{"file", f.place.file}, {"line", f.place.line}, {"kind", f.kind}, {"message", f.message}}.dump(-1, ' ', false,
                                                                                                               Json::error_handler_t::replace) +
           "\n";
  }
  try {
    std::filesystem::create_directories(bad_rows.parent_path());
    write_atomic(bad_rows, all);
    return fmt::format("\nall of them are in {}", bad_rows.string());
  } catch (const std::exception& error) {
    return fmt::format("\n{} could not be written: {}", bad_rows.string(), error.what());
  }
}

/// Where the rows stand; `rows` are in order. The token cache holds no lines (its key is the content, whatever the files are called), so the
/// files are read again: every line that is not blank is a row.
std::vector<data::Place> places_of(const std::vector<Overlong>& rows, const std::vector<std::string>& files) {
  std::vector<data::Place> places;
  int64_t seen = 0;
  for (const std::string& file : files) {
    data::JsonlReader reader(file);
    std::vector<data::RawLine> lines;
    while (places.size() < rows.size() && reader.next(lines))
      for (const data::RawLine& line : lines)
        if (places.size() < rows.size() && seen++ == rows[places.size()].source) places.push_back({file, line.number});
  }
  places.resize(rows.size(), {files.front(), 0});
  return places;
}

[[noreturn]] void fail_overlong(const RowDataOptions& o, const std::vector<Overlong>& rows, int64_t rows_read, const std::string& limit) {
  const std::vector<data::Place> places = places_of(rows, o.files);
  std::vector<Fault> faults;
  size_t longest = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    faults.push_back({places[i], "over-long", fmt::format("{} tokens, more than {}", rows[i].length, limit)});
    if (rows[i].length > rows[longest].length) longest = i;
  }
  const config::Overlong rule = o.config->overlong;
  std::string text = fmt::format("{} of {} rows are longer than {} tokens{}:\n  first {}:{} with {} tokens", rows.size(), rows_read, limit,
                                 rule == config::Overlong::drop  ? ", and dropping more than 1 % is an error"
                                 : rule == config::Overlong::cut ? " without a prompt to cut, and dropping more than 1 % is an error"
                                                                 : "",
                                 places[0].file, places[0].line, rows[0].length);
  if (longest > 0) text += fmt::format(", longest {}:{} with {}", places[longest].file, places[longest].line, rows[longest].length);
  text += fmt::format("\nraise --max_length{}", rule == config::Overlong::drop    ? ", or give --overlong cut"
                                                : rule == config::Overlong::error ? ", or give --overlong drop or cut"
                                                                                  : ", or leave these rows out");
  throw UserError(Exit::usage, text + write_faults(faults, o.bad_rows));
}

/// What stands in the cache's note: counts, and the rows that have columns of several forms.
Json note_of(const data::DatasetStats& stats, int64_t rows, const std::vector<std::string>& files) {
  Json mixed = Json::array();
  for (const auto& [key, group] : stats.mixed)
    mixed.push_back(
        {{"read", data::columns_of(key.first)}, {"unread", key.second}, {"count", group.count}, {"first", note_place(group.first, files)}});
  Json tools = Json::array();
  for (const auto& [name, group] : stats.tools) tools.push_back({{"name", name}, {"count", group.count}, {"first", note_place(group.first, files)}});
  return Json{{"rows", rows}, {"duplicates", stats.duplicates}, {"mixed", mixed}, {"tools", tools}};
}

void warn_of_mixed_rows(const Json& note, const std::vector<std::string>& files) {
  for (const Json& m : note.value("mixed", Json::array()))
    log_warning("{} row{} more than one form, first {}: {} is read, {} is not", m.at("count").get<int64_t>(),
                m.at("count").get<int64_t>() == 1 ? " has" : "s have", place_text(m.at("first"), files), m.at("read").get<std::string>(),
                m.at("unread").get<std::string>());
}

/// Whether the template writes tools, or the tool calls of a message. One that cannot be asked is taken to: the rows themselves will tell.
bool writes(const text::ChatTemplate& chat, const std::string& name) {
  const nlohmann::json call = {{"type", "function"}, {"id", "call00001"}, {"function", {{"name", "probe"}, {"arguments", {{"a", 1}}}}}};
  const nlohmann::json tool = {
      {"type", "function"},
      {"function",
       {{"name", "probe"},
        {"description", "d"},
        {"parameters", {{"type", "object"}, {"properties", {{"a", {{"type", "integer"}, {"description", "d"}}}}}, {"required", {"a"}}}}}}};
  std::vector<data::Message> messages = {{"user", "x"}, {"assistant", "y"}};
  nlohmann::json variables = nlohmann::json::object();
  try {
    const std::string without = chat.render(messages, false, variables).text;
    if (name == "tools")
      variables["tools"] = nlohmann::json::array({tool});
    else
      messages[1].extra["tool_calls"] = nlohmann::json::array({call});
    return chat.render(messages, false, variables).text != without;
  } catch (const UserError&) {
    return true;
  }
}

void warn_of_unwritten_tools(const Json& note, const RowDataOptions& o) {
  for (const Json& t : note.value("tools", Json::array()))
    if (const auto name = t.at("name").get<std::string>(); !writes(*o.chat, name))
      log_warning("{} row{} {}, first {}: the chat template does not write them, so they are not seen in training", t.at("count").get<int64_t>(),
                  t.at("count").get<int64_t>() == 1 ? " has" : "s have", name, place_text(t.at("first"), o.files));
}

std::string hash_files(const std::vector<std::string>& files) {
  Hasher hasher;
  for (const std::string& file : files) {
    if (!std::filesystem::is_regular_file(file)) return {};  // load_rows says what is wrong with it
    hasher.add(MappedFile(file).text());
  }
  return hasher.hex();
}

data::LoadOptions load_options(const RowDataOptions& o, const data::RowRules& rules) {
  data::LoadOptions load;
  load.files.assign(o.files.begin(), o.files.end());
  load.rules = rules;
  load.rules.keep_columns = false;
  load.bad_rows = o.bad_rows;
  return load;
}

data::TokenCache open_or_build(const RowDataOptions& o, const data::RowRules& rules, const TokenizeRows& tokenize, const std::string& key) {
  std::string why_not;
  if (auto cache = data::open_token_cache(o.cache_folder, key, &why_not)) return std::move(*cache);
  if (!why_not.empty() && why_not != "not there") log_warning("the token cache is made anew: {}", why_not);
  const data::Dataset dataset = data::load_rows(load_options(o, rules));
  Json note = note_of(dataset.stats, static_cast<int64_t>(dataset.rows.size()), o.files);
  data::TokenCacheWriter writer(o.cache_folder, key);
  tokenize(dataset, writer, note);
  return writer.finish(note.dump());
}

}  // namespace

const char* slug(text::RowProblem::Kind kind) {
  using Kind = text::RowProblem::Kind;
  switch (kind) {
    case Kind::bad_text:
      return "bad-text";
    case Kind::bad_template:
      return "template";
    case Kind::empty_completion:
      return "empty-completion";
    case Kind::missing_end_of_turn:
      return "missing-end-of-turn";
    case Kind::no_trained_token:
      return "no-trained-token";
    case Kind::doubled_bos:
      return "doubled-bos";
    case Kind::equal_pair:
      return "equal-pair";
    case Kind::unsupported:
      return "unsupported";
  }
  return "problem";
}

void fail_faults(const std::vector<Fault>& faults, int64_t rows, const std::filesystem::path& bad_rows) {
  std::map<std::string, std::vector<const Fault*>> kinds;
  for (const Fault& f : faults) kinds[f.kind].push_back(&f);
  std::string text = fmt::format("{} of {} rows cannot be trained on:", faults.size(), rows);
  size_t shown = 0;
  for (const auto& [kind, list] : kinds) {
    if (++shown > kShownKinds) break;
    text += fmt::format("\n  {} ({}x), first {}:{}: {}", kind, list.size(), list[0]->place.file, list[0]->place.line, list[0]->message);
  }
  throw UserError(Exit::usage, text + write_faults(faults, bad_rows));
}

void check_overlong(const RowDataOptions& o, const std::vector<Overlong>& dropped, int64_t total, const std::string& limit) {
  const double tolerated = o.config->overlong == config::Overlong::error ? 0 : kOverlongShare * static_cast<double>(total);
  if (static_cast<double>(dropped.size()) > tolerated)
    fail_overlong(o, dropped, total, limit.empty() ? fmt::format("--max_length {}", o.config->max_length) : limit);
}

bool has_trained(const data::TokenRow& row) {
  return std::any_of(row.weights.begin() + std::min<size_t>(1, row.weights.size()), row.weights.end(), [](float w) { return w != 0.0f; });
}

Json note_place(const data::Place& place, const std::vector<std::string>& files) {
  return {{"file", std::find(files.begin(), files.end(), place.file) - files.begin()}, {"line", place.line}};
}

std::string place_text(const Json& place, const std::vector<std::string>& files) {
  return fmt::format("{}:{}", files.at(place.at("file").get<size_t>()), place.at("line").get<int64_t>());
}

Json open_rows(const RowDataOptions& o, const data::RowRules& rules, const std::string& form, const TokenizeRows& tokenize, RowData& out) {
  out.content_hash = hash_files(o.files);
  if (out.content_hash.empty()) {
    data::load_rows(load_options(o, rules));
    check(false, "load_rows accepted a file that is no regular file");
  }
  out.cache_key = data::token_cache_key({out.content_hash, o.tokenizer->hash(), o.chat->source(), form});
  // The file's key also has the version of the note. The tokens' own key belongs to the identity of a run, which a new note must not change.
  out.cache = std::make_shared<const data::TokenCache>(open_or_build(o, rules, tokenize, data::token_cache_key({out.cache_key, "note 2"})));
  if (o.vocab_size > 0 && out.cache->max_id() >= o.vocab_size)
    fail("the tokenizer gives id {} but the model has only {} embeddings: tokenizer and model do not belong together", out.cache->max_id(),
         o.vocab_size);
  Json note = Json::parse(out.cache->note());
  out.rows_read = note.value("rows", int64_t{0});
  out.duplicates = note.value("duplicates", int64_t{0});
  warn_of_mixed_rows(note, o.files);
  warn_of_unwritten_tools(note, o);
  data::trim_token_caches(o.cache_folder, cache_limit());
  return note;
}

uint64_t cache_limit() {
  const char* text = std::getenv("HONE_CACHE_MIB");
  if (!text || !*text) return uint64_t{8} << 30;
  char* end = nullptr;
  const unsigned long long mib = std::strtoull(text, &end, 10);
  if (*end || *text == '-' || mib > (uint64_t{1} << 40)) fail("HONE_CACHE_MIB: {} is not a number of MiB", text);
  return uint64_t{mib} << 20;
}

std::filesystem::path default_cache_folder() {
  // A home that cannot be written (a container's user) must not stop a run.
  const auto usable = [](const std::filesystem::path& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    return !error && access(folder.c_str(), W_OK) == 0;
  };
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return value && *value ? std::filesystem::path(value) : std::filesystem::path();
  };
  if (const auto p = variable("HONE_CACHE"); !p.empty()) return p;
  if (const auto p = variable("XDG_CACHE_HOME"); !p.empty() && usable(p / "hone")) return p / "hone";
  if (const auto p = variable("HOME"); !p.empty() && usable(p / ".cache" / "hone")) return p / ".cache" / "hone";
  return std::filesystem::temp_directory_path() / fmt::format("hone-cache-{}", getuid());
}

}  // namespace hone::train
