#include "hone/text/added_tokens.h"

#include <algorithm>

#include "hone/text/utf8.h"

namespace hone::text {
namespace {

// The character that ends at `at` in valid UTF-8 (at > begin).
CodePoint code_before(std::string_view text, size_t at) {
  size_t start = at - 1;
  while ((static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return code_at(text, start);
}

size_t spaces_start(std::string_view text, size_t begin, size_t at) {
  while (at > begin) {
    const CodePoint point = code_before(text, at);
    if (char_class(point.code) != CharClass::space) break;
    at -= static_cast<size_t>(point.length);
  }
  return at;
}

size_t spaces_end(std::string_view text, size_t at, size_t end) {
  while (at < end) {
    const CodePoint point = code_at(text, at);
    if (char_class(point.code) != CharClass::space) break;
    at += static_cast<size_t>(point.length);
  }
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized) : nodes_(1) {
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized) continue;
    uint32_t node = 0;
    for (const char c : token.content) {
      const auto byte = static_cast<unsigned char>(c);
      if (const auto found = nodes_[node].next.find(byte); found != nodes_[node].next.end()) {
        node = found->second;
        continue;
      }
      const auto created = static_cast<uint32_t>(nodes_.size());
      nodes_[node].next.emplace(byte, created);
      nodes_.emplace_back();
      node = created;
    }
    nodes_[node].token = static_cast<int32_t>(tokens_.size());
    starts_[static_cast<unsigned char>(token.content[0])] = true;
    tokens_.push_back(token);
  }
}

void AddedTokenMatcher::split(std::string_view text, size_t begin, size_t end, bool special, std::vector<Piece>& out) const {
  size_t done = begin;  // everything before is in `out`
  for (size_t at = begin; at < end;) {
    if (!starts_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    int32_t found = -1;
    size_t found_end = at;
    uint32_t node = 0;
    for (size_t i = at; i < end; ++i) {
      const auto step = nodes_[node].next.find(static_cast<unsigned char>(text[i]));
      if (step == nodes_[node].next.end()) break;
      node = step->second;
      if (nodes_[node].token >= 0) found = nodes_[node].token, found_end = i + 1;
    }
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found)];
    size_t start = at;
    at = found_end;  // a match that is then turned down still uses up its text
    if (token.special && !special) continue;
    if (token.single_word && ((start > begin && is_word_char(code_before(text, start).code)) || (at < end && is_word_char(code_at(text, at).code))))
      continue;
    if (token.lstrip) start = std::max(done, spaces_start(text, begin, start));
    if (token.rstrip) at = spaces_end(text, at, end);
    if (done < start) out.push_back({done, start, -1});
    out.push_back({start, at, token.id});
    done = at;
  }
  if (done < end) out.push_back({done, end, -1});
}

}  // namespace hone::text
