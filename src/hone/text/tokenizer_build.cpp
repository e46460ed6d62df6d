// From a vocabulary as read to the tables that encoding uses, with every check that a hostile file calls for.
#include <algorithm>

#include "hone/base/error.h"
#include "hone/base/hash.h"
#include "hone/text/tokenizer_data.h"
#include "hone/text/utf8.h"

namespace hone::text {
namespace {

constexpr int64_t max_id = (int64_t{1} << 22) - 1;
constexpr size_t max_added_bytes = 1024;

// The bytes that a token's stand-in characters mean; nothing when it has any other character.
std::optional<std::string> stand_in_bytes(const std::string& token) {
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const CodePoint point = code_at(token, at);
    const int byte = char_to_byte(point.code);
    if (byte < 0) return std::nullopt;
    out += static_cast<char>(byte);
    at += static_cast<size_t>(point.length);
  }
  return out;
}

using TokenIds = std::unordered_map<std::string, int32_t>;

TokenIds place_tokens(Tokenizer::Data& data, RawVocabulary& raw, const std::string& source) {
  const auto count = static_cast<int64_t>(raw.tokens.size() + raw.added.size());
  int64_t highest = -1;
  const auto see = [&](const std::string& token, int64_t id) {
    if (id < 0 || id > max_id || id > 4 * count + 65536) fail("{}: token \"{}\" has the id {}, which is out of range", source, token, id);
    highest = std::max(highest, id);
  };
  for (const auto& [token, id] : raw.tokens) see(token, id);
  for (const AddedToken& token : raw.added) see(token.content, token.id);
  if (highest < 0) fail("{}: the vocabulary is empty", source);
  data.tokens.resize(static_cast<size_t>(highest + 1));
  data.bytes.resize(data.tokens.size());
  data.in_model.resize(data.tokens.size());
  data.special.resize(data.tokens.size());

  TokenIds ids;
  ids.reserve(raw.tokens.size());
  data.word_ids.reserve(raw.tokens.size());
  for (auto& [token, id] : raw.tokens) {
    const auto at = static_cast<size_t>(id);
    if (token.empty()) fail("{}: the token with id {} is empty", source, id);
    if (const size_t bad = utf8_invalid_at(token); bad != std::string::npos) fail("{}: the token with id {} is not UTF-8 (byte {})", source, id, bad);
    if (data.in_model[at]) fail("{}: the id {} stands for both \"{}\" and \"{}\"", source, id, data.tokens[at], token);
    if (!ids.emplace(token, static_cast<int32_t>(id)).second) fail("{}: the token \"{}\" stands twice in the vocabulary", source, token);
    std::optional<std::string> bytes = stand_in_bytes(token);
    if (bytes) data.word_ids.emplace(*bytes, static_cast<int32_t>(id));
    data.bytes[at] = bytes ? std::move(*bytes) : token;  // HF's decoder takes a token that is not in stand-ins as its own text
    data.in_model[at] = true;
    data.tokens[at] = std::move(token);
  }
  return ids;
}

void place_added(Tokenizer::Data& data, RawVocabulary& raw, const TokenIds& ids, const std::string& source) {
  std::unordered_map<std::string, int32_t> seen;
  std::sort(raw.added.begin(), raw.added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (const AddedToken& token : raw.added) {
    const auto at = static_cast<size_t>(token.id);
    if (token.content.empty()) fail("{}: the added token with id {} is empty", source, token.id);
    if (token.content.size() > max_added_bytes) fail("{}: the added token with id {} is longer than {} bytes", source, token.id, max_added_bytes);
    if (utf8_invalid_at(token.content) != std::string::npos) fail("{}: the added token with id {} is not UTF-8", source, token.id);
    if (!seen.emplace(token.content, token.id).second) fail("{}: the added token \"{}\" stands twice", source, token.content);
    const auto known = ids.find(token.content);
    if (known != ids.end() && known->second != token.id)
      fail("{}: the added token \"{}\" has the id {}, but {} in the vocabulary", source, token.content, token.id, known->second);
    if (!data.tokens[at].empty() && data.tokens[at] != token.content)
      fail("{}: the id {} stands for both \"{}\" and the added token \"{}\"", source, token.id, data.tokens[at], token.content);
    data.tokens[at] = token.content;
    data.bytes[at] = token.content;
    data.special[at] = token.special;
  }
  data.plain_added = AddedTokenMatcher(raw.added, false);
  data.normalized_added = AddedTokenMatcher(raw.added, true);
  data.added = std::move(raw.added);
}

void place_merges(Tokenizer::Data& data, const RawVocabulary& raw, const TokenIds& ids, const std::string& source) {
  data.merges = MergeTable(raw.merges.size());
  data.merge_list.reserve(raw.merges.size());
  std::string merged;
  for (size_t i = 0; i < raw.merges.size(); ++i) {
    const std::string &left = raw.merges[i].first, &right = raw.merges[i].second;  // clang 14 cannot capture structured bindings
    const auto id_of = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end()) fail("{}: merge {} (\"{}\" + \"{}\") names \"{}\", which is not in the vocabulary", source, i, left, right, token);
      return found->second;
    };
    merged.assign(left).append(right);
    const int32_t left_id = id_of(left), right_id = id_of(right), merged_id = id_of(merged);
    if (!data.merges.add(left_id, right_id, {static_cast<int32_t>(i), merged_id}))
      fail("{}: the merge \"{}\" + \"{}\" stands twice (again at {})", source, left, right, i);
    data.merge_list.emplace_back(left_id, right_id);
  }
}

}  // namespace

