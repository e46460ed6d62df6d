// bench_linear: GFLOP/s of hone's linear against LibTorch's (MKL or OpenBLAS), forward and both gradients, as a table and as JSON. The columns
// "nf4" are the same products with a weight in four bits.
//
//   bench_linear [--json FILE] [--threads N] [--seconds S] [--what forward,input,weight,decode] [--shapes N:K,...] [--rows M,...]
//
// "decode" is the forward product with the weights of up to 30 layers in turn (the rival keeps one), so that they come from memory as they do
// in decoding.
// Each figure is the median over at least 8 runs and S seconds. Our own and the rival's runs are taken in alternating short bursts. OpenMP's
// threads go on spinning for some milliseconds after the rival's last product: the pause between bursts lets them go to sleep first.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "hone/base/threads.h"
#include "hone/kernels/quant.h"

namespace kernels = hone::kernels;
using kernels::Isa;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
  std::string json;
  int threads = 2;
  double seconds = 0.2;
  std::vector<std::string> what = {"forward", "input", "weight", "decode"};
  std::vector<std::pair<int64_t, int64_t>> shapes = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}, {49152, 576}, {4096, 2048}};
  std::vector<int64_t> rows = {1, 8, 64, 300, 1024};
};

double seconds_of(const std::function<void()>& run) {
  const auto start = Clock::now();
  run();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Median seconds of every candidate, taken in alternating bursts.
std::vector<double> medians(const std::vector<std::function<void()>>& candidates, double seconds) {
  std::vector<std::vector<double>> times(candidates.size());
  constexpr int bursts = 8;
  for (int burst = 0; burst < bursts; burst++)
    for (size_t i = 0; i < candidates.size(); i++) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      candidates[i]();
      double spent = 0;
      for (int run = 0; run < 1 || (spent < seconds / bursts && run < 1000); run++) {
        times[i].push_back(seconds_of(candidates[i]));
        spent += times[i].back();
      }
    }
  std::vector<double> result;
  for (auto& t : times) {
    std::nth_element(t.begin(), t.begin() + t.size() / 2, t.end());
    result.push_back(t[t.size() / 2]);
  }
  return result;
}

struct Buffers {  // 64-byte aligned because LibTorch's allocator aligns so
  at::Tensor w, x, dy, y, dx, dw, gradient;
  std::vector<at::Tensor> panels, codes, scales;  // one of each for every layer
  size_t turn = 0;                                // the layer whose weights are used next
};

int64_t layers_of(const std::string& what, int64_t N, int64_t K) {
  constexpr int64_t kLayers = 30, kMost = int64_t{1} << 30;  // bytes of dense weights
  return what == "decode" ? std::clamp<int64_t>(kMost / (kernels::panel_floats(N, K) * 4), 1, kLayers) : 1;
}

Buffers make_buffers(int64_t layers, int64_t M, int64_t N, int64_t K) {
  Buffers b;
  b.w = at::randn({N, K});
  b.x = at::randn({M, K});
  b.dy = at::randn({M, N});
  b.y = at::zeros({M, N});
  b.dx = at::zeros({M, K});
  b.dw = at::zeros({N, K});
  b.gradient = at::zeros({kernels::panel_floats(N, K)});
  const at::Tensor codes = at::zeros({(N * K + 1) / 2}, at::kByte), absmax = at::zeros({(N * K + 63) / 64});
  kernels::quantize_4bit(b.w.data_ptr<float>(), N * K, kernels::QuantType::nf4, codes.data_ptr<uint8_t>(), absmax.data_ptr<float>());
  for (int64_t layer = 0; layer < layers; layer++) {
    b.panels.push_back(at::zeros({kernels::panel_floats(N, K)}));
    b.codes.push_back(at::zeros({kernels::quant_code_bytes(N, K)}, at::kByte));
    b.scales.push_back(at::zeros({kernels::quant_scale_floats(N, K, kernels::QuantType::nf4)}));
    kernels::pack_panels(b.w.data_ptr<float>(), 0, N, K, b.panels.back().data_ptr<float>());
    kernels::pack_quant_panels(codes.data_ptr<uint8_t>(), absmax.data_ptr<float>(), 0, N, K, b.codes.back().data_ptr<uint8_t>(),
                               b.scales.back().data_ptr<float>());
  }
  return b;
}

void ours(const std::string& what, Isa isa, Buffers& b, int64_t M, int64_t N, int64_t K) {
  kernels::force_isa(isa);
  const float* panels = b.panels[b.turn++ % b.panels.size()].data_ptr<float>();
  if (what == "forward" || what == "decode")
    kernels::linear_forward(b.x.data_ptr<float>(), K, M, K, panels, N, nullptr, b.y.data_ptr<float>(), N);
  else if (what == "input")
    kernels::linear_backward_input(b.dy.data_ptr<float>(), N, M, N, panels, K, b.dx.data_ptr<float>(), K);
  else
    kernels::linear_backward_weight(b.dy.data_ptr<float>(), N, M, N, b.x.data_ptr<float>(), K, K, b.gradient.data_ptr<float>());
}

