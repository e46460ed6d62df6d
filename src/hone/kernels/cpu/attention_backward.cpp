// Attention, backward, over the segment tree.
//
// A unit of work is a root tree and a kv head, so that no sum is split between threads. With p = exp(s - row_max) * (1 / row_sum) made again
// from the scores, and delta = lane sum over the head dimension of dout * out:
//   ds[i][j] = p[i][j] * (dout[i] . v[j] - delta[i]) * scale
//   dq[i] = chain over keys j of ds[i][j] k[j];  dk[j] = chain over rows of ds[i][j] q[i];  dv[j] = chain over rows of p[i][j] dout[i]
// Blocks of queries and keys only cut the chains by storing and loading the accumulators (dq, dk and dv themselves).
#include "hone/kernels/cpu/attention_tiles.h"
#include "hone/kernels/cpu/parallel.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/attention.inc"

namespace {

constexpr int64_t kBlockRows = 4 * kTileRows * (kTileRows < 10 ? 2 : 1);
constexpr int64_t kBlockKeys = 256;
constexpr int64_t kBlockStride = kBlockKeys + 16;

struct Tensors {
  const float *dout, *q, *k, *v, *out, *row_max, *row_sum;
  float *dq, *dk, *dv;
};

/// The packed path of a segment and the buffers of one block of queries.
struct Scratch {
  float *key_panels, *value_panels, *key_rows;
  float *p, *ds;                  // kBlockRows x kBlockStride
  float *q_rows, *out_rows;       // queries and dout of the block, row-major
  float *shift, *factor, *delta;  // per row: row_max, 1 / row_sum, delta
};

Scratch make_scratch(int64_t keys, int64_t d) {
  Scratch s;
  s.key_panels = thread_scratch(0, 2 * panels_floats(keys, d) + keys * d);
  s.value_panels = s.key_panels + panels_floats(keys, d);
  s.key_rows = s.value_panels + panels_floats(keys, d);
  s.p = thread_scratch(1, 2 * kBlockRows * kBlockStride);
  s.ds = s.p + kBlockRows * kBlockStride;
  s.q_rows = thread_scratch(2, 2 * kBlockRows * d + 3 * kBlockRows);
  s.out_rows = s.q_rows + kBlockRows * d;
  s.shift = s.out_rows + kBlockRows * d;
  s.factor = s.shift + kBlockRows;
  s.delta = s.factor + kBlockRows;
  return s;
}

float dot(const float* a, const float* b, int64_t n) {
  V sum = zero();
  for (int64_t i = 0; i < n; i += kLanes) sum = fma(load_n(a + i, smaller(kLanes, n - i)), load_n(b + i, smaller(kLanes, n - i)), sum);
  return fold_add(sum);
}

/// p and ds of one row for the first n keys of a block: in place of scores and dout . v.
void gradient_row(float* p, float* ds, int64_t n, float scale, float row_max, float inverse_sum, float delta) {
  const V factor = broadcast(scale), shift = broadcast(row_max), inverse = broadcast(inverse_sum), centre = broadcast(delta);
  for (int64_t i = 0; i < n; i += kLanes) {  // what lies behind n is overwritten too, and never read
    const V weight = mul(exp(sub(mul(load(p + i), factor), shift)), inverse);
    store(p + i, weight);
    store(ds + i, mul(mul(weight, sub(load(ds + i), centre)), factor));
  }
}

/// One block of queries of one head: rows row..row+rows-1, of which row r sees visible + r keys of the path.
struct Block {
  int64_t segment, g, h, row, rows, visible;
};

void query_gradient(const AttentionShape& shape, const Block& b, int64_t key, int64_t keys, const Scratch& s, float* dq) {
  const auto seen = [&](int64_t r) { return larger(0, smaller(keys, b.visible + r - key)); };
  const float* rows_of_k = s.key_rows + key * shape.d;
  for (int64_t r = 0; r < b.rows; r += kTileRows) {
    const int64_t rows = smaller(kTileRows, b.rows - r), common = seen(r);
    float* at = dq + (b.row + r) * shape.ldq + b.h * shape.d;
    const float* ds = s.ds + r * kBlockStride;
    if (common) run_columns({ds, kBlockStride, 1, rows_of_k, shape.d, kLanes, common, at, shape.ldq, kLanes, key > 0}, rows, shape.d);
    for (int64_t i = 1; i < rows; i++)
      if (seen(r + i) > common)
        run_columns({ds + i * kBlockStride + common, kBlockStride, 1, rows_of_k + common * shape.d, shape.d, kLanes, seen(r + i) - common,
                     at + i * shape.ldq, shape.ldq, kLanes, true},
                    1, shape.d);
  }
}

/// sums[j] goes on by a chain over the block's rows that see key j of weights[row][j] * x[row]. Keys position..position+count-1 of the path;
/// `weights` stands at the first of them.
void key_gradient(const float* weights, const float* x, int64_t d, const Block& b, int64_t position, int64_t count, float* sums, int64_t ld) {
  const auto first_row = [&](int64_t j) { return larger(0, position + j + 1 - b.visible); };
  for (int64_t j = 0; j < count; j += kTileRows) {
    const int64_t keys = smaller(kTileRows, count - j), common = smaller(b.rows, first_row(j + keys - 1));
    for (int64_t i = j; i < j + keys; i++)
      if (first_row(i) < common)
        run_columns({weights + first_row(i) * kBlockStride + i, 1, kBlockStride, x + first_row(i) * d, d, kLanes, common - first_row(i),
                     sums + i * ld, ld, kLanes, true},
                    1, d);
    if (common < b.rows)
      run_columns({weights + common * kBlockStride + j, 1, kBlockStride, x + common * d, d, kLanes, b.rows - common, sums + j * ld, ld, kLanes, true},
                  keys, d);
  }
}

void load_block(const AttentionShape& shape, const Tensors& t, const Block& b, const Scratch& s) {
  pack_rows(t.q + b.row * shape.ldq + b.h * shape.d, shape.ldq, b.rows, shape.d, s.q_rows);
  pack_rows(t.dout + b.row * shape.ldo + b.h * shape.d, shape.ldo, b.rows, shape.d, s.out_rows);
  for (int64_t r = 0; r < b.rows; r++) {
    const int64_t stat = (b.row + r) * shape.H + b.h;
    s.shift[r] = t.row_max[stat];
    s.factor[r] = 1.0f / t.row_sum[stat];
    s.delta[r] = dot(s.out_rows + r * shape.d, t.out + (b.row + r) * shape.ldo + b.h * shape.d, shape.d);
  }
}

void backward_block(const AttentionShape& shape, const Tensors& t, const Tree& tree, const Block& b, const Scratch& s) {
  const int64_t d = shape.d, last = b.visible + b.rows - 1;
  load_block(shape, t, b, s);
  for (int64_t key = 0; key < last; key += kBlockKeys) {
    const int64_t keys = smaller(kBlockKeys, last - key);
    score_rows(s.q_rows, d, b.rows, b.visible - key, 1, s.key_panels + key * d, d, keys, s.p, kBlockStride);
    score_rows(s.out_rows, d, b.rows, b.visible - key, 1, s.value_panels + key * d, d, keys, s.ds, kBlockStride);
    for (int64_t r = 0; r < b.rows; r++)
      gradient_row(s.p + r * kBlockStride, s.ds + r * kBlockStride, smaller(keys, b.visible + r - key), shape.scale, s.shift[r], s.factor[r],
                   s.delta[r]);
    query_gradient(shape, b, key, keys, s, t.dq);
    for_each_piece(tree, b.segment, key + keys, [&](int64_t token, int64_t count, int64_t position) {
      const int64_t skip = larger(0, key - position);  // keys of the piece that stand before this block
      if (skip >= count) return;
      const int64_t at = position + skip - key;
      key_gradient(s.p + at, s.out_rows, d, b, position + skip, count - skip, t.dv + (token + skip) * shape.ldv + b.g * d, shape.ldv);
      key_gradient(s.ds + at, s.q_rows, d, b, position + skip, count - skip, t.dk + (token + skip) * shape.ldk + b.g * d, shape.ldk);
    });
  }
}

void clear_rows(float* x, int64_t ld, int64_t count, int64_t d) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < d; c += kLanes) store_n(x + i * ld + c, zero(), smaller(kLanes, d - c));
}

