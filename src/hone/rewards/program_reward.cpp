// program:COMMAND: an external program judges. It is started once and gets a JSON line for each completion (docs/sandbox.md has the protocol):
//
//   {"id": 7, "completion": "...", "truncated": false, "row": {...}}   ->   {"id": 7, "reward": 0.5, "verdict": "right", "detail": "..."}
//
// All lines of a batch are written at once, so that a program may work on many. When it dies or falls silent, it is started anew and gets what
// is left one line at a time: then it is known which completion was to blame, and only that one is unscored.
#include <cmath>
#include <unordered_map>

#include "hone/base/error.h"
#include "hone/rewards/child_process.h"
#include "hone/rewards/makers.h"

namespace hone::rewards {
namespace {

using nlohmann::json;

constexpr int kMostFailuresInARow = 3;  // deaths and silences without an answer between them; then the rest of the batch is unscored

std::string shortened(std::string_view text) {
  std::string out(text.substr(0, 120));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 32) c = ' ';
  }
  return text.size() > 120 ? out + "..." : out;
}

Judgement no_answer(Verdict verdict, std::string detail) { return {verdict, std::nullopt, std::move(detail)}; }

/// What an answer says. A number without a verdict is right above 0; no number is unscored.
Judgement read_answer(const json& answer) {
  Judgement judged;
  const auto reward = answer.find("reward");
  if (reward == answer.end()) return no_answer(Verdict::crashed, "the program's answer has no \"reward\"");
  if (!reward->is_null() && !reward->is_number()) {
    return no_answer(Verdict::crashed, std::string("the program's \"reward\" is ") + reward->type_name() + "; wanted a number or null");
  }
  if (reward->is_number()) judged.reward = reward->get<double>();
  if (judged.reward && !std::isfinite(*judged.reward)) return no_answer(Verdict::crashed, "the program's \"reward\" is not finite");
  judged.verdict = !judged.reward ? Verdict::unparsed : *judged.reward > 0 ? Verdict::right : Verdict::wrong;
  if (const auto name = answer.find("verdict"); name != answer.end() && !name->is_null()) {
    const auto verdict = name->is_string() ? find_verdict(name->get<std::string>()) : std::nullopt;
    if (!verdict) return no_answer(Verdict::crashed, "the program's \"verdict\" is " + shortened(name->dump()) + ", which is none");
    judged.verdict = *verdict;
  }
  if (const auto detail = answer.find("detail"); detail != answer.end() && detail->is_string()) judged.detail = shortened(detail->get<std::string>());
  return judged;
}

