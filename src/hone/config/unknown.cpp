// What to say about a name that is no flag: another tool's word for one of ours, one whose meaning differs, one that a later version
// brings, or a slip of the pen.
#include <algorithm>
#include <utility>
#include <vector>

#include "hone/base/error.h"
#include "hone/config/fields.h"
#include "hone/config/text_values.h"

namespace hone::config {
namespace {

struct Advice {
  std::vector<std::string> names;
  std::string text;
};

const std::vector<Advice>& refused() {
  static const std::vector<Advice> table = {
      {{"per_device_train_batch_size", "gradient_accumulation_steps", "micro_batch_size", "per_device_eval_batch_size", "train_batch_size"},
       "give --batch_size, the rows of one optimizer step: per_device_train_batch_size x gradient_accumulation_steps x devices"},
      {{"generation_batch_size"}, "give --batch_size, the prompts of one optimizer step, and --steps_per_generation"},
      {{"packing", "padding_free", "packing_strategy", "eval_packing", "pad_to_multiple_of", "sample_packing", "group_by_length"},
       "rows are always packed, nothing is ever padded, and no row sees another; leave it out"},
      {{"truncation_mode"}, "give --overlong drop|cut|error (cut keeps the start)"},
      {{"bf16", "fp16", "tf32", "torch_dtype", "precision"}, "give --dtype auto|float32"},
      {{"load_in_8bit", "quantization_bit", "quantization", "bits", "qlora"}, "give --load_in_4bit: the frozen base in 4 bits"},
      {{"weights"}, "int8 weights are for hone sample, chat and eval: what is trained samples with its own values; leave it out"},
      {{"bnb_4bit_compute_dtype"}, "products are computed in --dtype; leave it out"},
      {{"bnb_4bit_quant_storage"}, "codes are stored as bytes; leave it out"},
      {{"lora", "finetuning_type", "peft_type", "peft_config", "peft", "tuner_type"}, "give --use_peft"},
      {{"lora_target_linear"}, "give --lora_target_modules all-linear (the default)"},
      {{"pissa_init", "use_pissa"}, "give --init_lora_weights pissa"},
      {{"lora_bias", "fan_in_fan_out"}, "no bias is trained beside an adapter; leave it out"},
      {{"lora_task_type", "task_type"}, "it follows from the command; leave it out"},
      {{"use_loraplus", "loraplus_lr_embedding"}, "give --loraplus_lr_ratio X"},
      {{"use_cpu", "no_cuda"}, "give --device cpu"},
      {{"warmup_ratio"}, "give --warmup_steps: warmup_ratio x the number of steps"},
      {{"overwrite_output_dir"}, "an existing run is never written over: give another --output_dir, or --resume to go on with it"},
      {{"resume_from_checkpoint"}, "give --resume: it takes the newest complete checkpoint in --output_dir"},
      {{"greater_is_better"}, "it follows from --metric_for_best_model; leave it out"},
      {{"eval_strategy", "evaluation_strategy"}, "give --eval_file, and --eval_steps N for a fixed distance"},
      {{"save_strategy"}, "give --save_steps N (0: no checkpoint, only model/)"},
      {{"logging_strategy"}, "give --logging_steps N"},
      {{"use_liger_kernel"}, "the loss is the exact chunked negative log-likelihood; leave it out"},
      {{"attn_implementation"}, "attention is always exact per row; leave it out"},
      {{"trust_remote_code"}, "no code of a model is ever run; leave it out"},
      {{"dataset", "dataset_name", "dataset_path", "datasets", "train_dataset", "train_data"}, "give --data FILE..."},
      {{"dataset_text_field"}, "rows are read by their keys: text, messages, or prompt and completion"},
      {{"eval_dataset", "val_file", "validation_file", "val_data", "test_file"}, "give --eval_file FILE"},
      {{"base_model", "pretrained_model_name_or_path", "model_path", "tokenizer", "model_name"}, "give --model PATH"},
      {{"cutoff_len", "sequence_len", "max_seq_length", "max_seq_len", "seq_len", "model_max_length"}, "give --max_length N"},
      {{"num_epochs", "max_epochs", "n_epochs", "num_train_epoch"}, "give --num_train_epochs X"},
      {{"iters", "total_steps", "train_iters"}, "give --max_steps N"},
      {{"lr_scheduler"}, "give --lr_scheduler_type constant|linear|cosine"},
      {{"optimizer"}, "give --optim adamw|adamw_8bit"},
      {{"clip_grad", "gradient_clipping", "max_norm"}, "give --max_grad_norm X"},
      {{"train_on_inputs", "mask_prompt", "train_on_prompt"}, "give --assistant_only_loss or --completion_only_loss"},
      {{"max_prompt_length"}, "rows over --max_length are dropped; --overlong cut cuts the front of their prompt instead"},
      {{"precompute_ref_log_probs", "precompute_ref_batch_size"},
       "the reference's log-probabilities are always computed once, before they are needed, and kept on disk; leave it out"},
      {{"ref_model", "ref_model_name_or_path", "model_ref", "ref_model_init_kwargs", "force_use_ref_model", "ref_adapter_name", "model_adapter_name"},
       "the reference is the policy at step 0 (with --adapter: with that adapter); leave it out"},
      {{"reference_free"}, "give hone simpo or hone orpo: they have no reference"},
      {{"disable_dropout"}, "there is no dropout but --lora_dropout of hone sft; leave it out"},
      {{"pref_loss", "rlhf_type", "dpo_loss"}, "give hone dpo --loss_type NAME, or hone kto, orpo or simpo"},
      {{"dpo_beta", "kto_beta", "reward_beta"}, "give --beta X"},
      {{"max_tokens", "max_gen_len"}, "give --max_new_tokens N (hone sample)"},
  };
  return table;
}

/// Known names that no command of this version has; cli.md's, as TRL and PEFT spell them.
const std::vector<std::string>& later_names() {
  static const std::vector<std::string> names = {
      "lora_target_parameters", "report_to", "tensorboard",      "reward_model",          "gradient_shards",
      "neftune_noise_alpha",    "eos_token", "dataset_num_proc", "activation_offloading",
  };
  return names;
}

const std::vector<std::string>& later_commands() {
  static const std::vector<std::string> names = {"curate", "plan", "advise", "compare"};
  return names;
}

bool contains(const std::vector<std::string>& names, const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); }

/// The text for a refused or later name; empty for any other.
std::string known_advice(const std::string& name) {
  for (const Advice& advice : refused()) {
    if (contains(advice.names, name)) return advice.text;
  }
  return contains(later_names(), name) ? "it comes with a later version of hone" : "";
}

std::string other_commands(const std::string& name) {
  std::string list;
  for (const CommandInfo& info : commands()) {
    if (find_field(info.command, name)) list += fmt::format("{}hone {}", list.empty() ? "" : ", ", info.name);
  }
  return list;
}

/// The sections of hone rlhf's file that have such a key.
std::string sections_with(const std::string& name) {
  std::string list;
  for (const Command stage : kStages) {
    if (find_field(stage, name)) list += (list.empty() ? "" : ", ") + command_name(stage);
  }
  return list;
}

}  // namespace

