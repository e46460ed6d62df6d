// GGUF files that hone writes: the format, the rounding of each type, and a model there and back.
#include "hone/model/gguf_write.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <limits>

#include "file_builders.h"
#include "hone/model/gguf.h"
#include "hone/model/gguf_export.h"
#include "hone/model/gguf_names.h"
#include "hone/model/source.h"
#include "hone/text/gguf_vocabulary.h"

namespace hone::model {
namespace gguf_write_test {

namespace fs = std::filesystem;

// Spread over many sizes, both signs, exact zeros; the same for the same (seed, i).
float value_at(int64_t i, int seed = 0) {
  const uint64_t bits = static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(seed) * 0xbf58476d1ce4e5b9u;
  const int exponent = static_cast<int>(bits >> 60) - 12;
  return i % 37 == 0 ? 0.0f : std::ldexp(static_cast<float>(static_cast<int32_t>(bits >> 20)) * 0x1p-31f, exponent);
}

GgufTensor tensor_of(const std::string& name, std::vector<int64_t> shape, DType dtype, int seed = 0) {
  int64_t width = 1;
  for (size_t i = 1; i < shape.size(); ++i) width *= shape[i];
  return {name, std::move(shape), dtype, 1, [width, seed](int64_t begin, int64_t end, float* out) {
            for (int64_t i = begin * width; i < end * width; ++i) *out++ = value_at(i, seed);
          }};
}

size_t entries(const fs::path& folder) { return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator())); }

// What the type keeps of the value, by its definition; q8_0 is checked by its bound instead.
void expect_kept(DType dtype, float wanted, float found, float block_most) {
  if (dtype == DType::f32) {
    EXPECT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(wanted));
  } else if (dtype == DType::f16) {
    EXPECT_EQ(found, f16_to_float(float_to_f16(wanted)));
  } else if (dtype == DType::bf16) {
    EXPECT_EQ(found, bf16_to_float(float_to_bf16(wanted)));
  } else {
    // Half a step of max / 127, and codes up to 127 times the scale's rounding to float16 (2^-11 of it, or half of its least subnormal).
    const float scale = block_most / 127;
    EXPECT_LE(std::abs(found - wanted), 0.5001f * scale + 127 * std::max(scale * 0x1p-11f, 0x1p-25f));
  }
}

TEST(GgufWrite, EveryTypeReadsBack) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path / "x.gguf";
  const std::vector<int32_t> numbers{-1, 7};
  const std::vector<std::string> words{"", "a b", "\xc4\xa0"};
  const std::vector<GgufEntry> metadata{{"a", uint32_t{4000000000u}}, {"b", 1e-5f}, {"c", true},
                                        {"d", std::string("\0x", 2)}, {"e", words}, {"f", numbers}};
  // Sizes that need padding between tensors, more rows than one slice (2^20 elements), a vector, three dimensions.
  std::vector<GgufTensor> tensors{tensor_of("vector", {5}, DType::f32, 1), tensor_of("wide", {3, 7}, DType::f16, 2),
                                  tensor_of("half", {9, 32}, DType::bf16, 3), tensor_of("blocks", {700, 1600}, DType::q8_0, 4),
                                  tensor_of("cube", {2, 3, 4}, DType::f32, 5)};
  write_gguf(path, metadata, tensors);
  EXPECT_EQ(entries(scratch.path), 1u) << "a temporary file was left";
  const GgufFile file(path);
  EXPECT_EQ(file.integer("a"), 4000000000);
  EXPECT_EQ(file.number("b"), 1e-5);
  EXPECT_EQ(file.boolean("c"), true);
  EXPECT_EQ(file.string("d"), std::string("\0x", 2));
  EXPECT_EQ(file.strings("e"), words);
  EXPECT_EQ(file.integers("f"), numbers);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  EXPECT_EQ(fs::file_size(path) % 32, 0u);
  for (const GgufTensor& tensor : tensors) {
    const TensorView& view = file.tensors().at(tensor.name);
    EXPECT_EQ(view.shape, tensor.shape);
    EXPECT_EQ(view.dtype, tensor.dtype);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.bytes.data()) % 32, 0u);
    std::vector<float> wanted(static_cast<size_t>(view.elements())), found(wanted.size());
    tensor.produce(0, tensor.shape[0], wanted.data());
    to_float32(view, found.data());
    for (size_t i = 0; i < wanted.size() && !testing::Test::HasFailure(); ++i) {
      float most = 0;
      for (size_t j = i / 32 * 32; j < std::min(i / 32 * 32 + 32, wanted.size()); ++j) most = std::max(most, std::abs(wanted[j]));
      SCOPED_TRACE(tensor.name + " " + std::to_string(i));
      expect_kept(tensor.dtype, wanted[i], found[i], most);
    }
  }
}

