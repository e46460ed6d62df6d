// What a model computes, whatever form it is stored in.
#include <algorithm>
#include <vector>

#include "hone/base/hash.h"
#include "hone/model/source.h"

namespace hone::model {

std::string weights_hash(const ModelSource& source) {
  constexpr int64_t kElements = 1 << 20;  // held at a time
  const ModelConfig& c = source.config();
  Hasher hasher;
  hasher.add(std::string_view(c.architecture));
  hasher.add(std::string_view(c.hidden_act));
  const int64_t shape[] = {c.vocab_size,          c.hidden_size, c.intermediate_size,   c.num_hidden_layers, c.num_attention_heads,
                           c.num_key_value_heads, c.head_dim,    c.tie_word_embeddings, c.attention_bias};
  hasher.add(shape, sizeof shape);
  const float numbers[] = {static_cast<float>(c.rms_norm_eps), static_cast<float>(c.rope_theta)};  // GGUF holds them in float32
  hasher.add(numbers, sizeof numbers);
  std::vector<float> values;
  for (const TensorSpec& tensor : source.tensors()) {
    hasher.add(std::string_view(tensor.name));
    const int64_t rows = tensor.shape[0], width = tensor.elements() / rows, step = std::max<int64_t>(1, kElements / width);
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t end = std::min(begin + step, rows);
      values.resize(static_cast<size_t>((end - begin) * width));
      source.load_rows(tensor.name, begin, end, values.data());
      hasher.add(values.data(), values.size() * sizeof(float));
    }
    source.release();
  }
  return hasher.hex();
}

}  // namespace hone::model
