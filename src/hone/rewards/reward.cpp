#include "hone/rewards/reward.h"

#include <algorithm>
#include <cctype>
#include <iterator>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/rewards/makers.h"

namespace hone::rewards {
namespace {

constexpr const char* kVerdictNames[kVerdicts] = {"right", "wrong", "unparsed", "gold-unparsed", "timed-out", "crashed"};

std::unique_ptr<Reward> make_model(const std::string& argument, const RewardSettings& settings) {
  if (!settings.make_model_reward) fail("--reward model:{}: a reward model is not possible here", argument);
  return settings.make_model_reward(argument);
}

// Every spec: its word, what stands behind the colon (empty: nothing may) and what makes it.
struct SpecRow {
  std::string word;
  const char* argument;
  Maker make;
};
const std::vector<SpecRow>& spec_rows() {
  static const std::vector<SpecRow> rows{
      {"math", "", make_math},
      {"exact", "", make_exact},
      {"regex", "PATTERN", make_regex},
      {"json", "SCHEMA_FILE", make_json},
      {"ifeval", "", make_ifeval},
      {"code", "", make_code},
      {"format", "PATTERN", make_format},
      {"length", "MAX,CACHE", make_length},
      {"repetition", "N,MAX", make_repetition},
      {"python", "FILE:FUNCTION", make_python},
      {"program", "COMMAND", make_program},
      {"model", "DIR", make_model},
  };
  return rows;
}

std::string all_specs() {
  std::string text;
  for (const SpecRow& row : spec_rows()) text += (text.empty() ? "" : ", ") + row.word + (*row.argument ? ":" + std::string(row.argument) : "");
  return text;
}

bool is_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

}  // namespace

const char* verdict_name(Verdict verdict) { return kVerdictNames[static_cast<int>(verdict)]; }

std::optional<Verdict> find_verdict(std::string_view name) {
  for (int i = 0; i < kVerdicts; ++i)
    if (name == kVerdictNames[i]) return static_cast<Verdict>(i);
  return std::nullopt;
}

NamedSpec split_spec(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals != text.npos && is_word(text.substr(0, equals))) return {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
  const std::string_view word = text.substr(0, text.find(':'));
  if (word == "python" && is_word(text.substr(text.rfind(':') + 1))) return {std::string(text.substr(text.rfind(':') + 1)), std::string(text)};
  return {std::string(word), std::string(text)};
}

std::unique_ptr<Reward> make_reward(const std::string& spec, const RewardSettings& settings) {
  const size_t colon = spec.find(':');
  const std::string word = spec.substr(0, colon), argument = colon == spec.npos ? "" : spec.substr(colon + 1);
  const auto& rows = spec_rows();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const SpecRow& r) { return r.word == word; });
  if (row == rows.end()) {
    std::vector<std::string> words;
    for (const SpecRow& r : rows) words.push_back(r.word);
    const std::string near = nearest_name(word, words.data(), words.data() + words.size());
    if (!near.empty()) fail("--reward {}: there is no reward '{}': did you mean {}?", spec, word, near);
    fail("--reward {}: there is no reward '{}'; there are {}", spec, word, all_specs());
  }
  if (!*row->argument && colon != spec.npos) fail("--reward {}: {} takes nothing behind a colon", spec, word);
  if (*row->argument && argument.empty()) fail("--reward {}: write {}:{}", spec, word, row->argument);
  if (!row->make) fail("--reward {}: {} comes with a later version", spec, word);
  return row->make(argument, settings);
}

std::optional<std::string> gold_answer(const nlohmann::json& row) {
  const auto it = row.find("answer");
  if (it == row.end() || it->is_null() || it->is_structured()) return std::nullopt;
  return it->is_string() ? it->get<std::string>() : it->dump();
}

std::string missing_answer(const nlohmann::json& row) {
  const auto it = row.find("answer");
  if (it == row.end()) return "there is no \"answer\" to compare with";
  return std::string("\"answer\" is ") + it->type_name() + "; wanted a string or a number";
}

std::vector<Judgement> judge_each(std::span<const Sample> samples, const std::function<Judgement(const Sample&)>& one) {
  std::vector<Judgement> judged(samples.size());
  parallel_for(static_cast<int64_t>(samples.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) judged[i] = one(samples[i]);
  });
  return judged;
}

}  // namespace hone::rewards
