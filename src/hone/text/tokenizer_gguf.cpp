// GGUF metadata -> RawVocabulary, and a Tokenizer -> GGUF metadata.
#include <algorithm>
#include <unordered_set>

#include "hone/base/error.h"
#include "hone/text/tokenizer_data.h"

namespace hone::text {
namespace {

enum TokenType : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

// The ways of cutting words that have a name in tokenizer.ggml.pre; all of them use GPT-2's pattern and put no space in front. A pair's
// first name is the one that is written.
struct PreName {
  const char* name;
  PreTokenizer::Digits digits;
};
constexpr PreName kPreNames[] = {
    {"gpt-2", PreTokenizer::Digits::together}, {"gpt2", PreTokenizer::Digits::together}, {"smollm", PreTokenizer::Digits::single}};

PreTokenizer pre_tokenizer_of(const std::string& pre, const std::string& source) {
  PreTokenizer out;
  if (pre.empty()) return out;  // llama.cpp's default is gpt-2
  for (const PreName& known : kPreNames) {
    if (pre != known.name) continue;
    out.digits = known.digits;
    return out;
  }
  fail("{}: tokenizer.ggml.pre \"{}\" is not supported (gpt-2 and smollm are)", source, pre);
}

// A wrong name would tokenise differently without a word: what has no name is refused.
std::string name_of(const PreTokenizer& pre, bool ignore_merges, const std::string& source) {
  const char* const instead = "GGUF names its way of cutting words, and no name that hone knows (gpt-2, smollm) means this";
  if (pre.add_prefix_space) fail("{}: the tokenizer puts a space before a text (add_prefix_space); {}", source, instead);
  if (!pre.use_regex) fail("{}: the tokenizer does not cut a text into words (use_regex false); {}", source, instead);
  if (ignore_merges) fail("{}: the tokenizer takes a whole word that is a token without merging (ignore_merges); {}", source, instead);
  for (const PreName& known : kPreNames)
    if (pre.digits == known.digits) return known.name;
  fail("{}: the tokenizer keeps runs of digits apart (pre_tokenizer Digits, individual_digits false); {}", source, instead);
}

// Whether one token could be found where the other is: inside it, or reaching over one of its ends.
bool can_overlap(const std::string& a, const std::string& b) {
  if (a.find(b) != std::string::npos || b.find(a) != std::string::npos) return true;
  for (size_t shared = 1; shared < std::min(a.size(), b.size()); ++shared)
    if (a.compare(a.size() - shared, shared, b, 0, shared) == 0 || b.compare(b.size() - shared, shared, a, 0, shared) == 0) return true;
  return false;
}

// GGUF knows an added token's text and whether it is special, nothing else.
void check_added(const std::vector<AddedToken>& added, const std::string& source) {
  constexpr size_t kMostPairs = 1 << 22;
  std::vector<const AddedToken*> first, second;  // the two passes of matching
  for (const AddedToken& token : added) {
    const char* flag = token.lstrip ? "lstrip" : token.rstrip ? "rstrip" : token.single_word ? "single_word" : nullptr;
    if (flag != nullptr) fail("{}: the added token \"{}\" has the flag {}, which GGUF cannot carry", source, token.content, flag);
    (token.normalized ? second : first).push_back(&token);
  }
  const bool many = !first.empty() && second.size() > kMostPairs / first.size();
  for (const AddedToken* a : first)
    for (const AddedToken* b : second)
      if (many || can_overlap(a->content, b->content))
        fail("{}: the added tokens \"{}\" and \"{}\" are matched one after the other (normalized differs); GGUF matches all at once", source,
             a->content, b->content);
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

GgufVocabulary Tokenizer::to_gguf(const std::string& chat_template, int64_t rows, const std::string& source) const {
  const Data& data = *data_;
  const auto count = static_cast<int64_t>(data.tokens.size());
  if (count > rows) fail("{}: the tokenizer has {} tokens, the model's embedding {} rows", source, count, rows);
  check_added(data.added, source);
  GgufVocabulary out;
  out.model = "gpt2";
  out.pre = name_of(data.pre_tokenizer, data.ignore_merges, source);
  out.tokens = data.tokens;
  out.tokens.resize(static_cast<size_t>(rows));
  out.token_types.assign(static_cast<size_t>(rows), normal);
  for (const AddedToken& token : data.added) out.token_types[static_cast<size_t>(token.id)] = token.special ? control : user_defined;
  const std::unordered_set<std::string> taken(data.tokens.begin(), data.tokens.end());
  for (size_t id = 0; id < out.tokens.size(); ++id) {
    if (!out.tokens[id].empty()) continue;
    out.tokens[id] = fmt::format("[PAD{}]", id);  // llama.cpp's converter writes the same
    while (taken.count(out.tokens[id]) != 0) out.tokens[id] += '_';
    out.token_types[id] = unused;
  }
  for (const auto& [left, right] : data.merge_list) {
    const std::string &a = data.tokens[static_cast<size_t>(left)], &b = data.tokens[static_cast<size_t>(right)];
    if (a.find(' ') != std::string::npos || b.find(' ') != std::string::npos)
      fail("{}: the merge of \"{}\" and \"{}\" has a space in a token, which GGUF cannot carry", source, a, b);
    out.merges.push_back(a + " " + b);
  }
  out.bos = data.ids.bos;
  out.eos = data.ids.eos;
  out.unk = data.ids.unk;
  out.pad = data.ids.pad;
  out.chat_template = chat_template;
  return out;
}

}  // namespace hone::text
