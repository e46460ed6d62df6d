// Attention, forward: over the segment tree, and from a KV cache with the same arithmetic.
//
// A unit of work is a block of queries of one segment and one kv head. Its path (ancestors, then own keys) is packed once and stays for the
// following units of the same segment and head. Rows are computed in register tiles up to what the tile's first row sees; what later rows
// see beyond that is added row by row, so that no key behind a row is ever multiplied into it.
#include "hone/kernels/cpu/attention_tiles.h"
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/rope_row.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/attention.inc"

namespace {

constexpr int64_t kBlockRows = 4 * kTileRows * (kTileRows < 10 ? 2 : 1);
constexpr int64_t kPad = 16;  // score rows are never a multiple of 4 KiB apart

struct Keys {
  const float* panels;  // keys d-major in panels of 16
  const float* values;  // row-major, stride d
};

/// Rows r = 0..rows-1 of one head; row r sees visible + r * step keys.
struct RowBlock {
  const float* q;
  int64_t ldq, rows, visible, step;
  float* out;
  int64_t ldo;
  float* row_max;  // may be null
  float* row_sum;
  int64_t ld_stat;
};

/// Scores (before scaling) become p = exp(s * scale - max); returns the largest score and the lane sum of p.
void softmax_row(float* s, int64_t n, float scale, float* largest, float* sum) {
  const V factor = broadcast(scale), lowest = broadcast(-__builtin_inff());
  const int64_t whole = n / kLanes * kLanes, rest = n - whole;
  V most = lowest;
  for (int64_t i = 0; i < whole; i += kLanes) most = max(load(s + i), most);
  if (rest) most = max(select(first(rest), load_n(s + whole, rest), lowest), most);
  *largest = fold_max(most) * scale;  // rounding is monotonic: the largest product
  const V shift = broadcast(*largest);
  V total = zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const V p = exp(sub(mul(load(s + i), factor), shift));
    store(s + i, p);
    total = add(total, p);
  }
  if (rest) {
    const V p = select(first(rest), exp(sub(mul(load_n(s + whole, rest), factor), shift)), zero());
    store_n(s + whole, p, rest);
    total = add(total, p);
  }
  *sum = fold_add(total);
}

void divide_row(float* out, int64_t d, float sum) {
  const V divisor = broadcast(sum);
  for (int64_t c = 0; c < d; c += kLanes) {
    const int64_t n = smaller(kLanes, d - c);
    store_n(out + c, div(load_n(out + c, n), divisor), n);
  }
}

void attend(const RowBlock& block, const Keys& keys, int64_t d, float scale, float* scores, int64_t lds) {
  float sums[kBlockRows];
  const auto seen = [&](int64_t r) { return block.visible + r * block.step; };
  score_rows(block.q, block.ldq, block.rows, block.visible, block.step, keys.panels, d, seen(block.rows - 1), scores, lds);
  for (int64_t r = 0; r < block.rows; r++) {
    float largest;
    softmax_row(scores + r * lds, seen(r), scale, &largest, &sums[r]);
    if (block.row_max) block.row_max[r * block.ld_stat] = largest;
    if (block.row_sum) block.row_sum[r * block.ld_stat] = sums[r];
  }
  for (int64_t r = 0; r < block.rows; r += kTileRows) {
    const int64_t rows = smaller(kTileRows, block.rows - r), common = seen(r);
    run_columns({scores + r * lds, lds, 1, keys.values, d, kLanes, common, block.out + r * block.ldo, block.ldo, kLanes, false}, rows, d);
    for (int64_t i = r; i < r + rows; i++) {
      float* out = block.out + i * block.ldo;
      if (seen(i) > common)
        run_columns({scores + i * lds + common, lds, 1, keys.values + common * d, d, kLanes, seen(i) - common, out, block.ldo, kLanes, true}, 1, d);
      divide_row(out, d, sums[i]);
    }
  }
}

