#pragma once
// One decoding step of many sequences straight on the kernels: no graph, no tensors made on the way. The same bits as model::decoder.
#include <span>
#include <vector>

#include "hone/kernels/decoding.h"
#include "hone/model/decoder.h"
#include "hone/rollout/kv_pool.h"

namespace hone::rollout {

/// What one sequence has in the pool. On the reference backend it has a cache of its own instead.
struct Sequence {
  int64_t length = 0;  // tokens whose keys and values stand in the cache
  std::vector<int32_t> blocks;
  std::vector<float*> pointers;  // of the blocks
  int64_t capacity = 0;          // of `plain`
  std::unique_ptr<model::KvCache> plain;
};

struct StepRow {
  Sequence* sequence = nullptr;
  int64_t token = 0;
};

class Decoder {
 public:
  /// `kv_blocks` bounds what all sequences hold together (the reference backend has no bound). The weights must not change until the next
  /// set_version.
  Decoder(model::Model& model, const ops::AdapterSet* adapters, int64_t kv_blocks);

  /// Appends each row's token to its sequence (rows of one sequence in order) and gives the logits (wanted.size(), V) that follow the rows `wanted`
  /// (ascending). Valid until the next step.
  const float* step(std::span<const StepRow> rows, std::span<const int64_t> wanted);

  /// A sequence that begins with the first `length` tokens of another: whole blocks are shared, what is left of the last one is copied.
  Sequence fork(const Sequence& from, int64_t length);
  void release(Sequence& sequence);

  /// Of the weights that the blocks taken from now on are written with. A sequence with a block of another version is not usable.
  void set_version(uint64_t version);
  bool usable(const Sequence& sequence) const;
  int64_t total_blocks() const { return pool_ ? pool_->blocks() : int64_t{1} << 40; }
  static int64_t blocks_for(int64_t tokens) { return (tokens + kernels::kKvBlock - 1) / kernels::kKvBlock; }
  static int64_t block_bytes(const model::Model& model);

 private:
  /// A linear with what an adapter adds to it. `factor` is DoRA's, of every output.
  struct Linear {
    const ops::Parameter* weight = nullptr;
    const ops::Parameter* bias = nullptr;
    const ops::SidePath* side = nullptr;
    std::vector<float> factor;
  };
  struct Layer {
    const float *input_norm, *post_norm;
    Linear qkv, o, gate_up, down;
  };

  void prepare();
  Linear linear_of(ops::Parameter& weight, ops::Parameter* bias) const;
  void product(const Linear& linear, const float* x, int64_t rows, float* y);
  void grow(int64_t rows, int64_t wanted);
  void reserve(Sequence& sequence);
  void layer_step(const Layer& layer, int64_t index, int64_t rows);
  const float* reference_step(std::span<const StepRow> rows, std::span<const int64_t> wanted);

  model::Model& model_;
  const ops::AdapterSet* adapters_;
  uint64_t version_ = 0;
  std::unique_ptr<KvPool> pool_;
  std::vector<Layer> layers_;
  const float* final_norm_ = nullptr;
  std::vector<kernels::KvRow> rows_;
  at::Tensor x_, normed_, rstd_, qkv_, attended_, added_, gate_up_, act_, side_, logits_;
};

}  // namespace hone::rollout
