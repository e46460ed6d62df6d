// hone rlhf: supervised fine-tuning, a reward model and PPO as one run. Each stage is the run of its own command in a folder of its own; what makes
// them one is that every file is checked before the first one trains, that a gate stands behind each, and that --resume knows which are done.
#include <algorithm>
#include <filesystem>
#include <set>

#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/signals.h"
#include "hone/model/folders.h"
#include "hone/train/progress.h"
#include "loaded_model.h"
#include "rlhf_gates.h"
#include "run_folder.h"
#include "training.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
using config::Stage;
using train::Json;

constexpr const char* kDone = "stage.json";  // in a stage's folder, once its result is whole

Technique technique_of(const config::Arguments& stage) {
  if (stage.command == config::sft) return sft_technique();
  return stage.command == config::reward ? reward_technique(stage.config) : ppo_technique(stage.config);
}

std::string name_of(const Stage& stage) { return config::command_name(stage.arguments.command); }

fs::path folder_of(const Stage& stage) { return stage.arguments.config.output_dir; }

// Name, size and hash of every file of a result.
Json files_of(const fs::path& folder) {
  std::set<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) paths.insert(entry.path());
  Json files = Json::object();
  for (const fs::path& path : paths) {
    const MappedFile file(path);
    files[path.filename().string()] = {file.bytes().size(), hash_hex(file.bytes().data(), file.bytes().size())};
    file.release();
  }
  return files;
}

// The record of a stage that is done; null where there is none, or where its result is not what it was then.
Json record_at(const fs::path& stage) {
  if (!fs::exists(stage / kDone)) return nullptr;
  const Json record = Json::parse(read_text(stage / kDone), nullptr, false);
  const bool complete = record.is_object() && record.contains("identity") && record.contains("summary") && record.contains("files");
  return complete && fs::is_directory(stage / "model") && files_of(stage / "model") == record.at("files") ? record : Json();
}

// The same, for exactly this run. UserError where it is another run's.
Json record_of(const fs::path& stage, const Json& identity) {
  Json record = record_at(stage);
  if (!record.is_null())
    train::compare_identity(record.at("identity"), identity, stage);
  else if (fs::exists(stage / kDone))
    log_warning("{}: not what it was when the stage ended; the stage goes on from its checkpoint", (stage / "model").string());
  return record;
}

// The stage with what is there already in place of the results that are still to come: rows and options can be checked with it.
config::Arguments stand_in(const Stage& stage, const config::Arguments& sft, const fs::path& run) {
  config::Arguments a = stage.arguments;
  config::RunConfig& c = a.config;
  const fs::path tuned = config::stage_model(run, config::sft), judge = config::stage_model(run, config::reward);
  const auto missing = [&](const std::string& path, const fs::path& result) {
    return fs::weakly_canonical(path) == fs::weakly_canonical(result) && record_at(result.parent_path()).is_null();
  };
  if (missing(c.model_name_or_path, tuned)) c.model_name_or_path = sft.config.model_name_or_path;
  if (!c.adapter.empty() && missing(c.adapter, tuned)) static_cast<config::PeftOptions&>(c) = sft.config;
  const size_t rewards = c.reward.size();
  std::erase_if(c.reward, [&](const std::string& spec) { return spec.starts_with("model:") && missing(spec.substr(6), judge); });
  if (c.reward.size() == rewards) return a;
  c.reward_weights.clear();
  if (c.value_model == "reward" || missing(c.value_model, judge)) c.value_model.clear();
  return a;
}

// Whatever is wrong with a later stage's options and files must not surface an hour later.
void check_stages(const std::vector<Stage>& stages, const config::Arguments& run, const fs::path& folder) {
  for (const Stage& stage : stages) {
    log_info("checking {}", name_of(stage));
    config::Arguments checked = stand_in(stage, stages.front().arguments, folder);
    checked.config.resume = fs::exists(folder_of(stage) / "run.yaml") && checked.config.resume;
    try {
      train_run(checked, technique_of(checked), {.check_only = true});
    } catch (const UserError& error) {
      throw UserError(error.code(), fmt::format("{}: {}: {}", run.config_file.string(), name_of(stage), error.what()));
    }
  }
}

// What the run tells in its summary.json.
class Report {
 public:
  explicit Report(fs::path folder) : folder_(std::move(folder)), begin_(monotonic_seconds()) {}

  void add(const Stage& stage, const Json& summary, bool kept, const GateVerdict& gate) {
    Json& entry = stages_[name_of(stage)];
    for (const char* key : {"steps", "total_steps", "rows", "wall_seconds", "peak_memory_mib", "message", "train", "eval"})
      if (summary.contains(key)) entry[key] = summary.at(key);
    if (entry["eval"].is_object())
      for (const char* key : {"reliability", "distributions"}) entry["eval"].erase(key);  // reward_report.json has them
    entry["kept"] = kept;
    entry["gate"] = gate.json;
    peak_ = std::max(peak_, summary.value("peak_memory_mib", 0.0));
  }

