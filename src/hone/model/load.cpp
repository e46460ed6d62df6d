// From a checkpoint to the model's fused, packed parameters, and back by Hugging Face name.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "hone/base/error.h"
#include "hone/base/hash.h"
#include "hone/base/rng.h"
#include "hone/kernels/kernels.h"
#include "hone/model/decoder.h"
#include "hone/model/source.h"

namespace hone::model {
namespace {

struct Loader {
  const ModelSource& source;
  ops::Backend backend;
  at::TensorOptions options;
  std::optional<Quantisation> quantisation;
  std::vector<float> buffer{};

  /// The buffer's values, which begin at row `first` of the tensor: weights that are not numbers would only show as a strange loss.
  void check_finite(const std::string& name, int64_t first, int64_t width) const {
    if (kernels::all_finite(buffer.data(), static_cast<int64_t>(buffer.size()))) return;
    const auto bad = std::find_if(buffer.begin(), buffer.end(), [](float x) { return !std::isfinite(x); }) - buffer.begin();
    fail("{}: tensor {} holds {} (row {}, column {}): the file is damaged or its training diverged; take another checkpoint", source.path().string(),
         name, std::isnan(buffer[bad]) ? "NaN" : "an infinite value", first + bad / width, bad % width);
  }

  /// Fuses the named tensors, top to bottom, into one parameter. cols = 0: a vector.
  ops::Parameter load(const std::vector<std::pair<std::string, int64_t>>& names_and_rows, int64_t cols) {
    std::vector<ops::Part> parts;
    int64_t rows = 0;
    for (const auto& [name, count] : names_and_rows) {
      parts.push_back({name, rows, count});
      rows += count;
    }
    ops::Parameter p = ops::make_parameter(parts, cols, backend, options);
    // In slices of whole panels, so that no full-precision copy of a large tensor stands beside the model.
    const int64_t width = std::max<int64_t>(cols, 1), slice = std::max<int64_t>(kernels::kPanel, (int64_t{1} << 22) / width);
    for (const ops::Part& part : p.parts) {
      for (int64_t begin = 0; begin < part.rows; begin += slice) {
        const int64_t count = std::min(slice, part.rows - begin);
        buffer.resize(count * width);
        source.load_rows(part.name, begin, begin + count, buffer.data());
        check_finite(part.name, begin, width);
        ops::set_part(p, {part.name, part.row_begin + begin, count}, buffer.data());
      }
    }
    return p;
  }

  /// What the source holds in 4 bits already, as far as that is what is wanted.
  std::optional<QuantizedTensor> held(const std::string& name) const {
    if (!quantisation || !quantisation->stored) return source.quantized(name);
    std::optional<QuantizedTensor> blocks = source.gguf_blocks(name);
    if (!blocks)
      fail(
          "{}: tensor {} is not in 4 bits there, so that it cannot be kept as it is; for --bnb_4bit_quant_type gguf every linear must be Q4_0 or "
          "Q4_1 in a GGUF file; leave the type out (nf4)",
          source.path().string(), name);
    return blocks;
  }

  /// A linear of a block: in 4 bits where that is wanted, or where the source has it so.
  ops::Parameter linear(const std::vector<std::pair<std::string, int64_t>>& names_and_rows, int64_t cols) {
    const std::optional<QuantizedTensor> first = held(names_and_rows.front().first);
    if (!quantisation && !first) return load(names_and_rows, cols);
    std::vector<ops::Part> parts;
    int64_t rows = 0;
    for (const auto& [name, count] : names_and_rows) {
      parts.push_back({name, rows, count});
      rows += count;
    }
    const kernels::QuantType type = first ? first->type : quantisation->type;
    ops::Parameter p = ops::make_quantised_parameter(parts, cols, type, backend, options);
    for (const ops::Part& part : p.parts) {
      if (const std::optional<QuantizedTensor> stored = held(part.name)) {
        if (stored->type != type) fail("{}: {} and {} are of different 4-bit types", source.path().string(), part.name, p.name());
        if (!kernels::all_finite(stored->absmax.data(), static_cast<int64_t>(stored->absmax.size())) ||
            !kernels::all_finite(stored->minimums.data(), static_cast<int64_t>(stored->minimums.size())))
          fail("{}: tensor {} has a scale that is not finite: the file is damaged; take another checkpoint", source.path().string(), part.name);
        ops::set_quantised_part(p, part, reinterpret_cast<const uint8_t*>(stored->codes.data()), stored->absmax.data(),
                                stored->minimums.empty() ? nullptr : stored->minimums.data());
      } else {
        if (first) fail("{}: {} is 4-bit but {} is not", source.path().string(), p.name(), part.name);
        quantise(p, part, cols);
      }
    }
    return p;
  }

