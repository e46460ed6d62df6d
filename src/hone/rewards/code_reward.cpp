// code: a program's tests decide.
//
//   right       the program ran to its end with status 0 and reported the secret that stands behind its last test
//   wrong       anything else that the program did by itself: a test that failed, an exception, an early exit
//   timed-out   its processor time, or its time asleep, ran out
//   crashed     it was killed by a signal or for its memory: what is judged did that, so it counts (reward 0). Unscored only where the sandbox broke
#include <atomic>
#include <cmath>
#include <csignal>
#include <thread>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/rewards/code_program.h"
#include "hone/rewards/makers.h"

namespace hone::rewards {
namespace {

// Programs that sleep cost no processor: more of them than processors are run at a time.
constexpr int kWorkersPerThread = 2, kLeastWorkers = 4, kMostWorkers = 64;
// Two further limits, as multiples of --code_timeout: time asleep, and the backstop in wall time on a machine that is busy with other things.
constexpr double kIdleShare = 0.5, kWallShare = 10, kWallLeast = 60;

std::string last_line(const std::string& output) {
  size_t end = output.find_last_not_of(" \t\r\n");
  if (end == std::string::npos) return "no output";
  const size_t newline = output.rfind('\n', end), begin = newline == std::string::npos ? 0 : newline + 1;
  std::string line = output.substr(begin, std::min<size_t>(end - begin + 1, 200));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 32) c = ' ';
  }
  return line;
}

/// The line behind `mark`, which the end of a Python program writes about a failed test.
std::string failed_test(const std::string& output) {
  const size_t at = output.rfind("\ntest failed, ");
  if (at == std::string::npos) return {};
  const size_t begin = at + 1, end = std::min(output.find('\n', begin), output.size());
  return output.substr(begin, end - begin) + ": ";
}

Judgement judge_result(const CodeProgram& program, const SandboxResult& result, bool truncated) {
  Judgement judged{Verdict::wrong, 0.0, {}};
  switch (result.ended) {
    case Ended::exited:
      if (result.status == 0 && reported(program, result)) return {Verdict::right, 1.0, {}};
      judged.detail = result.status == 0 ? "ended with status 0 before the end of the tests"
                                         : fmt::format("status {}: {}{}", result.status, failed_test(result.output), last_line(result.output));
      if (truncated) judged.detail += " (the completion was cut)";
      return judged;
    case Ended::signalled:
      return {Verdict::crashed, 0.0, fmt::format("killed by signal {} ({})", result.status, sigabbrev_np(result.status))};
    case Ended::memory_limit:
      return {Verdict::crashed, 0.0, "its processes together held more memory than --code_memory_mib allows"};
    case Ended::cpu_limit:
      return {Verdict::timed_out, 0.0, "used up its processor time (--code_timeout)"};
    case Ended::idle_limit:
      return {Verdict::timed_out, 0.0, fmt::format("slept for {} s", program.job.idle_limit)};
    case Ended::wall_limit:
      return {Verdict::timed_out, 0.0, fmt::format("not done after {} s", program.job.wall_limit)};
    case Ended::no_isolation:
    case Ended::internal_fault:
      break;
  }
  return {Verdict::crashed, std::nullopt, result.fault};
}

class CodeReward : public Reward {
 public:
  explicit CodeReward(const RewardSettings& settings)
      : command_(parse_code_command(settings.code_command)),
        seconds_(settings.code_timeout),
        memory_(settings.code_memory_mib << 20),
        isolated_(isolation_fault().empty()) {
    if (!(seconds_ > 0) || seconds_ > 86400) fail("--code_timeout {}: give seconds of processor time above 0", seconds_);
    if (settings.code_memory_mib < 16 || settings.code_memory_mib > (int64_t{1} << 30)) {
      fail("--code_memory_mib {}: give at least 16 MiB", settings.code_memory_mib);
    }
    if (!isolated_ && !settings.allow_unsandboxed) {
      fail(
          "--reward code: programs cannot be isolated on this machine: {}\n"
          "Allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; in a\n"
          "container --cap-add SYS_ADMIN), or give --allow_unsandboxed: model-written programs then run with this user's rights, files and network",
          isolation_fault());
    }
  }

  std::string check_row(const nlohmann::json& row) const override {
    const RowTests tests = row_tests(row);
    if (!tests.fault.empty()) return tests.fault;
    if (command_.language == CodeLanguage::other && tests.text.find(kSecretWord) == std::string::npos) {
      return fmt::format("the tests must print {} as their last act: without it an early exit would count (docs/sandbox.md)", kSecretWord);
    }
    if (command_.language == CodeLanguage::c && tests.text.find('}') == std::string::npos) return "the tests have no main function at their end";
    return {};
  }

  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    std::vector<Judgement> judged(samples.size());
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i = next++; i < samples.size(); i = next++) judged[i] = judge_one(samples[i]);
    };
    const int wanted = std::clamp(kWorkersPerThread * threads(), kLeastWorkers, kMostWorkers);
    const size_t workers = std::min(samples.size(), static_cast<size_t>(wanted));
    std::vector<std::jthread> pool;
    for (size_t i = 1; i < workers; ++i) pool.emplace_back(work);
    work();
    return judged;
  }

 private:
  Judgement judge_one(const Sample& sample) const {
    if (const std::string fault = check_row(*sample.row); !fault.empty()) return {Verdict::gold_unparsed, std::nullopt, fault};
    try {
      std::optional<ScratchFolder> scratch;
      if (!isolated_) scratch.emplace();
      CodeProgram program = make_program(command_, row_tests(*sample.row), sample.completion, isolated_ ? "/program" : scratch->path());
      program.job.isolated = isolated_;
      program.job.cpu_limit = seconds_;
      program.job.idle_limit = std::max(1.0, kIdleShare * seconds_);
      program.job.wall_limit = std::max(kWallLeast, kWallShare * seconds_);
      program.job.memory_limit = memory_;
      return judge_result(program, run_sandboxed(program.job), sample.truncated);
    } catch (const std::exception& error) {  // the host is out of something
      return {Verdict::crashed, std::nullopt, error.what()};
    }
  }

  CodeCommand command_;
  double seconds_;
  int64_t memory_;
  bool isolated_;
};

}  // namespace

std::unique_ptr<Reward> make_code(const std::string&, const RewardSettings& settings) { return std::make_unique<CodeReward>(settings); }

}  // namespace hone::rewards
