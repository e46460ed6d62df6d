#include <algorithm>

#include "hone/kernels/decoding.h"
#include "kernels/point_support.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/logprobs.inc"
}

namespace {
using namespace support;

struct Case {
  int64_t M, V, ld;
  float inv_temperature;
  Floats logits;
  std::vector<int64_t> targets;
  Floats logprob, lse, entropy, log_sum_p2, mean_logit;
  std::vector<int64_t> argmax;

  Case(int64_t M, int64_t V, float inv_temperature, double scale = 4)
      : M(M), V(V), ld(V + 3), inv_temperature(inv_temperature), logits(random_floats(M * (V + 3), 11, scale)) {
    const auto m = static_cast<size_t>(M);
    for (int64_t i = 0; i < M; i++)
      targets.push_back(static_cast<int64_t>(random_bits(3, Purpose::test, static_cast<uint32_t>(i), 0, 0) % static_cast<uint64_t>(V)));
    logprob.resize(m), lse.resize(m), entropy.resize(m), log_sum_p2.resize(m), mean_logit.resize(m), argmax.resize(m);
  }
  LogprobOutputs outputs(int64_t row = 0) {
    return {logprob.data() + row, lse.data() + row, entropy.data() + row, log_sum_p2.data() + row, mean_logit.data() + row, argmax.data() + row};
  }
  float* row(int64_t m) { return logits.data() + m * ld; }
  void forward() { logprobs_forward(logits.data(), ld, M, V, targets.data(), inv_temperature, outputs()); }
};

/// The outputs of one row in float64.
struct Reference {
  double logprob, lse, entropy = 0, log_sum_p2, mean = 0;
  int64_t argmax = 0;
  Doubles p;
  Reference(const float* x, int64_t V, int64_t target, float inv_temperature) {
    double largest = -INFINITY, sum = 0, square = 0;
    for (int64_t i = 0; i < V; i++) {
      const double value = static_cast<double>(x[i]) * inv_temperature;
      if (value > largest) largest = value, argmax = i;
      mean += value / static_cast<double>(V);
    }
    for (int64_t i = 0; i < V; i++) sum += std::exp(static_cast<double>(x[i]) * inv_temperature - largest);
    lse = largest + std::log(sum);
    for (int64_t i = 0; i < V; i++) {
      const double log_p = static_cast<double>(x[i]) * inv_temperature - lse;
      p.push_back(std::exp(log_p));
      entropy -= p.back() * log_p;
      square += p.back() * p.back();
    }
    log_sum_p2 = std::log(square);
    logprob = static_cast<double>(x[target]) * inv_temperature - lse;
  }
};

TEST(Logprobs, EqualFloat64) {
  for (const int64_t V : {1, 7, 16, 1000, 1024, 1025, 5003, 49152}) {
    for (const float inv_temperature : {1.0f, 1.25f}) {
      Case c(5, V, inv_temperature);
      c.forward();
      for (int64_t m = 0; m < c.M; m++) {
        const auto i = static_cast<size_t>(m);
        const Reference want(c.row(m), V, c.targets[i], inv_temperature);
        // float32 inputs to 16 exact; 2e-6 is one unit in the last place of values up to 32 (products x * inv_temperature are rounded).
        EXPECT_NEAR(c.lse[i], want.lse, 2e-6);
        EXPECT_NEAR(c.logprob[i], want.logprob, 2e-6);
        EXPECT_NEAR(c.entropy[i], want.entropy, 2e-6 * (1 + want.entropy));
        EXPECT_NEAR(c.log_sum_p2[i], want.log_sum_p2, 2e-6);
        EXPECT_NEAR(c.mean_logit[i], want.mean, 2e-6);
        EXPECT_EQ(c.argmax[i], want.argmax);
      }
    }
  }
}

TEST(Logprobs, BackwardEqualsFloat64) {
  for (const int64_t V : {1, 7, 1000, 5003}) {
    for (const bool with_entropy : {false, true}) {
      Case c(5, V, 0.8f);
      c.forward();
      const Floats g = random_floats(c.M, 12), g_entropy = random_floats(c.M, 13);
      Floats got = c.logits;
      logprobs_backward(got.data(), c.ld, c.M, V, c.targets.data(), c.inv_temperature, c.lse.data(), g.data(),
                        with_entropy ? g_entropy.data() : nullptr, c.entropy.data());
      Doubles want(c.logits.begin(), c.logits.end());
      for (int64_t m = 0; m < c.M; m++) {
        const auto i = static_cast<size_t>(m);
        const Reference r(c.row(m), V, c.targets[i], c.inv_temperature);
        for (int64_t j = 0; j < V; j++) {
          const double p = r.p[static_cast<size_t>(j)];
          double d = g[i] * ((j == c.targets[i]) - p);
          if (with_entropy) d -= g_entropy[i] * p * (static_cast<double>(c.row(m)[j]) * c.inv_temperature - r.lse + r.entropy);
          want[static_cast<size_t>(m * c.ld + j)] = d * c.inv_temperature;
        }
      }
      for (int64_t m = 0; m < c.M; m++) {
        const auto at = static_cast<size_t>(m * c.ld);
        const Floats part(&got[at], &got[at] + V);
        const Doubles expected(&want[at], &want[at] + V);
        // p carries the rounding of the float32 lse: half a unit of values up to 32 is 1e-6. One column: everything cancels.
        if (V > 1) {
          EXPECT_LT(relative_error(part, expected), 3e-6) << "V " << V << " row " << m;
        }
        // What stands between the rows is not touched.
        EXPECT_EQ(first_difference(&got[at + static_cast<size_t>(V)], &c.logits[at + static_cast<size_t>(V)], c.ld - V), -1);
      }
    }
  }
}

TEST(Logprobs, RowsAloneEqualRowsTogether) {
  Case together(67, 3001, 1.25f), alone = together;
  together.forward();
  for (int64_t m = 0; m < alone.M; m++)
    logprobs_forward(alone.row(m), alone.ld, 1, alone.V, &alone.targets[static_cast<size_t>(m)], alone.inv_temperature, alone.outputs(m));
  EXPECT_EQ(first_difference(together.logprob, alone.logprob), -1);
  EXPECT_EQ(first_difference(together.lse, alone.lse), -1);
  EXPECT_EQ(first_difference(together.entropy, alone.entropy), -1);
  EXPECT_EQ(first_difference(together.log_sum_p2, alone.log_sum_p2), -1);
  EXPECT_EQ(first_difference(together.mean_logit, alone.mean_logit), -1);
  EXPECT_EQ(together.argmax, alone.argmax);
  // Outputs that are not asked for do not change the others.
  Floats logprob(67), lse(67);
  logprobs_forward(together.logits.data(), together.ld, 67, together.V, together.targets.data(), together.inv_temperature,
                   {logprob.data(), lse.data(), nullptr, nullptr, nullptr, nullptr});
  EXPECT_EQ(first_difference(together.logprob, logprob), -1);
  EXPECT_EQ(first_difference(together.lse, lse), -1);
}

TEST(Logprobs, SameBitsEverywhere) {
  Case c(19, 5003, 1.25f);
  const Floats g = random_floats(c.M, 12), g_entropy = random_floats(c.M, 13);
  expect_same_bits_everywhere([&] {
    c.forward();
    Floats d = c.logits;
    logprobs_backward(d.data(), c.ld, c.M, c.V, c.targets.data(), c.inv_temperature, c.lse.data(), g.data(), g_entropy.data(), c.entropy.data());
    return std::vector<Floats>{c.logprob, c.lse, c.entropy, c.log_sum_p2, c.mean_logit, Floats(c.argmax.begin(), c.argmax.end()), d};
  });
}

TEST(Logprobs, BadLogitsAreNeverHidden) {
  Case c(4, 3000, 1);
  c.row(0)[2999] = kNaN;
  c.row(1)[5] = INFINITY;
  for (int64_t i = 0; i < c.V; i++) c.row(2)[i] = i >= 1024 && i < 2100 ? -INFINITY : c.row(2)[i];  // masked logits, one whole block of them
  for (int64_t i = 0; i < c.V; i++) c.row(3)[i] = -INFINITY;
  c.targets = {3, 6, 7, 8};
  c.forward();
  EXPECT_TRUE(std::isnan(c.logprob[0]) && std::isnan(c.lse[0]) && std::isnan(c.entropy[0]) && std::isnan(c.log_sum_p2[0]) &&
              std::isnan(c.mean_logit[0]));
  EXPECT_FALSE(std::isfinite(c.logprob[1]));
  const Reference want(c.row(2), c.V, 7, 1);
  EXPECT_NEAR(c.logprob[2], want.logprob, 2e-6);
  EXPECT_TRUE(std::isfinite(c.entropy[2]) && std::isfinite(c.log_sum_p2[2]));
  EXPECT_FALSE(std::isfinite(c.logprob[3]));
  const Floats g = {1, 0, 1, 1}, g_entropy = {0, 0, 1, 0};
  Floats d = c.logits;
  logprobs_backward(d.data(), c.ld, c.M, c.V, c.targets.data(), 1, c.lse.data(), g.data(), g_entropy.data(), c.entropy.data());
  EXPECT_TRUE(std::isnan(d[0]));
  EXPECT_EQ(d[static_cast<size_t>(2 * c.ld + 1500)], 0);
  for (int64_t i = 0; i < c.V; i++) ASSERT_TRUE(std::isfinite(d[static_cast<size_t>(2 * c.ld + i)]));
}

TEST(Logprobs, ArgmaxTakesTheLowestIndexOfATie) {
  Case c(2, 4000, 1);
  c.row(0)[3500] = c.row(0)[1700] = c.row(0)[1699] = 50;
  c.row(1)[0] = kNaN;
  c.row(1)[2000] = 50;
  c.forward();
  EXPECT_EQ(c.argmax[0], 1699);
  EXPECT_EQ(c.argmax[1], 2000);
}

TEST(Gumbel, NoiseIsTheStatedFunctionOfPhilox) {
  const int64_t V = 70001;
  const uint32_t counter[3] = {5, 6, 7};
  Floats noise(static_cast<size_t>(V));
  avx2::gumbel_noise(V, 99, counter, noise.data());
  int64_t wrong = 0;
  for (int64_t v = 0; v < V; v++) {
    const uint32_t w = philox4x32(99, {5, 6, 7, static_cast<uint32_t>(v / 4)})[static_cast<size_t>(v % 4)];
    const long double t = (w + 0.5L) * 0x1p-32L;
    const long double want = -logl(-log1pl(-t));
    // Two float32 logarithms of 1 unit each; near noise 0 the outer one turns a relative error of its argument into an absolute one.
    wrong += !(std::fabs(noise[static_cast<size_t>(v)] - want) < 3e-7L * (1 + std::fabs(want)));
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Gumbel, ArgmaxOfLogitsPlusNoise) {
  const Restore restore;
  for (const int64_t V : {1, 3, 64, 100, 1025, 49152}) {
    const Floats logits = random_floats(V, 14, 2);
    Floats noise(static_cast<size_t>(V));
    for (uint32_t sample = 0; sample < 20; sample++) {
      const uint32_t counter[3] = {1, sample, 3};
      avx2::gumbel_noise(V, 42, counter, noise.data());
      int64_t best = 0;
      const auto score = [&](int64_t v) { return logits[static_cast<size_t>(v)] * 1.25f + noise[static_cast<size_t>(v)]; };
      for (int64_t v = 1; v < V; v++) best = score(v) > score(best) ? v : best;
      for (const int threads : {1, 2}) {
        set_threads(threads);
        EXPECT_EQ(gumbel_argmax(logits.data(), V, 1.25f, 42, counter), best);
        if (!isa_available(Isa::avx512)) continue;
        force_isa(Isa::avx2);
        EXPECT_EQ(gumbel_argmax(logits.data(), V, 1.25f, 42, counter), best);
        force_isa(Isa::avx512);
      }
    }
  }
}

TEST(Gumbel, FollowsTheSoftmaxAndSkipsMaskedTokens) {
  const Floats logits = {std::log(0.5f), std::log(0.3f), -INFINITY, std::log(0.2f), kNaN};
  int64_t counts[5] = {};
  const uint32_t draws = 20000;
  for (uint32_t i = 0; i < draws; i++) {
    const uint32_t counter[3] = {i, 0, 0};
    counts[gumbel_argmax(logits.data(), 5, 1, 7, counter)]++;
  }
  // Five standard deviations of a binomial with p = 1/2 are 354 of 20,000 draws.
  EXPECT_NEAR(counts[0], 10000, 354);
  EXPECT_NEAR(counts[1], 6000, 354);
  EXPECT_EQ(counts[2], 0);
  EXPECT_NEAR(counts[3], 4000, 354);
  EXPECT_EQ(counts[4], 0);
}

}  // namespace
}  // namespace hone::kernels