TEST(GgufWrite, Q8BlocksByHand) {
  std::vector<float> in(32, 0.0f);
  std::vector<std::byte> out(34);
  // The greatest is 127, so that the scale is 1 and the codes are the values; halves go away from zero (to even, 2.5 would give 2).
  in[0] = 127, in[1] = 0.5f, in[2] = -0.5f, in[3] = 2.5f, in[4] = -2.5f, in[5] = 2.4999f, in[31] = -127;
  ASSERT_TRUE(to_gguf(DType::q8_0, in.data(), 32, out.data()));
  const auto code = [&](size_t i) { return static_cast<int>(static_cast<int8_t>(out[2 + i])); };
  EXPECT_EQ(std::to_integer<int>(out[0]) | std::to_integer<int>(out[1]) << 8, 0x3c00);
  EXPECT_EQ((std::vector<int>{code(0), code(1), code(2), code(3), code(4), code(5), code(6), code(31)}),
            (std::vector<int>{127, 1, -1, 3, -3, 2, 0, -127}));
  // Zeros, and values so small that no float16 scale tells them from zero.
  for (const float tiny : {0.0f, 1e-12f, 1e-41f, std::numeric_limits<float>::denorm_min()}) {
    std::fill(in.begin(), in.end(), tiny);
    ASSERT_TRUE(to_gguf(DType::q8_0, in.data(), 32, out.data())) << tiny;
    std::vector<float> back(32, 1.0f);
    to_float32(DType::q8_0, out.data(), 32, back.data());
    EXPECT_EQ(back, std::vector<float>(32, 0.0f)) << tiny;
  }
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY, 127 * 65520.0f}) {
    std::fill(in.begin(), in.end(), 1.0f);
    in[17] = bad;
    EXPECT_FALSE(to_gguf(DType::q8_0, in.data(), 32, out.data())) << bad;
  }
  in[17] = 127 * 65504.0f;
  EXPECT_TRUE(to_gguf(DType::q8_0, in.data(), 32, out.data()));
}

TEST(GgufWrite, NothingIsWrittenOverAndNothingIsLeft) {
  const ScratchFolder scratch;
  const fs::path path = scratch.path / "x.gguf";
  write_file(path, "mine");
  const std::vector<GgufTensor> fine{tensor_of("t", {4, 32}, DType::f16)};
  expect_refused([&] { write_gguf(path, {}, fine); }, {"x.gguf", "not written over"}, "an existing file");
  EXPECT_EQ(read_file(path), "mine");
  fs::remove(path);
  fs::create_symlink("nowhere", path);
  expect_refused([&] { write_gguf(path, {}, fine); }, {"not written over"}, "a dangling link");
  fs::remove(path);
  const auto with = [&](float value, DType dtype) {
    std::vector<GgufTensor> tensors{tensor_of("t", {4, 32}, dtype)};
    tensors[0].produce = [value](int64_t begin, int64_t end, float* out) { std::fill_n(out, (end - begin) * 32, value); };
    write_gguf(path, {}, tensors);
  };
  expect_refused([&] { with(std::nanf(""), DType::f32); }, {"t: rows 0 to 3", "not finite"}, "NaN");
  expect_refused([&] { with(INFINITY, DType::f16); }, {"not finite"}, "infinity");
  expect_refused([&] { with(70000.0f, DType::f16); }, {"too large for F16", "BF16"}, "float16 overflow");
  expect_refused([&] { with(1e7f, DType::q8_0); }, {"too large for Q8_0"}, "overflow of a scale");
  EXPECT_EQ(entries(scratch.path), 0u);
  expect_refused([&] { write_gguf(scratch.path / "no" / "x.gguf", {}, fine); }, {"no/x.gguf"}, "a folder that is not there");
}