void ours_4bit(const std::string& what, Isa isa, Buffers& b, int64_t M, int64_t N, int64_t K) {
  kernels::force_isa(isa);
  const size_t layer = b.turn++ % b.codes.size();
  const kernels::QuantPanels panels = {b.codes[layer].data_ptr<uint8_t>(), b.scales[layer].data_ptr<float>(), kernels::QuantType::nf4};
  if (what == "input")
    kernels::linear_backward_input_quant(b.dy.data_ptr<float>(), N, M, N, panels, K, b.dx.data_ptr<float>(), K);
  else
    kernels::linear_forward_quant(b.x.data_ptr<float>(), K, M, K, panels, N, nullptr, b.y.data_ptr<float>(), N);
}

void rival(const std::string& what, Buffers& b) {
  if (what == "forward" || what == "decode")
    at::mm_out(b.y, b.x, b.w.t());
  else if (what == "input")
    at::mm_out(b.dx, b.dy, b.w);
  else
    b.dw.addmm_(b.dy.t(), b.x);
}

nlohmann::json measure(const std::string& what, int64_t M, int64_t N, int64_t K, double seconds) {
  Buffers b = make_buffers(layers_of(what, N, K), M, N, K);
  std::vector<std::pair<std::string, std::function<void()>>> candidates;
  for (const Isa isa : {Isa::avx512, Isa::avx2})
    if (kernels::isa_available(isa)) {
      candidates.emplace_back(kernels::isa_name(isa), [&, isa] { ours(what, isa, b, M, N, K); });
      if (what != "weight") candidates.emplace_back(std::string(kernels::isa_name(isa)) + " nf4", [&, isa] { ours_4bit(what, isa, b, M, N, K); });
    }
  candidates.emplace_back("libtorch", [&] { rival(what, b); });
  std::vector<std::function<void()>> runs;
  for (auto& candidate : candidates) runs.push_back(candidate.second);
  const std::vector<double> times = medians(runs, seconds);
  nlohmann::json row = {{"what", what}, {"M", M}, {"N", N}, {"K", K}};
  for (size_t i = 0; i < candidates.size(); i++) row[candidates[i].first] = 2e-9 * static_cast<double>(M * N * K) / times[i];
  return row;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--json") o.json = value;
    if (flag == "--threads") o.threads = std::stoi(value);
    if (flag == "--seconds") o.seconds = std::stod(value);
    if (flag == "--what") o.what = split(value, ',');
    if (flag == "--rows") {
      o.rows.clear();
      for (const auto& part : split(value, ',')) o.rows.push_back(std::stoll(part));
    }
    if (flag == "--shapes") {
      o.shapes.clear();
      for (const auto& part : split(value, ',')) o.shapes.emplace_back(std::stoll(split(part, ':').at(0)), std::stoll(split(part, ':').at(1)));
    }
  }
  return o;
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv);
  hone::set_threads(o.threads);
  at::set_num_threads(o.threads);
  const c10::InferenceMode inference;
  nlohmann::json report = {
      {"host", processor()}, {"isa", kernels::isa_name(kernels::active_isa())}, {"threads", o.threads}, {"unit", "GFLOP/s, median"}};
  std::printf("%s, best ISA %s, %d threads; GFLOP/s (median)\n", report["host"].get<std::string>().c_str(), kernels::isa_name(kernels::active_isa()),
              o.threads);
  std::printf("%-8s %6s %6s %6s %9s %9s %10s %9s %9s\n", "what", "M", "N", "K", "avx512", "avx2", "avx512 nf4", "avx2 nf4", "libtorch");
  for (const auto& what : o.what)
    for (const auto& [N, K] : o.shapes)
      for (const int64_t M : o.rows) {
        if (what == "decode" && M > 64) continue;
        const nlohmann::json row = measure(what, M, N, K, o.seconds);
        std::printf("%-8s %6ld %6ld %6ld %9.1f %9.1f %10.1f %9.1f %9.1f\n", what.c_str(), long(M), long(N), long(K), row.value("avx512", 0.0),
                    row.value("avx2", 0.0), row.value("avx512 nf4", 0.0), row.value("avx2 nf4", 0.0), row.value("libtorch", 0.0));
        std::fflush(stdout);
        report["rows"].push_back(row);
      }
  if (!o.json.empty()) std::ofstream(o.json) << report.dump(1) << "\n";
}