/// `rows` (at most kTileRows) heads of one token, out of the cache's blocks of one layer and kv head: the arithmetic of attend.
void attend_blocks(const float* q, int64_t rows, int64_t visible, float* const* blocks, int64_t offset, int64_t d, float scale, float* scores,
                   int64_t lds, float* out) {
  float sums[kTileRows];
  for (int64_t key = 0, b = 0; key < visible; key += kKvBlock, b++)
    run_wide_columns({q, d, 1, blocks[b] + offset, kLanes, kLanes * d, d, scores + key, lds, kLanes, false}, rows,
                     ceil_div(smaller(kKvBlock, visible - key), kLanes) * kLanes);
  for (int64_t r = 0; r < rows; r++) {
    float largest;
    softmax_row(scores + r * lds, visible, scale, &largest, &sums[r]);
  }
  for (int64_t key = 0, b = 0; key < visible; key += kKvBlock, b++)
    run_wide_columns({scores + key, lds, 1, blocks[b] + offset + kKvBlock * d, d, kLanes, smaller(kKvBlock, visible - key), out, d, kLanes, key > 0},
                     rows, d);
  for (int64_t r = 0; r < rows; r++) divide_row(out + r * d, d, sums[r]);
}

/// Units of work: for each segment, for each kv head, its query blocks.
struct Work {
  Tree tree;
  const int64_t* unit_begin;  // (segments + 1)
};

Work plan_work(const Segment* segments, int64_t count, int64_t G) {
  int64_t* numbers = reinterpret_cast<int64_t*>(thread_scratch(3, 4 * (count + 1)));
  int64_t *path_begin = numbers, *unit_begin = numbers + count + 1;
  unit_begin[0] = 0;
  for (int64_t s = 0; s < count; s++) {
    const int64_t parent = segments[s].parent;
    path_begin[s] = parent < 0 ? 0 : path_begin[parent] + segments[parent].end - segments[parent].begin;
    unit_begin[s + 1] = unit_begin[s] + G * ceil_div(segments[s].end - segments[s].begin, kBlockRows);
  }
  return {{segments, count, path_begin}, unit_begin};
}

struct Inputs {
  const float *q, *k, *v;
  float *out, *row_max, *row_sum;
};

/// The query blocks first..last-1 of one segment and kv head.
void forward_blocks(const AttentionShape& shape, const Inputs& in, const Tree& tree, int64_t segment, int64_t g, int64_t first_block,
                    int64_t last_block) {
  const int64_t d = shape.d, group = shape.H / shape.G;
  const int64_t begin = tree.segments[segment].begin, end = tree.segments[segment].end, above = tree.path_begin[segment];
  const int64_t keys = above + smaller(end - begin, last_block * kBlockRows);
  float* panels = thread_scratch(0, panels_floats(keys, d) + keys * d);
  float* values = panels + panels_floats(keys, d);
  for_each_piece(tree, segment, keys, [&](int64_t token, int64_t count, int64_t position) {
    pack_keys(in.k + token * shape.ldk + g * d, shape.ldk, count, d, position, panels);
    pack_rows(in.v + token * shape.ldv + g * d, shape.ldv, count, d, values + position * d);
  });
  clear_panel_tail(keys, d, panels);
  const int64_t lds = ceil_div(keys, kLanes) * kLanes + kPad;
  float* scores = thread_scratch(1, kBlockRows * lds);
  for (int64_t block = first_block; block < last_block; block++) {
    const int64_t row = begin + block * kBlockRows, rows = smaller(kBlockRows, end - row);
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
      const int64_t stat = row * shape.H + h;
      attend({in.q + row * shape.ldq + h * d, shape.ldq, rows, above + block * kBlockRows + 1, 1, in.out + row * shape.ldo + h * d, shape.ldo,
              in.row_max ? in.row_max + stat : nullptr, in.row_sum ? in.row_sum + stat : nullptr, shape.H},
             {panels, values}, d, shape.scale, scores, lds);
    }
  }
}

}  // namespace

