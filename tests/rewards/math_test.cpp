// math: where the answer is, which notations are equal, what hostile and tricky answers get.
#include <gtest/gtest.h>

#include "judge_support.h"

namespace hone::rewards {
namespace math_test {

struct Case {
  std::string gold, given, wanted;  // `given` stands in \boxed{}
};

void expect(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const Judgement judged = judgement("math", {{"answer", c.gold}}, "So it is $\\boxed{" + c.given + "}$.");
    EXPECT_EQ(verdict_name(judged.verdict), c.wanted) << "given " << c.given.substr(0, 100) << ", gold " << c.gold << ": " << judged.detail;
  }
}

TEST(Math, FindsTheAnswer) {
  const auto is = [](const std::string& completion, const std::string& wanted) {
    EXPECT_EQ(verdict("math", {{"answer", "12"}}, completion), wanted) << completion;
  };
  is("First \\boxed{3}, then \\boxed{12}. That is 5 more.", "right 1");
  is("First \\boxed{12}, then \\boxed{3}.", "wrong 0");
  is("\\boxed{12} and a cut one: \\boxed{3", "right 1");
  is("\\boxed{\\boxed{12}}", "right 1");
  is("\\fbox{12} of 13", "right 1");
  is("\\boxed 12, not 13", "right 1");
  is("\\boxed{}", "unparsed 0");
  is("8 + 4 = 12\n#### 12\nIs that right? 13", "right 1");
  is("#### 3\n#### 12", "right 1");
  is("####\n\n12", "right 1");
  is("**#### $12.00**", "right 1");
  is("A: 12", "right 1");
  is("A: It costs 12 dollars.", "right 1");
  is("#### 12\nA: 3", "wrong 0");
  is("DNA: 12, 3", "wrong 0");  // no marker inside a word
  is("There are 3 and 9, in all 12.", "right 1");
  is("There are 12 and then 3.", "wrong 0");
  is("15-3=12", "right 1");
  is("The answer is 12%", "right 1");
  is("I do not know.", "unparsed 0");
  is("", "unparsed 0");
  is("####", "unparsed 0");
  is("A: ", "unparsed 0");
  EXPECT_EQ(verdict("math", {{"answer", "3/4"}}, "It is \\frac{3}{4}."), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "2.5"}}, "That makes 2 1/2 cups."), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "-3"}}, "It is -3."), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "2"}}, "Then 7-5 is what we want: 5-2"), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "1234567"}}, "It is 1,234,567."), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "1.5e-3"}}, "It is 1.5e-3 m"), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "(3, 4)"}}, "(3,4)"), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "x^2 + 1"}}, "$1+x^2$"), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "B"}}, "A good question. The answer is (B), not C."), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "\\text{(B)}"}}, "So B."), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", "B"}}, "So it is a C."), "wrong 0");
}

TEST(Math, GoldsComeInTheSameForms) {
  for (const char* gold : {"12", "some text\n#### 12", "So $\\boxed{12}$.", "A: 12", " 12 "})
    EXPECT_EQ(verdict("math", {{"answer", gold}}, "\\boxed{12}"), "right 1") << gold;
  EXPECT_EQ(verdict("math", {{"answer", 12}}, "12"), "right 1");
  EXPECT_EQ(verdict("math", {{"answer", 0.5}}, "1/2"), "right 1");
}

TEST(Math, ABadGoldIsNotScored) {
  for (const char* gold : {"", "   ", "\\frac{1}{", "1/0", "10^{10^{10}}", "\\boxed{}", "\\sqrt{", "x ++", "(1, 2"}) {
    EXPECT_EQ(verdict("math", {{"answer", gold}}, "\\boxed{1}"), "gold-unparsed -") << gold;
    EXPECT_THAT(row_fault("math", {{"answer", gold}}), testing::HasSubstr("answer")) << gold;
  }
  EXPECT_EQ(verdict("math", nlohmann::json::object(), "1"), "gold-unparsed -");
  EXPECT_EQ(row_fault("math", {{"answer", "\\frac12"}}), "");
}

