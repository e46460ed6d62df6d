#include "hone/train/pass_at_k.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "hone/base/error.h"
#include "hone/base/rng.h"
#include "hone/rewards/math_answer.h"

namespace hone::train {
namespace {

bool digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

std::string squeezed(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (std::isspace(static_cast<unsigned char>(c))) continue;
    if (c == ',' && i > 0 && i + 1 < text.size() && digit(text[i - 1]) && digit(text[i + 1])) continue;
    out += c;
  }
  while (!out.empty() && (out.back() == '.' || out.back() == ',')) out.pop_back();
  return out;
}

}  // namespace

double pass_at_k(int64_t n, int64_t right, int64_t k) {
  check(k >= 1 && k <= n && right >= 0 && right <= n, "pass@{} of {} completions, {} right", k, n, right);
  if (n - right < k) return 1.0;
  double all_wrong = 1.0;
  for (int64_t i = n - right + 1; i <= n; ++i) all_wrong *= 1.0 - static_cast<double>(k) / static_cast<double>(i);
  return 1.0 - all_wrong;
}

std::string answer_key(std::string_view text) {
  if (const auto marked = rewards::math::marked_answer(text)) return squeezed(marked->text);
  if (const auto number = rewards::math::last_number(text)) return squeezed(*number);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  const size_t line = text.rfind('\n');
  return squeezed(line == text.npos ? text : text.substr(line + 1));
}

bool majority_right(std::span<const std::string> keys, std::span<const bool> right) {
  check(keys.size() == right.size(), "{} answers, {} verdicts", keys.size(), right.size());
  std::map<std::string, std::pair<int64_t, size_t>> votes;  // count, first
  for (size_t i = 0; i < keys.size(); ++i)
    if (!keys[i].empty()) ++votes.try_emplace(keys[i], 0, i).first->second.first;
  int64_t most = 0;
  size_t winner = keys.size();
  for (const auto& [key, vote] : votes)
    if (vote.first > most || (vote.first == most && vote.second < winner)) {
      most = vote.first;
      winner = vote.second;
    }
  return winner < keys.size() && right[winner];
}

Estimate bootstrap_mean(std::span<const double> values, uint64_t seed, int64_t resamples) {
  double sum = 0;
  for (const double v : values) sum += v;
  const auto n = static_cast<int64_t>(values.size());
  const double mean = n == 0 ? 0.0 : sum / static_cast<double>(n);
  if (n < 2) return {mean, mean, mean};
  std::vector<double> means(static_cast<size_t>(resamples));
  for (int64_t b = 0; b < resamples; ++b) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double u = random_unit(seed, Purpose::bootstrap, static_cast<uint32_t>(b), static_cast<uint32_t>(i), 0);
      total += values[static_cast<size_t>(std::min(n - 1, static_cast<int64_t>(u * static_cast<double>(n))))];
    }
    means[static_cast<size_t>(b)] = total / static_cast<double>(n);
  }
  std::sort(means.begin(), means.end());
  const auto at = [&](double share) { return means[static_cast<size_t>(share * static_cast<double>(resamples - 1))]; };
  return {mean, at(0.025), at(0.975)};
}

}  // namespace hone::train
