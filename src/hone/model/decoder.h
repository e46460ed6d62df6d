#pragma once
// The llama decoder: embedding, blocks of (norm, attention, norm, feed-forward), final norm; and the tensors that one model owns.
#include <ATen/core/Tensor.h>

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "hone/base/error.h"
#include "hone/batch/packed_batch.h"
#include "hone/model/config.h"
#include "hone/ops/ops.h"

namespace hone::model {

class ModelSource;

/// One transformer block. The rows of q, k, v (and of gate, up) are fused into one matrix, so that dX of the block's input is one chain.
struct Block {
  ops::Parameter input_norm;     // (D)
  ops::Parameter qkv, qkv_bias;  // ((H + 2G) d, D); the bias is undefined where the model has none
  ops::Parameter o, o_bias;      // (D, H d)
  ops::Parameter post_norm;      // (D)
  ops::Parameter gate_up;        // (2F, D): gate, then up
  ops::Parameter down;           // (D, F)
};

struct Model {
  ModelConfig config;
  ops::Backend backend = ops::Backend::kernels;
  at::Device device = at::kCPU;
  ops::AttentionConfig attention;
  ops::Parameter embedding;  // (V, D)
  std::deque<Block> blocks;  // stable addresses: the autograd graph points at parameters
  ops::Parameter norm;       // (D)
  ops::Parameter lm_head;    // (V, D); undefined where the head is tied to the embedding
  ops::Parameter score;      // (1, D) the head of a reward model; undefined in a language model

  /// The language-model head. A reward model has none.
  ops::Parameter& head(const ops::AdapterSet* adapters = nullptr) {
    check(!config.reward_model, "a reward model has no language-model head");
    if (adapters && adapters->head) return *adapters->head;
    return lm_head.defined() ? lm_head : embedding;
  }
  ops::Parameter& lookup_table(const ops::AdapterSet* adapters) { return adapters && adapters->embedding ? *adapters->embedding : embedding; }
  /// Every parameter in the checkpoint's order.
  std::vector<ops::Parameter*> parameters();
};

/// Storage of the blocks' linears in 4 bits (QLoRA, arXiv:2305.14314) or in int8 (inference only); the head and the embedding stay float32, as
/// transformers keeps them.
struct Quantisation {
  kernels::QuantType type = kernels::QuantType::nf4;
  bool nested = true;   // the absmax values are those that double quantisation gives back
  bool stored = false;  // instead of both: the blocks that a GGUF file holds (Q4_0, Q4_1), which have exactly the values of its float32 form
};

/// Reads every tensor of the source into a float32 model, with `quantisation` the blocks' linears into 4 bits, tensor by tensor: the full
/// model is never in memory. A source that is 4-bit already is taken as it is (a GGUF file: with Quantisation::stored; UserError where a linear is
/// not 4-bit there). Rotary tables cover `positions` positions (see ensure_positions). Without language_head it is the body of a reward model: an
/// untied lm_head is not read, and where the source has no reward head, add_score_head makes one or an adapter brings it.
std::unique_ptr<Model> load_model(const ModelSource& source, ops::Backend backend, const at::Device& device, int64_t positions,
                                  const std::optional<Quantisation>& quantisation = std::nullopt, bool language_head = true);

/// Puts a new reward head in place of the language-model head: score.weight normal with deviation initializer_range, from (seed, name) alone.
/// The model is then the one that as_reward_model(config) describes.
void add_score_head(Model& model, uint64_t seed);

/// Extends the rotary tables to at least this many positions.
void ensure_positions(Model& model, int64_t positions);

/// Copies rows [begin, end) of the tensor with this Hugging Face name out of the model (for saving).
void read_tensor(const Model& model, const std::string& name, int64_t begin, int64_t end, float* out);

struct ForwardOptions {
  bool training = false;       // keep what the backward needs
  bool checkpointing = false;  // keep only the blocks' inputs and recompute (the same bits)
};

/// Hidden states (T, D) after the final norm. `adapters` may be null: the base model. The batch must outlive the backward.
at::Tensor decoder(Model& model, const ops::AdapterSet* adapters, const ops::BatchTensors& batch, const ForwardOptions& options);

/// Scores (S) of the batch's sequences: the reward head (of `adapters` if they have one) on hidden (T, D) at score_at; differentiable.
at::Tensor sequence_scores(Model& model, const ops::AdapterSet* adapters, const at::Tensor& hidden, const ops::BatchTensors& batch);

/// Values (N + S) of the batch's states: sequence by sequence the same head at each of its predictions' predict_from, then at score_at (the state
/// behind its last token); differentiable.
at::Tensor state_values(Model& model, const ops::AdapterSet* adapters, const at::Tensor& hidden, const ops::BatchTensors& batch);

/// KV cache of one sequence, all layers.
struct KvCache {
  int64_t length = 0;
  int64_t capacity = 0;
  std::vector<ops::KvLayer> layers;
};
KvCache make_kv_cache(const Model& model, int64_t capacity);
/// A copy of the cache's first `length` tokens with room for `capacity` (a prompt that several samples continue).
KvCache copy_kv_cache(const Model& model, const KvCache& cache, int64_t capacity);

/// One token for each row: ids[r] is appended to caches[r] (several rows may share a cache, in order) and the hidden state after the final
/// norm is returned (R, D): the same bits as `decoder` gives for that token.
at::Tensor decoder_step(Model& model, const ops::AdapterSet* adapters, const std::vector<int64_t>& ids, const std::vector<KvCache*>& caches);

/// Bytes of activations that `decoder` keeps per token while training (kernel backend, float32). adapter_rank: columns of all A together
/// per block that a trained side path keeps; 0 without.
int64_t activation_bytes_per_token(const ModelConfig& config, bool checkpointing, int64_t adapter_rank = 0);

}  // namespace hone::model
