// The tokenizer on small committed vocabularies: ids of Hugging Face `tokenizers`, GGUF metadata, and files that are wrong.
#include "hone/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "shared_data.h"

namespace hone::text {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json golden_json(const std::string& name) { return json::parse(read_text(golden("tokenizer/" + name + ".json"))); }

Tokenizer load(const json& root) { return Tokenizer::from_json(root.dump(), "tokenizer.json"); }

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), Exit::usage);
    return error.what();
  }
  return "no error";
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, IdsAgree) {
  const Tokenizer loaded = load(golden_json(GetParam()));
  const Tokenizer saved = load(json::parse(loaded.to_tokenizer_json()));
  const auto rows = read_jsonl(golden(std::string("tokenizer/") + GetParam() + ".jsonl"));
  ASSERT_GE(rows.size(), 250u);
  for (const json& row : rows) {
    const auto text = row["text"].get<std::string>();
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(loaded.encode(text), ids) << row["text"];
    EXPECT_EQ(saved.encode(text), ids) << row["text"];
    EXPECT_EQ(loaded.encode(text, {.special = false}), row.value("ids_no_special", ids)) << row["text"];
    EXPECT_EQ(loaded.decode_text(ids, true), row["decoded"].get<std::string>()) << row["text"];
    std::string streamed;
    for (const int32_t id : ids) streamed += loaded.token_bytes(id);
    EXPECT_EQ(streamed, loaded.decode(ids));
  }
  EXPECT_EQ(loaded.hash(), saved.hash());
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Golden, testing::Values("plain", "flags"), [](const auto& info) { return std::string(info.param); });

GgufVocabulary gguf_of(const json& root) {
  GgufVocabulary out;
  out.model = "gpt2";
  out.tokens.resize(root["model"]["vocab"].size());
  for (const auto& [token, id] : root["model"]["vocab"].items()) out.tokens[id.get<size_t>()] = token;
  out.token_types.assign(out.tokens.size(), 1);
  for (const json& token : root["added_tokens"])
    if (token["id"] < out.tokens.size()) out.token_types[token["id"].get<size_t>()] = token["special"].get<bool>() ? 3 : 4;
  for (const json& merge : root["model"]["merges"]) out.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  out.eos = 0;
  return out;
}

