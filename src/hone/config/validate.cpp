// Contradictions between flags: found before anything is read or written.
#include "hone/base/error.h"
#include "hone/config/parse.h"

namespace hone::config {
namespace {

void check_training(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  if (config.max_steps == 0) fail("--max_steps: 0 steps train nothing; give at least 1, or -1 for as many as --num_train_epochs gives");
  if (config.max_steps > 0 && config.warmup_steps > config.max_steps) {
    fail("--warmup_steps {} is longer than the run (--max_steps {})", config.warmup_steps, config.max_steps);
  }
  if (config.eval_file.empty()) {
    for (const char* name : {"eval_steps", "load_best_model_at_end", "metric_for_best_model"}) {
      if (name == std::string("load_best_model_at_end") && !config.load_best_model_at_end) continue;
      if (arguments.given.count(name)) fail("--{} needs held-out rows: add --eval_file FILE", name);
    }
  }
  if (config.max_tree_tokens < config.max_length) {
    fail("--max_tree_tokens {} is below --max_length {}: a row of the longest length would fit no tree", config.max_tree_tokens, config.max_length);
  }
  if (config.resume && config.output_dir.empty()) fail("--resume needs the run to go on with: add --output_dir DIR");
}

}  // namespace

void validate(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  const std::string& name = command_name(arguments.command);
  for (const std::string& required : {std::string("model_name_or_path"), std::string("data")}) {
    const Field* field = find_field(arguments.command, required);
    if (!field || field->name != required || arguments.command == doctor) continue;
    const bool missing = required == "data" ? config.data.empty() : config.model_name_or_path.empty();
    if (missing) fail("hone {} needs {}", name, required == "data" ? "rows: add --data FILE" : "a model: add --model PATH");
  }
  for (const std::string& file : config.data) {
    if (file.empty()) fail("--data: a file name is empty");
  }
  if (arguments.command == sft) check_training(arguments);
  if (arguments.command == sample && !config.prompt.empty() && !config.file.empty()) fail("--prompt and --file exclude each other; give one");
}

}  // namespace hone::config
