#pragma once
// The folder of a training run: found, checked and claimed before anything is written.
#include <filesystem>
#include <string>

#include "hone/config/parse.h"

namespace hone::app {

/// Claims --output_dir, or the first free runs/COMMAND-001, ... (written into config.output_dir); UserError where a run stands without
/// --resume, or files that belong to no run. A folder that was made here and never started goes again if it is empty; one that holds only
/// bad_rows.jsonl is free for the next run.
class RunFolder {
 public:
  RunFolder(config::RunConfig& config, const std::string& command);
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  ~RunFolder();
  const std::filesystem::path& path() const { return path_; }
  /// The run starts: the folder stays, and a list of bad rows of an earlier attempt goes.
  void start();

 private:
  std::filesystem::path path_;
  bool made_ = false;
  bool started_ = false;
};

/// On --resume: what `auto` came to when the run began, for the fields that `now` does not give.
void take_resolved(config::RunConfig& config, const config::Arguments& now, const std::filesystem::path& run);

}  // namespace hone::app