TEST(GgufWrite, AFullDiskIsAResource) {
  const ScratchFolder scratch;
  struct rlimit saved {};
  getrlimit(RLIMIT_FSIZE, &saved);
  struct rlimit limited = saved;
  limited.rlim_cur = 1 << 20;
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &limited);
  Exit code = Exit::ok;
  try {
    write_gguf(scratch.path / "x.gguf", {}, std::vector<GgufTensor>{tensor_of("t", {1024, 1024}, DType::f16)});
  } catch (const UserError& error) {
    code = error.code();
  }
  setrlimit(RLIMIT_FSIZE, &saved);
  std::signal(SIGXFSZ, before);
  EXPECT_EQ(code, Exit::resource);
  EXPECT_EQ(entries(scratch.path), 0u);
}

struct Exported {
  std::unique_ptr<ModelSource> source;
  SavedGguf model;
  explicit Exported(const char* name) : source(open_model(fixture(name).string())) {
    model.config = source->config();
    model.name = name;
    model.produce = [this](const std::string& tensor, int64_t begin, int64_t end, float* out) { source->load_rows(tensor, begin, end, out); };
  }
};

std::vector<float> load(const ModelSource& source, const TensorSpec& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()), std::nanf(""));
  source.load(tensor.name, values.data());
  return values;
}

TEST(GgufExport, AModelReadsBack) {
  const ScratchFolder scratch;
  for (const char* name : {"llama", "llama_q8"}) {  // biases, untied, head_dim of its own; and the plain one
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
      Exported exported(name);
      exported.model.dtype = dtype;
      const fs::path path = scratch.path / (name + std::string(dtype_name(dtype)) + ".gguf");
      save_gguf(path, exported.model);
      const auto again = open_model(path.string());
      const ModelConfig &a = exported.source->config(), &b = again->config();
      EXPECT_EQ(again->tokenizer(), nullptr);
      EXPECT_EQ(a.head_dim, b.head_dim);
      EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
      EXPECT_EQ(a.rope_theta, b.rope_theta);
      EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
      EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
      EXPECT_EQ(a.attention_bias, b.attention_bias);
      EXPECT_EQ(a.eos_token_ids, b.eos_token_ids);
      EXPECT_EQ(a.bos_token_id, b.bos_token_id);
      EXPECT_EQ(a.pad_token_id, b.pad_token_id);
      ASSERT_EQ(exported.source->tensors().size(), again->tensors().size());
      int64_t bytes = 0;
      const GgufFile file(path);
      for (const TensorSpec& tensor : again->tensors()) {
        const DType stored = file.tensors().at(gguf_name(tensor.name)).dtype;
        EXPECT_EQ(stored, tensor.shape.size() == 1 ? DType::f32 : dtype) << tensor.name;
        bytes += static_cast<int64_t>(file.tensors().at(gguf_name(tensor.name)).bytes.size());
        const std::vector<float> wanted = load(*exported.source, tensor), found = load(*again, tensor);
        for (size_t i = 0; i < wanted.size() && !testing::Test::HasFailure(); ++i) {
          float most = 0;
          for (size_t j = i / 32 * 32; j < std::min(i / 32 * 32 + 32, wanted.size()); ++j) most = std::max(most, std::abs(wanted[j]));
          SCOPED_TRACE(tensor.name + " " + std::to_string(i));
          expect_kept(stored, wanted[i], found[i], most);
        }
      }
      EXPECT_EQ(bytes, gguf_bytes(a, dtype));
    }
  }
}

// Not through the reader, which undoes what the writer does: row 1 of a head in the file is the first row of its second half.
TEST(GgufExport, QueryAndKeyRowsAreInterleavedInTheFile) {
  const ScratchFolder scratch;
  Exported exported("llama");
  exported.model.dtype = DType::f32;
  save_gguf(scratch.path / "x.gguf", exported.model);
  const GgufFile file(scratch.path / "x.gguf");
  const int64_t head = exported.model.config.head_dim, width = exported.model.config.hidden_size;
  const std::string layer = "model.layers.1.self_attn.";
  for (const std::string part : {"q_proj.weight", "k_proj.weight", "q_proj.bias"}) {
    const TensorView& stored = file.tensors().at(gguf_name(layer + part));
    const int64_t row_elements = part == "q_proj.bias" ? 1 : width;
    std::vector<float> found(static_cast<size_t>(row_elements)), wanted(found.size());
    const int64_t second_head = stored.rows() > head ? head : 0;
    rows_to_float32(stored, second_head + 1, second_head + 2, found.data());
    exported.source->load_rows(layer + part, second_head + head / 2, second_head + head / 2 + 1, wanted.data());
    EXPECT_EQ(found, wanted) << part;
  }
  const TensorView& value = file.tensors().at("blk.1.attn_v.weight");
  std::vector<float> found(static_cast<size_t>(width)), wanted(found.size());
  rows_to_float32(value, 1, 2, found.data());
  exported.source->load_rows(layer + "v_proj.weight", 1, 2, wanted.data());
  EXPECT_EQ(found, wanted);
}

