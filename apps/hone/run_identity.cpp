#include "run_identity.h"

#include <filesystem>
#include <string>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/config/parse.h"

namespace hone::app {
namespace {

using train::Json;

// The name of a choice, as the user gives it.
std::string choice_text(const config::RunConfig& c, config::Command command, const char* field) {
  const config::Field* found = config::find_field(command, field);
  check(found != nullptr, "hone {} has no field {}", config::command_name(command), field);
  return config::field_text(c, *found);
}

// Of the adapter and the base's storage; null without an adapter.
Json adapter_identity(const config::RunConfig& c, config::Command command) {
  if (!c.use_peft) return nullptr;
  Json identity{{"lora_r", c.lora_r},
                {"lora_alpha", c.lora_alpha},
                {"lora_dropout", c.lora_dropout},
                {"lora_target_modules", c.lora_target_modules},
                {"lora_modules_to_save", c.lora_modules_to_save},
                {"use_rslora", c.use_rslora},
                {"use_dora", c.use_dora},
                {"init_lora_weights", choice_text(c, command, "init_lora_weights")},
                {"loraplus_lr_ratio", c.loraplus_lr_ratio},
                {"load_in_4bit", c.load_in_4bit},
                {"bnb_4bit_quant_type", choice_text(c, command, "bnb_4bit_quant_type")},
                {"use_bnb_nested_quant", c.use_bnb_nested_quant}};
  if (!c.adapter.empty()) {
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
      const MappedFile file(std::filesystem::path(c.adapter) / name);
      identity["started_from"].push_back(hash_hex(file.bytes().data(), file.bytes().size()));
    }
  }
  return identity;
}

}  // namespace

Json options_identity(const config::RunConfig& c, config::Command command) {
  return {{"max_length", c.max_length},
          {"overlong", choice_text(c, command, "overlong")},
          {"seed", c.seed},
          {"shuffle_dataset", c.shuffle_dataset},
          {"batch_size", c.batch_size},
          {"learning_rate", c.learning_rate},
          {"lr_scheduler_type", choice_text(c, command, "lr_scheduler_type")},
          {"warmup_steps", c.warmup_steps},
          {"weight_decay", c.weight_decay},
          {"max_grad_norm", c.max_grad_norm},
          {"adam_beta1", c.adam_beta1},
          {"adam_beta2", c.adam_beta2},
          {"adam_epsilon", c.adam_epsilon},
          {"max_tree_tokens", c.max_tree_tokens},
          {"dtype", "float32"},
          {"optim", choice_text(c, command, "optim")},
          {"adapter", adapter_identity(c, command)},
          {"metric_for_best_model", choice_text(c, command, "metric_for_best_model")}};
}

}  // namespace hone::app
