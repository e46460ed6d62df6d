// The rows of the field table. Help lines are written once, here.
#include <fmt/format.h>

#include "hone/config/parse.h"
#include "hone/config/table_rows.h"

namespace hone::config {
namespace {

constexpr unsigned kModelCommands = kRunCommands | inspect | tokenize | score | sample | chat | eval | grade | doctor | merge | convert;
constexpr unsigned kMachineCommands = kRunCommands | inspect | score | sample | chat | eval | grade;
constexpr unsigned kComputeCommands = kMachineCommands | merge | convert;
constexpr unsigned kApplyCommands = inspect | score | sample | chat | eval | grade;  // an adapter or a 4-bit base, without training

using C = RunConfig;

/// --format offers other names to other commands.
Row format_row(std::vector<Format> formats, std::string help) {
  Row result = some_of("format", &C::format, formats, std::move(help));
  for (Format format : formats) result.choices.push_back(format == Format::text ? "text" : format == Format::json ? "json" : "jsonl");
  return result;
}

Row overlong_row(std::string help) { return choice("overlong", &C::overlong, std::move(help)).one_of({"drop", "cut", "error"}).shown(); }

/// The technique's learning rate; `commands` all have the same ones.
Row learning_rate_row(Command command, unsigned commands) {
  const auto text = [&](bool adapter) { return fmt::format("{}", default_learning_rate(command, adapter)); };
  return row("learning_rate", &C::learning_rate, "X", "peak learning rate")
      .also({"lr"})
      .range(0, 100)
      .starts_as(text(false))
      .told_as(fmt::format("{}; with an adapter {}", text(false), text(true)))
      .in(commands)
      .shown();
}

Row batch_size_row(std::string help) { return row("batch_size", &C::batch_size, "N", std::move(help)).range(1, 1 << 20).shown(); }

Row lora_alpha_row() {
  return row("lora_alpha", &C::lora_alpha, "X", "the adapter's product is scaled by lora_alpha / lora_r").above(0).with(Needs::new_adapter);
}

Row best_metric_row(std::vector<BestMetric> metrics) {
  Row result = some_of("metric_for_best_model", &C::metric_for_best_model, metrics, "what the best is judged by").with(Needs::held_out);
  for (const BestMetric metric : metrics) {
    const std::string key = metric_key(metric);
    result.choices.push_back(key);
    result.choice_aliases.emplace_back(key.substr(5), key);  // without eval_
  }
  return result;
}

Rows model_rows() {
  return {
      row("model_name_or_path", &C::model_name_or_path, "PATH",
          "a Hugging Face directory, a .gguf file, or a hub id found in the local Hugging Face cache")
          .also({"model"})
          .in(kModelCommands)
          .shown(),
      row("chat_template_path", &C::chat_template_path, "FILE", "a Jinja chat template (or a directory that has one) instead of the model's own")
          .told_as("the model's own")
          .in(kRunCommands | inspect | score | sample | chat | eval | grade),
  };
}

Rows data_rows() {
  return {
      row("data", &C::data, "FILE...", "training rows, JSON Lines").also({"train_file"}).in(kTrainingCommands).shown(),
      row("data", &C::data, "FILE...", "held-out rows, JSON Lines").also({"eval_file"}).in(eval).shown(),
      row("data", &C::data, "FILE...", "held-out rows for the comparison, JSON Lines").told_as("built-in prompts").in(merge | convert).shown(),
      row("eval_file", &C::eval_file, "FILE", "held-out rows, JSON Lines; the loss on them is reported")
          .told_as("none")
          .in(kTrainingCommands & ~kOnPolicyCommands)
          .shown(),
      row("eval_file", &C::eval_file, "FILE", "held-out prompts, JSON Lines; one completion of each is judged")
          .told_as("none")
          .in(kOnPolicyCommands)
          .shown(),
      row("max_length", &C::max_length, "N", "longest row in tokens").range(2, 1 << 20).in(sft | inspect | eval).shown(),
      row("max_length", &C::max_length, "N", "longest prompt and completion in tokens").range(2, 1 << 20).in(kPreferenceCommands | rlhf).shown(),
      overlong_row("rows over --max_length: drop them (an error above 1 % of the rows), cut their end, or stop").in(sft | inspect | eval),
      overlong_row("rows over --max_length: drop them (an error above 1 % of the rows), cut the front of their prompt, or stop")
          .in(kPreferenceCommands | rlhf),
      row("max_length", &C::max_length, "N", "longest prompt and completion in tokens; a prompt may have --max_completion_length less")
          .range(2, 1 << 20)
          .in(kOnPolicyCommands)
          .shown(),
      overlong_row("prompts that are too long: drop them (an error above 1 % of the rows), cut their front, or stop").in(kOnPolicyCommands),
      row("assistant_only_loss", &C::assistant_only_loss, "true|false", "messages: train on the assistant's turns only").in(sft | inspect | eval),
      row("completion_only_loss", &C::completion_only_loss, "true|false", "prompt/completion rows: train on the completion only")
          .in(sft | inspect | eval),
      row("shuffle_dataset", &C::shuffle_dataset, "true|false", "a new order of the rows for every epoch, from --seed").in(kRunCommands),
  };
}

Rows training_rows() {
  return {
      row("max_steps", &C::max_steps, "N", "optimizer steps; -1: as many as --num_train_epochs gives").range(-1, 1e9).in(kRunCommands).shown(),
      row("num_train_epochs", &C::num_train_epochs, "X", "passes over the data; --max_steps wins")
          .also({"epochs"})
          .above(0)
          .below(1e6)
          .in(kRunCommands)
          .shown(),
      Row("max_time", Member(std::in_place_type<DurationMember>, DurationMember{&C::max_time}), "20m",
          "stop after this long (90s, 20m, 1h30m), with a checkpoint and the result written")
          .empty_as("none")
          .in(kRunCommands)
          .shown(),
      batch_size_row("rows per optimizer step").in(sft | kto),
      batch_size_row("pairs per optimizer step").in(kPairCommands),
      batch_size_row("prompts per optimizer step, each with --num_generations completions").also({"prompts_per_step"}).in(kOnPolicyCommands),
      batch_size_row("rows, pairs and prompts per optimizer step").in(rlhf),
      row("learning_rate", &C::learning_rate, "X", "peak learning rate of all three").also({"lr"}).range(0, 100).told_as("of each its own").in(rlhf),
      learning_rate_row(sft, sft),
      learning_rate_row(dpo, dpo | kto | orpo | simpo | kGroupCommands),
      learning_rate_row(ppo, ppo),
      learning_rate_row(reward, reward),
      choice("lr_scheduler_type", &C::lr_scheduler_type, "learning rate after the warm-up")
          .one_of({"constant", "linear", "cosine"})
          .or_as({{"constant_with_warmup", "constant"}})
          .in(kRunCommands)
          .shown(),
      row("warmup_steps", &C::warmup_steps, "N", "steps of linear warm-up").range(0, 1e9).in(kRunCommands).shown(),
      row("weight_decay", &C::weight_decay, "X", "decoupled weight decay; biases and norms are left out").range(0, 1).in(kRunCommands),
      row("max_grad_norm", &C::max_grad_norm, "X", "gradients are clipped to this norm; 0: no clipping").range(0, 1e9).in(kRunCommands),
      choice("optim", &C::optim, "optimizer; adamw_8bit keeps its moments in 8 bits")
          .one_of({"adamw", "adamw_8bit"})
          .or_as({{"adamw_torch", "adamw"},
                  {"adamw_torch_fused", "adamw"},
                  {"paged_adamw", "adamw"},
                  {"paged_adamw_32bit", "adamw"},
                  {"adamw_bnb_8bit", "adamw_8bit"},
                  {"paged_adamw_8bit", "adamw_8bit"}})
          .in(kRunCommands),
      row("adam_beta1", &C::adam_beta1, "X", "AdamW's decay of the first moment").range(0, 1).below(1).in(kRunCommands),
      row("adam_beta2", &C::adam_beta2, "X", "AdamW's decay of the second moment").range(0, 1).below(1).in(kRunCommands),
      row("adam_epsilon", &C::adam_epsilon, "X", "AdamW's epsilon").above(0).below(1).in(kRunCommands),
      choice("on_guard", &C::on_guard, "what a failed check of the running training does").one_of({"stop", "warn"}).in(kRunCommands),
  };
}

Rows adapter_rows() {
  return {
      row("use_peft", &C::use_peft, "true|false", "train a LoRA adapter; the model itself stays as it is").in(kRunCommands).shown(),
      row("adapter", &C::adapter, "DIR", "go on training this adapter (a PEFT directory); implies --use_peft")
          .also({"adapter_name_or_path", "lora_model_dir"})
          .told_as("a new one")
          .in(kTrainingCommands)
          .shown(),
      row("adapter", &C::adapter, "DIR", "an adapter (a PEFT directory) on top of the model")
          .also({"adapter_name_or_path", "lora_model_dir"})
          .told_as("none")
          .in(kApplyCommands)
          .shown(),
      row("load_in_4bit", &C::load_in_4bit, "true|false", "the frozen model in 4 bits (QLoRA); implies --use_peft").in(kRunCommands).shown(),
      row("adapter", &C::adapter, "DIR", "write this adapter (a PEFT directory) anew in PEFT's layout, instead of the model")
          .also({"adapter_name_or_path", "lora_model_dir"})
          .told_as("none")
          .in(convert)
          .shown(),
      row("adapter", &C::adapter, "DIR", "the adapter (a PEFT directory)").also({"adapter_name_or_path", "lora_model_dir"}).in(merge).shown(),
      row("load_in_4bit", &C::load_in_4bit, "true|false", "the model's linear weights in 4 bits").in(kApplyCommands).shown(),
      row("load_in_4bit", &C::load_in_4bit, "true|false", "merge into the values that the base has in 4 bits")
          .told_as("as the adapter was trained")
          .in(merge)
          .shown(),
      choice("weights", &C::weights, "the model's linear weights in float32, or in int8: faster and smaller, not what was trained")
          .one_of({"float32", "int8"})
          .in(sample | chat | eval)
          .shown(),
      choice("bnb_4bit_quant_type", &C::bnb_4bit_quant_type,
             "the 16 values of 4 bits; gguf: the 4-bit blocks of a GGUF file (Q4_0, Q4_1) as they are, which changes no value")
          .one_of({"nf4", "fp4", "gguf"})
          .with(Needs::four_bit)
          .in(kMachineCommands | merge),
      row("use_bnb_nested_quant", &C::use_bnb_nested_quant, "true|false", "the scales of the 4-bit blocks in 8 bits")
          .also({"bnb_4bit_use_double_quant", "double_quantization"})
          .with(Needs::four_bit)
          .in(kMachineCommands | merge),
      row("lora_r", &C::lora_r, "N", "rank of the adapter")
          .also({"r", "lora_rank"})
          .range(1, 1 << 16)
          .with(Needs::new_adapter)
          .in(kRunCommands)
          .shown(),
      lora_alpha_row().also({"alpha"}).in(kRunCommands & ~simpo),
      lora_alpha_row().in(simpo),
      row("lora_dropout", &C::lora_dropout, "X", "share of the adapter's inputs dropped in training")
          .range(0, 1)
          .below(1)
          .with(Needs::adapter)
          .in(kTrainingCommands),
      row("lora_target_modules", &C::lora_target_modules, "all-linear|NAME,...",
          "linears that get an adapter: every one but the head, or names, or regular expressions of whole names")
          .also({"target_modules", "lora_target"})
          .or_as({{"all", "all-linear"}})
          .split_at_commas()
          .with(Needs::new_adapter)
          .in(kRunCommands),
      row("lora_modules_to_save", &C::lora_modules_to_save, "NAME,...", "modules trained in full beside the adapter (lm_head, embed_tokens, norms)")
          .also({"modules_to_save", "additional_target"})
          .told_as("none")
          .split_at_commas()
          .with(Needs::new_adapter)
          .in(kRunCommands),
      row("use_rslora", &C::use_rslora, "true|false", "scale by lora_alpha / sqrt(lora_r)")
          .also({"peft_use_rslora"})
          .with(Needs::new_adapter)
          .in(kRunCommands),
      row("use_dora", &C::use_dora, "true|false", "DoRA: magnitude and direction apart")
          .also({"peft_use_dora"})
          .with(Needs::new_adapter)
          .in(kRunCommands),
      choice("init_lora_weights", &C::init_lora_weights, "the adapter's first values; pissa: the weights' principal components")
          .also({"peft_init_lora_weights"})
          .one_of({"default", "gaussian", "pissa"})
          .or_as({{"true", "default"}, {"True", "default"}})
          .with(Needs::new_adapter)
          .in(kRunCommands),
      row("loraplus_lr_ratio", &C::loraplus_lr_ratio, "X", "LoRA+: learning rate of lora_B over that of lora_A; 0: the same")
          .range(0, 1e6)
          .with(Needs::adapter)
          .in(kRunCommands),
  };
}

Rows run_rows() {
  return {
      row("output_dir", &C::output_dir, "DIR", "where the run is written")
          .also({"output"})
          .told_as("runs/COMMAND-001 and so on")
          .in(kRunCommands)
          .shown(),
      row("resume", &C::resume, "true|false", "go on from the newest complete checkpoint in --output_dir; where there is none, start")
          .in(kRunCommands)
          .shown(),
      row("seed", &C::seed, "N", "every random choice follows from it").range(0, 9e15).in(kRunCommands | sample | chat | eval).shown(),
      row("logging_steps", &C::logging_steps, "N", "steps between two lines of metrics.jsonl").range(1, 1e9).in(kRunCommands),
      row("eval_steps", &C::eval_steps, "auto|N", "steps between two evaluations on --eval_file; auto: at the end of every epoch")
          .range(1, 1e9)
          .with(Needs::held_out)
          .empty_as("auto")
          .in(kRunCommands),
      row("save_steps", &C::save_steps, "N", "steps between two checkpoints (one stands at the end, too); 0: none, only model/")
          .range(0, 1e9)
          .in(kRunCommands)
          .shown(),
      row("save_total_limit", &C::save_total_limit, "none|N", "checkpoints kept; the best is always kept")
          .range(1, 1e6)
          .empty_as("none")
          .in(kRunCommands),
      row("load_best_model_at_end", &C::load_best_model_at_end, "true|false", "model/ is the best evaluated step instead of the last")
          .with(Needs::held_out)
          .in(kRunCommands),
      best_metric_row({BestMetric::eval_loss, BestMetric::eval_mean_token_accuracy}).in(sft),
      best_metric_row({BestMetric::eval_loss, BestMetric::eval_rewards_accuracies}).in(dpo | orpo | simpo),
      best_metric_row({BestMetric::eval_loss, BestMetric::eval_accuracy}).in(reward),
      best_metric_row({BestMetric::eval_loss}).in(kto),
      best_metric_row({BestMetric::eval_reward, BestMetric::eval_pass_at_1}).starts_as("eval_reward").in(kOnPolicyCommands),
      row("micro_batch_tokens", &C::micro_batch_tokens, "auto|N", "tokens computed at a time; the result's bits do not depend on it")
          .range(1, 1 << 24)
          .empty_as("auto")
          .in(kRunCommands | eval | score | grade),
      row("max_tree_tokens", &C::max_tree_tokens, "N", "longest tree of segments with a shared prompt").range(2, 1 << 24).in(kRunCommands),
      row("gradient_checkpointing", &C::gradient_checkpointing, "auto|true|false",
          "compute activations twice to save memory (auto: where it is short; on-policy, where they would set the peak); the same bits")
          .empty_as("auto")
          .in(kRunCommands),
  };
}

Rows machine_rows() {
  return {
      choice("device", &C::device, "where to compute")
          .one_of({"auto", "cpu", "cuda"})
          .or_as({{"cuda:*", "cuda"}, {"gpu", "cuda"}})
          .later({"cuda"})
          .in(kComputeCommands),
      choice("dtype", &C::dtype, "precision; auto: float32 on a CPU")
          .one_of({"auto", "float32", "bfloat16"})
          .or_as({{"fp32", "float32"}, {"bf16", "bfloat16"}, {"fp16", "float16"}, {"half", "float16"}})
          .but({{"float16", "small gradients vanish in it; models stored in float16 are read and computed in float32: give --dtype float32"},
                {"float64", "computation is in float32: give --dtype float32"}})
          .later({"bfloat16"})
          .in(kComputeCommands),
      row("threads", &C::threads, "auto|N", "worker threads; the result's bits do not depend on it")
          .range(1, 1024)
          .empty_as("auto")
          .in(kComputeCommands | tokenize)
          .shown(),
      choice("isa", &C::isa, "instruction set of the kernels").one_of({"auto", "avx2", "avx512"}).in(kComputeCommands),
      choice("kernels", &C::kernels, "hand-written kernels, or their plain reference").one_of({"auto", "reference"}).in(kComputeCommands),
  };
}

Rows filter_rows() {
  return {
      row("file", &C::file, "FILE", "rows to read, JSON Lines").told_as("standard input").in(tokenize | score | sample | grade).shown(),
      row("file", &C::file, "FILE", "rows to show, JSON Lines").also({"data", "train_file"}).told_as("standard input").in(inspect).shown(),
      row("output", &C::output, "FILE", "where the results go")
          .told_as("standard output")
          .in(inspect | tokenize | score | sample | eval | grade)
          .shown(),
      row("output_dir", &C::output_dir, "DIR", "the merged model, a Hugging Face directory").also({"output"}).in(merge).shown(),
      row("output", &C::output, "PATH", "the new model: a .gguf file, or else a Hugging Face directory").told_as("").in(convert).shown(),
      format_row({Format::text, Format::json}, "for people, or one JSON object").in(kRunCommands | eval | doctor | merge | convert).shown(),
      format_row({Format::text, Format::jsonl}, "for people, or one JSON object out for each row in").in(inspect | sample).shown(),
      format_row({Format::jsonl}, "one JSON object out for each row in").starts_as("jsonl").in(tokenize | score | grade),
      row("rows", &C::rows, "N", "text format: rows shown token by token").range(0, 1e9).in(inspect).shown(),
      row("no_special", &C::no_special, "true|false", "special-token strings in a text are plain text").in(tokenize).shown(),
      row("add_bos", &C::add_bos, "true|false", "put the beginning-of-text token in front").in(tokenize).shown(),
  };
}

Rows convert_rows() {
  return {
      choice("gguf_type", &C::gguf_type, "what a .gguf file holds; auto: bf16 for a model stored in it, else f16")
          .one_of({"auto", "f16", "bf16", "q8_0", "f32"})
          .in(convert)
          .shown(),
      row("max_dlogp", &C::max_dlogp, "X", "greatest difference of a token's log-probability from the source's that is let pass")
          .told_as("0.005; more for a form that rounds")
          .range(0, 1e9)
          .in(convert)
          .shown(),
      row("max_dlogp", &C::max_dlogp, "X", "greatest difference of a token's log-probability, or of a reward, from base + adapter that is let pass")
          .range(0, 1e9)
          .in(merge)
          .shown(),
  };
}

Rows sample_rows() {
  return {
      row("prompt", &C::prompt, "TEXT...", "prompts, instead of --file").told_as("none").in(sample).shown(),
      row("system", &C::prompt, "TEXT", "what the conversation begins with: the system message").told_as("the template's own").in(chat).shown(),
      row("num_generations", &C::num_generations, "N", "completions for each prompt").range(1, 1 << 16).in(sample | eval).shown(),
      row("max_new_tokens", &C::max_new_tokens, "N", "longest completion in tokens")
          .also({"max_completion_length"})
          .range(1, 1 << 20)
          .in(sample | chat | eval)
          .shown(),
      row("temperature", &C::temperature, "X", "0: greedy").range(0, 100).in(sample | chat | eval).shown(),
      row("temperature", &C::temperature, "X", "of the law that is sampled and trained").above(0).below(100).in(kOnPolicyCommands).shown(),
      row("top_p", &C::top_p, "X", "sample from the likeliest tokens that hold this share; 1: off").above(0).range(0, 1).in(sample | chat).shown(),
      row("top_k", &C::top_k, "N", "sample from the N likeliest tokens; 0: off").range(0, 1 << 24).in(sample | chat).shown(),
      row("min_p", &C::min_p, "X", "drop tokens below this share of the likeliest one; 0: off").range(0, 1).in(sample | chat).shown(),
      row("top_p", &C::top_p, "X", "sample from the likeliest tokens that hold this share; 1: off").above(0).range(0, 1).in(kOnPolicyCommands | eval),
      row("top_k", &C::top_k, "N", "sample from the N likeliest tokens; 0: off").range(0, 1 << 24).in(kOnPolicyCommands | eval),
      row("min_p", &C::min_p, "X", "drop tokens below this share of the likeliest one; 0: off").range(0, 1).in(kOnPolicyCommands | eval),
      row("stop", &C::stop, "STRING...", "end a completion at this text; may be repeated").told_as("none").in(sample | chat).shown(),
  };
}

std::vector<Field> build() {
  std::vector<Field> table;
  const std::pair<const char*, Rows> groups[] = {
      {"Model", model_rows()},     {"Data", data_rows()},         {"Preference", preference_rows()},   {"Groups", group_rows()},
      {"PPO", ppo_rows()},         {"Reward", reward_rows()},     {"Input and output", filter_rows()}, {"Conversion", convert_rows()},
      {"Sampling", sample_rows()}, {"Training", training_rows()}, {"Adapter", adapter_rows()},         {"Run", run_rows()},
      {"Machine", machine_rows()},
  };
  for (const auto& [group, rows] : groups) {
    for (const Row& entry : rows) {
      table.push_back(entry);
      table.back().group = group;
    }
  }
  return table;
}

}  // namespace

std::span<const Field> fields() {
  static const std::vector<Field> table = build();
  return table;
}

}  // namespace hone::config