void attention_forward(const AttentionShape& shape, const float* q, const float* k, const float* v, const Segment* segments, int64_t segment_count,
                       float* out, float* row_max, float* row_sum) {
  const Work work = plan_work(segments, segment_count, shape.G);
  const Inputs in = {q, k, v, out, row_max, row_sum};
  parallel(work.unit_begin[segment_count], 1, [=, &shape](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t unit = begin; unit < end;) {
      while (work.unit_begin[s + 1] <= unit) s++;
      const int64_t blocks = (work.unit_begin[s + 1] - work.unit_begin[s]) / shape.G, at = unit - work.unit_begin[s];
      const int64_t first_block = at % blocks, last_block = smaller(blocks, first_block + end - unit);
      forward_blocks(shape, in, work.tree, s, at / blocks, first_block, last_block);
      unit += last_block - first_block;
    }
  });
}

void kv_append(const KvView& cache, int64_t G, int64_t d, const float* k, int64_t ldk, const float* v, int64_t ldv, int64_t R) {
  for (int64_t g = 0; g < G; g++) {
    pack_keys(k + g * d, ldk, R, d, cache.length, cache.keys + g * cache.capacity * d);
    pack_rows(v + g * d, ldv, R, d, cache.values + (g * cache.capacity + cache.length) * d);
  }
}

void attention_cached(int64_t R, int64_t H, int64_t G, int64_t d, float scale, const float* q, int64_t ldq, const KvView* const* caches,
                      const int64_t* visible, float* out, int64_t ldo) {
  const int64_t group = H / G;
  parallel(R * G, 1, [=](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t r = unit / G, g = unit % G;
      const KvView& cache = *caches[r];
      const Keys keys = {cache.keys + g * cache.capacity * d, cache.values + g * cache.capacity * d};
      const int64_t lds = ceil_div(visible[r], kLanes) * kLanes + kPad;
      float* scores = thread_scratch(1, kBlockRows * lds);
      for (int64_t h = 0; h < group; h += kBlockRows) {
        const int64_t at = (g * group + h) * d;
        attend({q + r * ldq + at, d, smaller(kBlockRows, group - h), visible[r], 0, out + r * ldo + at, d, nullptr, nullptr, 0}, keys, d, scale,
               scores, lds);
      }
    }
  });
}

void rope_to_cache(int64_t R, int64_t H, int64_t G, int64_t d, float* qkv, int64_t ld, const KvRow* rows, int64_t offset, const float* cos,
                   const float* sin) {
  parallel(R, 16, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const int64_t position = rows[r].position, at = position % kKvBlock;
      float* x = qkv + r * ld;
      rope_row(x, H + G, d, cos + position * (d / 2), sin + position * (d / 2), false);
      float* block = rows[r].blocks[position / kKvBlock] + offset;
      for (int64_t g = 0; g < G; g++, block += 2 * kKvBlock * d) {
        pack_keys(x + (H + g) * d, d, 1, d, at, block);
        pack_rows(x + (H + G + g) * d, d, 1, d, block + (kKvBlock + at) * d);
      }
    }
  });
}

void attention_blocks(int64_t R, int64_t H, int64_t G, int64_t d, float scale, const float* q, int64_t ldq, const KvRow* rows, int64_t offset,
                      float* out, int64_t ldo) {
  const int64_t group = H / G;
  // Rows that share a prompt stand side by side: its keys are still in a near cache for the next one.
  parallel(G * R, 1, [=](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t g = unit / R, r = unit % R, visible = rows[r].position + 1;
      const int64_t lds = ceil_div(visible, kLanes) * kLanes + kPad;
      float* scores = thread_scratch(1, kTileRows * lds);
      for (int64_t h = 0; h < group; h += kTileRows) {
        const int64_t at = (g * group + h) * d;
        attend_blocks(q + r * ldq + at, smaller(kTileRows, group - h), visible, rows[r].blocks, offset + g * 2 * kKvBlock * d, d, scale, scores, lds,
                      out + r * ldo + at);
      }
    }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
