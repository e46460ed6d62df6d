// Six steps of bitsandbytes 0.50's AdamW8bit (make_bnb_optim.py): parameters close, codes and absmax the same: the moments do not depend on the
// parameters, and their arithmetic is rounded as torch rounds it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "golden/oracle.h"
#include "hone/kernels/quant.h"
#include "hone/model/safetensors.h"

namespace hone {
namespace bnb_optim_test {

std::vector<float> floats(const model::SafetensorsFile& file, const std::string& name) {
  const model::TensorView& view = file.tensors().at(name);
  std::vector<float> values(static_cast<size_t>(view.elements()));
  model::to_float32(view, values.data());
  return values;
}

kernels::AdamwScalars scalars_of_step(int step) {
  return {3e-3, 0.9, 0.95, 1e-8, 0.1, 1.0, 1 - std::pow(0.9, step), std::sqrt(1 - std::pow(0.95, step))};
}

int64_t differing(const std::vector<uint8_t>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  int64_t count = 0;
  for (size_t i = 0; i < want.size(); ++i) count += static_cast<float>(got[i]) != want[i];
  return count;
}

double worst(const std::vector<float>& got, const std::vector<float>& want, double floor) {
  EXPECT_EQ(got.size(), want.size());
  double most = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double off = std::abs(static_cast<double>(got[i]) - want[i]) / std::max<double>(floor, std::abs(want[i]));
    most = off <= most ? most : off;  // a NaN is kept
  }
  return most;
}

TEST(BnbOptim, TrajectoryIn8Bits) {
  const model::SafetensorsFile file(golden::golden_path("bnb_optim/trajectory.safetensors"));
  for (const std::string name : {"whole", "ragged"}) {
    std::vector<float> p = floats(file, name + "/start");
    const size_t count = p.size(), blocks = (count + 255) / 256;
    std::vector<uint8_t> m(count), v(count);
    std::vector<float> m_absmax(blocks), v_absmax(blocks);
    kernels::adamw_8bit_init(m.data(), m_absmax.data(), v.data(), v_absmax.data(), static_cast<int64_t>(count));
    for (int step = 1; step <= 6; ++step) {
      const std::vector<float> gradient = floats(file, fmt::format("{}/gradient/{}", name, step));
      kernels::adamw_8bit_step(p.data(), gradient.data(), m.data(), m_absmax.data(), v.data(), v_absmax.data(), static_cast<int64_t>(count),
                               scalars_of_step(step));
      const std::string at = fmt::format("/{}", step);
      // The last operations on a parameter are rounded in another order: a last place of the update (3e-3 at most) and one of the parameter.
      EXPECT_LT(worst(p, floats(file, name + "/value" + at), 1e-3), 1e-6) << name << at;
      if (!file.tensors().count(name + "/first" + at)) continue;
      EXPECT_EQ(differing(m, floats(file, name + "/first" + at)), 0) << name << at;
      EXPECT_EQ(differing(v, floats(file, name + "/second" + at)), 0) << name << at;
      EXPECT_EQ(worst(m_absmax, floats(file, name + "/first_absmax" + at), 1e-30), 0) << name << at;
      EXPECT_EQ(worst(v_absmax, floats(file, name + "/second_absmax" + at), 1e-30), 0) << name << at;
    }
  }
}

TEST(BnbOptim, SmallTensorsKeep32Bits) {
  const model::SafetensorsFile file(golden::golden_path("bnb_optim/trajectory.safetensors"));
  std::vector<float> p = floats(file, "small/start"), m(p.size()), v(p.size());
  for (int step = 1; step <= 6; ++step) {
    const std::vector<float> gradient = floats(file, fmt::format("small/gradient/{}", step));
    kernels::adamw_step(p.data(), gradient.data(), m.data(), v.data(), static_cast<int64_t>(p.size()), scalars_of_step(step));
    // Its 32-bit form scales the step and epsilon instead of the denominator: some roundings of 6e-8 relative to a step of 3e-3.
    EXPECT_LT(worst(p, floats(file, fmt::format("small/value/{}", step)), 1e-3), 1e-6) << step;
  }
  EXPECT_EQ(file.tensors().at("small/first/6").dtype, model::DType::f32);
}

}  // namespace bnb_optim_test
}  // namespace hone
