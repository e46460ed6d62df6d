#include "hone/methods/dpo_losses.h"

#include <ATen/ATen.h>

#include <cmath>

namespace hone::methods {
namespace {

using Options = config::PreferenceOptions;
using at::log_sigmoid;
using at::sigmoid;
using at::Tensor;

Tensor scaled_margin(const PairTerms& t, const Options& o) { return o.beta * (t.chosen_score - t.rejected_score); }
Tensor mean_margin(const PairTerms& t) { return t.chosen_score / t.chosen_tokens - t.rejected_score / t.rejected_tokens; }
Tensor smoothed(const Tensor& x, const Options& o) { return -log_sigmoid(x) * (1 - o.label_smoothing) - log_sigmoid(-x) * o.label_smoothing; }

Tensor sigmoid_loss(const PairTerms& t, const Options& o) { return -log_sigmoid(scaled_margin(t, o)); }

Tensor hinge(const PairTerms& t, const Options& o) { return at::relu(1 - scaled_margin(t, o)); }

Tensor ipo(const PairTerms& t, const Options& o) { return (mean_margin(t) - 1 / (2 * o.beta)).square(); }

Tensor exo_pair(const PairTerms& t, const Options& o) {
  const Tensor s = scaled_margin(t, o);
  return sigmoid(s) * (log_sigmoid(s) - std::log1p(-o.label_smoothing)) + sigmoid(-s) * (log_sigmoid(-s) - std::log(o.label_smoothing));
}

Tensor nca_pair(const PairTerms& t, const Options& o) {
  const Tensor c = o.beta * t.chosen_ratio, r = o.beta * t.rejected_ratio;
  return -log_sigmoid(c) - 0.5 * log_sigmoid(-c) - 0.5 * log_sigmoid(-r);
}

Tensor robust(const PairTerms& t, const Options& o) {
  const Tensor s = scaled_margin(t, o);
  return (-(1 - o.label_smoothing) * log_sigmoid(s) + o.label_smoothing * log_sigmoid(-s)) / (1 - 2 * o.label_smoothing);
}

Tensor bco_pair(const PairTerms& t, const Options& o) { return -log_sigmoid(o.beta * t.chosen_ratio) - log_sigmoid(-o.beta * t.rejected_ratio); }

Tensor sppo_hard(const PairTerms& t, const Options& o) {
  return (t.chosen_ratio - 0.5 / o.beta).square() + (t.rejected_ratio + 0.5 / o.beta).square();
}

Tensor aot(const PairTerms& t, const Options& o) { return smoothed(o.beta * (t.chosen - t.rejected - t.partner_ref), o); }

// Summed over the step, the loss of the k-th c and the k-th r. Each pair holds the c of one such couple and the r of another: its value is
// half of both, its gradient the whole of each in what is its own.
Tensor aot_unpaired(const PairTerms& t, const Options& o) {
  const Tensor both = smoothed(o.beta * (t.chosen_ratio - t.partner_rejected), o) + smoothed(o.beta * (t.partner_chosen - t.rejected_ratio), o);
  return both - 0.5 * both.detach();
}

Tensor apo_zero(const PairTerms& t, const Options& o) { return sigmoid(-o.beta * t.chosen_ratio) + sigmoid(o.beta * t.rejected_ratio); }

Tensor apo_down(const PairTerms& t, const Options& o) {
  return sigmoid(o.beta * t.chosen_ratio) + sigmoid(-o.beta * (t.chosen_ratio - t.rejected_ratio));
}

Tensor discopop(const PairTerms& t, const Options& o) {
  const Tensor s = scaled_margin(t, o);
  // exp(-s) sigma(s/tau) in one exponential: the product would be infinity times 0 at a large negative s
  return -log_sigmoid(s) * sigmoid(-s / o.discopop_tau) + at::exp(log_sigmoid(s / o.discopop_tau) - s);
}

Tensor sft(const PairTerms& t, const Options&) { return t.chosen_nll; }

Tensor sigmoid_norm(const PairTerms& t, const Options& o) { return -log_sigmoid(o.beta * mean_margin(t)); }

constexpr DpoLoss kLosses[] = {
    {"sigmoid", sigmoid_loss},
    {"hinge", hinge},
    {"ipo", ipo},
    {"exo_pair", exo_pair},
    {"nca_pair", nca_pair},
    {"robust", robust},
    {"bco_pair", bco_pair},
    {"sppo_hard", sppo_hard},
    {"aot", aot, true, true},
    {"aot_unpaired", aot_unpaired, true, true},
    {"apo_zero", apo_zero},
    {"apo_down", apo_down},
    {"discopop", discopop},
    {"sft", sft, false, false, true},
    {"sigmoid_norm", sigmoid_norm},
};

// f' of the divergences, in the order of config::FDivergence; t = pi / ref, x = log t.
Tensor reverse_kl(const Tensor& x, double) { return x; }
Tensor forward_kl(const Tensor& x, double) { return 1 - at::exp(-x); }                    // 1 - 1/t
Tensor js_divergence(const Tensor& x, double) { return std::log(2.0) + log_sigmoid(x); }  // log(2t / (1 + t))
// (t^(a-1) - 1) / (a - 1), the exponent bounded by 80 (no gradient beyond), as in TRL; its limit at a = 1 is log t
Tensor alpha_divergence(const Tensor& x, double a) {
  if (std::abs(a - 1) < 1e-6) return x;
  return (at::exp(at::clamp_max((a - 1) * x, 80.0)) - 1) / (a - 1);
}
constexpr Tensor (*kDivergences[])(const Tensor&, double) = {reverse_kl, forward_kl, js_divergence, alpha_divergence};

// For every element of `of` the value of `among` that has the same rank.
Tensor same_rank(const Tensor& of, const Tensor& among) {
  const Tensor order = at::argsort(of, /*stable=*/true);
  return at::empty_like(of).index_copy_(0, order, std::get<0>(at::sort(among)));
}

}  // namespace

std::span<const DpoLoss> dpo_losses() { return kLosses; }

const DpoLoss* find_dpo_loss(std::string_view name) {
  for (const DpoLoss& loss : kLosses)
    if (loss.name == name) return &loss;
  return nullptr;
}

Tensor divergence_score(const Tensor& log_ratio, const Options& options) {
  return kDivergences[static_cast<size_t>(options.f_divergence_type)](log_ratio, options.f_alpha_divergence_coef);
}

Tensor aot_partners(const Tensor& log_ratio, const Tensor& ref_log_ratio, const Tensor& chosen_ratio, const Tensor& rejected_ratio) {
  return at::stack({same_rank(log_ratio, ref_log_ratio), same_rank(chosen_ratio, rejected_ratio), same_rank(rejected_ratio, chosen_ratio)});
}

}  // namespace hone::methods