std::shared_ptr<const Tokenizer::Data> build_tokenizer(RawVocabulary raw, const std::string& source) {
  auto data = std::make_shared<Tokenizer::Data>();
  data->pre_tokenizer = raw.pre_tokenizer;
  data->ignore_merges = raw.ignore_merges;
  const TokenIds ids = place_tokens(*data, raw, source);
  place_merges(*data, raw, ids, source);
  for (int byte = 0; byte < 256; ++byte) {
    std::string stand_in;
    utf8_append(stand_in, byte_to_char()[byte]);
    const auto found = ids.find(stand_in);
    data->byte_ids[static_cast<size_t>(byte)] = found == ids.end() ? -1 : found->second;
  }
  place_added(*data, raw, ids, source);
  data->cache = std::make_shared<WordCache>();
  set_special_ids(*data, raw.ids, source);
  return data;
}

void set_special_ids(Tokenizer::Data& data, const SpecialIds& ids, const std::string& source) {
  const std::pair<const char*, int32_t> roles[] = {{"bos", ids.bos}, {"eos", ids.eos}, {"unk", ids.unk}, {"pad", ids.pad}};
  for (const auto& [name, id] : roles)
    if (id < -1 || (id >= 0 && (static_cast<size_t>(id) >= data.tokens.size() || data.tokens[static_cast<size_t>(id)].empty())))
      fail("{}: the {} token has the id {}, which is not in the vocabulary", source, name, id);
  data.ids = ids;
  Hasher hasher;
  const auto add = [&](int64_t value) { hasher.add(&value, sizeof value); };
  add(static_cast<int64_t>(data.tokens.size()));
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    hasher.add(std::string_view(data.tokens[id]));
    add(data.in_model[id]);
  }
  for (const auto& [left, right] : data.merge_list) add(static_cast<int64_t>(left) << 32 | static_cast<uint32_t>(right));
  for (const AddedToken& token : data.added) {
    add(token.id);
    add(token.special | token.lstrip << 1 | token.rstrip << 2 | token.normalized << 3 | token.single_word << 4);
  }
  const PreTokenizer& pre = data.pre_tokenizer;
  add(static_cast<int64_t>(pre.digits) | pre.add_prefix_space << 2 | pre.use_regex << 3 | data.ignore_merges << 4);
  for (const auto& [name, id] : roles) add(id);
  data.hash = hasher.hex();
}

}  // namespace hone::text
