// Checkpoints that transformers + bitsandbytes saved in 4 bits (tests/golden/bnb, made by make_peft.py), whole and broken.
#include "hone/model/quantized_source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "file_builders.h"
#include "golden/oracle.h"
#include "hone/model/source.h"

namespace hone::model {
namespace {

namespace fs = std::filesystem;
constexpr const char* kQ = "model.layers.0.self_attn.q_proj.weight";

bool is_linear(const std::string& name) { return name.ends_with("_proj.weight"); }

std::vector<float> rows_of(const ModelSource& source, const TensorSpec& tensor, int64_t begin, int64_t end) {
  std::vector<float> values(static_cast<size_t>((end - begin) * tensor.elements() / tensor.shape[0]), std::nanf(""));
  source.load_rows(tensor.name, begin, end, values.data());
  return values;
}

class Checkpoint : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Bitsandbytes, Checkpoint, testing::Values("nf4", "nf4_nested", "fp4_nested", "nf4_bf16"),
                         [](const auto& info) { return std::string(info.param); });

// bitsandbytes' own dequantised values, to the bit: one whole weight, every seventh element of the others.
TEST_P(Checkpoint, WeightsAreThoseOfBitsandbytes) {
  const fs::path folder = golden::golden_path(std::string("bnb/") + GetParam());
  const auto source = open_model(folder.string());
  const auto oracle = golden::read_oracle(folder / "oracle.safetensors");
  int compared = 0;
  for (const TensorSpec& tensor : source->tensors()) {
    if (!is_linear(tensor.name)) continue;
    const std::vector<float> values = rows_of(*source, tensor, 0, tensor.shape[0]);
    const std::string module = tensor.name.substr(0, tensor.name.size() - 7);
    const bool whole = oracle.count("weight." + module) != 0;
    const auto& wanted = oracle.at((whole ? "weight." : "every7.") + module).values;
    const size_t step = whole ? 1 : 7;
    ASSERT_EQ(wanted.size(), (values.size() + step - 1) / step) << tensor.name;
    for (size_t i = 0; i < wanted.size(); ++i) ASSERT_EQ(values[i * step], static_cast<float>(wanted[i])) << tensor.name << " element " << i * step;
    ++compared;
  }
  EXPECT_EQ(compared, 14);
}

// Rows begin anywhere inside a block of 64, and inside a nested block of 256 of those.
TEST_P(Checkpoint, AnyRowsAreTheRowsOfTheWhole) {
  const auto source = open_model(golden::golden_path(std::string("bnb/") + GetParam()).string());
  for (const TensorSpec& tensor : source->tensors()) {
    if (!is_linear(tensor.name)) continue;
    const int64_t rows = tensor.shape[0], width = tensor.shape[1];
    const std::vector<float> whole = rows_of(*source, tensor, 0, rows);
    for (int64_t begin = 0; begin <= rows; ++begin)
      for (const int64_t end : {begin, std::min(begin + 1, rows), std::min(begin + 5, rows), rows})
        ASSERT_EQ(rows_of(*source, tensor, begin, end), std::vector<float>(whole.begin() + begin * width, whole.begin() + end * width))
            << tensor.name << " [" << begin << ", " << end << ")";
  }
}

TEST_P(Checkpoint, CodesAndAbsmaxGiveTheSameValues) {
  const auto source = open_model(golden::golden_path(std::string("bnb/") + GetParam()).string());
  for (const TensorSpec& tensor : source->tensors()) {
    const auto quantized = source->quantized(tensor.name);
    ASSERT_EQ(quantized.has_value(), is_linear(tensor.name)) << tensor.name;
    if (!quantized) continue;
    const int64_t count = tensor.elements();
    ASSERT_EQ(static_cast<int64_t>(quantized->codes.size()), (count + 1) / 2);
    ASSERT_EQ(static_cast<int64_t>(quantized->absmax.size()), (count + 63) / 64);
    EXPECT_EQ(quantized->type, std::string(GetParam()).starts_with("fp4") ? kernels::QuantType::fp4 : kernels::QuantType::nf4);
    std::vector<float> values(static_cast<size_t>(count));
    kernels::dequantize_4bit(reinterpret_cast<const uint8_t*>(quantized->codes.data()), quantized->absmax.data(), count, quantized->type,
                             values.data());
    EXPECT_EQ(values, rows_of(*source, tensor, 0, tensor.shape[0])) << tensor.name;
  }
}

/// A copy of a checkpoint whose tensors a test may change before they are written again.
struct BrokenCheckpoint {
  struct Raw {
    std::string dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };
  ScratchFolder scratch;
  std::map<std::string, Raw> tensors;
  nlohmann::json config;

