#pragma once
// LoRA and its family on a model: which linears get a side path, how it begins, how it is saved, merged and copied.
//   LoRA    arXiv:2106.09685   y = W x + s B A x, s = lora_alpha / r; B = 0 at the start, so that the first delta is exactly 0
//   rsLoRA  arXiv:2312.03732   s = lora_alpha / sqrt(r)
//   DoRA    arXiv:2402.09353   y = m / ||W + s B A|| (row by row) * (W + s B A) x, m = ||W|| at the start; the norm takes no gradient
//   PiSSA   arXiv:2404.02948   A, B = the r largest singular triples of W, and W is replaced by what they leave
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hone/adapters/lora_config.h"
#include "hone/adapters/peft_files.h"
#include "hone/model/decoder.h"
#include "hone/model/source.h"

namespace hone::adapters {

struct Adapter {
  LoraConfig config;
  std::string base_hash;                    // ModelSource::content_hash of the base
  std::string weights_hash;                 // model::weights_hash of the base; may be empty (it reads the model): then files say nothing of it
  std::map<std::string, ModuleRank> ranks;  // of modules that differ from the configuration (an adapter from files)
  ops::AdapterSet set;
  /// PiSSA only: A and B at the start, by module. The base holds W - s B0 A0, so the adapter on the untouched W is s (B A - B0 A0): rank 2 r.
  struct Start {
    std::vector<float> a, b;
  };
  std::map<std::string, Start> pissa;
  /// Every trained tensor, in the checkpoint's order (base of `model`): A, B, magnitude by linear, then modules_to_save.
  std::vector<ops::Parameter*> parameters;
};

/// A new adapter on `model`, whose own parameters are frozen by it. Noise from (seed, tensor): it depends on nothing else.
/// UserError (exit 2): an unknown target module (the nearest name is given), nothing targeted, r larger than a matrix, DoRA with dropout.
/// PiSSA changes the model's weights and is refused for 4-bit ones.
std::unique_ptr<Adapter> create_adapter(model::Model& model, const model::ModelSource& source, const LoraConfig& config, uint64_t seed);

/// An adapter from files, trainable unless frozen. UserError naming the module where the base has no such linear, another shape or, by hash,
/// is another model; and where a value is not finite.
std::unique_ptr<Adapter> load_adapter(model::Model& model, const PeftAdapter& files, const std::string& base_hash, bool trainable);
/// The same on the model of `source`, which may also be another form of the base: where the content hashes differ, the values are compared.
std::unique_ptr<Adapter> load_adapter(model::Model& model, const PeftAdapter& files, const model::ModelSource& source, bool trainable);

/// The same values, frozen, with its parameters in the same order: the reference "policy at step 0" of whatever is trained on top.
std::unique_ptr<Adapter> frozen_copy(const Adapter& adapter);

/// True where the adapter changes nothing (every B is 0, no DoRA factor other than 1, nothing replaced): "adapter off" is then the same policy.
bool is_identity(const Adapter& adapter);

/// To be called after the values were changed: forgets what was derived from them.
void updated(const Adapter& adapter);

/// Writes the directory that PEFT loads; `texts` are further files by name (the tokenizer's).
void save_adapter(const Adapter& adapter, const std::filesystem::path& folder, const std::map<std::string, std::string>& texts = {});
/// Bytes that save_adapter writes, nearly.
int64_t saved_bytes(const Adapter& adapter);

/// What side paths keep of a token in the largest block: columns of all A, with DoRA also the outputs before the magnitudes (for the planner), and
/// elements of all tensors, before anything is made.
struct AdapterSize {
  int64_t rank_columns = 0;
  int64_t elements = 0;
};
AdapterSize adapter_size(const model::ModelConfig& model, const LoraConfig& config);
AdapterSize adapter_size(const PeftAdapter& files);

/// Rows [begin, end) of the merged tensor with this Hugging Face name: base + adapter, added in float32 to the values used in training.
void merged_tensor(model::Model& model, const Adapter& adapter, const std::string& name, int64_t begin, int64_t end, float* out);

/// True where the merged model needs a head of its own although the base's is tied (one of embed_tokens, lm_head was trained alone).
bool unties_head(const model::Model& model, const Adapter& adapter);

}  // namespace hone::adapters
