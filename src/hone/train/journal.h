#pragma once
// The journal of a rollout: every completion as soon as it is finished, every verdict as soon as it is given, each a line of a file under the
// run's folder. What stands there is never sampled or judged again, so that a run killed at any moment goes on to the same bits, with what
// judged it the first time. Log-probabilities are kept as the bits of their float32. A line that a kill tore is ignored, with all behind it.
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hone/base/files.h"
#include "hone/rewards/reward.h"
#include "hone/rollout/sampler.h"

namespace hone::train {

/// One completion of a rollout and what the rewards said of it.
struct Trajectory {
  rollout::Completion completion;
  std::string text;                            // without the end token
  std::vector<rewards::Judgement> judgements;  // by reward
};

/// A prompt that was drawn, and its completions.
struct DrawnGroup {
  int64_t draw = 0;  // number of the draw over the whole run: it keys the sampler's noise
  int64_t row = 0;   // of the prompts
  std::vector<Trajectory> samples;
};

class Journal {
 public:
  /// Opens run/rollouts/rollout-N.jsonl and takes up what stands there, if its first line has the same key (what the run is).
  Journal(const std::filesystem::path& run, int64_t rollout, const std::string& key);
  /// The same with the lines that a checkpoint holds in place of what stands there.
  Journal(const std::filesystem::path& run, int64_t rollout, const std::string& key, const std::string& lines);

  const rollout::Completion* completion(int64_t draw, uint32_t sample) const;
  const rewards::Judgement* judgement(size_t reward, int64_t draw, uint32_t sample) const;
  void add(int64_t draw, uint32_t sample, const rollout::Completion& completion);
  void add(size_t reward, int64_t draw, uint32_t sample, const rewards::Judgement& judgement);
  /// Hands what was added to the operating system.
  void flush() { file_->flush(); }
  /// Every line but the first, for a checkpoint.
  std::string lines() const;
  int64_t found() const { return found_; }  // completions that stood there

  /// Deletes the journals of the rollouts before this one.
  static void remove_before(const std::filesystem::path& run, int64_t rollout);

 private:
  static std::filesystem::path path_of(const std::filesystem::path& run, int64_t rollout);
  void take(std::string_view text);
  bool take_line(std::string_view line);
  void write(const std::string& line);

  std::filesystem::path path_;
  std::string header_;
  std::string lines_;
  std::map<std::pair<int64_t, uint32_t>, rollout::Completion> completions_;
  std::map<std::pair<size_t, std::pair<int64_t, uint32_t>>, rewards::Judgement> judgements_;
  std::unique_ptr<FileWriter> file_;
  int64_t found_ = 0;
};

}  // namespace hone::train
