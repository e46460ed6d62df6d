// Hostile text through every verifier that runs in this process: valid answers cut, spliced and damaged, thousands of them, as completion and as
// gold. Each gets a typed verdict and a finite score or none; nothing throws, crashes or hangs (under the sanitizers too).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "base/temp_folder.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

using nlohmann::json;

constexpr int kTries = 1500;  // for each reward; a second or so in release, tens of seconds under the sanitizers

const std::vector<std::string>& whole_answers() {
  static const std::vector<std::string> all = {"So it is \\boxed{\\frac{3}{4}}.",
                                               "First 3 + 4 = 7.\n#### 7",
                                               "\\boxed{\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}}",
                                               "A: -1,234.50%",
                                               "$x^2 + 2x + 1 = (x+1)^2$",
                                               "\\boxed{(-\\infty, 2] \\cup [3, \\infty)}",
                                               "{\"name\": [1, 2.5e3, null, \"\\u00e9\"], \"deep\": {\"a\": {\"b\": true}}}",
                                               "```json\n{\"name\": 1}\n```",
                                               "<think>hm</think><answer>8</answer>",
                                               "* one\n* two\n\nP.S. \"quoted\" <<Title>> [placeholder]",
                                               "naïve 你好 🎈 \u202e\u0000",
                                               "\\sqrt[3]{8} \\cdot \\log_2 8 - 3! + \\binom{5}{2}",
                                               "10^{10^{10}}",
                                               "the the the the the the"};
  return all;
}

/// Damages text as an adversary, or a broken model, would.
class Damage {
 public:
  explicit Damage(uint32_t seed) : random_(seed) {}
  std::string text() {
    std::string s = pick(whole_answers());
    for (size_t n = below(6); n > 0; --n) damage(s);
    return s.substr(0, 4096);
  }

 private:
  size_t below(size_t n) { return random_() % n; }
  const std::string& pick(const std::vector<std::string>& from) { return from[below(from.size())]; }
  void damage(std::string& s) {
    static const std::vector<std::string> pieces = {"\\frac{",
                                                    "{",
                                                    "}",
                                                    "\\\\",
                                                    "^",
                                                    "_",
                                                    "$",
                                                    "\\boxed{",
                                                    "1e999",
                                                    "-",
                                                    "\\left(",
                                                    "\\end{",
                                                    "\\begin{array}{",
                                                    "[",
                                                    "]",
                                                    "\"",
                                                    ",",
                                                    "####",
                                                    "%",
                                                    "\xff",
                                                    "\xc3",
                                                    std::string(1, '\0'),
                                                    "<think>",
                                                    "999999999999999999999999",
                                                    "\\sqrt",
                                                    "!",
                                                    "&",
                                                    "::",
                                                    "|",
                                                    "\n"};
    const size_t at = below(s.size() + 1);
    switch (below(6)) {
      case 0:
        s.insert(at, pick(pieces));
        break;
      case 1:
        s.resize(at);
        break;
      case 2:
        s.erase(0, at);
        break;
      case 3:
        s.insert(at, pick(whole_answers()));
        break;
      case 4:
        if (at < s.size()) s[at] = static_cast<char>(below(256));
        break;
      default: {  // the same again and again: nesting, towers, long runs
        const std::string& piece = pick(pieces);
        std::string run;
        for (size_t n = below(200); n > 0; --n) run += piece;
        s.insert(at, run);
      }
    }
  }
  std::mt19937 random_;
};

void expect_typed(const std::string& spec, const json& row, const std::string& completion) {
  const auto reward = make_reward(spec, {});
  const std::vector<int32_t> ids(completion.size() % 50, 3);
  const Sample samples[] = {{&row, completion, ids, false}, {&row, "", {}, true}};
  std::vector<Judgement> judged;
  ASSERT_NO_THROW({
    (void)reward->check_row(row);
    judged = reward->judge(samples);
  }) << spec
     << "  " << row.dump(-1, ' ', true, json::error_handler_t::replace) << "\n"
     << completion;
  ASSERT_EQ(judged.size(), 2u);
  for (const Judgement& j : judged) {
    EXPECT_TRUE(find_verdict(verdict_name(j.verdict)) == j.verdict);
    EXPECT_TRUE(!j.reward || std::isfinite(*j.reward)) << spec << "  " << completion;
  }
}

class Fuzz : public testing::TestWithParam<const char*> {};

TEST_P(Fuzz, EveryTextGetsATypedVerdict) {
  Damage damage(20261129);
  for (int i = 0; i < kTries && !HasFatalFailure(); ++i)
    expect_typed(GetParam(), {{"answer", damage.text()}, {"prompt", damage.text()}}, damage.text());
}

INSTANTIATE_TEST_SUITE_P(Rewards, Fuzz,
                         testing::Values("math", "exact", "regex:^(a|b)*[0-9]+$", "format:<think>.*</think>.*", "length:32,8", "repetition:3,0.5"));

TEST(FuzzJson, EveryTextGetsATypedVerdict) {
  const test::TempFolder folder;
  const std::string file = (folder / "schema.json").string();
  std::ofstream(file) << R"({"type":"object","required":["name"],"properties":{"name":{"type":"array","maxItems":3},"deep":{"type":"object"}}})";
  Damage damage(7);
  for (int i = 0; i < kTries && !HasFatalFailure(); ++i) expect_typed("json:" + file, json::object(), damage.text());
}

// Schemas are read before step 0: a broken one is refused by a message, whatever is broken about it.
TEST(FuzzJson, ADamagedSchemaIsRefusedOrRead) {
  const test::TempFolder folder;
  const std::string file = (folder / "schema.json").string();
  Damage damage(8);
  for (int i = 0; i < kTries; ++i) {
    std::ofstream(file, std::ios::trunc) << damage.text();
    try {
      make_reward("json:" + file, {});
    } catch (const UserError&) {
    }
  }
}

TEST(FuzzIfEval, EveryTextGetsATypedVerdict) {
  const json ids = {"keywords:existence",        "length_constraints:number_words", "detectable_format:json_format",
                    "startend:end_checker",      "change_case:english_lowercase",   "detectable_format:number_bullet_lists",
                    "combination:repeat_prompt", "detectable_content:postscript"};
  const json good = {json{{"keywords", {"a"}}},
                     json{{"num_words", 3}, {"relation", "at least"}},
                     json::object(),
                     json{{"end_phrase", "x"}},
                     json::object(),
                     json{{"num_bullets", 2}},
                     json{{"prompt_to_repeat", "p"}},
                     json{{"postscript_marker", "P.S."}}};
  Damage damage(9);
  for (int i = 0; i < kTries && !testing::Test::HasFatalFailure(); ++i) {
    json kwargs = good;
    if (i % 2)
      kwargs[static_cast<size_t>(i) % kwargs.size()] = json{{"num_words", damage.text()}, {"relation", i}, {"keywords", i}, {"num_bullets", -1}};
    const json row{{"instruction_id_list", ids}, {"kwargs", kwargs}, {"prompt", damage.text()}};
    if (make_reward("ifeval", {})->check_row(row).empty()) expect_typed("ifeval", row, damage.text());
  }
}

}  // namespace
}  // namespace hone::rewards
