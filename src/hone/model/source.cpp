// The two kinds of source behind one interface, and the check that a file holds exactly the tensors of its configuration.
#include "hone/model/source.h"

#include <cstring>
#include <map>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/threads.h"
#include "hone/model/dequantize.h"
#include "hone/model/gguf.h"
#include "hone/model/gguf_names.h"
#include "hone/model/safetensors.h"
#include "hone/text/gguf_vocabulary.h"

namespace hone::model {

std::unique_ptr<TokenizerSource> tokenizer_of_folder(const std::filesystem::path& folder);
std::unique_ptr<TokenizerSource> tokenizer_of_gguf(const GgufFile& file);

namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxConfigBytes = size_t{1} << 24;

// "3 missing: a, b, c" with the first few names only.
std::string listing(const std::vector<std::string>& items, const char* what) {
  if (items.empty()) return "";
  std::string text = fmt::format("\n  {} {}: ", items.size(), what);
  for (size_t i = 0; i < items.size() && i < 3; ++i) text += (i == 0 ? "" : ", ") + items[i];
  return items.size() > 3 ? text + ", ..." : text;
}

/// Compares what is there (by the file's own names) with what the configuration calls for.
void check_tensors(const std::vector<TensorSpec>& expected, const std::function<std::string(const std::string&)>& stored_name,
                   const std::map<std::string, const TensorView*>& found, const std::string& where) {
  std::vector<std::string> missing, unexpected, wrong;
  std::map<std::string, int> wanted;
  for (const TensorSpec& spec : expected) {
    const std::string name = stored_name(spec.name);
    wanted[name] = 1;
    const auto at = found.find(name);
    if (at == found.end()) {
      missing.push_back(name);
    } else if (at->second->dtype == DType::u8) {
      wrong.push_back(fmt::format("{} holds bytes (U8) without a quantisation state", name));
    } else if (at->second->shape != spec.shape) {
      wrong.push_back(fmt::format("{} is {}, wanted {}", name, shape_text(at->second->shape), shape_text(spec.shape)));
    }
  }
  for (const auto& [name, view] : found)
    if (!wanted.count(name)) unexpected.push_back(name);
  if (missing.empty() && unexpected.empty() && wrong.empty()) return;
  fail("{}: the weights are not those of the configuration{}{}{}", where, listing(missing, "missing"), listing(unexpected, "unexpected"),
       listing(wrong, "of another shape or type"));
}

bool same_values(const TensorView& a, const TensorView& b) {
  if (a.shape != b.shape) return false;
  if (a.dtype == b.dtype) return std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
  std::vector<float> left(static_cast<size_t>(a.row_elements())), right(left.size());
  for (int64_t row = 0; row < a.rows(); ++row) {
    rows_to_float32(a, row, row + 1, left.data());
    rows_to_float32(b, row, row + 1, right.data());
    if (std::memcmp(left.data(), right.data(), left.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

class FolderSource : public ModelSource {
 public:
  explicit FolderSource(const fs::path& folder) {
    path_ = folder;
    const fs::path config_file = folder / "config.json";
    config_ = parse_config_json(read_text(config_file, kMaxConfigBytes), config_file.string());
    const ShardList shards = find_shards(folder);
    for (const fs::path& file : shards.files) files_.push_back(std::make_unique<SafetensorsFile>(file));
    for (const auto& file : files_)
      for (const auto& [name, view] : file->tensors())
        if (!views_.emplace(name, &view).second)
          fail("{}: tensor {} stands in two files, {} is the second", folder.string(), name, file->file().path().filename().string());
    check_index(shards);
    // Buffers that older versions of transformers saved; they follow from the configuration.
    std::erase_if(views_, [](const auto& entry) { return entry.first.ends_with(".rotary_emb.inv_freq"); });
    quantized_.take(views_, folder.string());
    if (config_.reward_model)
      views_.erase("lm_head.weight");  // some checkpoints carry it on; transformers does not read it either
    else
      drop_tied_head();
    tensors_ = expected_tensors(config_);
    std::map<std::string, const TensorView*> found = views_;
    for (const auto& [name, shape] : quantized_.shapes()) found[name] = &shape;
    check_tensors(
        tensors_, [](const std::string& name) { return name; }, found, folder.string());
    tokenizer_ = tokenizer_of_folder(folder);
    if (fs::exists(folder / "generation_config.json")) generation_config_json_ = read_text(folder / "generation_config.json", kMaxConfigBytes);
  }

  void load_rows(const std::string& name, int64_t begin, int64_t end, float* out) const override {
    spec(name);
    if (quantized_.contains(name)) return quantized_.load_rows(name, begin, end, out);
    rows_to_float32(*views_.at(name), begin, end, out);
  }

  std::optional<QuantizedTensor> quantized(const std::string& name) const override {
    spec(name);
    if (!quantized_.contains(name)) return std::nullopt;
    return quantized_.get(name);
  }

  std::string content_hash() const override {
    Hasher hasher;
    hasher.add(std::string_view(config_.original_json));
    for (const auto& file : files_) {
      hasher.add(file->file().text());
      file->file().release();
    }
    return hasher.hex();
  }
  void release() const override {
    for (const auto& file : files_) file->file().release();
  }

 private:
  void check_index(const ShardList& shards) const {
    std::map<std::string, const SafetensorsFile*> by_name;
    for (const auto& file : files_) by_name[file->file().path().filename().string()] = file.get();
    for (const auto& [tensor, file] : shards.weight_map)
      if (!by_name.at(file)->tensors().count(tensor))
        fail("{}: the index places tensor {} in {}, which does not hold it", path_.string(), tensor, file);
  }

  // A tied model may carry its head a second time. Equal: not read. Different: two models are meant, and which one is not for hone to guess
  // (transformers 4 ties, transformers 5 does not).
  void drop_tied_head() {
    const auto head = views_.find("lm_head.weight"), embedding = views_.find("model.embed_tokens.weight");
    if (!config_.tie_word_embeddings || head == views_.end() || embedding == views_.end()) return;
    if (!same_values(*head->second, *embedding->second))
      fail(
          "{}: config.json ties the head to the embedding (tie_word_embeddings), but lm_head.weight differs from model.embed_tokens.weight; set it "
          "to "
          "false to use both, or remove lm_head.weight",
          path_.string());
    views_.erase(head);
  }

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const TensorView*> views_;
  QuantizedTensors quantized_;
};

class GgufSource : public ModelSource {
 public:
  explicit GgufSource(const fs::path& path) : file_(path) {
    path_ = path;
    config_ = config_from_gguf(file_);
    tensors_ = expected_tensors(config_);
    std::map<std::string, const TensorView*> found;
    for (const auto& [name, view] : file_.tensors()) found[name] = &view;
    check_tensors(tensors_, gguf_name, found, path.string());
    tokenizer_ = tokenizer_of_gguf(file_);
  }

  void load_rows(const std::string& name, int64_t begin, int64_t end, float* out) const override {
    spec(name);
    const TensorView& view = file_.tensors().at(gguf_name(name));
    if (!is_interleaved(name)) return rows_to_float32(view, begin, end, out);
    const int64_t width = view.row_elements();
    check(0 <= begin && begin <= end && end <= view.rows(), "rows [{}, {}) of {}, shape {}", begin, end, name, shape_text(view.shape));
    const int64_t row_bytes = static_cast<int64_t>(view.bytes.size()) / view.rows();
    parallel_for(end - begin, std::max<int64_t>(1, 65536 / width), [&](int64_t first, int64_t last) {
      for (int64_t row = begin + first; row < begin + last; ++row) {
        const std::byte* stored = view.bytes.data() + interleaved_row(row, config_.head_dim) * row_bytes;
        to_float32(view.dtype, stored, width, out + (row - begin) * width);
      }
    });
  }

  std::optional<QuantizedTensor> gguf_blocks(const std::string& name) const override {
    const TensorSpec& wanted = spec(name);
    const TensorView& view = file_.tensors().at(gguf_name(name));
    if (view.dtype != DType::q4_0 && view.dtype != DType::q4_1) return std::nullopt;
    const int64_t rows = wanted.shape[0], row_blocks = view.row_elements() / block_elements(view.dtype), row_codes = view.row_elements() / 2;
    QuantizedTensor out;
    out.type = view.dtype == DType::q4_0 ? kernels::QuantType::q4_0 : kernels::QuantType::q4_1;
    out.absmax.resize(rows * row_blocks);
    if (kernels::has_minimums(out.type)) out.minimums.resize(rows * row_blocks);
    out.own_codes.resize(rows * row_codes);
    parallel_for(rows, std::max<int64_t>(1, 65536 / view.row_elements()), [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t stored = is_interleaved(name) ? interleaved_row(row, config_.head_dim) : row;
        take_apart(view.dtype, view.bytes.data() + stored * row_blocks * block_bytes(view.dtype), row_blocks,
                   reinterpret_cast<uint8_t*>(out.own_codes.data()) + row * row_codes, out.absmax.data() + row * row_blocks,
                   out.minimums.empty() ? nullptr : out.minimums.data() + row * row_blocks);
      }
    });
    out.codes = out.own_codes;
    return out;
  }

  std::string content_hash() const override {
    const auto bytes = file_.file().bytes();
    std::string hash = hash_hex(bytes.data(), bytes.size());
    release();
    return hash;
  }
  void release() const override { file_.file().release(); }

 private:
  GgufFile file_;
};

// What is wrong with a folder that has no config.json, and what to do.
std::string folder_hint(const fs::path& folder) {
  if (fs::exists(folder / "adapter_config.json")) return " This is an adapter: name its base with --model and this folder with --adapter.";
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".gguf") return fmt::format(" Name the file itself: {}.", entry.path().string());
  return "";
}

std::unique_ptr<ModelSource> open_resolved(const fs::path& path) {
  if (!fs::is_directory(path)) {
    if (path.extension() == ".safetensors") fail("{}: name the folder that holds the weights and config.json, not one file", path.string());
    return std::make_unique<GgufSource>(path);
  }
  if (!fs::exists(path / "config.json")) fail("{}: no config.json, so this is no model folder.{}", path.string(), folder_hint(path));
  return std::make_unique<FolderSource>(path);
}

}  // namespace

const TensorSpec& ModelSource::spec(const std::string& name) const {
  for (const TensorSpec& tensor : tensors_)
    if (tensor.name == name) return tensor;
  check(false, "the model has no tensor {}", name);
  return tensors_.front();
}

void ModelSource::load(const std::string& name, float* out) const { load_rows(name, 0, spec(name).shape[0], out); }

std::unique_ptr<ModelSource> open_model(const std::string& path_or_id, Head head) {
  try {
    std::unique_ptr<ModelSource> source = open_resolved(resolve_model_path(path_or_id));
    const std::string path = source->path().string();
    if (head == Head::language && source->config().reward_model)
      fail(
          "{}: a reward model (LlamaForSequenceClassification) has no language-model head; name a language model here, and this folder with "
          "--reward model:{} (hone eval, hone grade) or as --model of hone reward",
          path, path);
    if (head == Head::reward && !source->config().reward_model)
      fail("{}: a language model, no reward model: it has no score head; train one on pairs with hone reward --model {} --data PAIRS", path, path);
    return source;
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot be read: {}", path_or_id, error.code().message());
  }
}

}  // namespace hone::model
