#pragma once
// Every hand-written CPU kernel: signatures and shapes. Plain pointers, row-major unless stated; no LibTorch here.
// Shape letters: T tokens, M rows, N output columns, K inputs of a product, D hidden size, F feed-forward size, H query heads,
// G key/value heads, d head size, V vocabulary.
//
// Exactness (docs/numerics.md): the order of every summation is fixed by the shape of the operation. A row's bits do not depend on how
// many other rows are in the call, on the number of threads, or on the instruction set (AVX2 and AVX-512 give the same float32 bits).
//   * a "chain" is one sequence of fused multiply-adds acc = fma(a, b, acc) in ascending index order, from +0 or from the stored value
//   * a "lane sum" adds element i into lane i mod 16 in ascending order, then folds the lanes 8+8, 4+4, 2+2, 1+1
// No libm function is used: exp, log, sin, cos, pow are hone's own polynomials (the same operations on every instruction set).
#include <cstdint>

#include "hone/kernels/side_product.h"

namespace hone::kernels {

// ---- instruction set (isa.cpp) ---------------------------------------------------------------------------------------------------
enum class Isa { avx2, avx512 };
/// True where this CPU has the instructions (avx2 means AVX2 + FMA + F16C, avx512 means F, BW, DQ, VL).
bool isa_available(Isa isa);
/// The instruction set in use: the best available one unless forced. UserError (exit 2) on a CPU without AVX2 + FMA.
Isa active_isa();
/// Forces an instruction set; UserError (exit 2) when this CPU lacks it.
void force_isa(Isa isa);
const char* isa_name(Isa isa);

// ---- weights in panels (linear.cpp) ----------------------------------------------------------------------------------------------
// A weight (N, K) is kept as ceil(N/32) panels of K x 32 floats: element (n, k) stands at ((n/32)*K + k)*32 + n%32; lanes past N are 0.
// The same layout serves both instruction sets. A panel buffer is 64-byte aligned.
constexpr int64_t kPanel = 32;
constexpr int64_t panel_count(int64_t n) { return (n + kPanel - 1) / kPanel; }
constexpr int64_t panel_floats(int64_t n, int64_t k) { return panel_count(n) * kPanel * k; }
/// Rows [row_begin, row_begin + rows) of the panels of an (N, K) weight from row-major w (rows, K). Lanes past N are left alone.
void pack_panels(const float* w, int64_t row_begin, int64_t rows, int64_t K, float* panels);
void unpack_panels(const float* panels, int64_t row_begin, int64_t rows, int64_t K, float* w);
/// out = panels of the transpose (K, N) of an (N, K) weight: panel_floats(K, N) floats.
void transpose_panels(const float* panels, int64_t N, int64_t K, float* out);

// ---- linear (linear.cpp) ---------------------------------------------------------------------------------------------------------
/// y[m][n] = bias[n] + chain over k of x[m][k] * w[n][k] (the bias is added last; bias may be null). ldx, ldy: row strides in floats.
/// go_on: the chains go on from the stored y, else from +0: two calls with the columns of one x give its bits. sides come after K; then bias
/// is null.
void linear_forward(const float* x, int64_t ldx, int64_t M, int64_t K, const float* panels, int64_t N, const float* bias, float* y, int64_t ldy,
                    bool go_on = false, SideProducts sides = {});
/// dx[m][k] = chain over n of dy[m][n] * w[n][k]. The panels are transposed on the way, a cache's worth at a time. go_on: from the stored dx.
void linear_backward_input(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* panels, int64_t K, float* dx, int64_t lddx,
                           bool go_on = false, SideProducts sides = {});
/// The same bits. scratch: panel_floats(K, N) floats, holds the transposed panels afterwards.
void linear_backward_input(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* panels, int64_t K, float* dx, int64_t lddx,
                           float* scratch);
/// The same with the transposed panels already made by transpose_panels.
void linear_backward_input_packed(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* transposed, int64_t K, float* dx, int64_t lddx);
/// dw (panels, as the weight) goes on by a chain over rows m = 0..M-1 of dy[m][n] * x[m][k]: two calls with the rows of one give its bits.
void linear_backward_weight(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* x, int64_t ldx, int64_t K, float* dw);
/// dbias[n] goes on by adding dy[m][n] for m = 0..M-1.
void bias_backward(const float* dy, int64_t lddy, int64_t M, int64_t N, float* dbias);
/// y[t] = row ids[t] of an embedding in panels (V, D).
void embedding_forward(const float* panels, int64_t D, const int64_t* ids, int64_t T, float* y);
/// demb (panels) row ids[t] += dy[t], t ascending.
void embedding_backward(const float* dy, int64_t D, const int64_t* ids, int64_t T, float* demb);

// ---- norm, rope, swiglu, residual (pointwise.cpp) --------------------------------------------------------------------------------
/// y = x * rstd * w with rstd[t] = 1 / sqrt(lane_sum(x^2) / D + eps).  x, y (T, D); w (D); rstd (T).
void rms_norm_forward(const float* x, int64_t T, int64_t D, const float* w, float eps, float* y, float* rstd);
/// dx (T, D) is overwritten; dw (D) goes on by a chain over t (dw may be null: frozen).
void rms_norm_backward(const float* dy, const float* x, const float* rstd, const float* w, int64_t T, int64_t D, float* dx, float* dw);
/// cos, sin (positions, d/2) tables: angle = float(position) * inv_freq[i] in float32, as transformers does.
/// inv_freq[i] = 1 / theta^(2i/d) in float32. cos and sin are correctly rounded but for rare last-bit cases (computed in float64).
void rope_table(int64_t positions, int64_t d, double theta, float* cos, float* sin);
/// Rotates the first `heads` heads of every row of x (T, ldx) in place, half-split order (x[i], x[i + d/2]); inverse = backward.
void rope_apply(float* x, int64_t ldx, int64_t T, int64_t heads, int64_t d, const int64_t* positions, const float* cos, const float* sin,
                bool inverse);
/// y = silu(gate) * up; gate_up (T, 2F) holds gate then up; y (T, F).
void swiglu_forward(const float* gate_up, int64_t T, int64_t F, float* y);
void swiglu_backward(const float* dy, const float* gate_up, int64_t T, int64_t F, float* dgate_up);
/// out = a + b, elementwise (out may be a).
void add(const float* a, const float* b, int64_t count, float* out);

// ---- attention over a segment tree (attention.cpp) -------------------------------------------------------------------------------
struct Segment {  // as batch::Segment
  int32_t begin, end, parent;
};
/// Query i of a segment sees the path of its segment (ancestors first, each whole) and tokens begin..i of the segment itself.
/// Scores: chain over the head dimension, then * scale. Row maximum over the visible keys first; p = exp(s - max); l = lane sum of p by path
/// index; out = (chain over visible keys in path order of p * v) / l. Keys behind the row are never read into it.
/// q (T, H, d) with row stride ldq, k, v (T, G, d) with row strides ldk, ldv (all may point into one fused qkv buffer); H a multiple of G.
/// out (T, H*d) with row stride ldo. row_max, row_sum (T, H): kept for the backward (may be null).
struct AttentionShape {
  int64_t T, H, G, d;
  int64_t ldq, ldk, ldv, ldo;
  float scale;
};
void attention_forward(const AttentionShape& shape, const float* q, const float* k, const float* v, const Segment* segments, int64_t segment_count,
                       float* out, float* row_max, float* row_sum);
/// dout has the stride of out; dq, dk, dv have the layout and strides of q, k, v and are overwritten. dq: chain over keys in path order. dk, dv:
/// chains over (segments that see the key in data order, own segment first; the group's heads ascending; queries ascending). Threads split (tree, kv
/// head) units; never a sum.
void attention_backward(const AttentionShape& shape, const float* dout, const float* q, const float* k, const float* v, const float* out,
                        const float* row_max, const float* row_sum, const Segment* segments, int64_t segment_count, float* dq, float* dk, float* dv);
/// KV cache of one sequence and layer: for each kv head keys d-major in panels of 16 (element (j, c) at ((j/16)*d + c)*16 + j%16),
/// values row-major (capacity, d). capacity is a multiple of 16. Buffers: G * capacity * d floats each.
struct KvView {
  float* keys;
  float* values;
  int64_t capacity;
  int64_t length;  // visible keys
};
/// Appends R rows of k, v (R, G, d; strides ldk, ldv) at positions cache.length.. (the caller then raises length).
void kv_append(const KvView& cache, int64_t G, int64_t d, const float* k, int64_t ldk, const float* v, int64_t ldv, int64_t R);
/// Row r of q (R, H, d; stride ldq) attends to the first visible[r] keys of caches[r]; the same arithmetic, hence the same bits, as
/// attention_forward.
void attention_cached(int64_t R, int64_t H, int64_t G, int64_t d, float scale, const float* q, int64_t ldq, const KvView* const* caches,
                      const int64_t* visible, float* out, int64_t ldo);

// ---- log-probabilities (logprobs.cpp) --------------------------------------------------------------------------------------------
/// Per row m of logits (M, V; stride ld), after multiplying by inv_temperature: lse over fixed 1,024-wide blocks merged in order;
/// logprob = logit[target] - lse, from the unrounded lse (cpu/logprobs.cpp states the formulas). The other outputs may be null: entropy, sum_p2_log =
/// log sum p^2, mean_logit, argmax (lowest index wins ties; NaN is never picked).
struct LogprobOutputs {
  float* logprob;
  float* lse;
  float* entropy;
  float* log_sum_p2;
  float* mean_logit;
  int64_t* argmax;
};
void logprobs_forward(const float* logits, int64_t ld, int64_t M, int64_t V, const int64_t* targets, float inv_temperature,
                      const LogprobOutputs& out);
/// logits -> dlogits in place: inv_temperature * (g[m] * (1[j = target] - p_j) - g_entropy[m] * p_j * (log p_j + entropy[m])); g_entropy may be null.
void logprobs_backward(float* logits, int64_t ld, int64_t M, int64_t V, const int64_t* targets, float inv_temperature, const float* lse,
                       const float* g, const float* g_entropy, const float* entropy);
/// Sampling: token index with the largest logits[v] * inv_temperature + Gumbel(seed, row, sample, position, v); lowest index wins ties.
int64_t gumbel_argmax(const float* logits, int64_t V, float inv_temperature, uint64_t key, const uint32_t counter[3]);

// ---- optimizer (optimizer.cpp) ---------------------------------------------------------------------------------------------------
/// One AdamW step (Loshchilov & Hutter; the arithmetic of torch.optim.AdamW), elementwise:
///   p *= 1 - lr*wd; g = grad*grad_scale; m += (g-m)*(1-b1); v = b2*v + (1-b2)*g*g; p -= (lr/bias1) * m / (sqrt(v)/sqrt(bias2) + eps)
/// 1 - lr*wd, 1 - b1, 1 - b2 and lr/bias1 are computed in float64 and rounded once, as torch does (1 - 0.999f would be off by 1e-5).
struct AdamwScalars {
  double lr, beta1, beta2, eps, weight_decay, grad_scale;
  double bias1;       // 1 - beta1^t
  double sqrt_bias2;  // sqrt(1 - beta2^t)
};
void adamw_step(float* p, const float* grad, float* m, float* v, int64_t count, const AdamwScalars& scalars);
/// Sum of squares in float64: blocks of 4,096 elements (lane sums of 8), block sums added in order.
double sum_squares(const float* x, int64_t count);
/// True when every element is finite.
bool all_finite(const float* x, int64_t count);

// ---- scalar functions shared with non-kernel code (math.cpp): float64, no libm -----------------------------------------------------
double exact_exp(double x);
double exact_log(double x);
double exact_pow(double base, double exponent);  // base > 0
void exact_sincos(double x, double* sin, double* cos);
}  // namespace hone::kernels
