#include "hone/model/gguf_names.h"

#include <map>
#include <string_view>

#include "hone/base/error.h"

namespace hone::model {

std::string gguf_name(const std::string& name) {
  static const std::map<std::string, std::string> parts{
      {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"}, {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},      {"mlp.gate_proj", "ffn_gate"},  {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  const std::string_view prefix = "model.layers.";
  const size_t layer_end = name.find('.', prefix.size()), kind = name.rfind('.');
  check(name.starts_with(prefix) && layer_end < kind, "no GGUF name for tensor {}", name);
  return fmt::format("blk.{}.{}{}", name.substr(prefix.size(), layer_end - prefix.size()), parts.at(name.substr(layer_end + 1, kind - layer_end - 1)),
                     name.substr(kind));
}

bool is_interleaved(const std::string& name) {
  return name.find(".self_attn.q_proj.") != std::string::npos || name.find(".self_attn.k_proj.") != std::string::npos;
}

}  // namespace hone::model
