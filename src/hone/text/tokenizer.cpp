#include "hone/text/tokenizer.h"

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/text/pretokenize.h"
#include "hone/text/tokenizer_data.h"
#include "hone/text/utf8.h"

namespace hone::text {
namespace {

/// Encodes one text; scratch buffers live as long as the text.
class Encoder {
 public:
  Encoder(const Tokenizer::Data& data, std::string_view text, bool special) : data_(data), text_(text), special_(special) {}

  std::vector<int32_t> run() {
    if (const size_t bad = utf8_invalid_at(text_); bad != std::string_view::npos)
      fail("byte 0x{:02X} at offset {} is not valid UTF-8", static_cast<unsigned char>(text_[bad]), bad);
    std::vector<Piece> pieces, parts;
    data_.plain_added.split(text_, 0, text_.size(), special_, pieces);
    for (const Piece& piece : pieces) {
      if (piece.id >= 0) {
        out_.push_back(piece.id);
      } else if (data_.normalized_added.empty()) {
        plain(piece.begin, piece.end);
      } else {
        parts.clear();
        data_.normalized_added.split(text_, piece.begin, piece.end, special_, parts);
        for (const Piece& part : parts)
          if (part.id >= 0)
            out_.push_back(part.id);
          else
            plain(part.begin, part.end);
      }
    }
    return std::move(out_);
  }

 private:
  void plain(size_t begin, size_t end) {
    const std::string_view upto = text_.substr(0, end);
    while (begin < end) {
      const size_t stop = digits_piece_end(upto, begin, data_.pre_tokenizer.digits);
      if (data_.pre_tokenizer.add_prefix_space && text_[begin] != ' ') {
        spaced_.assign(1, ' ').append(text_.substr(begin, stop - begin));
        words(spaced_, static_cast<ptrdiff_t>(begin) - 1);
      } else {
        words(text_.substr(begin, stop - begin), static_cast<ptrdiff_t>(begin));
      }
      begin = stop;
    }
  }

  // `offset`: where the piece begins in the text, for messages.
  void words(std::string_view piece, ptrdiff_t offset) {
    for (size_t at = 0; at < piece.size();) {
      const size_t end = data_.pre_tokenizer.use_regex ? gpt2_word_end(piece, at) : piece.size();
      word(piece.substr(at, end - at), offset + static_cast<ptrdiff_t>(at));
      at = end;
    }
  }

  void word(std::string_view word, ptrdiff_t offset) {
    if (data_.cache->find(word, out_)) return;
    symbols_.clear();
    if (data_.ignore_merges)
      if (const auto known = data_.word_ids.find(std::string(word)); known != data_.word_ids.end()) symbols_.push_back(known->second);
    if (symbols_.empty()) {
      for (size_t i = 0; i < word.size(); ++i) {
        const auto byte = static_cast<unsigned char>(word[i]);
        const int32_t id = data_.byte_ids[byte];
        if (id < 0) {
          const ptrdiff_t at = offset + static_cast<ptrdiff_t>(i);
          if (at < 0) fail("the vocabulary has no token for byte 0x20, the space that this tokenizer puts before a text");
          fail("byte 0x{:02X} at offset {}: the vocabulary of this model has no token for it; remove or replace it", byte, at);
        }
        symbols_.push_back(id);
      }
      bpe_merge(data_.merges, symbols_);
    }
    data_.cache->put(word, symbols_.data(), symbols_.size());
    out_.insert(out_.end(), symbols_.begin(), symbols_.end());
  }

  const Tokenizer::Data& data_;
  std::string_view text_;
  bool special_;
  std::string spaced_;
  std::vector<int32_t> symbols_, out_;
};

}  // namespace

Tokenizer Tokenizer::with_special_ids(const SpecialIds& ids) const {
  auto data = std::make_shared<Data>(*data_);
  set_special_ids(*data, ids, "tokenizer");
  return Tokenizer(std::move(data));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const { return Encoder(*data_, text, options.special).run(); }

std::vector<std::vector<int32_t>> Tokenizer::encode_batch(std::span<const std::string> texts, EncodeOptions options) const {
  std::vector<std::vector<int32_t>> out(texts.size());
  parallel_for(static_cast<int64_t>(texts.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      try {
        out[static_cast<size_t>(i)] = encode(texts[static_cast<size_t>(i)], options);
      } catch (const UserError& error) {
        throw UserError(error.code(), fmt::format("text {}: {}", i, error.what()));
      }
    }
  });
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!has(ids[i])) fail("id {} at place {} is not in the vocabulary of {} ids", ids[i], i, vocab_size());
    if (!skip_special || !is_special(ids[i])) out += token_bytes(ids[i]);
  }
  return out;
}

std::string Tokenizer::decode_text(std::span<const int32_t> ids, bool skip_special) const { return utf8_lossy(decode(ids, skip_special)); }

bool Tokenizer::has(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < data_->tokens.size() && !data_->tokens[static_cast<size_t>(id)].empty();
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return has(id) ? std::string_view(data_->bytes[static_cast<size_t>(id)]) : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const { return has(id) && data_->special[static_cast<size_t>(id)]; }

std::optional<int32_t> Tokenizer::id_of(std::string_view content) const {
  for (const AddedToken& token : data_->added)
    if (token.content == content) return token.id;
  const auto found = data_->word_ids.find(std::string(content));
  if (found == data_->word_ids.end()) return std::nullopt;
  return found->second;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(data_->tokens.size()); }

const std::vector<AddedToken>& Tokenizer::added_tokens() const { return data_->added; }

std::vector<std::string> Tokenizer::special_strings() const {
  std::vector<std::string> out;
  for (const AddedToken& token : data_->added)
    if (token.special) out.push_back(token.content);
  return out;
}

const SpecialIds& Tokenizer::special_ids() const { return data_->ids; }

std::string Tokenizer::hash() const { return data_->hash; }

Tokenizer with_roles(const Tokenizer& tokenizer, const RoleTexts& roles, const std::string& chat_template, const std::string& source) {
  const auto id_of = [&](const char* role, const std::string& text) {
    if (text.empty()) return -1;
    const std::optional<int32_t> id = tokenizer.id_of(text);
    if (!id) fail("{}: {} \"{}\" is not in the vocabulary", source, role, text);
    return *id;
  };
  SpecialIds ids = {id_of("bos_token", roles.bos), id_of("eos_token", roles.eos), id_of("unk_token", roles.unk), id_of("pad_token", roles.pad)};
  const auto guess = [&](const std::string& text) {
    const std::optional<int32_t> id = tokenizer.id_of(text);
    if (ids.eos < 0 && id && tokenizer.is_special(*id)) ids.eos = *id;
  };
  if (chat_template.find("<|im_end|>") != std::string::npos) guess("<|im_end|>");
  guess("<|endoftext|>");
  return tokenizer.with_special_ids(ids);
}

}  // namespace hone::text
