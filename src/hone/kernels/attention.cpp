// Checks of shapes, and run-time choice of the instruction set for attention.
#include "hone/base/error.h"
#include "hone/kernels/decoding.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/attention.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/attention.inc"
}

namespace {

void check_heads(int64_t H, int64_t G, int64_t d, float scale) {
  check(H > 0 && G > 0 && d > 0 && H % G == 0 && scale > 0, "attention: {} query heads, {} kv heads, head size {}, scale {}", H, G, d, scale);
}

void check_inputs(const AttentionShape& shape, const Segment* segments, int64_t count) {
  check_heads(shape.H, shape.G, shape.d, shape.scale);
  check(shape.ldq >= shape.H * shape.d && shape.ldo >= shape.H * shape.d && shape.ldk >= shape.G * shape.d && shape.ldv >= shape.G * shape.d,
        "attention: row strides q {} k {} v {} out {} are too small for {} and {} heads of {}", shape.ldq, shape.ldk, shape.ldv, shape.ldo, shape.H,
        shape.G, shape.d);
  int64_t token = 0;
  for (int64_t s = 0; s < count; s++) {
    check(segments[s].begin == token && segments[s].end >= token && segments[s].parent >= -1 && segments[s].parent < s,
          "attention: segment {} is [{}, {}) with parent {}, expected to begin at {}", s, segments[s].begin, segments[s].end, segments[s].parent,
          token);
    token = segments[s].end;
  }
  check(token == shape.T, "attention: the segments cover {} of {} tokens", token, shape.T);
}

}  // namespace

void attention_forward(const AttentionShape& shape, const float* q, const float* k, const float* v, const Segment* segments, int64_t segment_count,
                       float* out, float* row_max, float* row_sum) {
  check_inputs(shape, segments, segment_count);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::attention_forward : avx2::attention_forward;
  kernel(shape, q, k, v, segments, segment_count, out, row_max, row_sum);
}

void attention_backward(const AttentionShape& shape, const float* dout, const float* q, const float* k, const float* v, const float* out,
                        const float* row_max, const float* row_sum, const Segment* segments, int64_t segment_count, float* dq, float* dk, float* dv) {
  check_inputs(shape, segments, segment_count);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::attention_backward : avx2::attention_backward;
  kernel(shape, dout, q, k, v, out, row_max, row_sum, segments, segment_count, dq, dk, dv);
}

void kv_append(const KvView& cache, int64_t G, int64_t d, const float* k, int64_t ldk, const float* v, int64_t ldv, int64_t R) {
  check(cache.capacity % 16 == 0 && cache.length >= 0 && R >= 0 && cache.length + R <= cache.capacity, "kv_append: {} rows at {} of capacity {}", R,
        cache.length, cache.capacity);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::kv_append : avx2::kv_append;
  kernel(cache, G, d, k, ldk, v, ldv, R);
}

void attention_cached(int64_t R, int64_t H, int64_t G, int64_t d, float scale, const float* q, int64_t ldq, const KvView* const* caches,
                      const int64_t* visible, float* out, int64_t ldo) {
  check_heads(H, G, d, scale);
  for (int64_t r = 0; r < R; r++)
    check(visible[r] > 0 && visible[r] <= caches[r]->capacity, "attention_cached: row {} sees {} keys of capacity {}", r, visible[r],
          caches[r]->capacity);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::attention_cached : avx2::attention_cached;
  kernel(R, H, G, d, scale, q, ldq, caches, visible, out, ldo);
}

void rope_to_cache(int64_t R, int64_t H, int64_t G, int64_t d, float* qkv, int64_t ld, const KvRow* rows, int64_t offset, const float* cos,
                   const float* sin) {
  check(H > 0 && G > 0 && d > 0 && ld >= (H + 2 * G) * d, "rope_to_cache: {} and {} heads of {} at a stride of {}", H, G, d, ld);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::rope_to_cache : avx2::rope_to_cache;
  kernel(R, H, G, d, qkv, ld, rows, offset, cos, sin);
}

void attention_blocks(int64_t R, int64_t H, int64_t G, int64_t d, float scale, const float* q, int64_t ldq, const KvRow* rows, int64_t offset,
                      float* out, int64_t ldo) {
  check_heads(H, G, d, scale);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::attention_blocks : avx2::attention_blocks;
  kernel(R, H, G, d, scale, q, ldq, rows, offset, out, ldo);
}

}  // namespace hone::kernels
