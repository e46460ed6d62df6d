#include "hone/adapters/peft_files.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "hone/adapters/peft_config.h"
#include "hone/base/error.h"
#include "hone/model/folders.h"
#include "hone/model/json.h"

namespace hone::adapters {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxConfigBytes = size_t{1} << 24;
constexpr size_t kMaxMatches = 50'000'000;  // modules times patterns: under a second for honest patterns
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight", kMagnitude = ".lora_magnitude_vector";

std::optional<std::string> without_suffix(std::string_view name, std::string_view suffix) {
  if (name.size() <= suffix.size() || !name.ends_with(suffix)) return std::nullopt;
  return std::string(name.substr(0, name.size() - suffix.size()));
}

// Keys of a live PEFT model hold the adapter's name ("default"), those of its files do not: both are read. Empty: not understood.
std::string plain_name(const std::string& key) {
  if (!key.starts_with(kPrefix)) return "";
  const std::string name = key.substr(kPrefix.size());
  static constexpr std::pair<std::string_view, std::string_view> kForms[] = {
      {".lora_A.default.weight", kA},
      {".lora_B.default.weight", kB},
      {".lora_magnitude_vector.default.weight", kMagnitude},
      {".lora_magnitude_vector.default", kMagnitude},
      {".lora_magnitude_vector.weight", kMagnitude},
      {".modules_to_save.default.weight", ".weight"},
      {".modules_to_save.default.bias", ".bias"},
      {".modules_to_save.weight", ".weight"},
      {".modules_to_save.bias", ".bias"},
  };
  for (const auto& [written, plain] : kForms)
    if (const auto module = without_suffix(name, written)) return *module + std::string(plain);
  return name;
}

[[noreturn]] void refuse_key(const std::string& where, const std::string& key) {
  if (key.find("lora_embedding_") != std::string::npos)
    fail("{}: {}: an adapter on the embedding is not supported; train it in full with modules_to_save embed_tokens", where, key);
  if (key.find("trainable_tokens_") != std::string::npos) fail("{}: {}: trainable tokens are not supported", where, key);
  if (key.ends_with(".lora_B.bias") || key.ends_with(".lora_B.default.bias"))
    fail("{}: {}: lora_bias (a bias beside lora_B) is not supported", where, key);
  fail("{}: tensor {} is not understood; expected are {}MODULE.lora_A.weight, .lora_B.weight, .lora_magnitude_vector and modules_to_save", where, key,
       kPrefix);
}

// A module that is saved whole: named by modules_to_save as PEFT matches it (by the end of the name), or what PEFT saves when the vocabulary grew.
bool is_saved_module(const std::string& module, LoraConfig& config) {
  auto& names = config.modules_to_save;
  if (std::any_of(names.begin(), names.end(), [&](const std::string& name) { return !name.empty() && module.ends_with(name); })) return true;
  if (config.task == Task::seq_cls && module == "score") {
    names.push_back(module);
    return true;
  }
  for (const char* grown : {"model.embed_tokens", "lm_head"})
    if (module == grown) {
      names.push_back(module.substr(module.rfind('.') + 1));
      return true;
    }
  return false;
}

void check_shape(const std::string& where, const model::TensorView& view, const std::vector<int64_t>& wanted) {
  if (view.shape != wanted) fail("{}: {} has shape {}, wanted {}", where, view.name, model::shape_text(view.shape), model::shape_text(wanted));
}

// The two or three tensors of one module against each other and the configuration.
void check_module(const PeftAdapter& adapter, const std::string& module, const ModuleRank& rank, const std::string& where) {
  const auto find = [&](std::string_view suffix) -> const model::TensorView* {
    const auto found = adapter.tensors.find(module + std::string(suffix));
    return found == adapter.tensors.end() ? nullptr : &found->second;
  };
  const model::TensorView *a = find(kA), *b = find(kB), *magnitude = find(kMagnitude);
  for (const auto& [view, suffix] : {std::pair(a, kA), std::pair(b, kB)}) {
    if (view == nullptr) fail("{}: {} has no {}", where, module, suffix.substr(1));
    if (view->shape.size() != 2 || view->elements() == 0)
      fail("{}: {} has shape {}, two dimensions were expected (a sharded model that was not gathered before saving?)", where, view->name,
           model::shape_text(view->shape));
  }
  if (a->shape[0] != rank.r || b->shape[1] != rank.r)
    fail("{}: {}: lora_A is {} and lora_B {}, but adapter_config.json gives it the rank {}", where, module, model::shape_text(a->shape),
         model::shape_text(b->shape), rank.r);
  if (adapter.config.use_dora && magnitude == nullptr) fail("{}: use_dora is true, but {} has no lora_magnitude_vector", where, module);
  if (!adapter.config.use_dora && magnitude != nullptr) fail("{}: {}, but use_dora is false", where, magnitude->name);
  if (magnitude != nullptr) check_shape(where, *magnitude, {b->shape[0]});
}

void read_tensors(PeftAdapter& adapter, const PeftConfig& config, const std::string& where) {
  std::set<std::string> modules;
  for (const auto& [key, view] : adapter.file->tensors()) {
    const std::string name = plain_name(key);
    if (name.empty()) refuse_key(where, key);
    if (view.dtype == model::DType::u8) fail("{}: {} holds bytes (U8); F32, F16 or BF16 was expected", where, key);
    std::optional<std::string> module;
    for (const std::string_view suffix : {kA, kB, kMagnitude})
      if (!module) module = without_suffix(name, suffix);
    if (module) {
      modules.insert(*module);
    } else {
      auto saved = without_suffix(name, ".weight");
      if (!saved) saved = without_suffix(name, ".bias");
      if (!saved || name.find("lora_") != std::string::npos || name.find("trainable_tokens_") != std::string::npos ||
          !is_saved_module(*saved, adapter.config))
        refuse_key(where, key);
    }
    if (!adapter.tensors.emplace(name, view).second) fail("{}: {} stands there under two keys, {} is the second", where, name, key);
  }
  if (modules.size() * (config.rank_pattern.size() + config.alpha_pattern.size() + 1) > kMaxMatches)
    fail("{}: {} modules and {} patterns are too many", where, modules.size(), config.rank_pattern.size() + config.alpha_pattern.size());
  for (const std::string& module : modules) {
    if (!is_target(config, module))
      fail(
          "{}: {} has an adapter, but target_modules (with exclude_modules, modules_to_save and layers_to_transform) of adapter_config.json does not "
          "name it, so PEFT would ignore it",
          where, module);
    const ModuleRank rank = module_rank(config, module);
    check_module(adapter, module, rank, where);
    adapter.ranks[module] = rank;
  }
}

void check_saved_modules(PeftAdapter& adapter, const std::string& where) {
  // PEFT names both heads that a classifier may have, whichever the model has.
  if (adapter.config.task == Task::seq_cls && !adapter.tensors.count("classifier.weight")) std::erase(adapter.config.modules_to_save, "classifier");
  for (const std::string& name : adapter.config.modules_to_save) {
    const bool found = std::any_of(adapter.tensors.begin(), adapter.tensors.end(), [&](const auto& entry) {
      const auto module = without_suffix(entry.first, ".weight");
      return module && !adapter.ranks.count(*module) && module->ends_with(name);
    });
    if (!found) fail("{}: modules_to_save names {}, but there is no tensor of it", where, name);
  }
}

/// hone_adapter.json: the base's hashes, and how the base stood in training (merging needs exactly those values).
void read_own_file(const fs::path& file, PeftAdapter& adapter) {
  if (!fs::exists(file)) return;
  const std::string where = file.string();
  const nlohmann::json object = model::parse_json_object(read_text(file, kMaxConfigBytes), where, 16);
  const model::JsonFields fields{object, where};
  const std::string quantisation = fields.string("base_quantisation", "");
  const auto hash = [&](const char* key) {
    const std::string text = fields.string(key, "");
    const bool hex = std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
    if (!hex || text.size() > 128) fail("{}: {} is no hash of hexadecimal digits", where, key);
    return text;
  };
  const std::vector<std::string> known = {"", "nf4", "nf4+nested", "fp4", "fp4+nested"};
  if (std::find(known.begin(), known.end(), quantisation) == known.end())
    fail("{}: base_quantisation is not one of nf4, nf4+nested, fp4, fp4+nested", where);
  adapter.base_hash = hash("base_hash");
  adapter.weights_hash = hash("weights_hash");
  adapter.config.base_quantisation = quantisation;
}

[[noreturn]] void no_adapter(const fs::path& folder) {
  const std::string name = folder.string();
  if (!fs::exists(folder)) fail("{}: there is no such adapter folder", name);
  if (!fs::is_directory(folder)) fail("{}: name the adapter's folder (with adapter_config.json), not a file", name);
  if (fs::exists(folder / "config.json")) fail("{}: a model folder, no adapter: there is no adapter_config.json; name it with --model", name);
  fail("{}: no adapter_config.json, so this is no adapter folder", name);
}

void require_weights(const fs::path& folder) {
  if (fs::exists(folder / "adapter_model.safetensors")) return;
  if (fs::exists(folder / "adapter_model.bin"))
    fail(
        "{}: adapter_model.bin holds pickled Python objects, which are not read. This converts it: python -c \"import torch; from safetensors.torch "
        "import save_file; w = torch.load('adapter_model.bin', weights_only=True, map_location='cpu'); save_file({{k: v.contiguous() for k, v in "
        "w.items()}}, 'adapter_model.safetensors')\"",
        folder.string());
  fail("{}: adapter_model.safetensors is missing", folder.string());
}

}  // namespace

