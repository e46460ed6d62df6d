#include <numeric>

#include "hone/kernels/decoding.h"
#include "kernels/point_support.h"

namespace hone::kernels {
namespace {
using namespace support;

/// q, k and v of random tokens in one fused buffer, as the decoder keeps them, and all results.
struct Case {
  AttentionShape shape;
  std::vector<Segment> segments;
  Floats qkv, dout, out, row_max, row_sum, dqkv;

  Case(std::vector<Segment> tree, int64_t H, int64_t G, int64_t d, uint32_t stream = 31) : segments(std::move(tree)) {
    const int64_t T = segments.back().end, ld = (H + 2 * G) * d + 3;
    shape = {T, H, G, d, ld, ld, ld, H * d + 1, 1.0f / std::sqrt(static_cast<float>(d))};
    qkv = random_floats(T * ld, stream, 1.3);
    dout = random_floats(T * shape.ldo, stream + 1);
    out.assign(dout.size(), 0);
    row_max.assign(static_cast<size_t>(T * H), 0);
    row_sum = row_max;
    dqkv.assign(qkv.size(), 7);
  }
  const float* q() const { return qkv.data(); }
  const float* k() const { return qkv.data() + shape.H * shape.d; }
  const float* v() const { return k() + shape.G * shape.d; }
  int64_t count() const { return static_cast<int64_t>(segments.size()); }
  float* row(Floats& x, int64_t t) const { return x.data() + t * (static_cast<int64_t>(x.size()) / shape.T); }