// A matrix of several slices (of 2^20 elements) whose borders would cut a head of 48 rows in two.
TEST(GgufExport, SlicesKeepHeadsWhole) {
  const ScratchFolder scratch;
  Exported exported("llama_q8");
  ModelConfig& config = exported.model.config;
  config.hidden_size = 1024, config.num_hidden_layers = 1, config.num_attention_heads = 32, config.num_key_value_heads = 1, config.head_dim = 48;
  const auto rows_of = [](const std::string& name, int64_t begin, int64_t end, float* out) {
    const int64_t width = name.ends_with("norm.weight") || name.ends_with(".bias") ? 1 : name.find("o_proj") != std::string::npos ? 1536 : 1024;
    for (int64_t row = begin; row < end; ++row) out = std::fill_n(out, width, static_cast<float>(row));
  };
  config.intermediate_size = 1024;  // so that every other matrix is 1024 wide
  exported.model.produce = rows_of;
  exported.model.dtype = DType::f16;
  save_gguf(scratch.path / "x.gguf", exported.model);
  const auto again = open_model((scratch.path / "x.gguf").string());
  std::vector<float> row(1024);
  for (int64_t i = 0; i < 1536; ++i) {
    again->load_rows("model.layers.0.self_attn.q_proj.weight", i, i + 1, row.data());
    ASSERT_EQ(row, std::vector<float>(1024, static_cast<float>(i))) << i;
  }
}

TEST(GgufExport, TheTokenizerStandsInTheMetadata) {
  const ScratchFolder scratch;
  Exported exported("llama");
  text::GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "smollm";
  for (int64_t id = 0; id < exported.model.config.vocab_size; ++id) vocabulary.tokens.push_back("t" + std::to_string(id));
  vocabulary.token_types.assign(vocabulary.tokens.size(), 1);
  vocabulary.token_types[4] = 3;
  vocabulary.merges = {"t 1", "t 2"};
  vocabulary.eos = 4, vocabulary.unk = 5;
  vocabulary.chat_template = "{{ messages }}";
  exported.model.vocabulary = &vocabulary;
  save_gguf(scratch.path / "x.gguf", exported.model);
  const auto again = open_model((scratch.path / "x.gguf").string());
  ASSERT_NE(again->tokenizer(), nullptr);
  const text::GgufVocabulary& found = *again->tokenizer()->gguf;
  EXPECT_EQ(found.model, "gpt2");
  EXPECT_EQ(found.pre, "smollm");
  EXPECT_EQ(found.tokens, vocabulary.tokens);
  EXPECT_EQ(found.token_types, vocabulary.token_types);
  EXPECT_EQ(found.merges, vocabulary.merges);
  EXPECT_EQ(found.chat_template, vocabulary.chat_template);
  EXPECT_FALSE(found.add_bos);
  // Roles that the tokenizer does not have come from the configuration; its end token stands first, the configuration's first beside it.
  EXPECT_EQ((std::vector<int64_t>{found.bos, found.eos, found.unk, found.pad}), (std::vector<int64_t>{1, 4, 5, 0}));
  EXPECT_EQ(again->config().eos_token_ids, (std::vector<int64_t>{4, 2}));
}

TEST(GgufExport, RowsThatAreNotWholeBlocksStayFloat16) {
  EXPECT_EQ(gguf_dtype({"w", {4, 48}}, DType::q8_0), DType::f16);
  EXPECT_EQ(gguf_dtype({"w", {4, 64}}, DType::q8_0), DType::q8_0);
  EXPECT_EQ(gguf_dtype({"w", {4, 48}}, DType::bf16), DType::bf16);
  EXPECT_EQ(gguf_dtype({"norm", {64}}, DType::q8_0), DType::f32);
}

}  // namespace gguf_write_test
}  // namespace hone::model
