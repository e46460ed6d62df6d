// bench_decode MODEL [--threads N] [--steps N] [--load_in_4bit]: one decoding step at 1, 8, 16 and 64 rows, beside what the machine gives: its read
// bandwidth over the bytes of the dense weights (one row is bound by it) and its rate of products (64 rows are bound by that). Medians; the
// yardsticks are measured in the same run, before and after.
#include <ATen/ATen.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"
#include "hone/model/source.h"
#include "hone/rollout/decode.h"

namespace {

using Clock = std::chrono::steady_clock;

double median_seconds(int runs, const std::function<void()>& run) {
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    run();
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return times[runs / 2];
}

/// Bytes a second that all threads read together out of a buffer as large as the weights.
double read_bandwidth(int64_t bytes) {
  const at::Tensor buffer = at::ones({bytes / 4}, at::kFloat);
  const float* x = buffer.const_data_ptr<float>();
  std::vector<float> sums(hone::threads() * 64);
  const int64_t pieces = static_cast<int64_t>(sums.size()), piece = buffer.numel() / pieces;
  const double seconds = median_seconds(9, [&] {
    hone::parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        float lanes[64] = {};
        for (int64_t i = p * piece; i + 64 <= (p + 1) * piece; i += 64)
          for (int64_t j = 0; j < 64; ++j) lanes[j] += x[i + j];
        for (const float lane : lanes) sums[p] += lane;
      }
    });
  });
  return static_cast<double>(pieces * piece * 4) / seconds;
}

/// Floating-point operations a second of the product with many rows and a shape of the model.
double product_rate() {
  constexpr int64_t M = 1024, N = 3072, K = 576;
  const at::Tensor x = at::rand({M, K}), panels = at::rand({hone::kernels::panel_floats(N, K)});
  at::Tensor y = at::empty({M, N});
  const double seconds = median_seconds(15, [&] {
    hone::kernels::linear_forward(x.const_data_ptr<float>(), K, M, K, panels.const_data_ptr<float>(), N, nullptr, y.mutable_data_ptr<float>(), N);
  });
  return 2.0 * M * N * K / seconds;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "bench_decode MODEL [--threads N] [--steps N] [--load_in_4bit]\n"), 2;
  int steps = 24;
  std::optional<hone::model::Quantisation> quantisation;
  for (int i = 2; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--threads" && i + 1 < argc) hone::set_threads(std::atoi(argv[++i]));
    if (flag == "--steps" && i + 1 < argc) steps = std::max(2, std::atoi(argv[++i]));
    if (flag == "--load_in_4bit") quantisation.emplace();
  }
  const auto source = hone::model::open_model(argv[1]);
  const auto model = hone::model::load_model(*source, hone::ops::Backend::kernels, at::kCPU, 1024, quantisation);
  double bytes = 0, multiplications = 0;  // of one token, without attention
  for (const hone::ops::Parameter* p : model->parameters()) {
    if (!p->is_matrix()) continue;
    const bool only_looked_up = p == &model->embedding && model->lm_head.defined();
    if (only_looked_up) continue;
    bytes += static_cast<double>(hone::ops::value_bytes(*p));
    multiplications += static_cast<double>(p->numel());
  }
  const double bandwidth = read_bandwidth(static_cast<int64_t>(bytes)), rate = product_rate();
  std::printf("%d threads, %s; read bandwidth %.1f GB/s over %.0f MB, products %.0f GFLOP/s\n", hone::threads(),
              hone::kernels::isa_name(hone::kernels::active_isa()), bandwidth / 1e9, bytes / 1e6, rate / 1e9);
  std::printf("%6s %10s %12s %12s %14s\n", "rows", "ms/step", "tokens/s", "GB/s share", "GFLOP/s share");
  constexpr int64_t kPrompt = 100, kGroup = 8;
  for (const int64_t rows : {1, 8, 16, 64}) {
    hone::rollout::Decoder decoder(*model, nullptr, 2 * (rows + 8) * hone::rollout::Decoder::blocks_for(kPrompt + steps));
    std::vector<hone::rollout::Sequence> prompts((rows + kGroup - 1) / kGroup), sequences;
    for (auto& prompt : prompts) {
      std::vector<hone::rollout::StepRow> tokens;
      for (int64_t i = 0; i < kPrompt; ++i) tokens.push_back({&prompt, (i * 131) % model->config.vocab_size});
      decoder.step(tokens, {});
    }
    for (int64_t r = 0; r < rows; ++r) sequences.push_back(decoder.fork(prompts[r / kGroup], kPrompt));
    std::vector<hone::rollout::StepRow> step;
    std::vector<int64_t> wanted;
    for (int64_t r = 0; r < rows; ++r) {
      step.push_back({&sequences[r], r % model->config.vocab_size});
      wanted.push_back(r);
    }
    const double seconds = median_seconds(steps, [&] { decoder.step(step, wanted); });
    std::printf("%6ld %10.2f %12.1f %11.0f%% %13.0f%%\n", static_cast<long>(rows), seconds * 1e3, static_cast<double>(rows) / seconds,
                100 * bytes / seconds / bandwidth, 100 * 2 * multiplications * static_cast<double>(rows) / seconds / rate);
  }
  std::printf("after: read bandwidth %.1f GB/s, products %.0f GFLOP/s\n", read_bandwidth(static_cast<int64_t>(bytes)) / 1e9, product_rate() / 1e9);
}