TEST(TokenizerGguf, SameIdsAsTheFile) {
  const json root = golden_json("plain");
  const GgufVocabulary vocabulary = gguf_of(root);
  const Tokenizer from_file = load(root), from_gguf = Tokenizer::from_gguf(vocabulary, "model.gguf");
  const Tokenizer saved = load(json::parse(from_gguf.to_tokenizer_json()));
  for (const json& row : read_jsonl(golden("tokenizer/plain.jsonl"))) {
    EXPECT_EQ(from_gguf.encode(row["text"].get<std::string>()), row["ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(saved.encode(row["text"].get<std::string>()), row["ids"].get<std::vector<int32_t>>());
  }
  EXPECT_EQ(from_gguf.eos_id(), 0);
  EXPECT_EQ(from_gguf.bos_id(), -1);
  EXPECT_NE(from_gguf.hash(), from_file.hash());  // the end-of-text token differs
  EXPECT_EQ(from_gguf.with_special_ids({}).hash(), from_file.hash());
}

TEST(TokenizerGguf, SmollmSplitsDigits) {
  GgufVocabulary vocabulary = gguf_of(golden_json("plain"));
  vocabulary.pre = "smollm";
  EXPECT_EQ(Tokenizer::from_gguf(vocabulary, "model.gguf").encode("1234").size(), 4u);
}

TEST(TokenizerGguf, WrongMetadata) {
  const GgufVocabulary good = gguf_of(golden_json("plain"));
  const auto wrong = [&](const std::function<void(GgufVocabulary&)>& change) {
    GgufVocabulary bad = good;
    change(bad);
    return error_of([&] { Tokenizer::from_gguf(bad, "model.gguf"); });
  };
  EXPECT_THAT(wrong([](auto& v) { v.model = "llama"; }), HasSubstr("tokenizer.ggml.model \"llama\" is not supported"));
  EXPECT_THAT(wrong([](auto& v) { v.pre = "qwen2"; }), HasSubstr("tokenizer.ggml.pre \"qwen2\" is not supported"));
  EXPECT_THAT(wrong([](auto& v) { v.add_bos = true; }), HasSubstr("add_bos_token"));
  EXPECT_THAT(wrong([](auto& v) { v.eos = 1 << 20; }), HasSubstr("eos_token_id 1048576 is not in the vocabulary"));
  EXPECT_THAT(wrong([](auto& v) { v.token_types.pop_back(); }), HasSubstr("token_type has"));
  EXPECT_THAT(wrong([](auto& v) { v.merges.push_back("ab"); }), HasSubstr("is not two tokens"));
  EXPECT_THAT(wrong([](auto& v) { v.merges.push_back(""); }), HasSubstr("is not two tokens"));
  EXPECT_THAT(wrong([](auto& v) { v.merges.push_back("zq qz"); }), HasSubstr("not in the vocabulary"));
  EXPECT_THAT(wrong([](auto& v) { v.tokens[7] = v.tokens[8]; }), HasSubstr("stands twice"));
  EXPECT_THAT(wrong([](auto& v) { v.tokens[7].assign(1, '\xFF'); }), HasSubstr("is not UTF-8"));
  EXPECT_THAT(wrong([](auto& v) { v.tokens.clear(), v.token_types.clear(), v.merges.clear(), v.eos = -1; }), HasSubstr("empty"));
}

struct Wrong {
  const char* name;
  const char* patch;  // RFC 7396 merge patch of the good file
  const char* message;
};

class WrongFile : public testing::TestWithParam<Wrong> {};

TEST_P(WrongFile, IsRefusedByName) {
  json root = golden_json("plain");
  root.merge_patch(json::parse(GetParam().patch));
  EXPECT_THAT(error_of([&] { load(root); }), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Tokenizer, WrongFile,
    testing::Values(
        Wrong{"model", R"({"model": {"type": "Unigram"}})", "model type \"Unigram\" is not supported"},
        Wrong{"no_model", R"({"model": null})", "\"model\" is missing"}, Wrong{"dropout", R"({"model": {"dropout": 0.1}})", "model.dropout"},
        Wrong{"prefix", R"({"model": {"continuing_subword_prefix": "##"}})", "continuing_subword_prefix"},
        Wrong{"byte_fallback", R"({"model": {"byte_fallback": true}})", "byte_fallback"},
        Wrong{"normalizer", R"({"normalizer": {"type": "NFC"}})", "normalizer NFC is not supported"},
        Wrong{"split", R"({"pre_tokenizer": {"type": "Split"}})", "pre_tokenizer Split is not supported"},
        Wrong{"no_pre", R"({"pre_tokenizer": null})", "no pre_tokenizer"},
        Wrong{"after", R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}})", "after ByteLevel"},
        Wrong{"no_byte_level", R"({"pre_tokenizer": {"type": "Digits"}})", "no ByteLevel step"},
        Wrong{"bos", R"({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}})",
              "<s>"},
        Wrong{"bert", R"({"post_processor": {"type": "BertProcessing"}})", "post_processor BertProcessing"},
        Wrong{"decoder", R"({"decoder": {"type": "WordPiece"}})", "decoder WordPiece"},
        Wrong{"vocab_id", R"({"model": {"vocab": {"a": -1}}})", "out of range"},
        Wrong{"vocab_huge", R"({"model": {"vocab": {"zz": 4000000000000}}})", "out of range"},
        Wrong{"vocab_float", R"({"model": {"vocab": {"zz": 1.5}}})", "not a whole number"},
        Wrong{"vocab_same_id", R"({"model": {"vocab": {"zzz": 5}}})", "stands for both"},
        Wrong{"merge_unknown", R"({"model": {"merges": [["a", "zzz"]]}})", "names \"zzz\""},
        Wrong{"merge_result", R"({"model": {"merges": [["!", "a"]]}})", "names \"!a\""},
        Wrong{"merge_twice", R"({"model": {"merges": ["h e", "h e"]}})", "stands twice"},
        Wrong{"merge_shape", R"({"model": {"merges": [["a"]]}})", "neither a pair"},
        Wrong{"merge_spaces", R"({"model": {"merges": ["a b c"]}})", "not two tokens"},
        Wrong{"added_id", R"({"added_tokens": [{"id": -5, "content": "x"}]})", "out of range"},
        Wrong{"added_taken", R"({"added_tokens": [{"id": 5, "content": "<new>"}]})", "stands for both"},
        Wrong{"added_other_id", R"({"added_tokens": [{"id": 600, "content": "the"}]})", "but"},
        Wrong{"added_empty", R"({"added_tokens": [{"id": 600, "content": ""}]})", "is empty"},
        Wrong{"added_shape", R"({"added_tokens": ["x"]})", "added_tokens[0]"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(TokenizerJson, NotJson) {
  const auto read = [](const std::string& text) { return error_of([&] { Tokenizer::from_json(text, "t.json"); }); };
  EXPECT_THAT(read(""), HasSubstr("t.json: not valid JSON"));
  EXPECT_THAT(read("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(read(R"({"model": {"vocab": {"a": 1, "a": 2}}})"), HasSubstr("the key \"a\" stands twice"));
  EXPECT_THAT(read(std::string(100000, '[')), HasSubstr("nested deeper"));
}

TEST(Tokenizer, TextThatCannotBeWritten) {
  const json root = golden_json("plain");
  EXPECT_THAT(error_of([&] { load(root).encode("ab\xC3("); }), HasSubstr("byte 0xC3 at offset 2 is not valid UTF-8"));
  json lacking = root;
  lacking["model"]["vocab"].erase("Ą");  // the stand-in of byte 4
  const Tokenizer tokenizer = load(lacking);
  EXPECT_THAT(error_of([&] { tokenizer.encode("<|im_end|>ab \x04"); }), HasSubstr("byte 0x04 at offset 13"));
  EXPECT_THAT(error_of([&] { tokenizer.encode_batch(std::vector<std::string>{"a", "\x04"}); }), HasSubstr("text 1: byte 0x04 at offset 0"));
}

TEST(Tokenizer, IdsOutsideTheVocabulary) {
  const Tokenizer tokenizer = load(golden_json("plain"));
  for (const int32_t id : {-1, tokenizer.vocab_size(), INT32_MAX, INT32_MIN}) {
    EXPECT_THAT(error_of([&] { tokenizer.decode(std::vector<int32_t>{1, id}); }), HasSubstr("at place 1 is not in the vocabulary"));
    EXPECT_TRUE(tokenizer.token_bytes(id).empty());
  }
  EXPECT_THAT(error_of([&] { tokenizer.with_special_ids({.eos = 100000}); }), HasSubstr("eos"));
}

TEST(Tokenizer, LongWordsAgreeWithShortOnes) {
  // The two ways of merging (scan and queue) must agree: a long run is cut by neither.
  const Tokenizer tokenizer = load(golden_json("plain"));
  for (const char* unit : {"the", "a", "he", "-", "é"}) {
    std::string word;
    while (word.size() < 100000) word += unit;
    const auto ids = tokenizer.encode(word);
    EXPECT_EQ(tokenizer.decode(ids), word);
    std::string shorter;
    for (int i = 0; i < 12; ++i) shorter += unit;
    const auto few = tokenizer.encode(shorter);
    EXPECT_TRUE(std::equal(few.begin(), few.begin() + static_cast<ptrdiff_t>(few.size() / 2), ids.begin())) << unit;
  }
}

TEST(Tokenizer, LeftmostOfEqualMergesFirst) {
  json root = golden_json("plain");
  const auto pair = root["model"]["vocab"].size();
  const auto single = root["model"]["vocab"]["~"].get<int32_t>();
  root["model"]["vocab"]["~~"] = pair;
  root["model"]["merges"].push_back("~ ~");
  const Tokenizer tokenizer = load(root);
  for (const size_t half : {3, 50}) {  // short words are merged by scanning, words over 64 bytes by a queue
    std::vector<int32_t> wanted(half, static_cast<int32_t>(pair));
    wanted.push_back(single);
    EXPECT_EQ(tokenizer.encode(std::string(2 * half + 1, '~')), wanted);
  }
}

TEST(Tokenizer, RolesByText) {
  const Tokenizer tokenizer = load(golden_json("plain"));
  const Tokenizer named = with_roles(tokenizer, {.eos = "<|im_end|>", .pad = "<|endoftext|>"}, "", "folder");
  EXPECT_EQ(named.eos_id(), 2);
  EXPECT_EQ(named.pad_id(), 0);
  EXPECT_EQ(named.bos_id(), -1);
  EXPECT_EQ(with_roles(tokenizer, {}, "{{ '<|im_end|>' }}", "folder").eos_id(), 2);
  EXPECT_EQ(with_roles(tokenizer, {}, "", "folder").eos_id(), 0);
  EXPECT_THAT(error_of([&] { with_roles(tokenizer, {.eos = "</s>"}, "", "folder"); }), HasSubstr("eos_token \"</s>\" is not in the vocabulary"));
}

TEST(Tokenizer, LossyText) {
  EXPECT_EQ(utf8_lossy("a\xE2\x82"
                       "b\xFF\xF0\x9F\x98"),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(utf8_lossy("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Tokenizer, PrefixSpace) {
  json root = golden_json("plain");
  root["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  const Tokenizer tokenizer = load(root);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a<|im_end|>b")), " a<|im_end|> b");
  EXPECT_EQ(load(json::parse(tokenizer.to_tokenizer_json())).encode("a"), tokenizer.encode("a"));
}

}  // namespace
}  // namespace hone::text
