#include "hone/train/sft_data.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "hone/base/error.h"
#include "hone/base/log.h"
#include "hone/base/threads.h"

namespace hone::train {
namespace {

using Json = nlohmann::ordered_json;
constexpr double kOverlongShare = 0.01;  // cli.md: dropping more than 1 % of the rows is an error
constexpr size_t kShownKinds = 4;

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
    case Kind::unsupported:
      return "unsupported";
  }
  return "problem";
}

struct Fault {
  data::Place place;
  std::string kind, message;
};

[[noreturn]] void fail_faults(const std::vector<Fault>& faults, int64_t rows, const std::filesystem::path& bad_rows) {
  std::map<std::string, std::vector<const Fault*>> kinds;
  std::string all;
  for (const Fault& f : faults) {
    kinds[f.kind].push_back(&f);
    all += Json{{"file", f.place.file}, {"line", f.place.line}, {"kind", f.kind}, {"message", f.message}}.dump(-1, ' ', false,
                                                                                                               Json::error_handler_t::replace) +
           "\n";
  }
  std::string text = fmt::format("{} of {} rows cannot be trained on:", faults.size(), rows);
  size_t shown = 0;
  for (const auto& [kind, list] : kinds) {
    if (++shown > kShownKinds) break;
    text += fmt::format("\n  {} ({}x), first {}:{}: {}", kind, list.size(), list[0]->place.file, list[0]->place.line, list[0]->message);
  }
  if (!bad_rows.empty()) {
    try {
      std::filesystem::create_directories(bad_rows.parent_path());
      write_atomic(bad_rows, all);
      text += fmt::format("\nall of them are in {}", bad_rows.string());
    } catch (const std::exception& error) {
      text += fmt::format("\n{} could not be written: {}", bad_rows.string(), error.what());
    }
  }
  throw UserError(Exit::usage, text);
}

std::string hash_files(const std::vector<std::string>& files) {
  Hasher hasher;
  for (const std::string& file : files) {
    if (!std::filesystem::is_regular_file(file)) return {};  // load_rows says what is wrong with it
    hasher.add(MappedFile(file).text());
  }
  return hasher.hex();
}

data::LoadOptions load_options(const SftDataOptions& o) {
  data::LoadOptions load;
  load.files.assign(o.files.begin(), o.files.end());
  load.rules.accepted = {data::RowKind::messages, data::RowKind::prompt_completion, data::RowKind::text};
  load.rules.needs_assistant = o.config->assistant_only_loss;
  load.rules.keep_columns = false;
  load.bad_rows = o.bad_rows;
  return load;
}

data::TokenCache build_cache(const SftDataOptions& o, const std::string& key, const std::filesystem::path& folder) {
  const data::Dataset dataset = data::load_rows(load_options(o));
  text::RenderOptions render;
  render.assistant_only_loss = o.config->assistant_only_loss;
  render.completion_only_loss = o.config->completion_only_loss;
  const auto count = static_cast<int64_t>(dataset.rows.size());
  std::vector<text::RowResult> results(dataset.rows.size());
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) results[i] = text::try_tokenize_row(dataset.rows[i], *o.tokenizer, *o.chat, render);
  });
  std::vector<Fault> faults;
  for (int64_t i = 0; i < count; ++i)
    if (results[i].problem && results[i].problem->kind != text::RowProblem::Kind::no_trained_token)  // those are dropped and counted
      faults.push_back({dataset.rows[i].place, slug(results[i].problem->kind), results[i].problem->message});
  if (!faults.empty()) fail_faults(faults, count, o.bad_rows);
  data::TokenCacheWriter writer(folder, key);
  for (int64_t i = 0; i < count; ++i) {
    const text::TokenizedRow& r = results[i].row;
    writer.add({r.ids, r.weights, r.roles, r.prompt_length, i});
  }
  return writer.finish(Json{{"rows", count}, {"duplicates", dataset.stats.duplicates}}.dump());
}

