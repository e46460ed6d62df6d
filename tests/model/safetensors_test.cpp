#include "hone/model/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "file_builders.h"

namespace hone::model {
namespace safetensors_test {

TensorProducer producer(const std::string& name, std::vector<int64_t> shape, float scale) {
  int64_t width = 1;
  for (size_t i = 1; i < shape.size(); ++i) width *= shape[i];
  return {name, shape, [=](int64_t begin, int64_t end, float* out) {
            for (int64_t i = 0; i < (end - begin) * width; ++i) out[i] = scale * static_cast<float>(begin * width + i);
          }};
}

TEST(Safetensors, RoundTripInEveryDtype) {
  ScratchFolder scratch;
  const std::vector<TensorProducer> tensors{producer("a.weight", {3, 5}, 0.25f), producer("b", {7}, -1.0f), producer("empty", {0, 4}, 1.0f),
                                            producer("large", {3000, 600}, 0x1p-20f)};  // more than one piece of the writer
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const auto path = scratch.path / "model.safetensors";
    write_safetensors(path, tensors, dtype);
    const SafetensorsFile file(path);
    EXPECT_EQ(file.metadata().at("format"), "pt");
    uint64_t header;
    std::memcpy(&header, file.file().bytes().data(), 8);
    EXPECT_EQ(header % 8, 0u);
    ASSERT_EQ(file.tensors().size(), tensors.size());
    for (const TensorProducer& tensor : tensors) {
      const TensorView& view = file.tensors().at(tensor.name);
      EXPECT_EQ(view.shape, tensor.shape);
      EXPECT_EQ(view.dtype, dtype);
      std::vector<float> wanted(static_cast<size_t>(view.elements())), got(wanted.size());
      tensor.produce(0, view.rows(), wanted.data());
      to_float32(view, got.data());
      for (size_t i = 0; i < got.size(); ++i) {
        const float rounded = dtype == DType::f32    ? wanted[i]
                              : dtype == DType::bf16 ? bf16_to_float(float_to_bf16(wanted[i]))
                                                     : f16_to_float(float_to_f16(wanted[i]));
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(rounded)) << tensor.name << " " << i;
      }
    }
  }
}

TEST(Safetensors, AValueThatHalfPrecisionCannotHoldIsRefused) {
  ScratchFolder scratch;
  const std::vector<TensorProducer> tensors{producer("big", {2, 2}, 40000.0f)};
  expect_refused([&] { write_safetensors(scratch.path / "x", tensors, DType::f16); }, {"big", "F16", "65504"}, "float16 overflow");
}

TEST(Safetensors, ATensorMayHaveADtypeOfItsOwn) {
  ScratchFolder scratch;
  const auto path = scratch.path / "x";
  TensorProducer codes{"codes", {256}, [](int64_t begin, int64_t end, float* out) {
                         for (int64_t i = begin; i < end; ++i) out[i - begin] = static_cast<float>(255 - i);
                       }};
  codes.dtype = DType::u8;
  write_safetensors(path, std::vector<TensorProducer>{producer("a", {3}, 0.5f), codes, producer("b", {2}, 2.0f)}, DType::f32);
  const SafetensorsFile file(path);
  const TensorView& view = file.tensors().at("codes");
  EXPECT_EQ(view.dtype, DType::u8);
  ASSERT_EQ(view.bytes.size(), 256u);
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(static_cast<int>(view.bytes[i]), 255 - static_cast<int>(i));
  float values[2];
  to_float32(file.tensors().at("b"), values);
  EXPECT_EQ(values[1], 2.0f);
  for (const float bad : {256.0f, -1.0f, 0.5f, std::numeric_limits<float>::quiet_NaN()}) {
    codes.produce = [bad](int64_t, int64_t, float* out) { std::fill(out, out + 256, bad); };
    expect_refused([&] { write_safetensors(path, std::vector<TensorProducer>{codes}, DType::f32); }, {"codes", "U8"}, "not a byte");
  }
}

struct Broken {
  const char* what;
  std::string bytes;
  std::vector<std::string> message;
};

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

