// GGUF metadata -> RawVocabulary.
#include <algorithm>

#include "hone/base/error.h"
#include "hone/text/tokenizer_data.h"

namespace hone::text {
namespace {

enum TokenType : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

PreTokenizer pre_tokenizer_of(const std::string& pre, const std::string& source) {
  PreTokenizer out;
  if (pre == "smollm")
    out.digits = PreTokenizer::Digits::single;
  else if (!pre.empty() && pre != "gpt-2" && pre != "gpt2")
    fail("{}: tokenizer.ggml.pre \"{}\" is not supported (gpt-2 and smollm are)", source, pre);
  return out;
}

int32_t role(int64_t id, const char* key, size_t count, const std::string& source) {
  if (id == -1) return -1;
  if (id < 0 || id >= static_cast<int64_t>(count)) fail("{}: tokenizer.ggml.{} {} is not in the vocabulary of {} tokens", source, key, id, count);
  return static_cast<int32_t>(id);
}

}  // namespace

Tokenizer Tokenizer::from_gguf(const GgufVocabulary& vocabulary, const std::string& source) {
  if (vocabulary.model != "gpt2") fail("{}: tokenizer.ggml.model \"{}\" is not supported (only gpt2, byte-level BPE)", source, vocabulary.model);
  if (vocabulary.add_bos) fail("{}: tokenizer.ggml.add_bos_token is true; tokens added behind the caller's back are not supported", source);
  const size_t count = vocabulary.tokens.size();
  if (!vocabulary.token_types.empty() && vocabulary.token_types.size() != count)
    fail("{}: tokenizer.ggml.token_type has {} entries for {} tokens", source, vocabulary.token_types.size(), count);

  RawVocabulary raw;
  raw.pre_tokenizer = pre_tokenizer_of(vocabulary.pre, source);
  raw.tokens.reserve(count);
  for (size_t id = 0; id < count; ++id) {
    const std::string& token = vocabulary.tokens[id];
    const int32_t type = vocabulary.token_types.empty() ? normal : vocabulary.token_types[id];
    raw.tokens.emplace_back(token, static_cast<int64_t>(id));
    if (type == control || type == unknown || type == user_defined)
      raw.added.push_back({.content = token, .id = static_cast<int32_t>(id), .special = type != user_defined});
    else if (type != normal && type != unused)
      fail("{}: token {} has the type {}, which byte-level BPE does not use", source, id, type);
  }
  raw.merges.reserve(vocabulary.merges.size());
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    const std::string& merge = vocabulary.merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || merge.find(' ', space + 1) != std::string::npos)
      fail("{}: tokenizer.ggml.merges[{}] \"{}\" is not two tokens with one space between", source, i, merge);
    raw.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  raw.ids = {.bos = role(vocabulary.bos, "bos_token_id", count, source),
             .eos = role(vocabulary.eos, "eos_token_id", count, source),
             .unk = role(vocabulary.unk, "unknown_token_id", count, source),
             .pad = role(vocabulary.pad, "padding_token_id", count, source)};
  return Tokenizer(build_tokenizer(std::move(raw), source));
}

}  // namespace hone::text
