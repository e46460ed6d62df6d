#pragma once
// What a Tokenizer holds, and how its loaders build it. Private to the tokenizer's sources.
#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hone/text/added_tokens.h"
#include "hone/text/bpe.h"
#include "hone/text/tokenizer.h"

namespace hone::text {

/// A vocabulary as read from a file, before it is checked.
struct RawVocabulary {
  std::vector<std::pair<std::string, int64_t>> tokens;      // in stand-in characters (byte_to_char), with ids
  std::vector<std::pair<std::string, std::string>> merges;  // lowest rank first
  std::vector<AddedToken> added;
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;  // a word that is a token is not merged
  SpecialIds ids;
};

struct Tokenizer::Data {
  std::vector<std::string> tokens;  // as in the file; empty = no such id
  std::vector<std::string> bytes;   // what each id decodes to
  std::vector<std::pair<int32_t, int32_t>> merge_list;
  MergeTable merges;
  std::array<int32_t, 256> byte_ids{};  // -1: the vocabulary cannot write this byte
  std::vector<AddedToken> added;        // by id
  std::vector<bool> in_model;           // the id belongs to the BPE vocabulary (added tokens may or may not)
  std::vector<bool> special;
  AddedTokenMatcher plain_added, normalized_added;
  std::unordered_map<std::string, int32_t> word_ids;  // decoded bytes of a BPE token -> id; filled for ignore_merges and id_of
  PreTokenizer pre_tokenizer;
  bool ignore_merges = false;
  SpecialIds ids;
  std::string hash;
  std::shared_ptr<WordCache> cache;
};

/// Checks a vocabulary (ids, duplicates, merges of unknown tokens) and builds the tables; UserError naming `source`.
std::shared_ptr<const Tokenizer::Data> build_tokenizer(RawVocabulary raw, const std::string& source);
/// Checks roles against a vocabulary and sets them, hash included.
void set_special_ids(Tokenizer::Data& data, const SpecialIds& ids, const std::string& source);

}  // namespace hone::text
