// math: is the answer of a completion the row's answer, in whatever notation? docs/rlvr.md says what is understood and how it is decided.
#include <algorithm>
#include <cctype>
#include <optional>

#include "hone/rewards/makers.h"
#include "hone/rewards/math_answer.h"
#include "hone/rewards/math_tree.h"

namespace hone::rewards {
namespace {

using namespace math;

constexpr size_t kMaxAnswer = 20000;  // bytes

std::string without_space(std::string_view text) {
  std::string out;
  std::copy_if(text.begin(), text.end(), std::back_inserter(out), [](unsigned char c) { return !std::isspace(c); });
  return out;
}

// 1,234 may be one number or two; both readings count where it occurs.
bool has_ambiguous_comma(std::string_view text) {
  for (size_t at = text.find(','); at != text.npos; at = text.find(',', at + 1))
    if (at > 0 && at + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[at - 1])) &&
        std::isdigit(static_cast<unsigned char>(text[at + 1])))
      return true;
  return false;
}

// An answer's readings; none where it cannot be read.
std::vector<ParsedAnswer> readings(std::string_view text, Steps& steps) {
  if (text.size() > kMaxAnswer) throw OverLimit{};
  std::vector<ParsedAnswer> all;
  const std::string clean = cleaned(text);
  for (const bool thousands : {true, false}) {
    if (!thousands && !has_ambiguous_comma(clean)) break;
    ParsedAnswer parsed;
    if (!clean.empty() && parse_answer(clean, {thousands}, steps, parsed)) all.push_back(std::move(parsed));
  }
  return all;
}

std::string_view gold_text(std::string_view answer) {
  const auto marked = marked_answer(answer);
  return marked ? marked->text : answer;
}

// What is wrong with a gold answer; empty: nothing.
std::string gold_fault(std::string_view text) {
  try {
    Steps steps;
    const std::vector<ParsedAnswer> gold = readings(text, steps);
    if (gold.empty()) return "cannot be read as a mathematical answer";
    for (const ParsedAnswer& g : gold)
      if (equal_answers(g, g, steps)) return {};
    return "has no value";
  } catch (const OverLimit&) {
    return "is too long or too large to be compared with";
  }
}

bool matches(std::string_view given_text, std::string_view text, const std::vector<ParsedAnswer>& given, const std::vector<ParsedAnswer>& gold,
             Steps& steps) {
  if (without_space(cleaned(given_text)) == without_space(cleaned(text))) return true;
  const bool words = std::any_of(gold.begin(), gold.end(), [](const ParsedAnswer& g) { return g.is_words; });
  if (words && as_words(given_text) == as_words(text)) return true;
  for (const ParsedAnswer& a : given)
    for (const ParsedAnswer& b : gold)
      if (equal_answers(a, b, steps)) return true;
  return false;
}

bool is_choice(std::string_view gold) {
  const std::string words = as_words(gold);
  return words.size() == 1 && words[0] >= 'A' && words[0] <= 'J';
}

std::string shown(std::string_view text) {
  constexpr size_t longest = 60;
  size_t end = std::min(text.size(), longest);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return "'" + std::string(text.substr(0, end)) + (end < text.size() ? "...'" : "'");
}

bool is_one_number(const std::vector<ParsedAnswer>& gold) { return is_expression(*gold[0].tree.root) && !contains(*gold[0].tree.root, Kind::symbol); }

// Where the answer is and what it reads as; an answer behind a marker that is no expression counts by its last number.
struct Reading {
  std::string_view text;
  std::vector<ParsedAnswer> parsed;
};
std::optional<Reading> read_answer(std::string_view completion, std::string_view gold_source, const std::vector<ParsedAnswer>& gold, Steps& steps) {
  const bool wants_words = gold[0].is_words;
  const auto usable = [&](const std::vector<ParsedAnswer>& parsed) { return !parsed.empty() && (wants_words || !parsed[0].is_words); };
  std::optional<FoundAnswer> found = marked_answer(completion);
  if (!found && is_choice(gold_source)) {
    if (const auto choice = last_choice(completion)) found = {*choice, Source::whole};
  } else if (!found && !is_one_number(gold) && completion.size() <= kMaxAnswer) {
    Reading whole{completion, readings(completion, steps)};
    if (usable(whole.parsed) && !is_one_number(whole.parsed)) return whole;
  }
  if (found) {
    Reading reading{found->text, readings(found->text, steps)};
    if (usable(reading.parsed)) return reading;
    if (wants_words && as_words(found->text) == as_words(gold_source)) return reading;
    if (found->source == Source::boxed) return std::nullopt;
    completion = found->text;
  }
  if (wants_words) return std::nullopt;
  const auto number = last_number(completion);
  if (!number) return std::nullopt;
  return Reading{*number, readings(*number, steps)};
}

Judgement judge_answer(const Sample& sample) {
  const auto answer = gold_answer(*sample.row);
  if (!answer) return {Verdict::gold_unparsed, std::nullopt, missing_answer(*sample.row)};
  const std::string_view text = gold_text(*answer);
  const auto bad_gold = [&](const std::string& fault) {
    return Judgement{Verdict::gold_unparsed, std::nullopt, "the gold answer " + shown(text) + " " + fault};
  };
  try {
    Steps steps;
    const std::vector<ParsedAnswer> gold = readings(text, steps);
    if (gold.empty()) return bad_gold("cannot be read as a mathematical answer");
    const std::optional<Reading> given = read_answer(sample.completion, text, gold, steps);
    if (!given || (given->parsed.empty() && !gold[0].is_words)) return {Verdict::unparsed, 0.0, "no answer found, wanted " + shown(text)};
    if (matches(given->text, text, given->parsed, gold, steps)) return {Verdict::right, 1.0, {}};
    if (const std::string fault = gold_fault(text); !fault.empty()) return bad_gold(fault);
    return {Verdict::wrong, 0.0, "found " + shown(given->text) + ", wanted " + shown(text)};
  } catch (const OverLimit&) {
    if (const std::string fault = gold_fault(text); !fault.empty()) return bad_gold(fault);
    return {Verdict::timed_out, 0.0, "the answer is too long or too large to be compared"};
  }
}

class Math : public Reward {
 public:
  std::string check_row(const nlohmann::json& row) const override {
    const auto answer = gold_answer(row);
    if (!answer) return missing_answer(row);
    const std::string_view text = gold_text(*answer);
    const std::string fault = gold_fault(text);
    return fault.empty() ? "" : "\"answer\" " + shown(text) + " " + fault;
  }
  std::vector<Judgement> judge(std::span<const Sample> samples) override { return judge_each(samples, judge_answer); }
};

}  // namespace

std::unique_ptr<Reward> make_math(const std::string&, const RewardSettings&) { return std::make_unique<Math>(); }

}  // namespace hone::rewards