class ProgramReward : public Reward {
 public:
  ProgramReward(std::string command, double seconds) : command_(std::move(command)), seconds_(seconds), child_({"/bin/sh", "-c", command_}) {
    if (!(seconds_ > 0)) fail("--reward program: the time limit of an answer is {} s; give more than 0", seconds_);
    if (const std::string fault = child_.start(); !fault.empty()) fail("--reward program:{}: {}", command_, fault);
  }

  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    Batch batch{samples, std::vector<std::optional<Judgement>>(samples.size()), first_id_};
    first_id_ += static_cast<int64_t>(samples.size());
    bool at_once = true;
    int failures = 0;
    while (batch.left() && failures < kMostFailuresInARow) {
      const size_t before = batch.answered;
      const size_t oldest = batch.oldest();
      const bool fresh = !child_.running();
      const std::optional<Judgement> broken = ask(batch, at_once);
      if (!broken) {
        failures = 0;
        continue;
      }
      // Nobody is to blame where many are under way, or where the program may have ended by itself after an earlier answer.
      const bool to_blame = (!at_once || samples.size() == 1) && (fresh || broken->verdict == Verdict::timed_out);
      if (to_blame) batch.settle(oldest, *broken);
      failures = batch.answered > before ? 0 : failures + (fresh ? 1 : 0);
      last_fault_ = broken->detail;
      at_once = false;
    }
    std::vector<Judgement> judged;
    for (auto& one : batch.judged) judged.push_back(one ? std::move(*one) : no_answer(Verdict::crashed, "given up after " + last_fault_));
    return judged;
  }

 private:
  struct Batch {
    std::span<const Sample> samples;
    std::vector<std::optional<Judgement>> judged;
    int64_t first_id;
    size_t answered = 0;
    size_t settled = 0;
    bool left() const { return settled < judged.size(); }
    size_t oldest() const {
      size_t i = 0;
      while (i < judged.size() && judged[i]) ++i;
      return i;
    }
    void settle(size_t i, Judgement judgement) {
      if (!judged[i]) ++settled;
      judged[i] = std::move(judgement);
    }
  };

  /// Asks for what is left of the batch, or for the oldest of it alone. What broke, or nothing.
  std::optional<Judgement> ask(Batch& batch, bool at_once) {
    if (!child_.running()) {
      if (const std::string fault = child_.start(); !fault.empty()) return no_answer(Verdict::crashed, fault);
    }
    std::string request;
    size_t asked = 0;
    for (size_t i = batch.oldest(); i < batch.samples.size() && (at_once || asked == 0); ++i) {
      if (batch.judged[i]) continue;
      const Sample& sample = batch.samples[i];
      const json line = {
          {"id", batch.first_id + static_cast<int64_t>(i)}, {"completion", sample.completion}, {"truncated", sample.truncated}, {"row", *sample.row}};
      request += line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
      ++asked;
    }
    const size_t goal = batch.settled + asked;
    const auto end = child_.exchange(request, seconds_, [&](std::string_view line) {
      const size_t before = batch.settled;
      take_line(batch, line);
      return batch.settled >= goal ? ChildProcess::Line::last : batch.settled > before ? ChildProcess::Line::part : ChildProcess::Line::idle;
    });
    if (end == ChildProcess::End::done) return std::nullopt;
    child_.stop();
    std::string detail = end == ChildProcess::End::timed_out  ? fmt::format("the program gave no answer for {} s", seconds_)
                         : end == ChildProcess::End::too_long ? "the program wrote a line without an end"
                                                              : "the program " + child_.end_text();
    if (const std::string line = child_.error_line(); !line.empty()) detail += ": " + shortened(line);
    return no_answer(end == ChildProcess::End::timed_out ? Verdict::timed_out : Verdict::crashed, detail);
  }

  /// A line that is no answer counts as that of the oldest completion under way; an answer to nothing that was asked is passed over.
  static void take_line(Batch& batch, std::string_view line) {
    if (!batch.left() || line.find_first_not_of(" \t\r") == line.npos) return;
    const json answer = json::parse(line, nullptr, false);
    if (!answer.is_object()) {
      const std::string word = answer.is_discarded() ? "no JSON" : "no JSON object";
      ++batch.answered;
      batch.settle(batch.oldest(), no_answer(Verdict::crashed, fmt::format("the program's answer is {}: {}", word, shortened(line))));
      return;
    }
    const auto id = answer.find("id");
    if (id == answer.end() || !id->is_number_integer()) {
      ++batch.answered;
      batch.settle(batch.oldest(), no_answer(Verdict::crashed, "the program's answer has no \"id\": " + shortened(line)));
      return;
    }
    const int64_t number = id->is_number_unsigned() && id->get<uint64_t>() > INT64_MAX ? -1 : id->get<int64_t>();
    if (number < batch.first_id) return;
    const int64_t at = number - batch.first_id;
    if (at >= static_cast<int64_t>(batch.judged.size()) || batch.judged[at]) return;
    ++batch.answered;
    batch.settle(static_cast<size_t>(at), read_answer(answer));
  }

  std::string command_;
  double seconds_;
  ChildProcess child_;
  int64_t first_id_ = 0;
  std::string last_fault_;
};

}  // namespace

std::unique_ptr<Reward> make_program(const std::string& argument, const RewardSettings& settings) {
  return std::make_unique<ProgramReward>(argument, settings.program_timeout);
}

}  // namespace hone::rewards
