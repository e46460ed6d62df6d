#pragma once
// What adapters add to a base model, as the ops see it: low-rank side paths beside linears, and parameters that stand in for the base's.
// Several sets may exist on one base; each forward names one (policy, reference, reward, value), or none.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "hone/ops/parameter.h"

namespace hone::ops {

/// B, scaling and (DoRA) magnitude of one of the tensors that a linear's matrix holds (q, k and v are rows of one).
struct SideTarget {
  int64_t row_begin = 0;  // of the linear's outputs
  int64_t rows = 0;
  int64_t a_begin = 0;  // of its rows of A
  int64_t r = 0;
  float scaling = 1;
  Parameter b;                     // (rows, r)
  Parameter magnitude;             // (rows), DoRA only
  mutable at::Tensor weight_norm;  // (rows) ||W + scaling B A|| by row, DoRA only; undefined: to be computed (set.invalidate())
};

/// y = W x + scaling B (A x), DoRA: y = magnitude / weight_norm * that. A holds the rows of every target, so that one product makes all.
struct SidePath {
  Parameter a;  // (sum of r, K), a part for each target
  std::deque<SideTarget> targets;
  uint32_t index = 0;  // of the linear in the model: distinguishes the dropout noise
};

/// The noise of this forward: mask bits are a pure function of (seed, step, linear, target, token key, column).
struct SideDropout {
  double p = 0;
  bool training = false;  // else the side path reads its whole input
  uint64_t seed = 0;
  uint32_t step = 0;
  std::vector<uint64_t> token_keys;  // (T) row of the data set and place in it: the mask does not depend on the packing
  bool active() const { return training && p > 0; }
};

struct AdapterSet {
  std::unordered_map<const Parameter*, std::unique_ptr<SidePath>> paths;          // by the base's weight
  std::unordered_map<const Parameter*, std::unique_ptr<Parameter>> replacements;  // modules_to_save: norms, untied embedding
  std::unique_ptr<Parameter> embedding, head;                                     // modules_to_save: stand-ins of embed_tokens, lm_head
  std::unique_ptr<Parameter> score;                                               // modules_to_save: the reward head (1, D)
  at::Tensor anchor;    // scalar that requires grad: the graph begins at the lowest side path; undefined for a frozen set
  SideDropout dropout;  // p = 0: none (evaluation, and every technique but SFT)

  const SidePath* path(const Parameter& weight) const {
    const auto found = paths.find(&weight);
    return found == paths.end() ? nullptr : found->second.get();
  }
};

/// The parameter that stands in for `base` in this set, or `base` itself.
Parameter& resolve(const AdapterSet* adapters, Parameter& base);

/// DoRA's row norms ||W + scaling B A|| of one target (lane sums in float32 rows), kept until the set changes.
const at::Tensor& side_weight_norm(const Parameter& weight, const SidePath& path, const SideTarget& target);

/// To be called after the values of the set were changed (optimizer step, checkpoint).
void invalidate(const AdapterSet& adapters);

/// out (rows, K) = rows [begin, begin + rows) of the target's merged matrix W + scaling B A, for DoRA times magnitude / norm: float32,
/// the chain over r goes on from the weight's value (dequantised where it is 4-bit). begin counts within the target.
void merged_rows(const Parameter& weight, const SidePath& path, const SideTarget& target, int64_t begin, int64_t rows, float* out);

}  // namespace hone::ops
