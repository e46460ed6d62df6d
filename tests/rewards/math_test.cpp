// math: notations, hostile and tricky answers.
#include <gtest/gtest.h>

#include "judge_support.h"

namespace hone::rewards {
namespace {

struct Case {
  const char* gold;
  const char* given;
  const char* wanted;
};

TEST(Math, Numbers) {
  EXPECT_EQ(verdict("math", {{"answer", "5,600"}}, "5600"), "right 1");
}

}  // namespace
}  // namespace hone::rewards
