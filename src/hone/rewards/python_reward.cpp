// python:FILE:FUNCTION: a reward function with TRL's signature, f(prompts, completions, **columns) -> list of numbers or None, run by the
// user's own python3 in a child (python_shim.py). It gets a whole batch at once.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "hone/base/error.h"
#include "hone/rewards/carried_files.h"
#include "hone/rewards/child_process.h"
#include "hone/rewards/makers.h"

namespace hone::rewards {
namespace {

using nlohmann::json;

constexpr double kStartSeconds = 300;  // of the file's imports; torch on a cold disk takes a minute
constexpr int kMostPythonFailures = 3;

struct Place {
  std::string file, function;
};

Place split_place(const std::string& argument) {
  const size_t colon = argument.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == argument.size()) {
    fail("--reward python:{}: write python:FILE:FUNCTION, as in python:rewards.py:accuracy", argument);
  }
  Place place{argument.substr(0, colon), argument.substr(colon + 1)};
  if (!std::filesystem::is_regular_file(place.file)) fail("--reward python:{}: there is no file {}", argument, place.file);
  return place;
}

/// What a function of TRL's gets of a batch.
json request_of(std::span<const Sample> samples, int64_t id, int64_t step) {
  json prompts = json::array(), completions = json::array(), ids = json::array(), columns = json::object();
  std::set<std::string> names;
  for (const Sample& sample : samples) {
    const json& row = *sample.row;
    const auto prompt = row.find("prompt");
    const bool messages = prompt != row.end() && prompt->is_array();
    prompts.push_back(prompt != row.end() ? *prompt : json());
    completions.push_back(messages ? json::array({{{"role", "assistant"}, {"content", sample.completion}}}) : json(sample.completion));
    ids.push_back(std::vector<int32_t>(sample.ids.begin(), sample.ids.end()));
    for (const auto& [name, value] : row.items()) names.insert(name);
  }
  for (const char* taken : {"prompt", "completion", "completion_ids", "prompts", "completions"}) names.erase(taken);
  for (const std::string& name : names) {
    json& column = columns[name] = json::array();
    for (const Sample& sample : samples) column.push_back(sample.row->contains(name) ? (*sample.row)[name] : json());
  }
  return {{"id", id}, {"step", step}, {"prompts", prompts}, {"completions", completions}, {"completion_ids", ids}, {"columns", columns}};
}

Judgement judgement_of(const json& value) {
  if (value.is_null()) return {Verdict::unparsed, std::nullopt, "the function returned None"};
  if (!value.is_number()) return {Verdict::crashed, std::nullopt, value.is_string() ? value.get<std::string>() : "a reward is no number"};
  const double reward = value.get<double>();
  return {reward > 0 ? Verdict::right : Verdict::wrong, reward, {}};
}

class PythonReward : public Reward {
 public:
  PythonReward(const std::string& argument, double seconds)
      : argument_(argument),
        place_(split_place(argument)),
        seconds_(seconds),
        child_({"python3", "-c", std::string(python_shim()), place_.file, place_.function}) {
    if (!(seconds_ > 0)) fail("--reward python: the time limit of an answer is {} s; give more than 0", seconds_);
    if (const std::string fault = start(); !fault.empty()) fail("--reward python:{}: {}", argument_, fault);
  }

  void at_step(int64_t step) override { step_ = step; }
  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    if (samples.empty()) return {};
    if (!child_.running() && failures_ >= kMostPythonFailures) return all(samples, Verdict::crashed, "given up after " + fault_);
    if (!child_.running()) {
      if (const std::string fault = start(); !fault.empty()) return failed(samples, Verdict::crashed, fault);
    }
    json answer;
    const std::string request = request_of(samples, next_id_, step_).dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    const auto end = child_.exchange(request, seconds_, [&](std::string_view line) {
      answer = json::parse(line, nullptr, false);
      return ChildProcess::Line::last;
    });
    if (end == ChildProcess::End::timed_out) {
      child_.stop();
      return failed(samples, Verdict::timed_out, fmt::format("the function was not done after {} s", seconds_));
    }
    if (end != ChildProcess::End::done) {
      child_.stop();
      return failed(samples, Verdict::crashed, with_error("Python " + child_.end_text()));
    }
    if (!answer.is_object() || answer.value("id", json()) != json(next_id_) || !(answer["error"].is_string() || answer["rewards"].is_array())) {
      child_.stop();
      return failed(samples, Verdict::crashed, "the function wrote into the channel of its answers");
    }
    ++next_id_;
    failures_ = 0;
    if (answer["error"].is_string()) return all(samples, Verdict::crashed, answer["error"].get<std::string>());
    if (answer["rewards"].size() != samples.size())
      return all(samples, Verdict::crashed, "the answer has not as many rewards as there are completions");
    std::vector<Judgement> judged;
    for (const json& value : answer["rewards"]) judged.push_back(judgement_of(value));
    return judged;
  }

 private:
  static std::vector<Judgement> all(std::span<const Sample> samples, Verdict verdict, const std::string& detail) {
    return std::vector<Judgement>(samples.size(), Judgement{verdict, std::nullopt, detail});
  }
  std::vector<Judgement> failed(std::span<const Sample> samples, Verdict verdict, const std::string& detail) {
    ++failures_;
    ++next_id_;
    fault_ = detail;
    return all(samples, verdict, detail);
  }
  std::string with_error(std::string text) const {
    const std::string line = child_.error_line();
    return line.empty() ? text : text + ": " + line;
  }

  /// Starts Python and waits until the function is there; what went wrong, or empty.
  std::string start() {
    if (const std::string fault = child_.start(); !fault.empty()) return fault;
    json first;
    const auto end = child_.exchange({}, std::max(seconds_, kStartSeconds), [&](std::string_view line) {
      first = json::parse(line, nullptr, false);
      return ChildProcess::Line::last;
    });
    if (end == ChildProcess::End::done && first.is_object() && first.contains("ready")) return {};
    child_.stop();
    if (first.is_object() && first.contains("error") && first["error"].is_string()) return first["error"].get<std::string>();
    return with_error(end == ChildProcess::End::timed_out ? fmt::format("the file was not loaded after {} s", kStartSeconds)
                                                          : "Python " + child_.end_text());
  }

  std::string argument_;
  Place place_;
  double seconds_;
  ChildProcess child_;
  int64_t next_id_ = 0, step_ = 0;
  int failures_ = 0;
  std::string fault_;
};

}  // namespace

std::unique_ptr<Reward> make_python(const std::string& argument, const RewardSettings& settings) {
  return std::make_unique<PythonReward>(argument, settings.program_timeout);
}

}  // namespace hone::rewards
