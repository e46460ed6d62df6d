#pragma once
// Cutting text into the words that byte-pair merging sees.
#include <functional>
#include <string_view>

#include "hone/text/tokenizer.h"

namespace hone::text {

/// End of the word that starts at `at`, after GPT-2's pattern on valid UTF-8 (at < text.size()):
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2_word_end(std::string_view text, size_t at);

/// End of the piece that starts at `at` under the digits step: a digit (or a run of them) alone, or everything up to the next digit.
size_t digits_piece_end(std::string_view text, size_t at, PreTokenizer::Digits digits);

}  // namespace hone::text
