#include "run_folder.h"

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/config/parse.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
constexpr const char* kBadRows = "bad_rows.jsonl";

/// Whether nothing but the list of bad rows of a run that never started stands there.
bool holds_only_bad_rows(const fs::path& folder) {
  std::error_code error;
  bool found = false;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().filename() != kBadRows) return false;
    found = true;
  }
  return found && !error;
}

/// The first number that is free. Making the folder, or removing the list that it holds, succeeds for one process only.
fs::path claim_numbered(const std::string& command) {
  for (int number = 1;; ++number) {
    const fs::path folder = fmt::format("runs/{}-{:03}", command, number);
    std::error_code error;
    if (fs::create_directories(folder, error)) return folder;
    if (error && !fs::exists(folder)) fail("--output_dir {}: cannot be made: {}", folder.string(), error.message());
    if (holds_only_bad_rows(folder) && fs::remove(folder / kBadRows, error)) return folder;
  }
}

void check_free(const fs::path& run, const config::RunConfig& config) {
  if (fs::exists(run) && !fs::is_directory(run)) fail("--output_dir {}: it is a file", run.string());
  if (fs::exists(run / "run.yaml") && !config.resume)
    fail("--output_dir {}: a run stands there already; give --resume to go on with it, or another folder", run.string());
  if (!fs::exists(run / "run.yaml"))
    for (const char* name : {"model", "metrics.jsonl", "summary.json", "checkpoints"})
      if (fs::exists(run / name)) fail("--output_dir {}: {} stands there and belongs to no run of hone; give another folder", run.string(), name);
  std::error_code error;
  for (const std::string& input : {config.model_name_or_path, config.adapter})
    if (!input.empty() && fs::equivalent(run / "model", input, error))
      fail("--output_dir {}: its model/ is what is to be trained; give another folder", run.string());
}

}  // namespace

RunFolder::RunFolder(config::RunConfig& config, const std::string& command) {
  if (config.output_dir.empty()) {
    if (config.resume) fail("--resume needs --output_dir: which run is to go on?");
    path_ = claim_numbered(command);
    made_ = true;
    config.output_dir = path_.string();
    return;
  }
  path_ = config.output_dir;
  check_free(path_, config);
  std::error_code error;
  made_ = fs::create_directories(path_, error);
  if (error) fail("--output_dir {}: cannot be made: {}", path_.string(), error.message());
}

RunFolder::~RunFolder() {
  std::error_code ignored;
  if (made_ && !started_) fs::remove(path_, ignored);  // succeeds for an empty folder only
}

void RunFolder::start() {
  started_ = true;
  std::error_code ignored;
  fs::remove(path_ / kBadRows, ignored);
}

void take_resolved(config::RunConfig& config, const config::Arguments& now, const fs::path& run) {
  if (!config.resume || !fs::exists(run / "run.yaml")) return;
  config::Arguments then;
  then.command = now.command;
  then.config = config::defaults(now.command);
  config::apply_yaml(then, read_text(run / "run.yaml", size_t{1} << 20), (run / "run.yaml").string());
  if (!now.given.count("micro_batch_tokens")) config.micro_batch_tokens = then.config.micro_batch_tokens;
  if (!now.given.count("gradient_checkpointing")) config.gradient_checkpointing = then.config.gradient_checkpointing;
  if (!now.given.count("eval_steps")) config.eval_steps = then.config.eval_steps;
}

}  // namespace hone::app
