// The report as JSON and as text.
#include <fmt/format.h>

#include <cmath>

#include "hone/train/reward_report.h"

namespace hone::train {
namespace {

// nlohmann writes NaN as null.
void add(Json& out, const std::string& key, const Estimate& e) {
  out[key] = e.value;
  out[key + "_low"] = e.low;
  out[key + "_high"] = e.high;
}

void add(Json& out, const std::string& key, const Accuracy& a) {
  add(out, key, a.share);
  out[key + "_pairs"] = a.pairs;
}

Json json_of(const Distribution& d) {
  return {{"mean", d.mean},        {"sd", d.deviation},     {"min", d.least},        {"q05", d.quantiles[0]}, {"q25", d.quantiles[1]},
          {"q50", d.quantiles[2]}, {"q75", d.quantiles[3]}, {"q95", d.quantiles[4]}, {"max", d.greatest}};
}

std::string number(double value, int digits = 3) { return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "-"; }

std::string text_of(const Estimate& e, int digits = 3) {
  if (!std::isfinite(e.low)) return number(e.value, digits);
  return fmt::format("{}  ({} to {})", number(e.value, digits), number(e.low, digits), number(e.high, digits));
}

std::string percent(double value) { return std::isfinite(value) ? fmt::format("{:.1f} %", 100 * value) : "-"; }

std::string text_of(const Accuracy& a) {
  if (a.pairs == 0) return "-  (no such pair)";
  return fmt::format("{}  ({} to {}), {} pairs", percent(a.share.value), percent(a.share.low), percent(a.share.high), a.pairs);
}

std::string line_of(const char* name, const Distribution& d) {
  std::string text = fmt::format("  {:<18}", name);
  for (double v : {d.mean, d.deviation, d.least, d.quantiles[0], d.quantiles[1], d.quantiles[2], d.quantiles[3], d.quantiles[4], d.greatest})
    text += fmt::format("{:>9}", number(v));
  return text + "\n";
}

// What somebody who reads one line should read.
std::string verdict(const RewardReport& r) {
  const Accuracy &all = r.accuracy, &shorter = r.length.chosen_shorter, &longer = r.length.chosen_longer;
  std::string text;
  if (all.share.low <= 0.5 && all.share.high >= 0.5) text += "! no better than chance: its accuracy's interval holds 50 %\n";
  if (all.share.high < 0.5) text += "! worse than chance: are chosen and rejected exchanged?\n";
  if (shorter.pairs > 0 && longer.pairs > 0 && shorter.share.high < longer.share.low)
    text += fmt::format("! it follows length: {} right where chosen is the shorter one, {} where it is the longer one\n",
                        percent(shorter.share.value), percent(longer.share.value));
  if (all.share.low <= r.length.longer_is_chosen && r.length.longer_is_chosen > 0.5)
    text += fmt::format("! the rule \"take the longer one\" is right on {}: not shown to be beaten\n", percent(r.length.longer_is_chosen));
  if (r.pairs > 0 && 10 * r.ties > r.pairs) text += fmt::format("! {} of {} pairs are ties: the scores do not tell them apart\n", r.ties, r.pairs);
  return text;
}

}  // namespace

Json to_json(const RewardReport& r) {
  Json out;
  out["rows"] = r.pairs;
  add(out, "eval_loss", r.loss);
  add(out, "eval_rewards/accuracies", r.accuracy.share);
  out["eval_rewards/ties"] = r.ties;
  add(out, "eval_rewards/chosen", r.chosen_mean);
  add(out, "eval_rewards/rejected", r.rejected_mean);
  add(out, "eval_rewards/margins", r.margin_mean);
  add(out, "eval_calibration/error", r.calibration.error);
  out["eval_calibration/overconfidence"] = r.calibration.overconfidence;
  add(out, "eval_length/pearson", r.length.pearson);
  add(out, "eval_length/spearman", r.length.spearman);
  add(out, "eval_length/accuracy_matched", r.length.matched);
  add(out, "eval_length/accuracy_chosen_shorter", r.length.chosen_shorter);
  add(out, "eval_length/accuracy_chosen_longer", r.length.chosen_longer);
  out["eval_length/longer_is_chosen"] = r.length.longer_is_chosen;
  out["eval_margin_correlation"] = r.margin_correlation;
  out["reliability"] = Json::array();
  for (const Bin& bin : r.calibration.bins)
    out["reliability"].push_back({{"pairs", bin.pairs}, {"confidence", bin.confidence}, {"accuracy", bin.accuracy}});
  out["distributions"] = {{"chosen", json_of(r.chosen)}, {"rejected", json_of(r.rejected)}, {"margins", json_of(r.margins)}};
  return out;
}

std::string to_text(const RewardReport& r) {
  std::string text = fmt::format("{} held-out pairs; 95 % intervals in brackets\n\n", r.pairs);
  const auto line = [&](const char* name, const std::string& value) { text += fmt::format("  {:<34}{}\n", name, value); };
  line("accuracy (a tie counts half)", text_of(r.accuracy) + fmt::format(", {} ties", r.ties));
  line("loss, -log sigmoid(difference)", text_of(r.loss, 4));
  line("mean score of chosen", text_of(r.chosen_mean));
  line("mean score of rejected", text_of(r.rejected_mean));
  line("mean difference", text_of(r.margin_mean));
  if (std::isfinite(r.margin_correlation)) line("its correlation with the margins", number(r.margin_correlation));
  text += "\nlength (tokens of the completion)\n";
  line("correlation with score, Pearson", text_of(r.length.pearson));
  line("correlation with score, Spearman", text_of(r.length.spearman));
  line("accuracy, lengths within 10 %", text_of(r.length.matched));
  line("accuracy, chosen is shorter", text_of(r.length.chosen_shorter));
  line("accuracy, chosen is longer", text_of(r.length.chosen_longer));
  line("the rule \"take the longer one\"", percent(r.length.longer_is_chosen));
  text += "\ncalibration: how often the side with the higher score is the preferred one\n";
  line("expected calibration error", text_of(r.calibration.error));
  line("overconfidence", number(r.calibration.overconfidence));
  text += fmt::format("  {:>12}{:>12}{:>8}\n", "predicted", "right", "pairs");
  for (const Bin& bin : r.calibration.bins) text += fmt::format("  {:>12}{:>12}{:>8}\n", percent(bin.confidence), percent(bin.accuracy), bin.pairs);
  text += fmt::format("\n  {:<18}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}\n", "scores", "mean", "sd", "min", "5 %", "25 %", "50 %", "75 %",
                      "95 %", "max");
  text += line_of("chosen", r.chosen) + line_of("rejected", r.rejected) + line_of("difference", r.margins);
  const std::string words = verdict(r);
  return words.empty() ? text : text + "\n" + words;
}

}  // namespace hone::train