void backward_segment(const AttentionShape& shape, const Tensors& t, const Tree& tree, int64_t segment, int64_t g) {
  const int64_t d = shape.d, group = shape.H / shape.G;
  const int64_t begin = tree.segments[segment].begin, end = tree.segments[segment].end, above = tree.path_begin[segment];
  const int64_t keys = above + end - begin;
  if (begin == end) return;
  clear_rows(t.dk + begin * shape.ldk + g * d, shape.ldk, end - begin, d);
  clear_rows(t.dv + begin * shape.ldv + g * d, shape.ldv, end - begin, d);
  const Scratch s = make_scratch(keys, d);
  for_each_piece(tree, segment, keys, [&](int64_t token, int64_t count, int64_t position) {
    pack_keys(t.k + token * shape.ldk + g * d, shape.ldk, count, d, position, s.key_panels);
    pack_keys(t.v + token * shape.ldv + g * d, shape.ldv, count, d, position, s.value_panels);
    pack_rows(t.k + token * shape.ldk + g * d, shape.ldk, count, d, s.key_rows + position * d);
  });
  clear_panel_tail(keys, d, s.key_panels);
  clear_panel_tail(keys, d, s.value_panels);
  for (int64_t h = g * group; h < (g + 1) * group; h++)
    for (int64_t row = begin; row < end; row += kBlockRows)
      backward_block(shape, t, tree, {segment, g, h, row, smaller(kBlockRows, end - row), above + row - begin + 1}, s);
}

}  // namespace

void attention_backward(const AttentionShape& shape, const float* dout, const float* q, const float* k, const float* v, const float* out,
                        const float* row_max, const float* row_sum, const Segment* segments, int64_t segment_count, float* dq, float* dk, float* dv) {
  int64_t* numbers = reinterpret_cast<int64_t*>(thread_scratch(3, 6 * segment_count));
  int64_t *path_begin = numbers, *root_of = numbers + segment_count, *roots = numbers + 2 * segment_count, root_count = 0;
  for (int64_t s = 0; s < segment_count; s++) {
    const int64_t parent = segments[s].parent;
    path_begin[s] = parent < 0 ? 0 : path_begin[parent] + segments[parent].end - segments[parent].begin;
    root_of[s] = parent < 0 ? s : root_of[parent];
    if (parent < 0) roots[root_count++] = s;
  }
  const Tensors t = {dout, q, k, v, out, row_max, row_sum, dq, dk, dv};
  const Tree tree = {segments, segment_count, path_begin};
  parallel(root_count * shape.G, 1, [=, &shape](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t root = roots[unit / shape.G];
      for (int64_t s = root; s < tree.count; s++)
        if (root_of[s] == root) backward_segment(shape, t, tree, s, unit % shape.G);
    }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
