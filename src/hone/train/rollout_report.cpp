#include "hone/train/rollout_report.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdlib>

namespace hone::train {
namespace {

Json short_numbers(const std::vector<float>& values) {
  Json list = Json::array();
  for (const float v : values) list.push_back(short_number(v));
  return list;
}

using Counts = std::array<int64_t, rewards::kVerdicts>;

void add_shares(Json& line, const std::string& prefix, const Counts& counts) {
  int64_t total = 0;
  for (const int64_t c : counts) total += c;
  for (int v = 0; v < rewards::kVerdicts; ++v)
    line[prefix + rewards::verdict_name(static_cast<rewards::Verdict>(v))] =
        total == 0 ? 0.0 : static_cast<double>(counts[v]) / static_cast<double>(total);
}

}  // namespace

Json short_number(float value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(fmt::format("{}", value).c_str(), nullptr);  // the double that prints as the float does
}

Json completion_line(int64_t step, const DrawnGroup& group, size_t sample, const PromptData& prompts, const std::vector<NamedReward>& rewards,
                     double advantage) {
  const Trajectory& t = group.samples.at(sample);
  const rollout::Completion& c = t.completion;
  Json line{{"step", step},
            {"row", prompts.rows[group.row].source},
            {"sample", sample},
            {"draw", group.draw},
            {"text", t.text},
            {"ids", c.ids},
            {"logprobs", short_numbers(c.tempered_logprobs)},
            {"finish_reason", rollout::finish_name(c.finish)}};
  if (c.sampler_logprobs != c.tempered_logprobs) line["sampler_logprobs"] = short_numbers(c.sampler_logprobs);
  line["rewards"] = Json::object();
  line["verdicts"] = Json::object();
  Json details = Json::object();
  for (size_t r = 0; r < t.judgements.size(); ++r) {
    const rewards::Judgement& j = t.judgements[r];
    line["rewards"][rewards[r].name] = j.reward ? Json(*j.reward) : Json(nullptr);
    line["verdicts"][rewards[r].name] = rewards::verdict_name(j.verdict);
    if (!j.detail.empty()) details[rewards[r].name] = j.detail;
  }
  if (!details.empty()) line["details"] = details;
  line["advantage"] = std::isfinite(advantage) ? Json(advantage) : Json(nullptr);
  return line;
}

void add_verdicts(Json& line, std::span<const DrawnGroup> groups, const std::vector<NamedReward>& rewards) {
  Counts all{};
  std::vector<Counts> each(rewards.size(), Counts{});
  for (const DrawnGroup& group : groups)
    for (const Trajectory& t : group.samples)
      for (size_t r = 0; r < t.judgements.size(); ++r) {
        ++all[static_cast<size_t>(t.judgements[r].verdict)];
        ++each[r][static_cast<size_t>(t.judgements[r].verdict)];
      }
  add_shares(line, "verdicts/", all);
  if (rewards.size() > 1)
    for (size_t r = 0; r < rewards.size(); ++r) add_shares(line, fmt::format("verdicts/{}/", rewards[r].name), each[r]);
}

}  // namespace hone::train
