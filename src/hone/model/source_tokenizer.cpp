// Where a model or its tokenizer lies on this machine, and the tokenizer's material.
#include <algorithm>
#include <cstdlib>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/model/gguf.h"
#include "hone/model/json.h"
#include "hone/model/source.h"
#include "hone/text/gguf_vocabulary.h"

namespace hone::model {

std::unique_ptr<TokenizerSource> tokenizer_of_folder(const std::filesystem::path& folder);
std::unique_ptr<TokenizerSource> tokenizer_of_gguf(const GgufFile& file);

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
constexpr size_t kMaxTextBytes = size_t{1} << 28;

// A special token is written as a string or as an object with "content".
std::string token_text(const json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) return (*found)["content"].get<std::string>();
  fail("{}: {} is {}, a string or an object with \"content\" was expected", where, key, found->dump());
}

// "chat_template" is a string, or a list of {"name", "template"} of which "default" is the one for chat.
std::string template_text(const json& object, const std::string& where) {
  const auto found = object.find("chat_template");
  if (found == object.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) fail("{}: chat_template is neither a string nor a list of named templates", where);
  for (const json& entry : *found) {
    const bool named =
        entry.is_object() && entry.contains("name") && entry["name"].is_string() && entry.contains("template") && entry["template"].is_string();
    if (!named) fail("{}: chat_template: each entry of the list needs the strings \"name\" and \"template\"", where);
    if (entry["name"] == "default") return entry["template"].get<std::string>();
  }
  return "";
}

void read_tokens(const fs::path& file, TokenizerSource* source) {
  const json object = parse_json_object(read_text(file, kMaxTextBytes), file.string());
  const std::pair<const char*, std::string*> fields[] = {
      {"bos_token", &source->bos_token}, {"eos_token", &source->eos_token}, {"unk_token", &source->unk_token}, {"pad_token", &source->pad_token}};
  for (const auto& [key, text] : fields)
    if (text->empty()) *text = token_text(object, key, file.string());
  if (source->chat_template.empty()) source->chat_template = template_text(object, file.string());
}

fs::path cache_folder() {
  const auto variable = [](const char* name) -> fs::path {
    const char* value = std::getenv(name);
    return value == nullptr ? fs::path() : fs::path(value);
  };
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (!variable(name).empty()) return variable(name);
  if (!variable("HF_HOME").empty()) return variable("HF_HOME") / "hub";
  if (!variable("XDG_CACHE_HOME").empty()) return variable("XDG_CACHE_HOME") / "huggingface" / "hub";
  return variable("HOME") / ".cache" / "huggingface" / "hub";
}

bool plain_word(const std::string& word) {
  const auto allowed = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' || c == '-';
  };
  return !word.empty() && word[0] != '.' && std::all_of(word.begin(), word.end(), allowed);
}

struct HubId {
  std::string name;  // "org/name" or "name"
  std::string revision = "main";
};

// Whether the text could be a hub id: one or two plain words, and perhaps @revision.
bool parse_hub_id(const std::string& text, HubId* id) {
  const size_t at = text.find('@');
  id->name = text.substr(0, at);
  if (at != std::string::npos) id->revision = text.substr(at + 1);
  const size_t slash = id->name.find('/');
  const bool words =
      slash == std::string::npos ? plain_word(id->name) : plain_word(id->name.substr(0, slash)) && plain_word(id->name.substr(slash + 1));
  return words && plain_word(id->revision) && !id->name.ends_with(".gguf") && !id->name.ends_with(".safetensors");
}

// models--org--name/snapshots/COMMIT, COMMIT being the revision itself or what refs/REVISION says; empty when it is not there.
fs::path cached_snapshot(const HubId& id) {
  std::string folder = "models--" + id.name;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  const fs::path model = cache_folder() / folder;
  std::string commit = id.revision;
  if (fs::exists(model / "refs" / commit)) {
    commit = read_text(model / "refs" / commit, 256);
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
    if (!plain_word(commit)) fail("{}: no commit name", (model / "refs" / id.revision).string());
  }
  const fs::path snapshot = model / "snapshots" / commit;
  return fs::is_directory(snapshot) ? snapshot : fs::path();
}

}  // namespace

