#pragma once
// Preference rows of a file written in a test, tokenised with the golden model "chat".
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/temp_folder.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/config/fields.h"
#include "hone/train/preference_data.h"

namespace hone::test {

/// A tokenizer and template, options that point to them, and a folder for files and caches.
struct PreferenceFiles {
  TempFolder folder;
  text::Tokenizer tokenizer;
  text::ChatTemplate chat;
  config::RunConfig config = config::defaults(config::dpo);

  PreferenceFiles() : PreferenceFiles(std::filesystem::path(HONE_SOURCE_DIR) / "tests/golden/models/chat") {}
  explicit PreferenceFiles(const std::filesystem::path& model) : PreferenceFiles(model, read_text(model / "chat_template.jinja")) {}

  train::RowDataOptions options(const std::string& rows) {
    train::RowDataOptions o;
    o.files = {folder.file("rows.jsonl", rows).string()};
    o.config = &config;
    o.tokenizer = &tokenizer;
    o.chat = &chat;
    o.bad_rows = folder / "bad_rows.jsonl";
    o.cache_folder = folder / "cache";
    return o;
  }
  train::PairData pairs(const std::string& rows) { return train::load_pair_data(options(rows)); }
  train::UnpairedData unpaired(const std::string& rows) { return train::load_unpaired_data(options(rows)); }

  std::string text(const data::TokenRow& row) const { return tokenizer.decode_text(std::vector<int32_t>(row.ids.begin(), row.ids.end())); }
  /// The tokens that are trained on, as text.
  std::string trained(const data::TokenRow& row) const {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < row.ids.size(); ++i)
      if (row.weights[i] != 0) ids.push_back(row.ids[i]);
    return tokenizer.decode_text(ids);
  }

  /// The message of the UserError (exit 2) that the body throws, without the folder's path.
  template <class Body>
  std::string message(Body body) const {
    try {
      body();
    } catch (const UserError& error) {
      if (error.code() != Exit::usage) return "wrong exit code";
      std::string text = error.what();
      const std::string prefix = folder.path.string() + "/";
      for (size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, prefix.size());
      return text;
    }
    return "no error";
  }

 private:
  PreferenceFiles(const std::filesystem::path& model, const std::string& chat_template)
      : tokenizer(text::with_roles(text::Tokenizer::from_json(read_text(model / "tokenizer.json"), "tokenizer.json"), {.eos = "<|im_end|>"},
                                   chat_template, "chat")),
        chat(text::chat_template_for(tokenizer, chat_template)) {}
};

}  // namespace hone::test
