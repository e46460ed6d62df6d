#pragma once
// What a LoRA adapter is (arXiv:2106.09685): options with PEFT's names. Plain data; no tensors.
#include <cstdint>
#include <string>
#include <vector>

namespace hone::adapters {

enum class InitLora { standard, gaussian, pissa };  // A uniform as nn.Linear's, B 0; A normal with deviation 1/r, B 0; the principal components

/// What the base is to the adapter: a language model, or the body of a reward model whose head `score` the adapter brings (PEFT's SEQ_CLS).
enum class Task { causal_lm, seq_cls };

struct LoraConfig {
  Task task = Task::causal_lm;
  int64_t r = 16;                                         // rank
  double lora_alpha = 32;                                 // delta = scaling * B A with scaling = lora_alpha / r, with rslora lora_alpha / sqrt(r)
  double lora_dropout = 0;                                // of the side path's input
  std::vector<std::string> target_modules{"all-linear"};  // "all-linear" (every linear but the head), names, or regular expressions of whole names
  std::vector<std::string> modules_to_save;  // trained in full beside the adapter: lm_head, embed_tokens, norms; Task::seq_cls: always score
  bool use_rslora = false;                   // arXiv:2312.03732
  bool use_dora = false;                     // arXiv:2402.09353
  InitLora init_lora_weights = InitLora::standard;
  std::string base_model_name_or_path;  // as written into adapter_config.json
  std::string base_quantisation;        // how the base stood in training: "", "nf4", "nf4+nested", "fp4", "fp4+nested" (hone_adapter.json)
};

}  // namespace hone::adapters
