// The losses of preferences as functions: known values, symmetries, gradients, extreme inputs.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "hone/methods/dpo_losses.h"
#include "hone/methods/orpo.h"
#include "hone/methods/simpo.h"

namespace hone::methods {
namespace {

using at::Tensor;
using Options = config::PreferenceOptions;

Tensor doubles(std::vector<double> values) { return at::tensor(values, at::kDouble); }

Options options_for(std::string_view loss) {
  Options o;
  o.beta = 0.4;
  o.discopop_tau = 0.3;
  if (loss == "exo_pair" || loss == "robust" || loss.starts_with("aot")) o.label_smoothing = 0.1;
  return o;
}

// Terms of log-ratios x = (c, r), with lengths, reference and partners that are not special.
PairTerms terms_of(const Tensor& c, const Tensor& r, const Options& o) {
  PairTerms t;
  t.ref_chosen = at::full_like(c, -11.0);
  t.ref_rejected = at::full_like(c, -13.0);
  t.chosen_ratio = c;
  t.rejected_ratio = r;
  t.chosen = c + t.ref_chosen;
  t.rejected = r + t.ref_rejected;
  t.chosen_score = divergence_score(c, o);
  t.rejected_score = divergence_score(r, o);
  t.chosen_tokens = at::full_like(c, 4.0);
  t.rejected_tokens = at::full_like(c, 5.0);
  t.chosen_nll = -t.chosen;
  t.partner_ref = at::full_like(c, 2.5);
  t.partner_rejected = at::full_like(c, -0.25);
  t.partner_chosen = at::full_like(c, 0.75);
  return t;
}

double value(std::string_view name, double c, double r, const Options& o) {
  return find_dpo_loss(name)->loss(terms_of(doubles({c}), doubles({r}), o), o).item<double>();
}

double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }  // -log sigma(-x)
double logistic(double x) { return 1 / (1 + std::exp(-x)); }

TEST(DpoLosses, TheTableIsTrls) {
  std::string names;
  for (const DpoLoss& l : dpo_losses()) names += std::string(l.name) + " ";
  EXPECT_EQ(names, "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop sft sigmoid_norm ");
  EXPECT_EQ(find_dpo_loss("kto_pair"), nullptr);
}

// Every formula written out once more, with plain numbers.
TEST(DpoLosses, KnownValues) {
  for (const auto& [c, r] : std::vector<std::pair<double, double>>{{0, 0}, {1.5, -0.5}, {-3, 2}, {0.2, 0.3}}) {
    const double b = 0.4, s = b * (c - r), e = 0.1, tau = 0.3, mean = c / 4 - r / 5;
    const std::vector<std::pair<std::string, double>> wanted{
        {"sigmoid", softplus(-s)},
        {"hinge", std::max(0.0, 1 - s)},
        {"ipo", std::pow(mean - 1.25, 2)},
        {"exo_pair", logistic(s) * std::log(logistic(s) / 0.9) + logistic(-s) * std::log(logistic(-s) / 0.1)},
        {"nca_pair", softplus(-b * c) + 0.5 * softplus(b * c) + 0.5 * softplus(b * r)},
        {"robust", ((1 - e) * softplus(-s) - e * softplus(s)) / 0.8},
        {"bco_pair", softplus(-b * c) + softplus(b * r)},
        {"sppo_hard", std::pow(c - 1.25, 2) + std::pow(r + 1.25, 2)},
        {"aot", 0.9 * softplus(-b * (c - r + 2 - 2.5)) + 0.1 * softplus(b * (c - r + 2 - 2.5))},
        {"aot_unpaired",
         0.5 * (0.9 * softplus(-b * (c + 0.25)) + 0.1 * softplus(b * (c + 0.25)) + 0.9 * softplus(-b * (0.75 - r)) + 0.1 * softplus(b * (0.75 - r)))},
        {"apo_zero", logistic(-b * c) + logistic(b * r)},
        {"apo_down", logistic(b * c) + logistic(-s)},
        {"discopop", softplus(-s) * logistic(-s / tau) + std::exp(-s) * logistic(s / tau)},
        {"sft", 11 - c},
        {"sigmoid_norm", softplus(-b * mean)}};
    ASSERT_EQ(wanted.size(), dpo_losses().size());
    for (const auto& [name, expected] : wanted)
      EXPECT_NEAR(value(name, c, r, options_for(name)), expected, 1e-13 * std::max(1.0, std::abs(expected))) << name << " of " << c << ", " << r;
  }
  EXPECT_NEAR(value("sigmoid", 0, 0, options_for("sigmoid")), std::log(2.0), 1e-15);
}

TEST(DpoLosses, Symmetries) {
  const Options o = options_for("sigmoid");
  const double c = 1.25, r = -0.5, s = o.beta * (c - r);
  // -log sigma(-s) = -log sigma(s) + s
  EXPECT_NEAR(value("sigmoid", r, c, o), value("sigmoid", c, r, o) + s, 1e-14);
  EXPECT_NEAR(value("sppo_hard", -r, -c, o), value("sppo_hard", c, r, o), 1e-14);
  EXPECT_NEAR(value("bco_pair", -r, -c, o), value("bco_pair", c, r, o), 1e-14);
  EXPECT_NEAR(value("apo_zero", -r, -c, o), value("apo_zero", c, r, o), 1e-14);
  Options clean = options_for("robust");
  clean.label_smoothing = 0;
  EXPECT_NEAR(value("robust", c, r, clean), value("sigmoid", c, r, o), 1e-15);
  Options q = options_for("exo_pair");  // no divergence where the policy's odds are those of the labels
  const double odds = std::log(0.9 / 0.1) / q.beta;
  EXPECT_NEAR(value("exo_pair", odds, 0, q), 0, 1e-15);
}

// Central differences in float64: the error of a step of 1e-5 is about 1e-10 of the third derivative.
void gradcheck(const std::function<Tensor(const Tensor&)>& f, std::vector<double> at_point, double unit = 1) {
  const Tensor x = doubles(at_point).requires_grad_(true);
  f(x).sum().backward();
  for (size_t i = 0; i < at_point.size(); ++i) {
    const double step = 1e-5 * unit;
    std::vector<double> up = at_point, down = at_point;
    up[i] += step, down[i] -= step;
    const double slope = (f(doubles(up)).sum().item<double>() - f(doubles(down)).sum().item<double>()) / (2 * step);
    EXPECT_NEAR(x.grad()[static_cast<int64_t>(i)].item<double>(), slope, 1e-7 * std::max(1.0, std::abs(slope))) << "input " << i;
  }
}

TEST(DpoLosses, GradientsAreCentralDifferences) {
  for (const DpoLoss& l : dpo_losses()) {
    if (l.name == "aot_unpaired") continue;  // its gradient is not that of its value (see AotEqualsSorting)
    SCOPED_TRACE(l.name);
    for (const auto& [c, r] : std::vector<std::pair<double, double>>{{0.1, -0.2}, {1.5, -0.5}, {-3, 2}})
      gradcheck([&](const Tensor& x) { return l.loss(terms_of(x[0], x[1], options_for(l.name)), options_for(l.name)); }, {c, r});
  }
}

TEST(Divergences, ValuesAndGradients) {
  Options o;
  const auto score = [&](double x) { return divergence_score(doubles({x}), o).item<double>(); };
  const auto check_gradient = [&] { gradcheck([&](const Tensor& x) { return divergence_score(x, o); }, {-0.7, 0.0, 1.3}); };
  EXPECT_EQ(score(0.75), 0.75);
  o.f_divergence_type = config::FDivergence::forward_kl;
  EXPECT_NEAR(score(0.75), 1 - std::exp(-0.75), 1e-15);
  check_gradient();
  o.f_divergence_type = config::FDivergence::js_divergence;
  EXPECT_NEAR(score(0.75), std::log(2 * std::exp(0.75) / (1 + std::exp(0.75))), 1e-15);
  EXPECT_NEAR(score(0), 0, 1e-15);
  check_gradient();
  o.f_divergence_type = config::FDivergence::alpha_divergence;
  o.f_alpha_divergence_coef = 0.5;
  EXPECT_NEAR(score(0.75), (std::pow(std::exp(0.75), -0.5) - 1) / -0.5, 1e-14);
  check_gradient();
  EXPECT_TRUE(std::isfinite(score(-1e4)));
  o.f_alpha_divergence_coef = 1;
  EXPECT_EQ(score(0.75), 0.75);
}

TEST(DpoLosses, ExtremeInputsStayFinite) {
  for (const DpoLoss& l : dpo_losses())
    for (const double c : {-2e4, 0.0, 2e4})
      for (const double r : {-2e4, 0.0, 2e4}) {
        const Options o = options_for(l.name);
        const Tensor x = doubles({c, r}).requires_grad_(true);
        const Tensor y = l.loss(terms_of(x[0], x[1], o), o);
        y.backward();
        EXPECT_TRUE(at::isfinite(y).all().item<bool>() && at::isfinite(x.grad()).all().item<bool>()) << l.name << " of " << c << ", " << r;
      }
}

// Value and gradient of the sorted form, summed over the pairs, and of ours pair by pair.
TEST(DpoLosses, AotEqualsSorting) {
  const Options o = options_for("aot");
  const Tensor policy_c = doubles({-9, -14, -7, -11.5, -30, -8}), policy_r = doubles({-10, -9, -13, -12.5, -6, -8}),
               ref_c = doubles({-10, -12, -8, -11, -28, -9}), ref_r = doubles({-9.5, -11, -12, -13, -7, -8.25});
  const auto smoothed = [&](const Tensor& x) { return -0.9 * at::log_sigmoid(x) - 0.1 * at::log_sigmoid(-x); };
  const auto sorted = [](const Tensor& x) { return std::get<0>(at::sort(x)); };
  for (const std::string_view name : {"aot", "aot_unpaired"}) {
    const Tensor c = policy_c.clone().requires_grad_(true), r = policy_r.clone().requires_grad_(true);
    const Tensor wanted =
        (name == "aot" ? smoothed(o.beta * (sorted(c - r) - sorted(ref_c - ref_r))) : smoothed(o.beta * (sorted(c - ref_c) - sorted(r - ref_r))))
            .sum();
    wanted.backward();
    const Tensor c2 = policy_c.clone().requires_grad_(true), r2 = policy_r.clone().requires_grad_(true);
    const Tensor partners = aot_partners(policy_c - policy_r, ref_c - ref_r, policy_c - ref_c, policy_r - ref_r);
    PairTerms t;
    t.chosen = c2, t.rejected = r2, t.ref_chosen = ref_c, t.ref_rejected = ref_r;
    t.chosen_ratio = c2 - ref_c, t.rejected_ratio = r2 - ref_r;
    t.partner_ref = partners[0], t.partner_rejected = partners[1], t.partner_chosen = partners[2];
    const Tensor ours = find_dpo_loss(name)->loss(t, o).sum();
    ours.backward();
    EXPECT_NEAR(ours.item<double>(), wanted.item<double>(), 1e-12) << name;
    EXPECT_TRUE(at::allclose(c2.grad(), c.grad(), 1e-12, 1e-14)) << name;
    EXPECT_TRUE(at::allclose(r2.grad(), r.grad(), 1e-12, 1e-14)) << name;
  }
  // equal values keep the order of their pairs
  EXPECT_TRUE(at::equal(aot_partners(doubles({5, 5, 1}), doubles({3, 1, 2}), doubles({0, 0, 0}), doubles({9, 8, 7}))[0], doubles({2, 3, 1})));
}

TEST(Orpo, LogOneMinusExp) {
  for (const double x : {-1e-12, -0.1, -0.69, -0.7, -3.0, -40.0, -1000.0}) {
    const Tensor t = doubles({x}).requires_grad_(true);
    const Tensor y = log1mexp(t);
    y.sum().backward();
    const double exact = x > -0.6 ? std::log(-std::expm1(x)) : std::log1p(-std::exp(x));
    EXPECT_NEAR(y.item<double>(), exact, 1e-14 * std::max(1.0, std::abs(exact))) << x;
    EXPECT_NEAR(t.grad().item<double>(), -std::exp(x) / -std::expm1(x), 1e-12 * std::exp(x) / -std::expm1(x)) << x;
  }
}

TEST(Simpo, ValuesAndGradients) {
  Options o;
  o.beta = 2, o.simpo_gamma = 0.5, o.label_smoothing = 0.1, o.alphapo_alpha = 0.25;
  const auto of = [&](std::string_view name, double c, double r) { return simpo_loss(name, doubles({c}), doubles({r}), o).item<double>(); };
  const double c = -0.7, r = -1.9, x = 2 * (c - r);
  EXPECT_NEAR(of("simpo", c, r), 0.9 * softplus(-(x - 0.5)) + 0.1 * softplus(x - 0.5), 1e-14);
  EXPECT_NEAR(of("sigmoid", c, r), 0.9 * softplus(-x) + 0.1 * softplus(x), 1e-14);
  EXPECT_NEAR(of("hinge", r, c), 1 + x, 1e-14);
  EXPECT_NEAR(of("ipo", c, r), std::pow(c - r - 0.25, 2), 1e-14);
  const auto reward = [](double m) { return (1 - std::pow(std::exp(m), -0.25)) / 0.25; };
  const double a = 2 * (reward(c) - reward(r)) - 0.5;
  EXPECT_NEAR(of("alphapo", c, r), 0.9 * softplus(-a) + 0.1 * softplus(a), 1e-13);
  for (const char* name : {"simpo", "alphapo", "sigmoid", "hinge", "ipo"}) {
    SCOPED_TRACE(name);
    gradcheck([&](const Tensor& m) { return simpo_loss(name, m[0], m[1], o); }, {c, r});
  }
  o.alphapo_alpha = 1e-9;  // its limit
  EXPECT_NEAR(of("alphapo", c, r), of("simpo", c, r), 1e-8);
}

}  // namespace
}  // namespace hone::methods