  void forward() { attention_forward(shape, q(), k(), v(), segments.data(), count(), out.data(), row_max.data(), row_sum.data()); }
  void backward() {
    float* dq = dqkv.data();
    float* dk = dq + shape.H * shape.d;
    attention_backward(shape, dout.data(), q(), k(), v(), out.data(), row_max.data(), row_sum.data(), segments.data(), count(), dq, dk,
                       dk + shape.G * shape.d);
  }
  std::vector<Floats> run() {
    forward();
    backward();
    return {out, row_max, row_sum, dqkv};
  }
  /// Path of token t: the tokens it sees, in order.
  std::vector<int64_t> visible(int64_t t) const {
    size_t s = 0;
    while (segments[s].end <= t) s++;
    std::vector<int64_t> tokens;
    for (int64_t i = t; i >= segments[s].begin; i--) tokens.push_back(i);
    for (int32_t a = segments[s].parent; a >= 0; a = segments[static_cast<size_t>(a)].parent)
      for (int64_t i = segments[static_cast<size_t>(a)].end - 1; i >= segments[static_cast<size_t>(a)].begin; i--) tokens.push_back(i);
    return {tokens.rbegin(), tokens.rend()};
  }
};

struct Reference {
  Doubles out, dqkv;
  explicit Reference(const Case& c) : out(c.out.size(), 0), dqkv(c.qkv.size(), 7) {
    const auto& s = c.shape;
    const auto at = [&](int64_t t, int64_t head, int64_t i) { return static_cast<size_t>(t * s.ldq + head * s.d + i); };
    for (int64_t t = 0; t < s.T; t++)
      for (int64_t i = 0; i < (s.H + 2 * s.G) * s.d; i++) dqkv[at(t, 0, i)] = 0;
    for (int64_t t = 0; t < s.T; t++) {
      const auto keys = c.visible(t);
      for (int64_t h = 0; h < s.H; h++) {
        const int64_t k = s.H + h / (s.H / s.G), v = k + s.G;
        Doubles p, dp;
        double sum = 0, delta = 0;
        for (const int64_t j : keys) {
          double score = 0, product = 0;
          for (int64_t i = 0; i < s.d; i++) {
            score += static_cast<double>(c.qkv[at(t, h, i)]) * c.qkv[at(j, k, i)];
            product += static_cast<double>(c.dout[static_cast<size_t>(t * s.ldo + h * s.d + i)]) * c.qkv[at(j, v, i)];
          }
          p.push_back(std::exp(score * static_cast<double>(s.scale)));
          dp.push_back(product);
          sum += p.back();
        }
        for (size_t n = 0; n < keys.size(); n++) {
          p[n] /= sum;
          delta += p[n] * dp[n];
          for (int64_t i = 0; i < s.d; i++) out[static_cast<size_t>(t * s.ldo + h * s.d + i)] += p[n] * c.qkv[at(keys[n], v, i)];
        }
        for (size_t n = 0; n < keys.size(); n++) {
          const double ds = p[n] * (dp[n] - delta) * static_cast<double>(s.scale);
          for (int64_t i = 0; i < s.d; i++) {
            dqkv[at(t, h, i)] += ds * c.qkv[at(keys[n], k, i)];
            dqkv[at(keys[n], k, i)] += ds * c.qkv[at(t, h, i)];
            dqkv[at(keys[n], v, i)] += p[n] * c.dout[static_cast<size_t>(t * s.ldo + h * s.d + i)];
          }
        }
      }
    }
  }
};

/// Segments of the given lengths and parents.
std::vector<Segment> tree_of(const std::vector<std::pair<int32_t, int32_t>>& length_and_parent) {
  std::vector<Segment> segments;
  int32_t at = 0;
  for (const auto& [length, parent] : length_and_parent) {
    segments.push_back({at, at + length, parent});
    at += length;
  }
  return segments;
}

const std::vector<std::pair<int32_t, int32_t>> kTree = {{19, -1}, {7, 0}, {33, 0}, {1, -1}, {5, 2}, {16, 2}, {70, 3}, {20, -1}, {3, 4}};

TEST(Attention, EqualsFloat64) {
  const std::vector<std::vector<Segment>> trees = {tree_of({{1, -1}}), tree_of({{17, -1}, {70, -1}, {2, -1}}), tree_of(kTree),
                                                   tree_of({{300, -1}, {30, 0}})};
  for (const auto& tree : trees)
    for (const int64_t d : {8, 16, 24, 64, 80})
      for (const auto& [H, G] : {std::pair{1, 1}, {4, 2}, {9, 3}}) {
        Case c(tree, H, G, d);
        c.run();
        const Reference want(c);
        // float32 chains of d and then of up to 330 keys; errors grow as the square root of the length times 6e-8.
        EXPECT_LT(relative_error(c.out, want.out), 1e-6) << "T " << c.shape.T << " H " << H << " d " << d;
        EXPECT_LT(relative_error(c.dqkv, want.dqkv), 2e-6) << "T " << c.shape.T << " H " << H << " d " << d;
      }
}

TEST(Attention, LongDocument) {
  Case c(tree_of({{513, -1}}), 3, 1, 64);
  c.run();
  const Reference want(c);
  EXPECT_LT(relative_error(c.out, want.out), 1e-6);
  EXPECT_LT(relative_error(c.dqkv, want.dqkv), 2e-6);
}

TEST(Attention, EveryLengthOfARowBlock) {
  for (int32_t length = 1; length <= 70; length++) {
    Case c(tree_of({{length, -1}, {71 - length, 0}}), 2, 1, 16);
    c.run();
    const Reference want(c);
    EXPECT_LT(relative_error(c.out, want.out), 1e-6) << length;
    EXPECT_LT(relative_error(c.dqkv, want.dqkv), 2e-6) << length;
  }
}

TEST(Attention, SameBitsEverywhere) {
  Case tree(tree_of(kTree), 9, 3, 24);
  expect_same_bits_everywhere([&] { return tree.run(); });
  Case document(tree_of({{513, -1}}), 4, 2, 64);
  expect_same_bits_everywhere([&] { return document.run(); });
}

TEST(Attention, APackedDocumentHasTheBitsOfTheDocumentAlone) {
  const std::vector<int32_t> lengths = {5, 61, 1, 130, 16};
  std::vector<std::pair<int32_t, int32_t>> documents;
  for (const int32_t length : lengths) documents.emplace_back(length, -1);
  Case pack(tree_of(documents), 4, 2, 24);
  pack.run();
  for (size_t n = 0; n < lengths.size(); n++) {
    Case alone(tree_of({{lengths[n], -1}}), 4, 2, 24);
    const int64_t begin = pack.segments[n].begin, T = lengths[n];
    std::memcpy(alone.qkv.data(), pack.row(pack.qkv, begin), alone.qkv.size() * sizeof(float));
    std::memcpy(alone.dout.data(), pack.row(pack.dout, begin), alone.dout.size() * sizeof(float));
    alone.run();
    EXPECT_EQ(first_difference(alone.out.data(), pack.row(pack.out, begin), T * pack.shape.ldo), -1) << n;
    EXPECT_EQ(first_difference(alone.row_sum.data(), pack.row(pack.row_sum, begin), T * pack.shape.H), -1) << n;
    EXPECT_EQ(first_difference(alone.dqkv.data(), pack.row(pack.dqkv, begin), T * pack.shape.ldq), -1) << n;
  }
}

TEST(Attention, ChangingOneDocumentChangesNoBitOfAnother) {
  for (const float value : {1e30f, kNaN}) {
    Case c(tree_of({{30, -1}, {20, 0}, {40, -1}, {25, -1}, {10, 2}}), 4, 2, 16);
    const auto before = c.run();
    for (int64_t t = 50; t < 90; t++)
      for (int64_t i = 0; i < c.shape.ldq; i++) c.row(c.qkv, t)[i] = c.row(c.dout, t)[i % c.shape.ldo] = value;
    const auto after = c.run();
    for (size_t n = 0; n < before.size(); n++) {
      const int64_t width = static_cast<int64_t>(before[n].size()) / c.shape.T;
      EXPECT_EQ(first_difference(before[n].data(), after[n].data(), 50 * width), -1) << n;
      EXPECT_EQ(first_difference(before[n].data() + 90 * width, after[n].data() + 90 * width, 25 * width), -1) << n;
    }
  }
}

TEST(Attention, KeysBehindARowAreNeverReadIntoIt) {
  Case c(tree_of({{70, -1}, {50, 0}, {9, 0}}), 2, 1, 24);
  c.forward();
  const Floats out = c.out, sums = c.row_sum;
  for (const int64_t from : {1, 13, 14, 15, 55, 56, 57, 69, 70, 83, 100, 119}) {
    Case poisoned = c;
    // Own segment from `from` on, and the sibling, which sees the whole root but not the other child.
    for (int64_t t = from; t < 120; t++)
      for (int64_t i = 0; i < c.shape.ldq; i++) poisoned.row(poisoned.qkv, t)[i] = kNaN;
    poisoned.forward();
    EXPECT_EQ(first_difference(poisoned.out.data(), out.data(), from * c.shape.ldo), -1) << from;
    EXPECT_EQ(first_difference(poisoned.row_sum.data(), sums.data(), from * c.shape.H), -1) << from;
    EXPECT_EQ(first_difference(poisoned.row(poisoned.out, 120), c.row(c.out, 120), 9 * c.shape.ldo) == -1, from >= 70) << from;
    EXPECT_TRUE(std::isnan(poisoned.row(poisoned.out, from)[0])) << from;
  }
}

TEST(Attention, NaNReachesItsGradientsOnly) {
  // A NaN in the last query reaches all keys it sees; a NaN in the first row's dout reaches only the first key.
  Case c(tree_of({{60, -1}}), 1, 1, 16);
  c.forward();
  c.row(c.dout, 0)[0] = kNaN;
  c.backward();
  for (int64_t t = 0; t < 60; t++)
    for (int64_t i = 0; i < 48; i++) EXPECT_EQ(std::isnan(c.row(c.dqkv, t)[i]), t == 0 && i <= 32) << t << " " << i;
}

TEST(Attention, ATreeEqualsItsFlattenedSequences) {
  const auto tree = tree_of({{21, -1}, {30, 0}, {13, 0}, {40, 1}, {5, 1}});
  const std::vector<std::vector<size_t>> leaves = {{0, 1, 3}, {0, 1, 4}, {0, 2}};
  Case c(tree, 4, 2, 24);
  c.run();
  Doubles sum(c.dqkv.size(), 0);
  std::vector<bool> seen(static_cast<size_t>(c.shape.T), false);
  for (const auto& path : leaves) {
    std::vector<int64_t> tokens;
    for (const size_t s : path)
      for (int64_t t = tree[s].begin; t < tree[s].end; t++) tokens.push_back(t);
    Case flat(tree_of({{static_cast<int32_t>(tokens.size()), -1}}), 4, 2, 24);
    for (size_t i = 0; i < tokens.size(); i++) {
      std::memcpy(flat.row(flat.qkv, static_cast<int64_t>(i)), c.row(c.qkv, tokens[i]), static_cast<size_t>(c.shape.ldq) * sizeof(float));
      for (int64_t j = 0; j < c.shape.ldo; j++)
        flat.row(flat.dout, static_cast<int64_t>(i))[j] = seen[static_cast<size_t>(tokens[i])] ? 0 : c.row(c.dout, tokens[i])[j];
      seen[static_cast<size_t>(tokens[i])] = true;
    }
    flat.run();
    for (size_t i = 0; i < tokens.size(); i++) {
      EXPECT_EQ(first_difference(flat.row(flat.out, static_cast<int64_t>(i)), c.row(c.out, tokens[i]), c.shape.H * c.shape.d), -1) << tokens[i];
      for (int64_t j = 0; j < c.shape.ldq; j++)
        sum[static_cast<size_t>(tokens[i] * c.shape.ldq + j)] += flat.row(flat.dqkv, static_cast<int64_t>(i))[j];
    }
  }
  for (int64_t t = 0; t < c.shape.T; t++)
    for (int64_t j = (c.shape.H + 2 * c.shape.G) * c.shape.d; j < c.shape.ldq; j++) sum[static_cast<size_t>(t * c.shape.ldq + j)] = 7;
  EXPECT_LT(relative_error(c.dqkv, sum), 1e-6);
}

TEST(Attention, DecodingFromTheCacheHasTheBitsOfTheForward) {
  for (const int64_t d : {8, 24, 64, 80})
    for (const auto& [H, G] : {std::pair{1, 1}, {4, 2}, {9, 3}}) {
      // A path of two segments, 37 tokens; the cache takes 20 rows at once, then one by one.
      Case c(tree_of({{20, -1}, {17, 0}}), H, G, d);
      c.forward();
      const int64_t capacity = 48;
      Floats keys(static_cast<size_t>(G * capacity * d), kNaN), values = keys, out(static_cast<size_t>(2 * H * d + 5));
      KvView cache = {keys.data(), values.data(), capacity, 0};
      const KvView* caches[2] = {&cache, &cache};
      for (int64_t t = 0; t < 37; t++) {
        if (t == 0 || t >= 20) {
          const int64_t rows = t == 0 ? 20 : 1;
          kv_append(cache, G, d, c.k() + t * c.shape.ldk, c.shape.ldk, c.v() + t * c.shape.ldv, c.shape.ldv, rows);
          cache.length += rows;
        }
        // Alone, and as one of two rows with another row that sees less.
        const int64_t alone[] = {t + 1};
        attention_cached(1, H, G, d, c.shape.scale, c.q() + t * c.shape.ldq, c.shape.ldq, caches, alone, out.data(), H * d);
        EXPECT_EQ(first_difference(out.data(), c.row(c.out, t), H * d), -1) << t;
        if (t == 0) continue;
        const int64_t both[] = {t, t + 1};
        attention_cached(2, H, G, d, c.shape.scale, c.q() + (t - 1) * c.shape.ldq, c.shape.ldq, caches, both, out.data(), H * d + 5);
        EXPECT_EQ(first_difference(out.data(), c.row(c.out, t - 1), H * d), -1) << t;
        EXPECT_EQ(first_difference(out.data() + H * d + 5, c.row(c.out, t), H * d), -1) << t;
      }
    }
}

TEST(Attention, BlocksHaveTheTreesBits) {
  for (const int64_t d : {8, 24, 64, 80})
    for (const auto& [H, G] : {std::pair{1, 1}, {4, 2}, {9, 3}}) {
      // A path of two segments, 150 tokens: whole blocks and a part of one, before rotation by cos = 1, sin = 0.
      Case c(tree_of({{70, -1}, {80, 0}}), H, G, d);
      c.forward();
      const int64_t offset = 3, block = kv_layer_floats(G, d) + offset, T = 150, width = (H + 2 * G) * d;
      Floats cache(static_cast<size_t>(3 * block), kNaN), qkv(static_cast<size_t>(T * width)), out(static_cast<size_t>(T * H * d));
      float* blocks[3] = {cache.data() + 2 * block, cache.data(), cache.data() + block};
      const Floats cosine(static_cast<size_t>(T * d / 2), 1), sine(static_cast<size_t>(T * d / 2), 0);
      std::vector<KvRow> rows;
      for (int64_t t = 0; t < T; t++) {
        float* row = qkv.data() + t * width;
        std::copy_n(c.q() + t * c.shape.ldq, H * d, row);
        std::copy_n(c.k() + t * c.shape.ldk, G * d, row + H * d);
        std::copy_n(c.v() + t * c.shape.ldv, G * d, row + (H + G) * d);
        rows.push_back({blocks, t});
      }
      rope_to_cache(T, H, G, d, qkv.data(), width, rows.data(), offset, cosine.data(), sine.data());
      attention_blocks(T, H, G, d, c.shape.scale, qkv.data(), width, rows.data(), offset, out.data(), H * d);
      for (int64_t t = 0; t < T; t++) EXPECT_EQ(first_difference(out.data() + t * H * d, c.row(c.out, t), H * d), -1) << t;
    }
}

TEST(Attention, RefusesImpossibleShapes) {
  Case c(tree_of({{4, -1}, {4, 0}}), 4, 2, 8);
  Case heads = c, parent = c, gap = c;
  heads.shape.H = 3;
  EXPECT_THROW(heads.forward(), std::exception);
  parent.segments[1].parent = 1;
  EXPECT_THROW(parent.forward(), std::exception);
  gap.segments[1].begin = 5;
  EXPECT_THROW(gap.backward(), std::exception);
}

}  // namespace
}  // namespace hone::kernels
