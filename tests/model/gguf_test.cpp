#include "hone/model/gguf.h"

#include <gtest/gtest.h>

#include "file_builders.h"
#include "hone/text/gguf_vocabulary.h"

namespace hone::model {
namespace {

// One F32 tensor of 8 elements.
std::string small_file(const std::string& tensor_info, size_t data_bytes, const std::string& keys = "", uint64_t key_count = 0) {
  return pad_to(gguf_header(1, key_count) + keys + tensor_info, 32) + std::string(data_bytes, '\0');
}

std::string nested_arrays(int depth) {
  std::string bytes = gguf_string("nested") + raw(uint32_t{9});
  for (int i = 1; i < depth; ++i) bytes += raw(uint32_t{9}) + raw(uint64_t{1});
  return bytes + raw(uint32_t{0}) + raw(uint64_t{1}) + "x";
}

TEST(Gguf, MetadataOfEveryKindIsRead) {
  ScratchFolder scratch;
  const auto path = scratch.path / "all.gguf";
  std::string keys;
  const auto add = [&](const std::string& key, uint32_t type, const std::string& bytes) { keys += gguf_string(key) + raw(type) + bytes; };
  add("u8", 0, raw(uint8_t{200}));
  add("i8", 1, raw(int8_t{-3}));
  add("u16", 2, raw(uint16_t{60000}));
  add("i16", 3, raw(int16_t{-300}));
  add("u32", 4, raw(uint32_t{4000000000u}));
  add("i32", 5, raw(int32_t{-70000}));
  add("f32", 6, raw(1e-5f));
  add("bool", 7, raw(uint8_t{1}));
  add("string", 8, gguf_string("text"));
  add("strings", 9, raw(uint32_t{8}) + raw(uint64_t{2}) + gguf_string("a") + gguf_string(""));
  add("u64", 10, raw(uint64_t{1} << 40));
  add("i64", 11, raw(int64_t{-1}));
  add("f64", 12, raw(0.1));
  add("too large", 10, raw(~uint64_t{0}));
  keys += nested_arrays(4);
  add("after", 4, raw(uint32_t{7}));
  write_file(path, gguf_header(0, 16) + keys);
  const GgufFile file(path);
  EXPECT_EQ(file.integer("u8"), 200);
  EXPECT_EQ(file.integer("i8"), -3);
  EXPECT_EQ(file.integer("u16"), 60000);
  EXPECT_EQ(file.integer("i16"), -300);
  EXPECT_EQ(file.integer("u32"), 4000000000);
  EXPECT_EQ(file.integer("i32"), -70000);
  EXPECT_EQ(file.number("f32"), 1e-5);
  EXPECT_EQ(file.boolean("bool"), true);
  EXPECT_EQ(file.string("string"), "text");
  EXPECT_EQ(file.strings("strings"), (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(file.integer("u64"), int64_t{1} << 40);
  EXPECT_EQ(file.integer("i64"), -1);
  EXPECT_EQ(file.number("f64"), 0.1);
  EXPECT_EQ(file.integer("after"), 7);
  EXPECT_EQ(file.integer("absent"), std::nullopt);
  expect_refused([&] { file.integer("string"); }, {"metadata string is string", "whole number"}, "type");
  expect_refused([&] { file.integer("too large"); }, {"63 bits"}, "u64");
  expect_refused([&] { file.strings("u8"); }, {"array of strings"}, "array");
  expect_refused([&] { file.string("strings"); }, {"an array of string", "a string was expected"}, "string");
  expect_refused([&] { file.integers("strings"); }, {"array of whole numbers"}, "integers");
}

TEST(Gguf, ArraysOfGgufPyAreRead) {
  const GgufFile file(fixture("quantised.gguf"));
  EXPECT_EQ(file.strings("strings"), (std::vector<std::string>{"a", "", "b\u00e9"}));
  EXPECT_EQ(file.integers("integers"), (std::vector<int32_t>{1, -2, 3}));
  EXPECT_EQ(file.floats("floats"), (std::vector<float>{0.5f, -1.25f}));
}

TEST(Gguf, Version2IsRead) {
  ScratchFolder scratch;
  write_file(scratch.path / "v2.gguf", gguf_header(0, 1, 2) + gguf_u32("a", 5));
  EXPECT_EQ(GgufFile(scratch.path / "v2.gguf").integer("a"), 5);
}

struct Broken {
  const char* what;
  std::string bytes;
  std::vector<std::string> message;
};

std::vector<Broken> broken_metadata() {
  const std::string header = gguf_header(0, 1), key = gguf_string("k");
  const auto array = [&](uint32_t type, uint64_t count, const std::string& rest) {
    return header + key + raw(uint32_t{9}) + raw(type) + raw(count) + rest;
  };
  return {
      {"empty", "", {"not a GGUF file"}},
      {"magic", "GGML" + std::string(60, '\0'), {"not a GGUF file"}},
      {"only magic", "GGUF", {"truncated", "the version"}},
      {"version 1", gguf_header(0, 0, 1), {"version 1 is not supported", "2 and 3"}},
      {"version 4", gguf_header(0, 0, 4), {"version 4 is not supported"}},
      {"big-endian", gguf_header(0, 0, 0x03000000u), {"big-endian"}},
      {"tensor count", gguf_header(~uint64_t{0}, 0), {"tensors cannot stand"}},
      {"key count", gguf_header(0, uint64_t{1} << 60), {"metadata keys cannot stand"}},
      {"key length", header + raw(~uint64_t{0}) + std::string(64, 'x'), {"a metadata key", "at most 65535"}},
      {"key length beyond the file", header + raw(uint64_t{100}) + std::string(64, 'x'), {"truncated", "a metadata key"}},
      {"value type", header + key + raw(uint32_t{13}) + std::string(64, 'x'), {"metadata k", "type 13 is not known"}},
      {"string length", header + key + raw(uint32_t{8}) + raw(~uint64_t{0}) + std::string(64, 'x'), {"truncated", "a string"}},
      {"array count", array(4, uint64_t{1} << 62, "xxxx"), {"array elements cannot stand"}},
      {"array count of strings", array(8, uint64_t{1} << 61, std::string(64, '\0')), {"array elements cannot stand"}},
      {"array element type", array(99, 1, "xxxx"), {"type 99 is not known"}},
      {"string of an array", array(8, 1, raw(uint64_t{1000}) + std::string(8, 'x')), {"truncated", "a string"}},
      {"nesting", header + nested_arrays(5), {"nested more than 4"}},
      {"deep nesting", header + nested_arrays(100000), {"nested more than 4"}},
      {"key twice", gguf_header(0, 2) + gguf_u32("a", 1) + gguf_u32("a", 2), {"metadata a stands twice"}},
      {"truncated value", header + key + raw(uint32_t{10}) + "xx", {"truncated", "a value"}},
      {"split", gguf_header(0, 1) + gguf_u32("split.count", 2), {"one of several"}},
      {"alignment 0", gguf_header(0, 1) + gguf_u32("general.alignment", 0), {"general.alignment 0"}},
      {"alignment 24", gguf_header(0, 1) + gguf_u32("general.alignment", 24), {"general.alignment 24"}},
      {"alignment huge", gguf_header(0, 1) + gguf_u32("general.alignment", 0x80000000u), {"general.alignment"}},
  };
}

std::vector<Broken> broken_tensors() {
  const uint64_t huge = uint64_t{1} << 40;
  std::vector<Broken> table{
      {"truncated data", small_file(gguf_tensor("t", {8}, 0, 0), 31), {"truncated", "tensor t"}},
      {"no data", gguf_header(1, 0) + gguf_tensor("t", {8}, 0, 0), {"truncated", "tensor t"}},
      {"no dimensions", small_file(gguf_tensor("t", {}, 0, 0) + std::string(8, '\0'), 32), {"tensor t", "0 dimensions"}},
      {"five dimensions", small_file(gguf_tensor("t", {1, 1, 1, 1, 8}, 0, 0), 32), {"5 dimensions"}},
      {"many dimensions", small_file(gguf_string("t") + raw(~uint32_t{0}) + std::string(64, '\0'), 32), {"4294967295 dimensions"}},
      {"a zero dimension", small_file(gguf_tensor("t", {0, 8}, 0, 0), 32), {"dimension 0"}},
      {"a negative dimension", small_file(gguf_tensor("t", {~uint64_t{0}}, 0, 0), 32), {"out of bounds"}},
      {"dimensions overflow", small_file(gguf_tensor("t", {huge, huge}, 0, 0), 32), {"too large"}},
      {"dimensions overflow to 0", small_file(gguf_tensor("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), 32), {"too large"}},
      {"offset not aligned", small_file(gguf_tensor("t", {8}, 0, 8), 64), {"offset 8", "alignment 32"}},
      {"offset beyond the file", small_file(gguf_tensor("t", {8}, 0, 64), 32), {"truncated"}},
      {"offset wraps", small_file(gguf_tensor("t", {8}, 0, ~uint64_t{31}), 32), {"truncated"}},
      {"rows of parts of blocks", small_file(gguf_tensor("t", {48, 2}, 2, 0), 64), {"Q4_0", "blocks of 32"}},
      {"name length", small_file(gguf_tensor(std::string(300, 'n'), {8}, 0, 0), 32), {"a tensor name of 300"}},
      {"overlap",
       pad_to(gguf_header(2, 0) + gguf_tensor("a", {16}, 0, 0) + gguf_tensor("b", {8}, 0, 32), 32) + std::string(64, 'x'),
       {"tensor b overlaps"}},
      {"twice",
       pad_to(gguf_header(2, 0) + gguf_tensor("a", {8}, 0, 0) + gguf_tensor("a", {8}, 0, 32), 32) + std::string(64, 'x'),
       {"tensor a stands twice"}},
  };
  const std::pair<uint32_t, const char*> types[] = {{12, "Q4_K"}, {14, "Q6_K"},  {6, "Q5_0"},     {28, "F64"},
                                                    {24, "I8"},   {39, "MXFP4"}, {4, "number 4"}, {777, "number 777"}};
  for (const auto& [id, name] : types)
    table.push_back({name, small_file(gguf_tensor("t", {256}, id, 0), 4096), {"tensor t", name, "not supported", "Q8_0, Q4_0 and Q4_1"}});
  return table;
}

TEST(Gguf, BrokenFilesAreRefused) {
  ScratchFolder scratch;
  const auto path = scratch.path / "broken.gguf";
  for (const auto& table : {broken_metadata(), broken_tensors()})
    for (const Broken& broken : table) {
      write_file(path, broken.bytes);
      auto parts = broken.message;
      parts.push_back("broken.gguf");
      expect_refused([&] { GgufFile file(path); }, parts, broken.what);
    }
  write_file(path, small_file(gguf_tensor("t", {8}, 0, 0), 32));
  EXPECT_EQ(GgufFile(path).tensors().at("t").shape, (std::vector<int64_t>{8}));
}

// Cut anywhere, a file is refused or read; it never leads out of its bytes (run under ASan by make test-asan).
TEST(Gguf, AFileCutAnywhereIsRefused) {
  ScratchFolder scratch;
  const std::string whole = read_file(fixture("llama.gguf"));
  const auto path = scratch.path / "cut.gguf";
  for (size_t size = 0; size < whole.size(); size += size < 1500 ? 13 : 2039) {
    write_file(path, whole.substr(0, size));
    EXPECT_THROW(GgufFile file(path), UserError) << size;
  }
}

TEST(Gguf, ATokenizerIsReadFromAFileWithOtherTensorTypes) {
  ScratchFolder scratch;
  const auto path = scratch.path / "q4k.gguf";
  const auto strings = [](const std::string& key, const std::vector<std::string>& items) {
    std::string bytes = gguf_string(key) + raw(uint32_t{9}) + raw(uint32_t{8}) + raw(uint64_t{items.size()});
    for (const std::string& item : items) bytes += gguf_string(item);
    return bytes;
  };
  const std::string keys = gguf_string("tokenizer.ggml.model") + raw(uint32_t{8}) + gguf_string("gpt2") +
                           strings("tokenizer.ggml.tokens", {"a", "b", "ab"}) + strings("tokenizer.ggml.merges", {"a b"});
  const std::string tensor = gguf_tensor("t", {256}, 12, 0);
  write_file(path, small_file(tensor, 4096, keys + gguf_u32("tokenizer.ggml.bos_token_id", 2), 4));
  const auto vocabulary = vocabulary_from_gguf(GgufFile(path, GgufFile::Parts::metadata_only));
  EXPECT_EQ(vocabulary.model, "gpt2");
  EXPECT_EQ(vocabulary.tokens, (std::vector<std::string>{"a", "b", "ab"}));
  EXPECT_EQ(vocabulary.merges, (std::vector<std::string>{"a b"}));
  EXPECT_EQ(vocabulary.bos, 2);
  EXPECT_EQ(vocabulary.eos, -1);
  expect_refused([&] { GgufFile file(path); }, {"Q4_K"}, "tensors");
  write_file(path, small_file(tensor, 4096, keys + gguf_u32("tokenizer.ggml.bos_token_id", 3), 4));
  expect_refused([&] { vocabulary_from_gguf(GgufFile(path, GgufFile::Parts::metadata_only)); }, {"bos_token_id is 3", "3 tokens"}, "bos outside");
}

}  // namespace
}  // namespace hone::model
