// Every published vector of the gpt2 and smollm2 tokenizers.
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/text/tokenizer.h"
#include "shared_data.h"

namespace hone::text {
namespace {

struct Vectors {
  const char* family;
  const char* kind;
  size_t least;  // rows that must be there, so that an empty file cannot pass
};

class TokenizerVectors : public testing::TestWithParam<Vectors> {};

TEST_P(TokenizerVectors, IdsAndTextAgree) {
  const auto [family, kind, least] = GetParam();
  const auto folder = shared_tokenizers();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no tokenizer vectors in " << folder << " (set HONE_SHARED)";
  const auto path = folder / family / "tokenizer.json";
  const Tokenizer loaded = Tokenizer::from_json(read_text(path), path.string());
  const Tokenizer saved = Tokenizer::from_json(loaded.to_tokenizer_json(), "saved");
  EXPECT_EQ(loaded.hash(), saved.hash());
  const auto rows = read_jsonl(folder / (std::string(family) + "." + kind + ".jsonl"));
  ASSERT_GE(rows.size(), least);
  std::vector<std::string> texts;
  for (const auto& row : rows) texts.push_back(row["text"]);
  const auto batch = loaded.encode_batch(texts);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto ids = rows[i]["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(loaded.encode(texts[i]), ids) << "row " << i << ": " << rows[i]["text"];
    EXPECT_EQ(saved.encode(texts[i]), ids) << "row " << i << ": " << rows[i]["text"];
    EXPECT_EQ(batch[i], ids) << "row " << i;
    EXPECT_EQ(loaded.decode(ids), texts[i]) << "row " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, TokenizerVectors,
                         testing::Values(Vectors{"gpt2", "llamacpp", 44}, Vectors{"gpt2", "extended", 800}, Vectors{"gpt2", "special", 9},
                                         Vectors{"smollm2", "llamacpp", 46}, Vectors{"smollm2", "extended", 800}, Vectors{"smollm2", "special", 9}),
                         [](const auto& info) { return std::string(info.param.family) + "_" + info.param.kind; });

TEST(TokenizerVectors, ByteWithoutTokenIsNamed) {
  const auto path = shared_tokenizers() / "smollm2" / "tokenizer.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << " (set HONE_SHARED)";
  const Tokenizer tokenizer = Tokenizer::from_json(read_text(path), path.string());
  for (const int byte : {4, 6, 19, 20, 22, 29}) {
    try {
      tokenizer.encode(std::string("ab c") + static_cast<char>(byte));
      FAIL() << "byte " << byte << " was accepted";
    } catch (const UserError& error) {
      EXPECT_EQ(error.code(), Exit::usage);
      EXPECT_NE(std::string(error.what()).find(fmt::format("byte 0x{:02X} at offset 4", byte)), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace hone::text