std::string explain_unknown(Command command, std::string_view name, std::string_view what) {
  const std::string normal = normal_name(name);
  const std::string dashes = what == "flag" ? "--" : "";
  const std::string named = what == "flag" ? "--" + printable(name) : shown(name);
  const bool is_refused = std::any_of(refused().begin(), refused().end(), [&](const Advice& a) { return contains(a.names, normal); });
  if (is_refused) return fmt::format("{} is not taken: {}", named, known_advice(normal));
  if (const std::string sections = command == rlhf ? sections_with(normal) : ""; !sections.empty()) {
    return fmt::format("{} is a key of the file's sections, not of the whole run: give it in {}", named, sections);
  }
  if (const std::string others = other_commands(normal); !others.empty()) {
    return fmt::format("{} belongs to {}, not to hone {}", named, others, command_name(command));
  }
  if (const std::string advice = known_advice(normal); !advice.empty()) return fmt::format("{}: {}", named, advice);

  std::vector<std::string> candidates;
  for (const Field& field : fields()) {
    if (!(field.commands & command)) continue;
    candidates.push_back(field.name);
    candidates.insert(candidates.end(), field.aliases.begin(), field.aliases.end());
  }
  if (command == rlhf && what == "key") candidates.insert(candidates.end(), {"sft", "reward", "ppo", "gate"});
  const size_t own = candidates.size();
  for (const Advice& advice : refused()) candidates.insert(candidates.end(), advice.names.begin(), advice.names.end());
  candidates.insert(candidates.end(), later_names().begin(), later_names().end());
  std::string near = nearest_name(normal, candidates.data(), candidates.data() + own);
  if (near.empty()) near = nearest_name(normal, candidates.data() + own, candidates.data() + candidates.size());
  if (near.empty()) return fmt::format("unknown {} {}; hone {} --help_all lists what there is", what, named, command_name(command));
  const std::string advice = find_field(command, near) ? "" : known_advice(near);
  return fmt::format("unknown {} {}: did you mean {}{}?{}", what, named, dashes, near, advice.empty() ? "" : fmt::format(" ({})", advice));
}

Command find_command(std::string_view name) {
  const std::string normal = normal_name(name);
  std::vector<std::string> names;
  for (const CommandInfo& info : commands()) {
    if (info.name == normal) return info.command;
    names.push_back(info.name);
  }
  if (contains(later_commands(), normal)) fail("hone {} comes with a later version; this one has {}", normal, fmt::join(names, ", "));
  names.insert(names.end(), later_commands().begin(), later_commands().end());
  const std::string near = nearest_name(normal, names.data(), names.data() + names.size());
  fail("unknown command {}{}", shown(name), near.empty() ? "; hone --help lists them" : fmt::format(": did you mean {}?", near));
}

}  // namespace hone::config
