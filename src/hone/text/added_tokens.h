#pragma once
// Finding added tokens in text: leftmost, then longest, as Hugging Face `tokenizers` does.
#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "hone/text/tokenizer.h"

namespace hone::text {

/// A part of a text: an added token (id >= 0), or plain text (id -1).
struct Piece {
  size_t begin, end;
  int32_t id;
};

/// The added tokens of one pass (those with or those without the flag `normalized`).
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized);
  bool empty() const { return nodes_.size() <= 1; }
  /// Appends the pieces of text[begin, end), in order, without empty ones. `special` = false leaves special tokens as text.
  void split(std::string_view text, size_t begin, size_t end, bool special, std::vector<Piece>& out) const;

 private:
  struct Node {
    std::map<unsigned char, uint32_t> next;
    int32_t token = -1;  // index into tokens_
  };
  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<bool, 256> starts_{};
};

}  // namespace hone::text
