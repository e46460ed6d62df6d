#include "text_model.h"

#include <filesystem>

#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"

namespace hone::app {
namespace {

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
  return text::with_roles(text::Tokenizer::from_json(read_text(source.tokenizer_json), path),
                          {source.bos_token, source.eos_token, source.unk_token, source.pad_token}, source.chat_template, path);
}

TextModel make_text_model(const model::TokenizerSource& source, const config::ModelOptions& options) {
  text::Tokenizer tokenizer = make_tokenizer(source);
  const std::string chat = options.chat_template_path.empty() ? source.chat_template : read_template(options.chat_template_path);
  text::ChatTemplate chat_template = text::chat_template_for(tokenizer, chat);
  if (chat.empty() && chat_template.exists())
    notice("the model has no chat template; its vocabulary has <|im_start|> and <|im_end|>, so ChatML is used (--chat_template_path for another)");
  return {std::move(tokenizer), std::move(chat_template)};
}

TextModel open_text_model(const config::ModelOptions& options) {
  return make_text_model(model::open_tokenizer_source(options.model_name_or_path), options);
}

}  // namespace hone::app