text::GgufVocabulary vocabulary_from_gguf(const GgufFile& file) {
  text::GgufVocabulary vocabulary;
  const std::string prefix = "tokenizer.ggml.";
  const auto model = file.string(prefix + "model");
  auto tokens = file.strings(prefix + "tokens");
  if (!model || !tokens || tokens->empty()) fail("{}: no tokenizer in the metadata (tokenizer.ggml.model and tokenizer.ggml.tokens)", file.where());
  if (tokens->size() > static_cast<size_t>(INT32_MAX)) fail("{}: {} tokens are too many", file.where(), tokens->size());
  vocabulary.model = *model;
  vocabulary.tokens = std::move(*tokens);
  vocabulary.pre = file.string(prefix + "pre").value_or("");
  vocabulary.token_types = file.integers(prefix + "token_type").value_or(std::vector<int32_t>{});
  vocabulary.merges = file.strings(prefix + "merges").value_or(std::vector<std::string>{});
  vocabulary.add_bos = file.boolean(prefix + "add_bos_token").value_or(false);
  vocabulary.chat_template = file.string("tokenizer.chat_template").value_or("");
  if (!vocabulary.token_types.empty() && vocabulary.token_types.size() != vocabulary.tokens.size())
    fail("{}: tokenizer.ggml.token_type has {} entries for {} tokens", file.where(), vocabulary.token_types.size(), vocabulary.tokens.size());
  const std::pair<const char*, int64_t*> ids[] = {{"bos_token_id", &vocabulary.bos},
                                                  {"eos_token_id", &vocabulary.eos},
                                                  {"unknown_token_id", &vocabulary.unk},
                                                  {"padding_token_id", &vocabulary.pad}};
  for (const auto& [key, id] : ids) {
    *id = file.integer(prefix + key).value_or(-1);
    if (*id < -1 || *id >= static_cast<int64_t>(vocabulary.tokens.size()))
      fail("{}: {}{} is {}; there are {} tokens", file.where(), prefix, key, *id, vocabulary.tokens.size());
  }
  return vocabulary;
}

std::unique_ptr<TokenizerSource> tokenizer_of_folder(const fs::path& folder) {
  if (!fs::exists(folder / "tokenizer.json")) return nullptr;
  auto source = std::make_unique<TokenizerSource>();
  Hasher hasher;
  source->tokenizer_json = folder / "tokenizer.json";
  const MappedFile tokenizer(source->tokenizer_json);
  hasher.add(tokenizer.text());
  // A template in a file of its own wins over the one in tokenizer_config.json, as in transformers.
  if (fs::exists(folder / "chat_template.jinja")) source->chat_template = read_text(folder / "chat_template.jinja", kMaxTextBytes);
  if (fs::exists(folder / "tokenizer_config.json")) {
    source->tokenizer_config_json = folder / "tokenizer_config.json";
    read_tokens(source->tokenizer_config_json, source.get());
  }
  if (fs::exists(folder / "special_tokens_map.json")) read_tokens(folder / "special_tokens_map.json", source.get());
  for (const std::string* text : {&source->chat_template, &source->bos_token, &source->eos_token, &source->unk_token, &source->pad_token})
    hasher.add(std::string_view(*text));
  source->content_hash = hasher.hex();
  return source;
}

std::unique_ptr<TokenizerSource> tokenizer_of_gguf(const GgufFile& file) {
  if (!file.has("tokenizer.ggml.tokens")) return nullptr;
  auto source = std::make_unique<TokenizerSource>();
  auto vocabulary = std::make_shared<text::GgufVocabulary>(vocabulary_from_gguf(file));
  source->chat_template = vocabulary->chat_template;
  const auto text_of = [&](int64_t id) { return id < 0 ? std::string() : vocabulary->tokens[static_cast<size_t>(id)]; };
  source->bos_token = text_of(vocabulary->bos);
  source->eos_token = text_of(vocabulary->eos);
  source->unk_token = text_of(vocabulary->unk);
  source->pad_token = text_of(vocabulary->pad);
  Hasher hasher;
  for (const auto& [key, value] : file.metadata()) {
    if (!key.starts_with("tokenizer.")) continue;
    hasher.add(std::string_view(key));
    hasher.add(value.bytes);
  }
  source->content_hash = hasher.hex();
  source->gguf = std::move(vocabulary);
  return source;
}

std::filesystem::path resolve_model_path(const std::string& path_or_id) {
  if (path_or_id.empty()) fail("no model was named: give a Hugging Face folder, a .gguf file or a hub id");
  std::error_code ignored;
  if (fs::exists(path_or_id, ignored)) return path_or_id;
  HubId id;
  if (!parse_hub_id(path_or_id, &id)) fail("{}: no such file or folder", path_or_id);
  const fs::path snapshot = cached_snapshot(id);
  if (snapshot.empty()) {
    const std::string revision = id.revision == "main" ? "" : " --revision " + id.revision;
    fail("{}: no such folder, and no such model in the local Hugging Face cache ({}); download it with: hf download {}{}", path_or_id,
         cache_folder().string(), id.name, revision);
  }
  return snapshot;
}

TokenizerSource open_tokenizer_source(const std::string& path_or_id) {
  try {
    const fs::path path = resolve_model_path(path_or_id);
    const bool folder = fs::is_directory(path);
    const auto source = folder ? tokenizer_of_folder(path) : tokenizer_of_gguf(GgufFile(path, GgufFile::Parts::metadata_only));
    if (source != nullptr) return *source;
    if (!folder) fail("{}: no tokenizer in the metadata", path.string());
    const bool sentencepiece = fs::exists(path / "tokenizer.model");
    fail("{}: no tokenizer.json{}", path.string(),
         sentencepiece ? "; tokenizer.model (SentencePiece) is not supported, convert it with transformers" : "");
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot be read: {}", path_or_id, error.code().message());
  }
}

}  // namespace hone::model