  explicit BrokenCheckpoint(const std::string& name) {
    const fs::path folder = golden::golden_path("bnb/" + name);
    const SafetensorsFile file(folder / "model.safetensors");
    for (const auto& [key, view] : file.tensors())
      tensors[key] = {std::string(dtype_name(view.dtype)), view.shape, {reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size()}};
    config = nlohmann::json::parse(read_file(folder / "config.json"));
  }
  std::unique_ptr<ModelSource> open() const {
    nlohmann::json header;
    std::string data;
    for (const auto& [key, raw] : tensors) {
      header[key] = {{"dtype", raw.dtype}, {"shape", raw.shape}, {"data_offsets", {data.size(), data.size() + raw.bytes.size()}}};
      data += raw.bytes;
    }
    write_file(scratch.path / "config.json", config.dump());
    write_file(scratch.path / "model.safetensors", safetensors_bytes(header.dump(), data));
    return open_model(scratch.path.string());
  }
  void set_state(const std::string& text) {
    const std::string name = std::string(kQ) + ".quant_state.bitsandbytes__nf4";
    tensors[name] = {"U8", {static_cast<int64_t>(text.size())}, text};
  }
  void edit_state(const std::string& key, const nlohmann::json& value) {
    auto state = nlohmann::json::parse(tensors.at(std::string(kQ) + ".quant_state.bitsandbytes__nf4").bytes);
    state[key] = value;
    set_state(state.dump());
  }
  void rename(const std::string& from, const std::string& to) {
    auto node = tensors.extract(from);
    node.key() = to;
    tensors.insert(std::move(node));
  }
};

TEST(QuantizedSource, BrokenStatesAreRefused) {
  const auto refused = [&](const char* fixture, const std::vector<std::string>& parts, const std::string& what,
                           const std::function<void(BrokenCheckpoint&)>& change) {
    BrokenCheckpoint checkpoint(fixture);
    change(checkpoint);
    expect_refused([&] { checkpoint.open(); }, parts, what);
  };
  const std::string q = kQ, state = q + ".quant_state.bitsandbytes__nf4";
  refused("nf4", {"blocksize 128", "supported is 64"}, "another block size", [](auto& c) { c.edit_state("blocksize", 128); });
  refused("nf4", {"blocksize"}, "a block size of the wrong type", [](auto& c) { c.edit_state("blocksize", "64"); });
  refused("nf4", {"quant_type"}, "two types", [](auto& c) { c.edit_state("quant_type", "fp4"); });
  refused("nf4", {"type int8", "nf4 and fp4"}, "another type", [&](auto& c) { c.rename(state, q + ".quant_state.bitsandbytes__int8"); });
  refused("nf4", {"two quantisation states"}, "two states", [&](auto& c) { c.tensors[q + ".quant_state.bitsandbytes__z"] = c.tensors[state]; });
  refused("nf4", {"shape"}, "no shape", [](auto& c) { c.edit_state("shape", nullptr); });
  refused("nf4", {"shape"}, "three dimensions", [](auto& c) { c.edit_state("shape", {40, 20, 2}); });
  refused("nf4", {"shape"}, "a negative shape", [](auto& c) { c.edit_state("shape", {-40, -40}); });
  refused("nf4", {"too large"}, "a huge shape", [](auto& c) { c.edit_state("shape", {int64_t{1} << 40, int64_t{1} << 40}); });
  refused("nf4", {q, "800"}, "a shape of fewer elements", [](auto& c) { c.edit_state("shape", {40, 38}); });
  refused("nf4", {q, "[20, 80]", "[40, 40]"}, "a shape that is not the model's", [](auto& c) { c.edit_state("shape", {20, 80}); });
  for (const std::string& text : {std::string("{"), std::string(), std::string("[]"), std::string(100, '['), std::string("\xff{}")})
    refused("nf4", {state}, "no JSON: " + text.substr(0, 5), [&](auto& c) { c.set_state(text); });
  refused("nf4", {state, "bytes"}, "a state that is too long", [](auto& c) { c.set_state(std::string(70000, ' ') + "{}"); });
  refused("nf4", {q + ".absmax", "missing"}, "no absmax", [&](auto& c) { c.tensors.erase(q + ".absmax"); });
  refused("nf4", {q + ".quant_map", "missing"}, "no map", [&](auto& c) { c.tensors.erase(q + ".quant_map"); });
  refused("nf4", {q, "missing"}, "no codes", [&](auto& c) { c.tensors.erase(q); });
  refused("nf4", {q + ".absmax", "24"}, "an absmax too few", [&](auto& c) {
    c.tensors[q + ".absmax"].shape = {24};
    c.tensors[q + ".absmax"].bytes.resize(96);
  });
  refused("nf4", {q + ".quant_map", "other values"}, "another map", [&](auto& c) { c.tensors[q + ".quant_map"].bytes[6] ^= 1; });
  refused("nf4", {q, "F16"}, "codes stored as float16", [&](auto& c) { c.tensors[q] = {"F16", {400, 1}, c.tensors[q].bytes}; });
  refused("nf4", {q, "without a quantisation state"}, "bytes as a weight", [&](auto& c) {
    for (const char* part : {".absmax", ".quant_map"}) c.tensors.erase(q + part);
    c.tensors.erase(state);
    c.tensors[q] = {"U8", {40, 40}, std::string(1600, 'x')};
  });
  refused("nf4", {"unexpected"}, "a state for something else", [&](auto& c) { c.tensors["extra.absmax"] = {"F32", {1}, std::string(4, '\0')}; });
  const auto nested = [&](const std::vector<std::string>& parts, const std::string& what, const std::function<void(BrokenCheckpoint&)>& change) {
    refused("nf4_nested", parts, what, change);
  };
  nested({"nested_blocksize 128"}, "another nested block size", [](auto& c) { c.edit_state("nested_blocksize", 128); });
  nested({"nested_offset"}, "no offset", [](auto& c) { c.edit_state("nested_offset", nullptr); });
  nested({"nested_offset"}, "an offset beyond float32", [](auto& c) { c.edit_state("nested_offset", 1e300); });
  nested({"nested_dtype"}, "another nested type", [](auto& c) { c.edit_state("nested_dtype", "float16"); });
  nested({"nested_quant_map", "missing"}, "no nested map", [&](auto& c) { c.tensors.erase(q + ".nested_quant_map"); });
  nested({"nested_absmax", "2"}, "another count of nested absmax", [&](auto& c) {
    c.tensors[q + ".nested_absmax"] = {"F32", {2}, std::string(8, '\0')};
  });
  nested({"nested_absmax", "not finite"}, "NaN", [&](auto& c) { c.tensors[q + ".nested_absmax"].bytes = "\xff\xff\xff\x7f"; });
}

TEST(QuantizedSource, AbsmaxThatIsNotFiniteIsRefused) {
  BrokenCheckpoint checkpoint("nf4");
  checkpoint.tensors[std::string(kQ) + ".absmax"].bytes.replace(8, 4, "\xff\xff\xff\x7f");
  const auto source = checkpoint.open();
  expect_refused([&] { source->quantized(kQ); }, {kQ, "not finite"}, "NaN");
}

TEST(QuantizedSource, OtherQuantisationsAreRefusedByName) {
  const auto refused = [&](const nlohmann::json& quantization, const std::vector<std::string>& parts) {
    BrokenCheckpoint checkpoint("nf4");
    checkpoint.config["quantization_config"] = quantization;
    expect_refused([&] { checkpoint.open(); }, parts, quantization.dump());
  };
  refused({{"quant_method", "gptq"}, {"bits", 4}}, {"gptq", "load_in_4bit"});
  refused({{"quant_method", "awq"}}, {"awq"});
  refused({{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}, {"load_in_4bit", false}}, {"load_in_8bit"});
  refused({{"load_in_8bit", true}}, {"load_in_8bit"});
  refused({{"quant_method", "bitsandbytes"}}, {"load_in_4bit"});
  refused({{"quant_method", "bitsandbytes"}, {"load_in_4bit", "yes"}}, {"load_in_4bit", "true or false"});
  refused({{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}, {"bnb_4bit_quant_storage", "bfloat16"}}, {"bnb_4bit_quant_storage bfloat16"});
  refused(3, {"quantization_config"});
}

TEST(QuantizedSource, ASavedModelIsNoLongerQuantised) {
  const auto source = open_model(golden::golden_path("bnb/nf4").string());
  EXPECT_EQ(nlohmann::json::parse(config_to_json(source->config(), "float32")).count("quantization_config"), 0u);
}

}  // namespace
}  // namespace hone::model
