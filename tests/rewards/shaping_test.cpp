// length and repetition against their formulas.
#include <gtest/gtest.h>

#include <numeric>

#include "judge_support.h"

namespace hone::rewards {
namespace {

const nlohmann::json kRow = nlohmann::json::object();

TEST(Length, IsDaposSoftPenalty) {
  const auto is = [](size_t tokens, const char* wanted) {
    const std::vector<int32_t> ids(tokens, 7);
    EXPECT_EQ(verdict("length:100,20", kRow, "text", ids), wanted) << tokens;
  };
  is(1, "right 0");
  is(80, "right 0");
  is(81, "wrong -0.05");
  is(90, "wrong -0.5");
  is(100, "wrong -1");
  is(101, "wrong -1");
  is(5000, "wrong -1");
  EXPECT_EQ(verdict("length:100,20", kRow, ""), "right 0");
  EXPECT_EQ(verdict("length:100,20", kRow, "text without tokens"), "crashed -");
}

TEST(Length, BadNumbersAreRefused) {
  for (const char* spec : {"length:100", "length:a,b", "length:100,0", "length:100,101", "length:100,-1", "length:1,2,3", "length:1e3,1",
                           "length:99999999999999999999,1"})
    EXPECT_THAT(refusal(spec), testing::HasSubstr("MAX")) << spec;
}

TEST(Repetition, IsTheShareOfRepeatedNgrams) {
  EXPECT_EQ(verdict("repetition:2,1", kRow, "a b c d"), "right 0");
  EXPECT_EQ(verdict("repetition:2,1", kRow, "a b a b a"), "wrong -0.5");  // ab ba ab ba: 2 of 4
  EXPECT_EQ(verdict("repetition:2,-1", kRow, "A b\na  B a"), "wrong -0.5");
  EXPECT_EQ(verdict("repetition:1,0.5", kRow, "x x x x"), "wrong -0.375");  // 1 of 4
  EXPECT_EQ(verdict("repetition:3,1", kRow, "a a"), "right 0");
  EXPECT_EQ(verdict("repetition:3,1", kRow, ""), "right 0");
  EXPECT_EQ(verdict("repetition:1,1", kRow, "\xC3\x89t\xC3\xA9 \xC3\xA9t\xC3\xA9"), "wrong -0.5");
}

TEST(Repetition, BadNumbersAreRefused) {
  for (const char* spec :
       {"repetition:3", "repetition:0,1", "repetition:3,0", "repetition:3,x", "repetition:3,nan", "repetition:3,inf", "repetition:-1,1"})
    EXPECT_NE(refusal(spec), "accepted") << spec;
}

}  // namespace
}  // namespace hone::rewards
