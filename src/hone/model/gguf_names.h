#pragma once
// How GGUF files of the llama architecture name and order what Hugging Face names otherwise.
#include <cstdint>
#include <string>

namespace hone::model {

/// model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight
std::string gguf_name(const std::string& name);

/// Whether the rows of this tensor (Hugging Face name) are interleaved in GGUF: those of q and k, weights and biases.
bool is_interleaved(const std::string& name);

/// Where GGUF stores row `row` of such a tensor. GGUF pairs the rows of a head for interleaved rotation: row s * head_dim / 2 + i of a head
/// is row 2 i + s there.
inline int64_t interleaved_row(int64_t row, int64_t head_dim) {
  const int64_t inside = row % head_dim, half = head_dim / 2;
  return row - inside + 2 * (inside % half) + inside / half;
}

}  // namespace hone::model
