#include "hone/ops/reference.h"

#include <ATen/ATen.h>

#include <cmath>

#include "hone/ops/dropout.h"

namespace hone::ops::reference {
namespace {

// x (R, heads, d) rotated by the half-split rule: (a, b) -> (a cos - b sin, b cos + a sin). cos, sin (R, 1, d/2).
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  at::Tensor a = x.slice(-1, 0, half), b = x.slice(-1, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, -1);
}

struct Heads {
  at::Tensor q, k, v;  // (R, H, d), (R, G, d), (R, G, d)
};

Heads split_and_rotate(const at::Tensor& qkv, const AttentionConfig& c, const at::Tensor& positions) {
  const int64_t R = qkv.size(0);
  at::Tensor heads = qkv.view({R, c.heads + 2 * c.kv_heads, c.head_dim});
  at::Tensor cos = c.cos.index_select(0, positions).unsqueeze(1).to(qkv.dtype());
  at::Tensor sin = c.sin.index_select(0, positions).unsqueeze(1).to(qkv.dtype());
  at::Tensor rotated = rotate(heads.slice(1, 0, c.heads + c.kv_heads), cos, sin);
  return {rotated.slice(1, 0, c.heads), rotated.slice(1, c.heads), heads.slice(1, c.heads + c.kv_heads)};
}

// q (Lq, H, d) over k, v (Lk, G, d); query i sees the first Lk - Lq + i + 1 keys. Returns (Lq, H d).
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t Lq = q.size(0), Lk = k.size(0), H = q.size(1), G = k.size(1), d = q.size(2);
  at::Tensor kk = k.repeat_interleave(H / G, 1).permute({1, 2, 0});  // (H, d, Lk)
  at::Tensor vv = v.repeat_interleave(H / G, 1).permute({1, 0, 2});  // (H, Lk, d)
  at::Tensor scores = at::matmul(q.permute({1, 0, 2}), kk) / std::sqrt(static_cast<double>(d));
  at::Tensor hidden = at::ones({Lq, Lk}, q.options().dtype(at::kBool)).triu(Lk - Lq + 1);
  at::Tensor p = scores.masked_fill(hidden, -INFINITY).softmax(-1);
  return at::matmul(p, vv).permute({1, 0, 2}).reshape({Lq, H * d});
}

// base + scaling B (A x) for every target, DoRA: times magnitude / ||W + scaling B A||.
at::Tensor with_side(const SidePath& side, const AdapterSet& set, const Parameter& weight, const at::Tensor& x, const at::Tensor& base) {
  std::vector<at::Tensor> columns;
  int64_t done = 0;
  for (size_t i = 0; i < side.targets.size(); ++i) {
    const SideTarget& t = side.targets[i];
    if (t.row_begin > done) columns.push_back(base.slice(1, done, t.row_begin));
    at::Tensor in = x;
    if (set.dropout.active()) {
      at::Tensor mask = at::empty({x.size(0), x.size(1)}, at::kFloat), ones = at::ones_like(mask);
      apply_dropout(set.dropout, side.index, static_cast<uint32_t>(i), ones.const_data_ptr<float>(), x.size(0), x.size(1),
                    mask.mutable_data_ptr<float>());
      in = x * mask.to(x.device(), x.dtype());
    }
    at::Tensor h = at::linear(in, side.a.value.slice(0, t.a_begin, t.a_begin + t.r)) * t.scaling;
    at::Tensor y = base.slice(1, t.row_begin, t.row_begin + t.rows) + at::linear(h, t.b.value);
    if (t.magnitude.defined()) y = y * (t.magnitude.value / side_weight_norm(weight, side, t).to(y.dtype()));
    columns.push_back(y);
    done = t.row_begin + t.rows;
  }
  if (done < weight.rows) columns.push_back(base.slice(1, done, weight.rows));
  return at::cat(columns, 1);
}

}  // namespace

at::Tensor embedding(Parameter& table, const at::Tensor& ids) { return at::embedding(table.value, ids); }

at::Tensor rms_norm(const at::Tensor& x, Parameter& weight, double eps) { return x * at::rsqrt(x.square().mean(-1, true) + eps) * weight.value; }

at::Tensor swiglu(const at::Tensor& gate_up) {
  const int64_t F = gate_up.size(-1) / 2;
  return at::silu(gate_up.slice(-1, 0, F)) * gate_up.slice(-1, F);
}

