#pragma once
// Byte-level BPE (GPT-2 and SmolLM2 families) out of a Hugging Face tokenizer.json or out of GGUF metadata.
// Whatever in a file would change ids and is not implemented is refused by name, never ignored.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hone/text/gguf_vocabulary.h"

namespace hone::text {

/// A token that is matched in the text before any other splitting, with the flags of Hugging Face `tokenizers`.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;      // left out by decode(skip_special) and treated as plain text by encode({.special = false})
  bool lstrip = false;       // swallows white space on its left
  bool rstrip = false;       // swallows white space on its right
  bool normalized = false;   // matched in a second pass, after the tokens that are not
  bool single_word = false;  // matched only between non-word characters
};

/// How text is cut into words: digits first, then the byte-level step (GPT-2's pattern).
struct PreTokenizer {
  enum class Digits { together, runs, single };
  Digits digits = Digits::together;  // together: left to the pattern; runs: number runs apart; single: every digit apart
  bool add_prefix_space = false;     // a space is put before every piece that does not start with one
  bool use_regex = true;             // false: a piece is one word
};

/// Ids of the tokens with a role; -1 = none.
struct SpecialIds {
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;
};

struct EncodeOptions {
  bool special = true;  // false: the strings of special tokens in the text are plain text
};

/// Immutable and cheap to copy; every method may be called from several threads.
class Tokenizer {
 public:
  /// From the text of a tokenizer.json; `source` (a path) is for messages. Roles (BOS, EOS, ...) stand in other files: give them as `ids`.
  static Tokenizer from_json(std::string_view json, const std::string& source, const SpecialIds& ids = {});
  /// From GGUF metadata; `source` (a path) is for messages.
  static Tokenizer from_gguf(const GgufVocabulary& vocabulary, const std::string& source);
  /// The same tokenizer with other roles; UserError when an id is not in the vocabulary.
  Tokenizer with_special_ids(const SpecialIds& ids) const;

  /// Ids of UTF-8 text; nothing (no BOS, no EOS) is added. UserError naming the offset when the text is not UTF-8, and naming byte and offset
  /// when the vocabulary has no token for a byte (SmolLM2 lacks 21 of the 256).
  std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  /// The same for many texts, threaded; the message of an error starts with "text N: " (0-based).
  std::vector<std::vector<int32_t>> encode_batch(std::span<const std::string> texts, EncodeOptions options = {}) const;

  /// The bytes of the ids, as they are (a cut may leave invalid UTF-8 at the ends). UserError naming an id that is not in the vocabulary.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
  /// decode, with every maximal invalid part replaced by U+FFFD, for printing and JSON.
  std::string decode_text(std::span<const int32_t> ids, bool skip_special = false) const;
  /// The bytes of one token, for streaming: the concatenation over ids is what decode gives. Empty for an id that is not in the vocabulary.
  std::string_view token_bytes(int32_t id) const;
  /// Whether the id stands for a token.
  bool has(int32_t id) const;
  /// The id of a token by its content (added tokens: their text; others: their bytes).
  std::optional<int32_t> id_of(std::string_view content) const;
  bool is_special(int32_t id) const;

  /// Largest id + 1.
  int32_t vocab_size() const;
  /// All added tokens in the order of their ids.
  const std::vector<AddedToken>& added_tokens() const;
  /// The texts of the special tokens, for chat templates.
  std::vector<std::string> special_strings() const;
  const SpecialIds& special_ids() const;
  int32_t bos_id() const { return special_ids().bos; }
  int32_t eos_id() const { return special_ids().eos; }
  int32_t pad_id() const { return special_ids().pad; }
  /// 32 hexadecimal digits over everything that ids depend on, roles included: the key of token caches.
  std::string hash() const;

  /// A tokenizer.json that Hugging Face `tokenizers` loads with the same ids.
  std::string to_tokenizer_json() const;
  /// A tokenizer_config.json for transformers 4 and 5 with these roles. An empty `chat_template` is left out.
  std::string to_tokenizer_config_json(const std::string& chat_template, int64_t model_max_length = 0) const;
  /// The metadata of a GGUF file that llama.cpp and from_gguf read to the same ids. Ids without a token, and those up to `rows` (of the
  /// embedding), get stand-ins of type unused. UserError naming `source` and what GGUF cannot carry: another way of cutting words than those
  /// that have a name in tokenizer.ggml.pre, white space that an added token swallows, more tokens than rows, ...
  GgufVocabulary to_gguf(const std::string& chat_template, int64_t rows, const std::string& source) const;

  struct Data;  // what the loaders fill; tokenizer_data.h

 private:
  explicit Tokenizer(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::shared_ptr<const Data> data_;
};

/// Roles by the text of their tokens, as tokenizer_config.json has them; empty = none.
struct RoleTexts {
  std::string bos{}, eos{}, unk{}, pad{};
};

/// The tokenizer with these roles; UserError naming `source` when a text is not a token. Where no EOS is named (a folder with nothing but
/// tokenizer.json), it is <|im_end|> if the chat template writes that, else <|endoftext|>, if the vocabulary has it as a special token.
Tokenizer with_roles(const Tokenizer& tokenizer, const RoleTexts& roles, const std::string& chat_template, const std::string& source);

/// `bytes` with every maximal invalid part replaced by U+FFFD.
std::string utf8_lossy(std::string_view bytes);

}  // namespace hone::text