data::TokenCache open_or_build(const SftDataOptions& o, const std::string& key) {
  std::string why_not;
  if (auto cache = data::open_token_cache(o.cache_folder, key, &why_not)) return std::move(*cache);
  if (!why_not.empty() && why_not != "not there") log_warning("the token cache is made anew: {}", why_not);
  return build_cache(o, key, o.cache_folder);
}

bool has_trained(const data::TokenRow& row) {
  return std::any_of(row.weights.begin() + std::min<size_t>(1, row.weights.size()), row.weights.end(), [](float w) { return w != 0.0f; });
}

// Applies --overlong; keeps the row or not.
void keep_rows(const SftDataOptions& o, SftData& out) {
  const config::RunConfig& c = *o.config;
  for (int64_t i = 0; i < out.cache->size(); ++i) {
    data::TokenRow row = out.cache->row(i);
    const auto length = static_cast<int64_t>(row.ids.size());
    if (length > c.max_length) {
      ++out.overlong;
      if (c.overlong == config::Overlong::error)
        fail("{}: row {} has {} tokens, more than --max_length {}: raise it, or give --overlong drop or cut", o.files.front(), row.source + 1, length,
             c.max_length);
      if (c.overlong == config::Overlong::drop) continue;
      const auto keep = static_cast<size_t>(c.max_length);
      row = {row.ids.first(keep), row.weights.first(keep), row.roles.first(keep), std::min<int32_t>(row.prompt_length, static_cast<int32_t>(keep)),
             row.source};
    }
    if (!has_trained(row)) {
      ++out.without_trained;
      continue;
    }
    out.longest = std::max(out.longest, static_cast<int64_t>(row.ids.size()));
    out.tokens += static_cast<int64_t>(row.ids.size());
    for (size_t t = 1; t < row.weights.size(); ++t) out.trained_tokens += row.weights[t] != 0.0f;
    out.rows.push_back(row);
  }
  if (c.overlong == config::Overlong::drop && static_cast<double>(out.overlong) > kOverlongShare * static_cast<double>(out.cache->size()))
    fail("{}: {} of {} rows are longer than --max_length {} tokens; dropping more than 1 % is an error: raise --max_length, or give --overlong cut",
         o.files.front(), out.overlong, out.cache->size(), c.max_length);
  if (out.rows.empty())
    fail("{}: no row is left to train on ({} over-long, {} without a trained token)", o.files.front(), out.overlong, out.without_trained);
}

}  // namespace

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

SftData load_sft_data(const SftDataOptions& o) {
  SftData out;
  out.content_hash = hash_files(o.files);
  if (out.content_hash.empty()) {
    data::load_rows(load_options(o));
    check(false, "load_rows accepted a file that is no regular file");
  }
  const std::string flags = fmt::format("sft assistant={} completion={}", o.config->assistant_only_loss, o.config->completion_only_loss);
  out.cache_key = data::token_cache_key({out.content_hash, o.tokenizer->hash(), o.chat->source(), flags});
  out.cache = std::make_shared<const data::TokenCache>(open_or_build(o, out.cache_key));
  if (o.vocab_size > 0 && out.cache->max_id() >= o.vocab_size)
    fail("the tokenizer gives id {} but the model has only {} embeddings: tokenizer and model do not belong together", out.cache->max_id(),
         o.vocab_size);
  const Json note = Json::parse(out.cache->note());
  out.rows_read = note.value("rows", int64_t{0});
  out.duplicates = note.value("duplicates", int64_t{0});
  keep_rows(o, out);
  return out;
}

std::string describe(const SftData& d, const config::RunConfig& c) {
  std::string text = fmt::format("{} rows, {} tokens ({:.0f} % trained), longest {}", d.rows.size(), d.tokens,
                                 100.0 * static_cast<double>(d.trained_tokens) / static_cast<double>(std::max<int64_t>(1, d.tokens)), d.longest);
  if (d.overlong > 0) text += fmt::format("; {} over-long {}", d.overlong, c.overlong == config::Overlong::cut ? "cut" : "dropped");
  if (d.without_trained > 0) text += fmt::format("; {} without a trained token dropped", d.without_trained);
  if (d.duplicates > 0) text += fmt::format("; {} duplicates", d.duplicates);
  return text;
}

}  // namespace hone::train
