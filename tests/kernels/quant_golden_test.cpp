// The quantisers against bitsandbytes 0.50: the same bytes (tests/golden/make_bnb.py made the fixtures).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "golden/oracle.h"
#include "hone/kernels/quant.h"
#include "kernels/linear_support.h"

namespace hone::kernels {
using namespace linear_support;
namespace {

using Oracle = std::map<std::string, golden::OracleTensor>;
using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;

const Oracle& fixture(const std::string& name) {
  static std::map<std::string, Oracle> read;
  if (!read.contains(name)) read[name] = golden::read_oracle(golden::golden_path("bnb/" + name + ".safetensors"));
  return read[name];
}
Floats floats(const Oracle& oracle, const std::string& name) {
  const auto& values = oracle.at(name).values;
  return Floats(values.begin(), values.end());
}
Bytes bytes(const Oracle& oracle, const std::string& name) {
  const auto& values = oracle.at(name).values;
  return Bytes(values.begin(), values.end());
}
/// The names in front of ".x".
std::set<std::string> cases_of(const Oracle& oracle) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : oracle)
    if (name.ends_with(".x")) names.insert(name.substr(0, name.size() - 2));
  return names;
}
/// The same bits, where any NaN is as good as another; either_zero: and -0 as good as +0.
testing::AssertionResult same(const Floats& got, const Floats& want, bool either_zero = false) {
  if (got.size() != want.size()) return testing::AssertionFailure() << got.size() << " values, not " << want.size();
  for (size_t i = 0; i < got.size(); i++)
    if (!(std::isnan(got[i]) && std::isnan(want[i])) && !(either_zero && got[i] == 0 && want[i] == 0) && !same_bits(&got[i], &want[i], 1))
      return testing::AssertionFailure() << "element " << i << " is " << got[i] << ", not " << want[i];
  return testing::AssertionSuccess();
}

struct Condition {
  Isa isa;
  int threads;
};
std::vector<Condition> conditions() {
  std::vector<Condition> all;
  for (const Isa isa : available_isas())
    for (const int count : {1, 2}) all.push_back({isa, count});
  return all;
}

TEST(QuantGolden, FourBitCodesScalesAndValues) {
  const Oracle& oracle = fixture("four_bits");
  ASSERT_GE(cases_of(oracle).size(), 20u);
  for (const auto& [isa, count] : conditions())
    for (const std::string& name : cases_of(oracle))
      for (const QuantType type : {QuantType::nf4, QuantType::fp4}) {
        const Forced forced(isa);
        const Threads threads(count);
        const std::string prefix = name + (type == QuantType::nf4 ? ".nf4" : ".fp4");
        const Floats x = floats(oracle, name + ".x");
        const auto size = static_cast<int64_t>(x.size());
        Bytes codes((x.size() + 1) / 2);
        Floats absmax((x.size() + 63) / 64), values(x.size());
        quantize_4bit(x.data(), size, type, codes.data(), absmax.data());
        EXPECT_EQ(codes, bytes(oracle, prefix + ".codes")) << prefix << " " << isa_name(isa);
        EXPECT_TRUE(same(absmax, floats(oracle, prefix + ".absmax"))) << prefix << " " << isa_name(isa);
        dequantize_4bit(codes.data(), absmax.data(), size, type, values.data());
        // The peer's FP4 code 8 is +0 in its vector code and -0 in its scalar code.
        EXPECT_TRUE(same(values, floats(oracle, prefix + ".values"), type == QuantType::fp4)) << prefix << " " << isa_name(isa);
      }
}

TEST(QuantGolden, NestedCodesScalesAndValues) {
  const Oracle& oracle = fixture("nested");
  ASSERT_GE(cases_of(oracle).size(), 15u);
  for (const auto& [isa, count] : conditions())
    for (const std::string& name : cases_of(oracle)) {
      const Forced forced(isa);
      const Threads threads(count);
      const Floats x = floats(oracle, name + ".x");
      const auto size = static_cast<int64_t>(x.size());
      const float offset = floats(oracle, name + ".offset").at(0);
      Bytes codes(x.size());
      Floats absmax((x.size() + 255) / 256), values(x.size());
      quantize_nested_about(x.data(), size, offset, codes.data(), absmax.data());
      EXPECT_EQ(codes, bytes(oracle, name + ".codes")) << name << " " << isa_name(isa);
      EXPECT_TRUE(same(absmax, floats(oracle, name + ".absmax"))) << name << " " << isa_name(isa);
      dequantize_nested(codes.data(), absmax.data(), offset, size, values.data());
      EXPECT_TRUE(same(values, floats(oracle, name + ".values"))) << name << " " << isa_name(isa);
      if (!oracle.contains(name + ".mean")) continue;
      float own_offset = kNaN;
      quantize_nested(x.data(), size, codes.data(), absmax.data(), &own_offset);
      EXPECT_EQ(own_offset, floats(oracle, name + ".mean").at(0)) << name;
      Bytes about(x.size());
      Floats about_absmax(absmax.size());
      quantize_nested_about(x.data(), size, own_offset, about.data(), about_absmax.data());
      EXPECT_EQ(codes, about) << name;
      EXPECT_TRUE(same(absmax, about_absmax)) << name;
    }
}

TEST(QuantGolden, DynamicMaps) {
  const Oracle& oracle = fixture("nested");
  EXPECT_TRUE(same(Floats(dynamic_map(true), dynamic_map(true) + 256), floats(oracle, "map.signed")));
  EXPECT_TRUE(same(Floats(dynamic_map(false), dynamic_map(false) + 256), floats(oracle, "map.unsigned")));
}

// A checkpoint may bring a map of its own, in any order.
TEST(QuantGolden, NestedWithAMapThatIsGiven) {
  Floats reversed(dynamic_map(true), dynamic_map(true) + 256);
  std::reverse(reversed.begin(), reversed.end());
  Bytes codes(700);
  for (size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<uint8_t>(i * 37);
  const Floats absmax{0.5f, 0.0f, 3.0f};
  Floats values(codes.size());
  dequantize_nested(codes.data(), absmax.data(), 0.25f, reversed.data(), static_cast<int64_t>(codes.size()), values.data());
  for (size_t i = 0; i < codes.size(); i++) EXPECT_EQ(values[i], dynamic_map(true)[255 - codes[i]] * absmax[i / 256] + 0.25f) << i;
}

// The mean's rounding is decided by what a float64 sum would lose.
TEST(QuantGolden, OffsetIsTheCorrectlyRoundedMean) {
  const auto offset_of = [](const Floats& x) {
    Bytes codes(x.size());
    Floats absmax((x.size() + 255) / 256);
    float offset = kNaN;
    quantize_nested(x.data(), static_cast<int64_t>(x.size()), codes.data(), absmax.data(), &offset);
    return offset;
  };
  EXPECT_EQ(offset_of({}), 0.0f);
  EXPECT_EQ(offset_of({0.1f}), 0.1f);
  // 1 + 2^-24 is a tie, to the even 1; a term of 2^-80 breaks it upwards (or downwards) though a float64 sum never sees it.
  EXPECT_EQ(offset_of({1.0f, 0x1.000002p0f}), 1.0f);
  EXPECT_EQ(offset_of({2.0f, 0x1.000002p1f, 0x1p-80f, 0.0f}), 0x1.000002p0f);
  EXPECT_EQ(offset_of({0x1.000002p1f, 0x1.000004p1f, -0x1p-80f, 0.0f}), 0x1.000002p0f);
}

}  // namespace
}  // namespace hone::kernels