TEST(Math, EqualNumbers) {
  expect({{"5,600", "5600", "right"},
          {"371,\\!043,\\!400", "371043400", "right"},
          {"90{,}900{,}909", "90,900,909", "right"},
          {"10000", "10\\,000", "right"},
          {"0.5", "\\frac12", "right"},
          {"\\frac{3}{4}", "0.75", "right"},
          {"\\frac{3}{4}", "3/4", "right"},
          {"\\frac{3}{4}", "\\dfrac{6}{8}", "right"},
          {"-\\frac32", "\\frac{-3}{2}", "right"},
          {"\\frac 9{20}", "0.45", "right"},
          {"\\frac{1}{3}", "0.333", "wrong"},
          {"\\frac{1}{3}", "0.\\overline{3}", "right"},
          {"\\frac{1}{6}", "0.1\\overline{6}", "right"},
          {"6\\frac15", "6.2", "right"},
          {"1\\frac{9}{10}", "19/10", "right"},
          {"2.5", "2 1/2", "right"},
          {"2\\frac{1}{2}", "1", "wrong"},
          {"1e3", "1000", "right"},
          {"1.5 \\times 10^{-3}", "0.0015", "right"},
          {"3^{2007}", "3 \\cdot 3^{2006}", "right"},
          {"3^{2007}", "3^{2006}", "wrong"},
          {"100000000000000000000000000000000000000000000000001", "100000000000000000000000000000000000000000000000000", "wrong"},
          {"44\\%", "44", "right"},
          {"44\\%", "0.44", "right"},
          {"0.44", "44\\%", "right"},
          {"44", "44%", "right"},
          {"0.44", "44", "wrong"},
          {"007", "7", "right"},
          {"8", "010", "wrong"},
          {"5!", "120", "right"},
          {"\\binom{5}{2}", "10", "right"},
          {"i", "i^5", "right"},
          {"-5+4i", "4i - 5", "right"},
          {"6+8i", "6-8i", "wrong"}});
}

TEST(Math, Units) {
  expect({{"18\\text{ hours}", "18", "right"},
          {"18", "18 hours", "right"},
          {"18\\text{ hours}", "18\\text{ minutes}", "wrong"},
          {"85\\text{ feet}", "85 ft", "right"},
          {"864 \\mbox{ inches}^2", "864", "right"},
          {"45 \\text{ units}^2", "45", "right"},
          {"144 \\mbox{ m}^3", "144", "right"},
          {"12 m", "12", "right"},
          {"12", "12 \\text{ m}^2", "right"},
          {"12m", "12n", "wrong"},
          {"\\$ 10", "10.00", "right"},
          {"-\\$0.50", "-0.5", "right"},
          {"\\$115,000", "\\$115{,}000", "right"},
          {"39^\\circ", "39", "right"},
          {"39", "39^{\\circ}", "right"},
          {"\\cos 13^\\circ", "\\sin 77^\\circ", "right"},
          {"\\cos 13^\\circ", "\\cos 13", "wrong"},
          {"0.25\\,\\text{ cm}", "\\frac{1}{4}", "right"},
          {"60", "60 miles/hour", "right"},
          {"5", "5 feet 3 inches", "unparsed"},
          {"\\text{1:03 PM}", "1:03 PM", "right"},
          {"\\text{1:03 PM}", "1:03 AM", "wrong"}});
}

TEST(Math, SymbolicEquality) {
  expect({{"2\\sqrt{22}", "\\sqrt{88}", "right"},
          {"\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}", "right"},
          {"\\frac{\\sqrt{6}+\\sqrt2}{4}", "\\cos 15^\\circ", "right"},
          {"2\\sqrt{22}", "2\\sqrt{21}", "wrong"},
          {"\\sqrt[3]{-8}", "-2", "right"},
          {"4", "8^{2/3}", "right"},
          {"9\\pi", "\\pi \\cdot 3^2", "right"},
          {"9\\pi", "28.274", "wrong"},
          {"\\frac{2}{3}\\pi", "\\frac{2\\pi}{3}", "right"},
          {"\\sqrt{5+2\\sqrt6}", "\\sqrt2+\\sqrt3", "right"},
          {"7(x+3) (x-3)", "7x^2 - 63", "right"},
          {"x^3+27", "(x+3)(x^2-3x+9)", "right"},
          {"x^3+27", "(x+3)(x^2-3x-9)", "wrong"},
          {"\\frac{2x-7}{(x+1)(x-2)}", "\\frac{3}{x+1} - \\frac{1}{x-2}", "right"},
          {"36x \\sqrt{35x}", "36 x^{3/2}\\sqrt{35}", "right"},
          {"\\frac{1}{y} + y", "\\frac{1+y^2}{y}", "right"},
          {"2 \\tan x", "\\frac{2\\sin x}{\\cos x}", "right"},
          {"\\log_2 8", "3", "right"},
          {"\\ln e^2", "2", "right"},
          {"3 - 2f(x)", "-2f(x)+3", "right"},
          {"2k+2", "2(k+1)", "right"},
          {"x", "y", "wrong"},
          {"|{-3}|", "3", "right"}});
}

