// exact, regex:PATTERN and format:PATTERN. Patterns are RE2's: linear in the completion's length, whatever the pattern.
#include <re2/re2.h>

#include "hone/base/error.h"
#include "hone/rewards/makers.h"

namespace hone::rewards {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view space = " \t\r\n\v\f";
  const size_t begin = text.find_first_not_of(space);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

Judgement scored(bool right, std::string detail = {}) { return {right ? Verdict::right : Verdict::wrong, right ? 1.0 : 0.0, std::move(detail)}; }

// The start of a text for a detail line.
std::string start_of(std::string_view text) {
  constexpr size_t longest = 60;
  if (text.size() <= longest) return std::string(text);
  size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return std::string(text.substr(0, end)) + "...";
}

class Exact : public Reward {
 public:
  std::string check_row(const nlohmann::json& row) const override { return gold_answer(row) ? "" : missing_answer(row); }
  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    return judge_each(samples, [](const Sample& sample) -> Judgement {
      const auto gold = gold_answer(*sample.row);
      if (!gold) return {Verdict::gold_unparsed, std::nullopt, missing_answer(*sample.row)};
      if (trimmed(sample.completion) == trimmed(*gold)) return scored(true);
      return scored(false, "wanted '" + start_of(trimmed(*gold)) + "'");
    });
  }
};

std::unique_ptr<re2::RE2> compiled(const char* word, const std::string& pattern, bool dot_is_any) {
  re2::RE2::Options options;
  options.set_log_errors(false);
  options.set_dot_nl(dot_is_any);
  auto result = std::make_unique<re2::RE2>(pattern, options);
  if (!result->ok()) fail("--reward {}:{}: {} (the syntax is RE2's: no look-around and no back-references)", word, pattern, result->error());
  return result;
}

class Regex : public Reward {
 public:
  explicit Regex(const std::string& pattern) : pattern_(compiled("regex", pattern, false)) {
    const auto& groups = pattern_->NamedCapturingGroups();
    if (const auto it = groups.find("answer"); it != groups.end()) answer_group_ = it->second;
  }
  std::string check_row(const nlohmann::json& row) const override { return !answer_group_ || gold_answer(row) ? "" : missing_answer(row); }
  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    return judge_each(samples, [this](const Sample& sample) {
      return answer_group_ ? compare(sample) : scored(re2::RE2::PartialMatch(sample.completion, *pattern_));
    });
  }

 private:
  static constexpr size_t kMostLookedAt = size_t{1} << 27;  // bytes; about a second
  // The last match's group `answer` against the gold answer.
  Judgement compare(const Sample& sample) const {
    const auto gold = gold_answer(*sample.row);
    if (!gold) return {Verdict::gold_unparsed, std::nullopt, missing_answer(*sample.row)};
    const re2::StringPiece text(sample.completion);
    std::vector<re2::StringPiece> groups(static_cast<size_t>(answer_group_) + 1);
    std::optional<std::string_view> answer;
    // A match may look at all of the rest and take a byte of it: without a bound the search for the last one is quadratic.
    size_t looked_at = 0;
    for (size_t at = 0;
         at <= text.size() && pattern_->Match(text, at, text.size(), re2::RE2::UNANCHORED, groups.data(), static_cast<int>(groups.size()));) {
      if (const re2::StringPiece& group = groups.back(); group.data()) answer = std::string_view(group.data(), group.size());
      const size_t end = static_cast<size_t>(groups[0].data() - text.data()) + groups[0].size();
      looked_at += text.size() - at;
      at = std::max(end, at + 1);
      if (looked_at > kMostLookedAt)
        return {Verdict::timed_out, std::nullopt, "the pattern matches too many times: the search for the last one was given up"};
    }
    if (!answer) return {Verdict::unparsed, 0.0, "the pattern's group 'answer' matches nowhere"};
    if (trimmed(*answer) == trimmed(*gold)) return scored(true);
    return scored(false, "found '" + start_of(trimmed(*answer)) + "', wanted '" + start_of(trimmed(*gold)) + "'");
  }

  std::unique_ptr<re2::RE2> pattern_;
  int answer_group_ = 0;
};

class Format : public Reward {
 public:
  explicit Format(const std::string& pattern) : pattern_(compiled("format", pattern, true)) {}
  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    return judge_each(samples, [this](const Sample& sample) { return scored(re2::RE2::FullMatch(sample.completion, *pattern_)); });
  }

 private:
  std::unique_ptr<re2::RE2> pattern_;
};

}  // namespace

std::unique_ptr<Reward> make_exact(const std::string&, const RewardSettings&) { return std::make_unique<Exact>(); }
std::unique_ptr<Reward> make_regex(const std::string& argument, const RewardSettings&) { return std::make_unique<Regex>(argument); }
std::unique_ptr<Reward> make_format(const std::string& argument, const RewardSettings&) { return std::make_unique<Format>(argument); }

}  // namespace hone::rewards
