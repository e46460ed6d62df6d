// length:MAX,CACHE and repetition:N,MAX: penalties that shape what is sampled; 0 is the best that a completion can get.
#include <charconv>
#include <cmath>
#include <unordered_set>

#include "hone/base/error.h"
#include "hone/rewards/ifeval.h"
#include "hone/rewards/makers.h"

namespace hone::rewards {
namespace {

// The two numbers of "A,B"; UserError naming the spec.
template <class First, class Second>
std::pair<First, Second> two_numbers(const std::string& spec, const std::string& argument, const char* form) {
  First first{};
  Second second{};
  const char* end = argument.data() + argument.size();
  const auto a = std::from_chars(argument.data(), end, first);
  if (a.ec == std::errc{} && a.ptr != end && *a.ptr == ',') {
    const auto b = std::from_chars(a.ptr + 1, end, second);
    if (b.ec == std::errc{} && b.ptr == end) return {first, second};
  }
  fail("--reward {}:{}: write {}:{} with two numbers", spec, argument, spec, form);
}

Judgement penalty(double amount, std::string detail) {
  if (amount > 0) return {Verdict::wrong, -amount, std::move(detail)};
  return {Verdict::right, 0.0, {}};
}

// The soft overlong penalty of DAPO (arXiv:2503.14476, equation 13), in tokens:
//   0 up to MAX - CACHE, falling by a straight line to -1 at MAX, -1 beyond
class Length : public Reward {
 public:
  Length(int64_t most, int64_t cache) : most_(most), cache_(cache) {}
  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    return judge_each(samples, [this](const Sample& sample) -> Judgement {
      if (sample.ids.empty() && !sample.completion.empty())
        return {Verdict::crashed, std::nullopt, "the completion's tokens are not known, only its text"};
      const auto length = static_cast<int64_t>(sample.ids.size());
      const int64_t over = length - (most_ - cache_);
      const double amount = over <= 0 ? 0.0 : length > most_ ? 1.0 : static_cast<double>(over) / static_cast<double>(cache_);
      return penalty(amount, fmt::format("{} tokens", length));
    });
  }

 private:
  int64_t most_, cache_;
};

// The repetition penalty of arXiv:2502.03373 as in open-r1: MAX (1 - distinct n-grams / n-grams) over words in lower case between white space.
class Repetition : public Reward {
 public:
  Repetition(int64_t n, double most) : n_(static_cast<size_t>(n)), most_(most) {}
  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    return judge_each(samples, [this](const Sample& sample) {
      const double share = repeated(sample.completion);
      return penalty(most_ * share, fmt::format("{:.0f} % of its {}-grams are repeats", 100 * share, n_));
    });
  }

 private:
  double repeated(std::string_view text) const {
    std::string low;
    std::vector<std::pair<size_t, size_t>> words;  // begin and end of each, in `low`, which has one space between words
    for (size_t at = 0; at < text.size();) {
      const size_t begin = text.find_first_not_of(" \t\r\n\v\f", at);
      if (begin == text.npos) break;
      const size_t end = std::min(text.find_first_of(" \t\r\n\v\f", begin), text.size());
      if (!low.empty()) low += ' ';
      const std::string word = ifeval::lower(text.substr(begin, end - begin));
      words.emplace_back(low.size(), low.size() + word.size());
      low += word;
      at = end;
    }
    if (words.size() < n_) return 0;
    std::unordered_set<std::string_view> distinct;
    const size_t total = words.size() - n_ + 1;
    for (size_t i = 0; i < total; ++i) distinct.insert(std::string_view(low).substr(words[i].first, words[i + n_ - 1].second - words[i].first));
    return 1.0 - static_cast<double>(distinct.size()) / static_cast<double>(total);
  }

  size_t n_;
  double most_;
};

}  // namespace

std::unique_ptr<Reward> make_length(const std::string& argument, const RewardSettings&) {
  const auto [most, cache] = two_numbers<int64_t, int64_t>("length", argument, "MAX,CACHE");
  if (cache < 1 || most < cache) fail("--reward length:{}: MAX and CACHE are numbers of tokens with 1 <= CACHE <= MAX", argument);
  return std::make_unique<Length>(most, cache);
}

std::unique_ptr<Reward> make_repetition(const std::string& argument, const RewardSettings&) {
  const auto [n, most] = two_numbers<int64_t, double>("repetition", argument, "N,MAX");
  if (n < 1 || n > 1000) fail("--reward repetition:{}: N is the length of the n-grams, 1 to 1000", argument);
  if (!std::isfinite(most) || most == 0) fail("--reward repetition:{}: MAX is the largest penalty, a finite number other than 0", argument);
  return std::make_unique<Repetition>(n, std::abs(most));
}

}  // namespace hone::rewards
