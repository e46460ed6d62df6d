#pragma once
// What judges completions: a reward gives each one a verdict and a number. Rewards know nothing of models, tensors or training.
//
// A verdict says what happened; the number is what is learned from. The two are told apart because a zero that means "wrong" and a zero that
// means "the checker broke" must never look alike (the silent failure of reward functions): only a scored sample enters its group's mean.
#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hone::rewards {

enum class Verdict {
  right,
  wrong,
  unparsed,       // the completion holds no answer of the kind that is asked for
  gold_unparsed,  // the row's own answer cannot be read: refused before step 0, never scored
  timed_out,      // judging took longer than it may
  crashed,        // what judges broke (an external program), or what is judged did (code)
};
constexpr int kVerdicts = 6;
/// "right", "wrong", "unparsed", "gold-unparsed", "timed-out", "crashed".
const char* verdict_name(Verdict verdict);
/// The verdict of that name; empty for any other word.
std::optional<Verdict> find_verdict(std::string_view name);

/// One completion as it is judged.
struct Sample {
  const nlohmann::json* row = nullptr;  // the row's JSON object: prompt, answer, tests, instruction_id_list, ... never null
  std::string completion;               // its text, without the end token
  std::span<const int32_t> ids;         // its tokens, with the end token; may be empty where only text is known
  bool truncated = false;               // ended by the length limit
};

struct Judgement {
  Verdict verdict = Verdict::wrong;
  std::optional<double> reward;  // empty: unscored (left out of its group's mean and deviation)
  std::string detail;            // one line for people: what was compared, what broke; may be empty
};

/// One reward. Not thread-safe from outside; `judge` may use the thread pool itself.
class Reward {
 public:
  virtual ~Reward() = default;
  /// What is wrong with a row that this reward is to judge (no gold answer, one that cannot be read, a bad schema); empty: nothing.
  /// Called for every row before step 0.
  virtual std::string check_row(const nlohmann::json& row) const {
    (void)row;
    return {};
  }
  /// The optimizer step that the samples to come are for: what a function of the user's may depend on, and the same after a resume.
  virtual void at_step(int64_t step) { (void)step; }
  /// One judgement for each sample, in order. Never throws for what a completion or an external program does: that is a verdict.
  virtual std::vector<Judgement> judge(std::span<const Sample> samples) = 0;
};

/// A SPEC of cli.md with its name: "acc=math" is {acc, math}; without NAME= the name is the spec's first word (math, exact, regex, code, the
/// function's name of python:, ...). NAME is a word directly before the first "=".
struct NamedSpec {
  std::string name;
  std::string spec;
};
NamedSpec split_spec(std::string_view text);

/// What a spec may need beside its own text.
struct RewardSettings {
  bool allow_unsandboxed = false;  // code: run where isolation is missing
  std::string code_command = "python3 {file}";
  double code_timeout = 10;  // seconds of processor time
  int64_t code_memory_mib = 512;
  double program_timeout = 30;  // seconds of an external program's answer
  uint64_t seed = 0;
  /// Makes model:DIR, which needs tensors and therefore lives above this layer; empty: model:DIR is refused.
  std::function<std::unique_ptr<Reward>(const std::string& folder)> make_model_reward;
};

/// The reward of a SPEC (without NAME=): math, exact, regex:PATTERN, json:SCHEMA_FILE, ifeval, code, format:PATTERN, length:MAX,CACHE,
/// repetition:N,MAX, python:FILE:FUNCTION, program:COMMAND, model:DIR. UserError naming the nearest one for an unknown spec, and what is wrong
/// with a bad argument.
std::unique_ptr<Reward> make_reward(const std::string& spec, const RewardSettings& settings);

}  // namespace hone::rewards
