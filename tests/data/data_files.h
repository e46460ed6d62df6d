#pragma once
// Loading rows from text written in a test.
#include <filesystem>
#include <string>
#include <utility>

#include "base/temp_folder.h"
#include "hone/base/error.h"
#include "hone/data/dataset.h"

namespace hone::data {

inline RowRules sft_rules() { return {{RowKind::messages, RowKind::prompt_completion, RowKind::text}}; }

/// The rows of one file with this content.
inline Dataset load_text(const test::TempFolder& folder, const std::string& content, const RowRules& rules = sft_rules(),
                         const std::string& name = "rows.jsonl") {
  return load_rows({{folder.file(name, content)}, rules, {}});
}

/// The message of the UserError of loading this content, with the folder's path cut out; its code must be 2.
inline std::string load_error(const std::string& content, const RowRules& rules = sft_rules(), const std::string& name = "rows.jsonl") {
  const test::TempFolder folder;
  try {
    load_text(folder, content, rules, name);
  } catch (const UserError& error) {
    std::string text = error.code() == Exit::usage ? error.what() : "wrong exit code";
    const std::string prefix = folder.path.string() + "/";
    for (size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, prefix.size());
    return text;
  }
  return "no error";
}

}  // namespace hone::data
