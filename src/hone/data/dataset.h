#pragma once
// A whole data set, checked before anything else begins.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "hone/data/rows.h"

namespace hone::data {

struct LoadOptions {
  std::vector<std::filesystem::path> files;
  RowRules rules;
  std::filesystem::path bad_rows;  // where all faults are written when there are any (its folder is made); empty: nowhere
};

/// Rows that have something in common: columns of more than one form, or tools.
struct MixedRows {
  int64_t count = 0;
  Place first;
};

struct DatasetStats {
  int64_t rows = 0;
  int64_t blank_lines = 0;
  int64_t bytes = 0;
  std::map<RowKind, int64_t> kinds;
  int64_t duplicates = 0;                                      // rows whose JSON, keys sorted, equals that of an earlier row
  Place first_duplicate, first_original;                       // the first of them and the row it repeats
  std::map<std::pair<RowKind, std::string>, MixedRows> mixed;  // by the form that is read and the columns that are not
  std::map<std::string, MixedRows> tools;                      // conversations that have "tools", or messages with "tool_calls": by that name
  int64_t without_last_answer = 0;  // conversations that do not end with the assistant: what follows its last turn is never trained on
  std::string content_hash;         // of the bytes of all files in order: a cache key
};

struct Dataset {
  std::vector<Row> rows;  // in the order of the files and their lines
  DatasetStats stats;
};

/// Reads and checks every row of every file. Any fault at all is one UserError (exit 2) of at most 6 lines: the kinds of fault with counts
/// and first places; nothing is returned then. Reading stops after 100,000 bad rows. Progress goes to the log sink.
Dataset load_rows(const LoadOptions& options);

}  // namespace hone::data