PeftAdapter read_peft(const fs::path& folder) {
  try {
    const fs::path config_file = folder / "adapter_config.json";
    if (!fs::is_directory(folder) || !fs::exists(config_file)) no_adapter(folder);
    const PeftConfig config = parse_peft_config(read_text(config_file, kMaxConfigBytes), config_file.string());
    require_weights(folder);
    PeftAdapter adapter;
    adapter.config = config.lora;
    adapter.folder = folder;
    read_own_file(folder / "hone_adapter.json", adapter);
    const fs::path weights = folder / "adapter_model.safetensors";
    adapter.file = std::make_shared<model::SafetensorsFile>(weights);
    read_tensors(adapter, config, weights.string());
    check_saved_modules(adapter, weights.string());
    if (adapter.tensors.empty()) fail("{}: there are no tensors in it", weights.string());
    return adapter;
  } catch (const fs::filesystem_error& error) {
    fail("{}: cannot be read: {}", folder.string(), error.code().message());
  }
}

void write_peft(const fs::path& folder, const LoraConfig& config, const BaseHashes& base, std::span<const model::TensorProducer> tensors,
                const std::map<std::string, ModuleRank>& ranks, const std::map<std::string, std::string>& texts) {
  std::map<std::string, ModuleRank> modules;
  std::vector<model::TensorProducer> named;
  for (const model::TensorProducer& tensor : tensors) {
    named.push_back(tensor);
    named.back().name = std::string(kPrefix) + tensor.name;
    const auto module = without_suffix(tensor.name, kA);
    if (!module) continue;
    const auto given = ranks.find(*module);
    modules[*module] = given == ranks.end() ? ModuleRank{tensor.shape.at(0), config.lora_alpha} : given->second;
    check(modules[*module].r == tensor.shape.at(0), "write_peft: {} has shape {}, rank {}", tensor.name, model::shape_text(tensor.shape),
          modules[*module].r);
  }
  check(!modules.empty() || !config.modules_to_save.empty(), "write_peft: nothing to write");
  nlohmann::ordered_json own;
  own["base_hash"] = base.content;
  if (!base.weights.empty()) own["weights_hash"] = base.weights;
  if (!config.base_quantisation.empty()) own["base_quantisation"] = config.base_quantisation;
  own["hone_version"] = HONE_VERSION;
  model::replace_folder(folder, "adapter_config.json", "adapter", [&](const fs::path& scratch) {
    model::write_text_file(scratch / "adapter_config.json", peft_config_text(config, modules));
    model::write_text_file(scratch / "hone_adapter.json", own.dump(2) + "\n");
    for (const auto& [name, text] : texts) model::write_text_file(scratch / name, text);
    model::write_safetensors(scratch / "adapter_model.safetensors", named, model::DType::f32);
  });
}

}  // namespace hone::adapters