TEST(Math, StructuredAnswers) {
  expect({{"(9,11)", "\\left( 9, 11 \\right)", "right"},
          {"(9,11)", "(11,9)", "wrong"},
          {"(9,11)", "[9,11]", "wrong"},
          {"(9,11)", "9,11", "wrong"},
          {"[0,1)", "[0, 1.0)", "right"},
          {"[0,1)", "[0,1]", "wrong"},
          {"(-\\infty, 2) \\cup (3, \\infty)", "(3,\\infty)\\cup(-\\infty,2)", "right"},
          {"(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty, 2] \\cup (3, \\infty)", "wrong"},
          {"(3,\\infty)", "x > 3", "right"},
          {"[-2,7]", "-2 \\le x \\le 7", "right"},
          {"x \\in [-2,7]", "[-2,7]", "right"},
          {"(-\\infty,-5]\\cup[5,\\infty)", "x \\leq -5 \\text{ or } x \\geq 5", "right"},
          {"6, -2", "-2, 6", "right"},
          {"6, -2", "6", "wrong"},
          {"6, -2", "6, -2, 6", "wrong"},
          {"7, -2, \\text{ and } -5", "-5, -2, 7", "right"},
          {"1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}", "right"},
          {"\\{1\\pm\\sqrt{5},-2\\}", "\\{-2, 1+\\sqrt5, 1-\\sqrt5\\}", "right"},
          {"\\{1,2\\}", "\\{2,1\\}", "right"},
          {"\\begin{pmatrix} 2/5 \\\\ -1/5 \\\\ 0 \\end{pmatrix}", "\\begin{bmatrix} 0.4 \\\\ -0.2 \\\\ 0 \\end{bmatrix}", "right"},
          {"\\begin{pmatrix} 3 & 6 \\\\ 2 & 7 \\end{pmatrix}", "\\begin{pmatrix} 3 & 2 \\\\ 6 & 7 \\end{pmatrix}", "wrong"},
          {"\\begin{pmatrix} 3 & 6 \\\\ 2 & 7 \\end{pmatrix}", "\\begin{pmatrix} 3 & 6 \\\\ 7 & 2 \\end{pmatrix}", "wrong"},
          {"\\begin{pmatrix} 1/2 & 1 \\\\ 0 & 1 \\end{pmatrix}", "\\frac12 \\begin{pmatrix} 1 & 2 \\\\ 0 & 2 \\end{pmatrix}", "right"},
          {"\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "(1, 2)", "right"},
          {"x = 3", "3", "right"},
          {"3", "x = 3", "right"},
          {"3", "1 + 2 = 3", "right"},
          {"12", "4x = 12", "wrong"},
          {"y = 2x + 3", "2x + 3", "right"},
          {"y = 2x + 3", "2x - y + 3 = 0", "right"},
          {"y = 2x + 3", "y = 2x - 3", "wrong"},
          {"10x - 4y - 5z - 20 = 0", "5z + 4y - 10x = -20", "right"},
          {"f(2) < f(1) < f(4)", "f(4) > f(1) > f(2)", "right"},
          {"f(2) < f(1) < f(4)", "f(1) < f(2) < f(4)", "wrong"},
          {"3:1", "6:2", "right"},
          {"3:1", "1:3", "wrong"},
          {"1:2:3", "2:4:6", "right"},
          {"1200_7", "1200_{7}", "right"},
          {"1200_7", "1200", "right"},
          {"1200_7", "1200_8", "wrong"},
          {"152A_{11}", "152A_{11}", "right"},
          {"221_3", "25", "wrong"}});
}

TEST(Math, WordsAndChoices) {
  expect({{"\\text{Evelyn}", "Evelyn", "right"},
          {"\\text{Evelyn}", "\\textbf{evelyn}", "right"},
          {"\\text{Evelyn}", "Carla", "wrong"},
          {"\\text{odd}", "odd", "right"},
          {"\\text{odd}", "even", "wrong"},
          {"\\text{June 20}", "June 20", "right"},
          {"\\text{(C)}", "C", "right"},
          {"\\text{(C)}", "\\text{C}", "right"},
          {"\\text{(C)}", "(C)", "right"},
          {"C", "\\text{C.}", "right"},
          {"C", "D", "wrong"},
          {"\\text{C,E}", "C, E", "right"},
          {"\\text{C,E}", "E, C", "right"},
          {"5", "five", "unparsed"},
          {"5", "\\text{I do not know}", "unparsed"}});
}

TEST(Math, HostileAnswersEndSoon) {
  std::string nested, squares = "2", product = "(1+x)", fractions = "x", choices = "\\{1";
  for (int i = 0; i < 5000; ++i) nested += "(";
  for (int i = 0; i < 200; ++i) squares = "(" + squares + ")^2", product += "(1+x^" + std::to_string(i) + ")";
  for (int i = 0; i < 60; ++i) fractions = "\\frac{1}{1+" + fractions + "}", choices += "\\pm\\{1";
  expect({{"5", "10^10^10", "timed-out"},
          {"5", "10^{10^{10}}", "timed-out"},
          {"5", "9^{9^{9^{9}}}", "timed-out"},
          {"x", "x^{10^{10}}", "timed-out"},
          {"5", "(2^{65000})^{65000}", "timed-out"},
          {"5", "1e999999999", "timed-out"},
          {"5", "1e-999999999999999999999999", "timed-out"},
          {"5", "99999999!", "timed-out"},
          {"5", "\\binom{99999999}{5}", "timed-out"},
          {"5", std::string(1000000, '9'), "timed-out"},
          {"5", "0." + std::string(15000, '3'), "timed-out"},
          {"5", nested + "5" + std::string(5000, ')'), "timed-out"},
          {"5", nested, "timed-out"},
          {"5", std::string(5000, '-') + "5", "timed-out"},
          {"5", squares, "timed-out"},
          {"5", product, "timed-out"},
          {"5", fractions, "timed-out"},
          {"5", choices, "timed-out"},
          {"5", "e^{e^{e^{e^{e}}}}", "timed-out"},
          {"5", "\\sin(10^{100})", "timed-out"},
          {"5", "1/0", "wrong"},
          {"5", "0^{-1}", "wrong"},
          {"5", "\\log 0", "wrong"},
          {"5", "\\frac{5}{}", "unparsed"},
          {"5", "5 5", "unparsed"},
          {"5", "\\undefinedcommand{5}", "unparsed"},
          {"5", "\\", "unparsed"},
          {"5", "_", "unparsed"},
          {"5", "\\begin{pmatrix}", "unparsed"},
          {"5", "\\text{", "unparsed"},
          {"5", "&&&", "unparsed"},
          {"5", "NaN", "wrong"},
          {"5", "\\infty", "wrong"},
          {"5", "inf", "wrong"},
          {"5", std::string("5\0", 2), "unparsed"},
          {"5", "\xFF\xFE", "unparsed"},
          {"5", "5 or 6", "wrong"},
          {"5", "4, 5, 6", "wrong"},
          {"5", "5 \\pm 0", "wrong"}});
  const auto is = [](const std::string& completion, const char* wanted) { EXPECT_EQ(verdict("math", {{"answer", "5"}}, completion), wanted); };
  std::string boxes, markers;
  for (int i = 0; i < 100000; ++i) boxes += "\\boxed{", markers += "A:A: ";
  is(boxes, "unparsed 0");
  is(markers, "unparsed 0");
  is(fmt::format("{:1>1000000}", " 5"), "right 1");
  is(std::string(1000000, '1'), "timed-out 0");
  is(std::string(3000000, '{'), "unparsed 0");
}

}  // namespace math_test
}  // namespace hone::rewards