at::Tensor linear(const at::Tensor& x, Parameter& weight, Parameter* bias, const AdapterSet* adapters, const LinearInput& input) {
  const at::Tensor in = input.norm ? reference::rms_norm(x, *input.norm, input.eps) : input.swiglu ? reference::swiglu(x) : x;
  // A 4-bit weight is dequantised again in the backward: its float32 values are not kept.
  const at::Tensor base = weight.is_quantised()
                              ? checkpointed(in, [&weight](const at::Tensor& rows) { return at::linear(rows, plain_value(weight).to(rows.dtype())); })
                              : at::linear(in, plain_value(weight).to(in.dtype()));
  const SidePath* side = adapters ? adapters->path(weight) : nullptr;
  at::Tensor y = side ? with_side(*side, *adapters, weight, in, base) : base;
  return bias ? y + bias->value : y;
}

at::Tensor tree_attention(const at::Tensor& qkv, const AttentionConfig& config, const BatchTensors& batch) {
  Heads h = split_and_rotate(qkv, config, batch.positions);
  std::vector<at::Tensor> outputs;
  for (const batch::Segment& segment : batch.segments) {
    std::vector<at::Tensor> keys, values;
    for (const batch::Segment* s = &segment;; s = &batch.segments[s->parent]) {
      keys.insert(keys.begin(), h.k.slice(0, s->begin, s->end));
      values.insert(values.begin(), h.v.slice(0, s->begin, s->end));
      if (s->parent < 0) break;
    }
    outputs.push_back(attend(h.q.slice(0, segment.begin, segment.end), at::cat(keys), at::cat(values)));
  }
  return at::cat(outputs);
}

at::Tensor cached_attention(const at::Tensor& qkv, const AttentionConfig& config, const std::vector<int64_t>& positions,
                            const std::vector<KvLayer*>& caches) {
  const int64_t R = qkv.size(0);
  Heads h = split_and_rotate(qkv, config, at::tensor(positions, at::kLong).to(qkv.device()));
  std::vector<at::Tensor> outputs;
  for (int64_t r = 0; r < R; ++r) {
    KvLayer& cache = *caches[r];
    cache.keys[positions[r]].copy_(h.k[r]);
    cache.values[positions[r]].copy_(h.v[r]);
    const int64_t visible = positions[r] + 1;
    outputs.push_back(attend(h.q.slice(0, r, r + 1), cache.keys.slice(0, 0, visible), cache.values.slice(0, 0, visible)));
  }
  return at::cat(outputs);
}

TokenLogprobs token_logprobs(const at::Tensor& hidden, Parameter& head, const BatchTensors& batch, const LogprobOptions& options) {
  // (5, rows): logprob, entropy, log sum p^2, mean logit, hit.
  const auto chunk = [&head, temperature = options.temperature](const at::Tensor& rows, const at::Tensor& targets) {
    at::Tensor logits = at::linear(rows, head.value) / temperature;
    at::Tensor logp = logits.log_softmax(-1);
    at::Tensor p = logp.exp();
    at::Tensor hits = (logits.argmax(-1) == targets).to(rows.dtype());
    return at::stack({logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1), -(p * logp).sum(-1), (p * p).sum(-1).log(), logits.mean(-1), hits});
  };
  const int64_t N = batch.targets.size(0);
  std::vector<at::Tensor> columns;
  for (int64_t begin = 0; begin < N; begin += kLogprobChunk) {
    const int64_t end = std::min(N, begin + kLogprobChunk);
    at::Tensor targets = batch.targets.slice(0, begin, end);
    at::Tensor rows = hidden.index_select(0, batch.predict_from.slice(0, begin, end));
    // Chunks are recomputed in the backward, so that no (N, V) tensor is held here either.
    columns.push_back(checkpointed(rows, [chunk, targets](const at::Tensor& x) { return chunk(x, targets); }));
  }
  if (N == 0) columns.push_back(at::zeros({5, 0}, hidden.options()));
  at::Tensor all = at::cat(columns, 1);
  return {all[0], all[1], all[2].detach(), all[3].detach(), all[4].detach().to(at::kBool)};
}

at::Tensor head_logits(const at::Tensor& hidden, Parameter& head) { return at::linear(hidden, head.value); }

}  // namespace hone::ops::reference