  void quantise(ops::Parameter& p, const ops::Part& part, int64_t cols) {
    const int64_t count = part.rows * cols, blocks = (count + kernels::kQuantBlock - 1) / kernels::kQuantBlock;
    buffer.resize(count);
    source.load(part.name, buffer.data());
    check_finite(part.name, 0, cols);
    std::vector<float> absmax(blocks);
    if (quantisation->type == kernels::QuantType::int8) {
      std::vector<uint8_t> codes(count);
      kernels::quantize_int8(buffer.data(), count, codes.data(), absmax.data());
      return ops::set_quantised_part(p, part, codes.data(), absmax.data());
    }
    std::vector<uint8_t> codes((count + 1) / 2);
    kernels::quantize_4bit(buffer.data(), count, quantisation->type, codes.data(), absmax.data());
    if (quantisation->nested) {
      std::vector<uint8_t> nested(blocks);
      std::vector<float> nested_absmax((blocks + kernels::kNestedBlock - 1) / kernels::kNestedBlock);
      float offset = 0;
      kernels::quantize_nested(absmax.data(), blocks, nested.data(), nested_absmax.data(), &offset);
      kernels::dequantize_nested(nested.data(), nested_absmax.data(), offset, blocks, absmax.data());
    }
    ops::set_quantised_part(p, part, codes.data(), absmax.data());
  }
};

const ops::Part* find_part(const ops::Parameter& p, const std::string& name) {
  for (const ops::Part& part : p.parts)
    if (part.name == name) return &part;
  return nullptr;
}

}  // namespace

std::unique_ptr<Model> load_model(const ModelSource& source, ops::Backend backend, const at::Device& device, int64_t positions,
                                  const std::optional<Quantisation>& quantisation, bool language_head) {
  auto model = std::make_unique<Model>();
  const ModelConfig& c = source.config();
  model->config = language_head ? c : as_reward_model(c);
  model->backend = backend;
  model->device = device;
  model->attention = {c.num_attention_heads, c.num_key_value_heads, c.head_dim, {}, {}};
  ensure_positions(*model, positions);
  Loader loader{source, backend, at::TensorOptions(at::kFloat).device(device), quantisation};
  const int64_t D = c.hidden_size, F = c.intermediate_size, V = c.vocab_size, q = c.num_attention_heads * c.head_dim,
                kv = c.num_key_value_heads * c.head_dim;
  model->embedding = loader.load({{"model.embed_tokens.weight", V}}, D);
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string at = fmt::format("model.layers.{}.", i), attention = at + "self_attn.", mlp = at + "mlp.";
    Block& b = model->blocks.emplace_back();
    b.input_norm = loader.load({{at + "input_layernorm.weight", D}}, 0);
    b.qkv = loader.linear({{attention + "q_proj.weight", q}, {attention + "k_proj.weight", kv}, {attention + "v_proj.weight", kv}}, D);
    b.o = loader.linear({{attention + "o_proj.weight", D}}, q);
    if (c.attention_bias) {
      b.qkv_bias = loader.load({{attention + "q_proj.bias", q}, {attention + "k_proj.bias", kv}, {attention + "v_proj.bias", kv}}, 0);
      b.o_bias = loader.load({{attention + "o_proj.bias", D}}, 0);
    }
    b.post_norm = loader.load({{at + "post_attention_layernorm.weight", D}}, 0);
    b.gate_up = loader.linear({{mlp + "gate_proj.weight", F}, {mlp + "up_proj.weight", F}}, D);
    b.down = loader.linear({{mlp + "down_proj.weight", D}}, F);
    source.release();  // what was read of the file would count as this process's memory
  }
  model->norm = loader.load({{"model.norm.weight", D}}, 0);
  if (c.reward_model)
    model->score = loader.load({{"score.weight", 1}}, D);
  else if (!c.tie_word_embeddings && language_head)
    model->lm_head = loader.load({{"lm_head.weight", V}}, D);
  source.release();
  return model;
}

void add_score_head(Model& model, uint64_t seed) {
  const std::string name = "score.weight";
  const auto key = static_cast<uint32_t>(std::stoul(hash_hex(name.data(), name.size()).substr(0, 8), nullptr, 16));
  const int64_t D = model.config.hidden_size;
  std::vector<float> row(D);
  for (int64_t i = 0; i < D; ++i) {  // Box-Muller
    double sine = 0, cosine = 0;
    kernels::exact_sincos(2 * std::numbers::pi * random_unit(seed, Purpose::init, key, static_cast<uint32_t>(i), 1), &sine, &cosine);
    const double radius = std::sqrt(-2 * kernels::exact_log(random_unit(seed, Purpose::init, key, static_cast<uint32_t>(i), 0)));
    row[i] = static_cast<float>(model.config.initializer_range * radius * cosine);
  }
  model.config = as_reward_model(model.config);
  model.lm_head = ops::Parameter();
  model.score = ops::make_parameter({{name, 0, 1}}, D, model.backend, at::TensorOptions(at::kFloat).device(model.device));
  ops::set_part(model.score, model.score.parts.front(), row.data());
}

void ensure_positions(Model& model, int64_t positions) {
  if (model.attention.cos.defined() && model.attention.cos.size(0) >= positions) return;
  const int64_t d = model.attention.head_dim;
  at::Tensor cos = at::empty({positions, d / 2}, at::kFloat), sin = at::empty({positions, d / 2}, at::kFloat);
  kernels::rope_table(positions, d, model.config.rope_theta, cos.mutable_data_ptr<float>(), sin.mutable_data_ptr<float>());
  model.attention.cos = cos.to(model.device);
  model.attention.sin = sin.to(model.device);
}

void read_tensor(const Model& model, const std::string& name, int64_t begin, int64_t end, float* out) {
  for (const ops::Parameter* p : const_cast<Model&>(model).parameters()) {
    if (const ops::Part* part = find_part(*p, name)) {
      check(begin >= 0 && begin <= end && end <= part->rows, "read_tensor {}: rows [{}, {}) of {}", name, begin, end, part->rows);
      ops::get_part(*p, {name, part->row_begin + begin, end - begin}, out);
      return;
    }
  }
  check(false, "read_tensor: no tensor {}", name);
}

}  // namespace hone::model