TEST(Safetensors, BrokenFilesAreRefused) {
  const std::string data(16, 'x');
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return safetensors_bytes("{\"t\":" + entry(dtype, shape, offsets) + "}", data);
  };
  const std::string good = one("F32", "[2,2]", "[0,16]");
  const std::vector<Broken> table{
      {"empty", "", {"0 bytes"}},
      {"only a length", std::string(8, '\0'), {"not valid JSON"}},
      {"header length beyond the file", raw(uint64_t{1000}) + "{}", {"truncated", "1000"}},
      {"header length absurd", raw(~uint64_t{0}) + "{}", {"18446744073709551615", "not plausible"}},
      {"truncated data", good.substr(0, good.size() - 1), {"truncated", "tensor t"}},
      {"bytes after the end", good + "y", {"1 bytes stand after"}},
      {"not JSON", safetensors_bytes("{\"t\":", data), {"not valid JSON"}},
      {"an array", safetensors_bytes("[1]", data), {"object was expected"}},
      {"not UTF-8", safetensors_bytes("{\"\xff\":1}", data), {"not valid JSON"}},
      {"deep", safetensors_bytes("{\"t\":" + std::string(100000, '[') + std::string(100000, ']') + "}", data), {"nested", "100001"}},
      {"tensor twice",
       safetensors_bytes("{\"t\":" + entry("F32", "[2]", "[0,8]") + ",\"t\":" + entry("F32", "[2]", "[8,16]") + "}", data),
       {"\"t\"", "twice"}},
      {"entry is a number", safetensors_bytes("{\"t\":3}", data), {"tensor t", "object was expected"}},
      {"no dtype", safetensors_bytes("{\"t\":{\"shape\":[4],\"data_offsets\":[0,16]}}", data), {"tensor t", "\"dtype\""}},
      {"F64", one("F64", "[2]", "[0,16]"), {"tensor t", "F64 is not supported", "F32, F16, BF16 and U8"}},
      {"unknown dtype", one("Q9", "[2]", "[0,16]"), {"Q9 is not supported"}},
      {"negative dimension", one("F32", "[-4]", "[0,16]"), {"-4", "at least 0"}},
      {"fractional dimension", one("F32", "[4.0]", "[0,16]"), {"4.0"}},
      {"huge dimension", one("F32", "[18446744073709551615]", "[0,16]"), {"too large"}},
      {"product overflows", one("F32", "[4294967296,4294967296,4294967296]", "[0,16]"), {"too large"}},
      {"product overflows behind a zero", one("F32", "[0,4294967296,4294967296,4294967296]", "[0,0]"), {"too large"}},
      {"many dimensions", one("F32", "[1,1,1,1,1,1,1,1,4]", "[0,16]"), {"9 dimensions"}},
      {"shape and offsets disagree", one("F32", "[3]", "[0,16]"), {"takes 12 bytes", "16"}},
      {"offsets backwards", one("F32", "[2,2]", "[16,0]"), {"run backwards"}},
      {"offsets beyond the file", one("F32", "[8]", "[0,32]"), {"truncated", "32"}},
      {"offset huge", one("F32", "[4]", "[18446744073709551600,18446744073709551615]"), {"takes 16 bytes"}},
      {"three offsets", one("F32", "[4]", "[0,16,32]"), {"3 numbers"}},
      {"negative offset", one("F32", "[4]", "[-16,0]"), {"at least 0"}},
      {"hole", one("F32", "[2]", "[8,16]"), {"hole of 8 bytes"}},
      {"overlap",
       safetensors_bytes("{\"a\":" + entry("F32", "[3]", "[0,12]") + ",\"b\":" + entry("F32", "[2]", "[8,16]") + "}", data),
       {"tensor b overlaps"}},
      {"same place",
       safetensors_bytes("{\"a\":" + entry("F32", "[4]", "[0,16]") + ",\"b\":" + entry("F32", "[4]", "[0,16]") + "}", data),
       {"overlaps"}},
      {"metadata not strings", safetensors_bytes("{\"__metadata__\":{\"a\":1}}", ""), {"__metadata__"}},
  };
  ScratchFolder scratch;
  const auto path = scratch.path / "broken.safetensors";
  for (const Broken& broken : table) {
    write_file(path, broken.bytes);
    auto parts = broken.message;
    parts.push_back("broken.safetensors");
    expect_refused([&] { SafetensorsFile file(path); }, parts, broken.what);
  }
  write_file(path, good);
  EXPECT_EQ(SafetensorsFile(path).tensors().at("t").elements(), 4);
}

TEST(Safetensors, ShardsAreFound) {
  ScratchFolder scratch;
  const auto touch = [&](const std::string& name, const std::string& text = "") { write_file(scratch.path / name, text); };
  const auto clear = [&] {
    for (const auto& file : std::filesystem::directory_iterator(scratch.path)) std::filesystem::remove_all(file.path());
  };
  expect_refused([&] { find_shards(scratch.path); }, {"no weights", "model.safetensors"}, "empty folder");
  touch("pytorch_model.bin");
  expect_refused([&] { find_shards(scratch.path); }, {"pytorch_model.bin", "pickled"}, "pickle");
  touch("adapter_config.json");
  expect_refused([&] { find_shards(scratch.path); }, {"--adapter"}, "adapter");
  clear();
  touch("model-00001-of-00002.safetensors");
  expect_refused([&] { find_shards(scratch.path); }, {"model-00002-of-00002.safetensors is missing"}, "incomplete");
  touch("model-00002-of-00002.safetensors");
  ASSERT_EQ(find_shards(scratch.path).files.size(), 2u);
  EXPECT_EQ(find_shards(scratch.path).files[1].filename(), "model-00002-of-00002.safetensors");
  touch("model-00001-of-00003.safetensors");
  expect_refused([&] { find_shards(scratch.path); }, {"two sets"}, "two sets");
  clear();
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", "", "a/b"}) {
    touch("model.safetensors.index.json", std::string(R"({"weight_map":{"t":")") + name + "\"}}");
    expect_refused([&] { find_shards(scratch.path); }, {"weight_map", "without folders"}, name);
  }
  touch("model.safetensors.index.json", R"({"weight_map":{"t":"gone.safetensors"}})");
  expect_refused([&] { find_shards(scratch.path); }, {"gone.safetensors", "missing"}, "file of the index missing");
  touch("model.safetensors.index.json", R"({"weight_map":[]})");
  expect_refused([&] { find_shards(scratch.path); }, {"weight_map"}, "no map");
}

}  // namespace safetensors_test
}  // namespace hone::model
