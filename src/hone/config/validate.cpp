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
  if (config.max_tree_tokens < config.max_length) {
    fail("--max_tree_tokens {} is below --max_length {}: a row of the longest length would fit no tree", config.max_tree_tokens, config.max_length);
  }
  if (config.resume && config.output_dir.empty()) fail("--resume needs the run to go on with: add --output_dir DIR");
}

/// Flags that would change nothing are errors: a run that is not what its flags say must not start.
void check_needs(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  const RunConfig start = defaults(arguments.command);
  for (const Field& field : fields()) {
    if (!(field.commands & arguments.command) || !arguments.given.count(field.name) || applies(config, field)) continue;
    // A switch that is told to stay off says nothing wrong.
    if (std::holds_alternative<bool RunConfig::*>(field.member) && field_text(config, field) == field_text(start, field)) continue;
    if (field.needs == Needs::held_out) fail("--{} needs held-out rows: add --eval_file FILE", field.name);
    if (field.needs == Needs::four_bit) fail("--{} changes nothing without --load_in_4bit; add it, or leave this out", field.name);
    if (field.needs == Needs::new_adapter && config.use_peft) {
      fail("--{} and --adapter exclude each other: an adapter that stands keeps its own shape and values; leave one out", field.name);
    }
    fail("--{} changes nothing without an adapter; add --use_peft (or --load_in_4bit, or --adapter DIR), or leave this out", field.name);
  }
}

void check_adapter(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  if (arguments.given.count("adapter") && config.adapter.empty()) fail("--adapter: the directory's name is empty");
  const std::vector<std::string>& targets = config.lora_target_modules;
  for (const std::string& name : targets) {
    if (name.empty()) fail("--lora_target_modules: a name is empty");
    if (name == "all-linear" && targets.size() > 1) {
      fail("--lora_target_modules: all-linear is every linear already (but the head); give it alone, or the names alone");
    }
  }
  for (const std::string& name : config.lora_modules_to_save) {
    if (name.empty()) fail("--lora_modules_to_save: a name is empty");
  }
  if (config.init_lora_weights == InitLora::pissa && config.load_in_4bit) {
    fail("--init_lora_weights pissa takes the principal part out of the base's weights, which --load_in_4bit cannot keep; leave one out");
  }
}

}  // namespace

void resolve_defaults(Arguments& arguments) {
  RunConfig& config = arguments.config;
  const Field* use_peft = find_field(arguments.command, "use_peft");
  if (!use_peft) return;
  const bool told = arguments.given.count(use_peft->name) > 0;
  const char* implied_by = config.load_in_4bit ? "load_in_4bit" : config.adapter.empty() ? "" : "adapter";
  if (*implied_by && told && !config.use_peft) fail("--use_peft false and --{} exclude each other: only an adapter is trained there", implied_by);
  if (*implied_by) config.use_peft = true;
  if (config.use_peft && !arguments.given.count("learning_rate")) config.learning_rate = kAdapterLearningRate;
}

void validate(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  const std::string& name = command_name(arguments.command);
  for (const std::string& required : {std::string("model_name_or_path"), std::string("data")}) {
    const Field* field = find_field(arguments.command, required);
    if (!field || field->name != required || arguments.command == doctor) continue;
    if (required == "data" && (arguments.command & (merge | convert))) continue;
    const bool missing = required == "data" ? config.data.empty() : config.model_name_or_path.empty();
    if (missing) fail("hone {} needs {}", name, required == "data" ? "rows: add --data FILE" : "a model: add --model PATH");
  }
  for (const std::string& file : config.data) {
    if (file.empty()) fail("--data: a file name is empty");
  }
  if (arguments.command == convert && config.output.empty()) fail("hone convert needs a name for what it makes: add --output PATH");
  if (arguments.command == merge && config.adapter.empty()) fail("hone merge needs an adapter: add --adapter DIR");
  if (arguments.command == merge && config.output_dir.empty()) fail("hone merge needs a folder for the merged model: add --output_dir DIR");
  check_needs(arguments);
  check_adapter(arguments);
  if (arguments.command == sft) check_training(arguments);
  if (arguments.command == sample && !config.prompt.empty() && !config.file.empty()) fail("--prompt and --file exclude each other; give one");
}

}  // namespace hone::config
