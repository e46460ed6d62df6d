#pragma once
// What every training data set goes through: files -> checked rows -> tokens in a memory-mapped cache, and how bad and over-long rows are told.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/data/dataset.h"
#include "hone/data/token_cache.h"
#include "hone/text/render.h"

namespace hone::train {

struct RowDataOptions {
  std::vector<std::string> files;
  const config::RunConfig* config = nullptr;
  const text::Tokenizer* tokenizer = nullptr;
  const text::ChatTemplate* chat = nullptr;
  int64_t vocab_size = 0;          // ids must be below it
  std::filesystem::path bad_rows;  // where faults are written; empty: nowhere
  std::filesystem::path cache_folder;
};

/// What a loaded data set says of itself, whatever its rows are.
struct RowData {
  std::shared_ptr<const data::TokenCache> cache;  // the rows point into it
  int64_t rows_read = 0;
  int64_t duplicates = 0;
  int64_t overlong = 0;         // longer than max_length: dropped, or cut
  int64_t without_trained = 0;  // dropped: no trained token was left
  int64_t longest = 0;          // tokens, of the kept rows
  int64_t tokens = 0;           // of the kept rows
  std::string content_hash;     // of the files' bytes
  std::string cache_key;        // of data, tokenizer, template and options
};

struct Fault {
  data::Place place;
  std::string kind, message;
};
/// The kind of fault that a row's problem is.
const char* slug(text::RowProblem::Kind kind);
/// UserError of at most 6 lines: kinds of fault with counts and first places; all of them go to bad_rows where that is named.
[[noreturn]] void fail_faults(const std::vector<Fault>& faults, int64_t rows, const std::filesystem::path& bad_rows);

struct Overlong {
  int64_t source = 0;  // number of the row over all files, from 0
  int64_t length = 0;  // tokens
};
/// UserError where more of the `total` rows were dropped than --overlong lets pass; `dropped` are in order. `limit` says what they are longer
/// than; empty: "--max_length N".
void check_overlong(const RowDataOptions& options, const std::vector<Overlong>& dropped, int64_t total, const std::string& limit = {});

/// Whether anything is trained on; the first token is predicted from nothing.
bool has_trained(const data::TokenRow& row);

/// Tokenises the rows (in parallel) and adds them to the cache, or throws what is wrong with them. What it puts into the note comes back
/// from open_rows.
using TokenizeRows = std::function<void(const data::Dataset& dataset, data::TokenCacheWriter& writer, nlohmann::ordered_json& note)>;

/// Opens the cache of these files, tokenizer, template and form (a word with a version that stands for the rules and for `tokenize`), or
/// builds it. Fills what is known of `out` before any row is dropped; returns the cache's note. Warns of rows of several forms.
nlohmann::ordered_json open_rows(const RowDataOptions& options, const data::RowRules& rules, const std::string& form, const TokenizeRows& tokenize,
                                 RowData& out);

/// "FILE:LINE" of a place that a note holds.
nlohmann::ordered_json note_place(const data::Place& place, const std::vector<std::string>& files);
std::string place_text(const nlohmann::ordered_json& place, const std::vector<std::string>& files);

/// Where token caches live: $HONE_CACHE, else $XDG_CACHE_HOME/hone, else ~/.cache/hone, else a folder for temporary files.
/// Those opened longest ago go when it holds more than $HONE_CACHE_MIB (else 8 GiB); one in use never goes.
std::filesystem::path default_cache_folder();
/// Bytes that the folder of caches may hold: $HONE_CACHE_MIB, else 8 GiB.
uint64_t cache_limit();

}  // namespace hone::train