  Json write(Exit exit, const std::string& message) const {
    const Json summary{{"command", "rlhf"},
                       {"hone_version", HONE_VERSION},
                       {"exit_code", static_cast<int>(exit)},
                       {"message", message},
                       {"stages", stages_},
                       {"wall_seconds", monotonic_seconds() - begin_},
                       {"peak_memory_mib", peak_}};
    write_atomic(folder_ / "summary.json", summary.dump(1) + "\n");
    return summary;
  }

 private:
  fs::path folder_;
  double begin_ = 0, peak_ = 0;
  Json stages_ = Json::object();
};

[[noreturn]] void end_early(const Report& report, Exit exit, const std::string& message) {
  report.write(exit, message);
  throw UserError(exit, message);
}

// Trains the stage, or keeps what stands of it, and passes its gate. Empty, or why the run ends behind it: --max_time, it is not done.
std::string run_stage(const Stage& stage, const config::Gates& gates, Report& report) {
  config::Arguments arguments = stage.arguments;
  const fs::path folder = folder_of(stage);
  arguments.config.resume = arguments.config.resume && fs::exists(folder / "run.yaml");
  follow_adapter(arguments.config, arguments.given);
  reset_peak_rss();
  Json record;
  const TrainedRun done = train_run(arguments, technique_of(arguments),
                                    {.stands = [&](const Json& identity) { return !(record = record_of(folder, identity)).is_null(); }});
  if (done.exit != Exit::ok) {
    report.add(stage, done.summary, false, {});
    end_early(report, done.exit, fmt::format("{}: {}", name_of(stage), done.message));
  }
  if (!done.kept && done.summary.at("steps") < done.summary.at("total_steps")) {
    report.add(stage, done.summary, false, {});
    return fmt::format("{} is not done: {}, and with the stages behind it", name_of(stage), done.message);
  }
  if (done.kept) {
    log_info("{} is done already: its result is kept", name_of(stage));
  } else {
    record = {{"identity", done.identity}, {"summary", done.summary}, {"files", files_of(folder / "model")}};
    write_atomic(folder / kDone, record.dump(1) + "\n");
  }
  const GateVerdict gate = judge(gates, stage.arguments.command, record.at("summary"));
  report.add(stage, record.at("summary"), done.kept, gate);
  if (!gate.words.empty()) log_info("gate of {}: {}: {}", name_of(stage), gate.passed ? "passed" : "NOT passed", gate.words);
  if (!gate.passed)
    end_early(report, Exit::guard,
              fmt::format("the gate of {} is not passed: {}.\n{}.\nEverything is kept: with another threshold --resume goes on behind this stage; to "
                          "train it anew move {} away first",
                          name_of(stage), gate.words, gate.advice, folder.string()));
  return {};
}

// The result of the last stage is that of the run: the same files under a second name, or copies where the file system has no hard links.
void place_result(const fs::path& result, const fs::path& folder) {
  const bool adapter = fs::exists(result / "adapter_config.json");
  model::replace_folder(folder / "model", adapter ? "adapter_config.json" : "config.json", adapter ? "adapter" : "model",
                        [&](const fs::path& scratch) {
                          for (const auto& entry : fs::directory_iterator(result)) {
                            std::error_code error;
                            fs::create_hard_link(entry.path(), scratch / entry.path().filename(), error);
                            if (error) fs::copy_file(entry.path(), scratch / entry.path().filename());
                          }
                        });
}

}  // namespace

int run_rlhf(const Arguments& run) {
  const double begin = monotonic_seconds();
  install_signal_handlers();
  config::RunConfig claim = run.config;
  claim.model_name_or_path = config::connect_stages(run, "").front().arguments.config.model_name_or_path;
  RunFolder claimed(claim, config::command_name(run.command));
  const fs::path folder = claimed.path();
  config::Arguments own = run;
  own.config.output_dir = folder.string();
  const std::vector<Stage> stages = config::connect_stages(own, folder);
  check_stages(stages, run, folder);
  claimed.start();
  write_atomic(folder / "run.yaml", config::to_yaml(own, stages));
  Report report(folder);
  std::string early;
  for (size_t i = 0; i < stages.size() && early.empty(); ++i) {
    log_info("stage {} of {}: {}", i + 1, stages.size(), name_of(stages[i]));
    early = run_stage(stages[i], run.gates, report);
  }
  if (early.empty()) place_result(config::stage_model(folder, config::ppo), folder);
  const Json summary = report.write(Exit::ok, early);
  if (run.config.format == config::Format::json) print_result(summary.dump() + "\n");
  if (!early.empty()) {
    log_info("{}", early);
    return static_cast<int>(Exit::ok);
  }
  log_info("done: all three stages in {:.0f} s; figures in {}, model in {}", monotonic_seconds() - begin, (folder / "summary.json").string(),
           (folder / "model").string());
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
