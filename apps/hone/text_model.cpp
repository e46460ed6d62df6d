#include "text_model.h"

#include <filesystem>

#include "hone/base/error.h"
#include "hone/base/files.h"

namespace hone::app {
namespace {

int32_t role_id(const text::Tokenizer& tokenizer, const std::string& content, const char* role, const std::string& where) {
  if (content.empty()) return -1;
  const auto id = tokenizer.id_of(content);
  if (!id) fail("{}: the {} token '{}' is not in the vocabulary", where, role, content);
  return *id;
}

/// The text of a template file; of a folder, its chat_template.jinja.
std::string read_template(std::filesystem::path path) {
  constexpr size_t kLimit = size_t{1} << 22;
  if (std::filesystem::is_directory(path)) path /= "chat_template.jinja";
  const std::string text = read_text(path, kLimit);
  if (text.empty()) fail("--chat_template_path: {} is empty", path.string());
  return text;
}

}  // namespace

text::Tokenizer make_tokenizer(const model::TokenizerSource& source) {
  if (source.tokenizer_json.empty()) {
    check(source.gguf != nullptr, "a tokenizer source has neither tokenizer.json nor GGUF metadata");
    return text::Tokenizer::from_gguf(*source.gguf, "GGUF metadata");
  }
  const std::string path = source.tokenizer_json.string();
  const text::Tokenizer plain = text::Tokenizer::from_json(read_text(source.tokenizer_json), path);
  text::SpecialIds ids;
  ids.bos = role_id(plain, source.bos_token, "BOS", path);
  ids.eos = role_id(plain, source.eos_token, "EOS", path);
  ids.unk = role_id(plain, source.unk_token, "unknown", path);
  ids.pad = role_id(plain, source.pad_token, "padding", path);
  return plain.with_special_ids(ids);
}

TextModel make_text_model(const model::TokenizerSource& source, const config::ModelOptions& options) {
  text::Tokenizer tokenizer = make_tokenizer(source);
  const std::string chat = options.chat_template_path.empty() ? source.chat_template : read_template(options.chat_template_path);
  text::ChatTemplate chat_template = text::chat_template_for(tokenizer, chat);
  return {std::move(tokenizer), std::move(chat_template)};
}

TextModel open_text_model(const config::ModelOptions& options) {
  return make_text_model(model::open_tokenizer_source(options.model_name_or_path), options);
}

}  // namespace hone::app
