// Tokenizer -> GGUF metadata -> Tokenizer: the same ids, or a refusal that names what GGUF cannot carry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/text/tokenizer.h"
#include "shared_data.h"

namespace hone::text {
namespace tokenizer_to_gguf_test {

using nlohmann::json;
using testing::HasSubstr;

json golden_json(const std::string& name) { return json::parse(read_text(golden("tokenizer/" + name + ".json"))); }
Tokenizer load(const json& root) { return Tokenizer::from_json(root.dump(), "tokenizer.json"); }
json byte_level() { return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}; }
json with_digits(bool single) {
  return {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", single}}, byte_level()}}};
}

std::string refusal(const json& root, int64_t rows = 100000) {
  const Tokenizer tokenizer = load(root);
  try {
    tokenizer.to_gguf("", rows, "tokenizer.json");
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), Exit::usage);
    return error.what();
  }
  return "accepted";
}

TEST(TokenizerToGguf, SameIdsAfterTheRoundTrip) {
  for (const bool digits : {false, true}) {
    json root = golden_json("plain");
    root["pre_tokenizer"] = digits ? with_digits(true) : byte_level();
    const Tokenizer tokenizer = load(root);
    const GgufVocabulary vocabulary = tokenizer.to_gguf("{{ messages }}", tokenizer.vocab_size(), "x");
    EXPECT_EQ(vocabulary.pre, digits ? "smollm" : "gpt-2");
    EXPECT_EQ(vocabulary.chat_template, "{{ messages }}");
    const Tokenizer again = Tokenizer::from_gguf(vocabulary, "x");
    size_t texts_with_digits = 0;
    for (const json& row : read_jsonl(golden("tokenizer/plain.jsonl"))) {
      const auto text = row["text"].get<std::string>();
      EXPECT_EQ(again.encode(text), tokenizer.encode(text)) << row["text"];
      EXPECT_EQ(again.encode(text, {.special = false}), tokenizer.encode(text, {.special = false})) << row["text"];
      EXPECT_EQ(again.decode_text(tokenizer.encode(text), true), tokenizer.decode_text(tokenizer.encode(text), true)) << row["text"];
      texts_with_digits += text.find("12") != std::string::npos;
    }
    EXPECT_GT(texts_with_digits, 0u) << "the two ways of cutting would not be told apart";
  }
}

TEST(TokenizerToGguf, RolesTypesAndRowsWithoutAToken) {
  json root = golden_json("plain");
  const int new_id = static_cast<int>(load(root).vocab_size());
  root["added_tokens"].push_back({{"id", new_id}, {"content", "<<tool>>"}, {"special", false}});
  const Tokenizer plain = load(root);
  const Tokenizer tokenizer = plain.with_special_ids({.bos = 1, .eos = 0, .unk = -1, .pad = 2});
  const auto size = static_cast<size_t>(tokenizer.vocab_size());
  const GgufVocabulary vocabulary = tokenizer.to_gguf("", static_cast<int64_t>(size) + 3, "x");
  ASSERT_EQ(vocabulary.tokens.size(), size + 3);
  ASSERT_EQ(vocabulary.token_types.size(), size + 3);
  EXPECT_EQ(vocabulary.tokens[size + 2], "[PAD" + std::to_string(size + 2) + "]");
  EXPECT_EQ(vocabulary.token_types[size + 2], 5);
  EXPECT_EQ(std::vector<int64_t>({vocabulary.bos, vocabulary.eos, vocabulary.unk, vocabulary.pad}), std::vector<int64_t>({1, 0, -1, 2}));
  size_t added = 0;
  for (const AddedToken& token : tokenizer.added_tokens()) {
    EXPECT_EQ(vocabulary.token_types[static_cast<size_t>(token.id)], token.special ? 3 : 4) << token.content;
    ++added;
  }
  EXPECT_GT(added, 0u);
  EXPECT_EQ(std::count(vocabulary.token_types.begin(), vocabulary.token_types.end(), 1), static_cast<std::ptrdiff_t>(size - added));
  EXPECT_THAT(refusal(root, static_cast<int64_t>(size) - 1), HasSubstr("rows"));
}

TEST(TokenizerToGguf, WhatGgufCannotCarryIsRefused) {
  const json root = golden_json("plain");
  const auto changed = [&](const std::function<void(json&)>& change) {
    json other = root;
    other["pre_tokenizer"] = byte_level();
    change(other);
    return refusal(other);
  };
  EXPECT_EQ(changed([](json&) {}), "accepted");
  EXPECT_THAT(changed([](json& r) { r["pre_tokenizer"] = with_digits(false); }), HasSubstr("runs of digits"));
  EXPECT_THAT(changed([](json& r) { r["pre_tokenizer"]["add_prefix_space"] = true; }), HasSubstr("add_prefix_space"));
  EXPECT_THAT(changed([](json& r) { r["pre_tokenizer"]["use_regex"] = false; }), HasSubstr("use_regex"));
  EXPECT_THAT(changed([](json& r) { r["model"]["ignore_merges"] = true; }), HasSubstr("ignore_merges"));
  for (const char* flag : {"lstrip", "rstrip", "single_word"})
    EXPECT_THAT(changed([&](json& r) { r["added_tokens"][0][flag] = true; }), HasSubstr(flag)) << flag;
}

TEST(TokenizerToGguf, TwoPassesOfMatchingMayNotMeet) {
  json root = golden_json("plain");
  root["pre_tokenizer"] = byte_level();
  const auto add = [&](const std::string& content, bool normalized) {
    const int id = static_cast<int>(load(root).vocab_size());
    root["added_tokens"].push_back({{"id", id}, {"content", content}, {"special", false}, {"normalized", normalized}});
  };
  add("<<tool>>", false);
  add("zzz", true);
  EXPECT_EQ(refusal(root), "accepted");
  const json before = root;
  for (const char* meeting : {"tool", "a<<tool>>b", ">>a", "a<"}) {
    root = before;
    add(meeting, true);
    EXPECT_THAT(refusal(root), HasSubstr(meeting)) << meeting;
  }
}

}  // namespace tokenizer_to_gguf_test
}  // namespace hone::text
