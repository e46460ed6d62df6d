#include "hone/adapters/peft_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "hone/base/error.h"
#include "hone/model/json.h"

namespace hone::adapters {
namespace {

using model::JsonFields;
using nlohmann::json;

constexpr int64_t kMaxRank = int64_t{1} << 20;  // as wide as the widest matrix that a model may have
constexpr size_t kMaxPatterns = 1 << 16;

// Null, false, 0, "", [] and {} switch an option off.
bool is_off(const json& value) {
  return value.is_null() || value == false || value == 0 || (value.is_string() && value.get_ref<const std::string&>().empty()) ||
         (value.is_structured() && value.empty());
}

std::string shortened(const json& value) {
  const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > 120 ? text.substr(0, 117) + "..." : text;
}

// Options that change nothing of what an adapter computes: bookkeeping, and parameters of initialisations that are over.
const std::set<std::string>& harmless() {
  static const std::set<std::string> keys{
      "auto_mapping", "revision",     "inference_mode", "peft_version",   "megatron_core",  "qalora_group_size",      "loftq_config",
      "eva_config",   "corda_config", "lora_ga_config", "fan_in_fan_out", "runtime_config", "base_model_name_or_path"};
  return keys;  // fan_in_fan_out: PEFT itself sets it to false for nn.Linear, the only kind of layer here
}

const std::set<std::string>& understood() {
  static const std::set<std::string> keys{
      "peft_type",          "task_type", "r",    "lora_alpha",        "lora_dropout", "target_modules", "exclude_modules",     "modules_to_save",
      "use_rslora",         "use_dora",  "bias", "init_lora_weights", "rank_pattern", "alpha_pattern",  "layers_to_transform", "layers_pattern",
      "ensure_weight_tying"};
  return keys;
}

void refuse_unsupported(const JsonFields& fields) {
  const std::string& where = fields.where;
  if (const std::string type = fields.string("peft_type", ""); type != "LORA")
    fail("{}: peft_type {} is not supported; supported is LORA", where, type.empty() ? "(none)" : type);
  if (const std::string task = fields.string("task_type", "CAUSAL_LM"); task != "CAUSAL_LM" && task != "SEQ_CLS")
    fail("{}: task_type {} is not supported; supported are CAUSAL_LM and, for reward models, SEQ_CLS", where, task);
  if (const std::string bias = fields.string("bias", "none"); bias != "none")
    fail("{}: bias \"{}\" (trained biases) is not supported; supported is \"none\"", where, bias);
  if (fields.boolean("ensure_weight_tying", false) && fields.find("modules_to_save") != nullptr && !is_off(*fields.find("modules_to_save")))
    fail("{}: ensure_weight_tying with modules_to_save is not supported; supported is false", where);
  // alora_invocation_tokens, arrow_config, kasa_config, layer_replication, lora_bias, megatron_config, monteclora_config, target_parameters,
  // trainable_token_indices, use_bdlora, use_qalora, velora_config, and whatever later versions bring: on, they may change the result.
  for (const auto& [key, value] : fields.object.items())
    if (!understood().count(key) && !harmless().count(key) && !is_off(value))
      fail("{}: {} {} is not supported; supported is an adapter made without it", where, key, shortened(value));
}

// Initialisations that subtract the adapter's first product from the base's weights: such an adapter does not belong to the base as published.
// PEFT runs the initialisation again when it loads one (or, for lora_ga, silently does not); vLLM does not.
bool changes_base(const std::string& name) {
  return name.starts_with("pissa") || name.starts_with("corda") || name == "olora" || name == "loftq" || name == "lora_ga";
}

InitLora read_init(const JsonFields& fields) {
  const json* value = fields.find("init_lora_weights");
  if (value == nullptr || value->is_boolean()) return InitLora::standard;
  std::string name = fields.string("init_lora_weights", "");
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
  if (changes_base(name))
    fail(
        "{}: init_lora_weights \"{}\": this adapter belongs to a base whose weights that initialisation changed, not to the base itself. Save it "
        "again with PEFT: model.save_pretrained(DIR, path_initial_model_for_weight_conversion=INITIAL_ADAPTER) makes it a plain LoRA adapter",
        fields.where, name);
  return name == "gaussian" ? InitLora::gaussian : InitLora::standard;
}

std::vector<std::string> string_list(const JsonFields& fields, const char* key) {
  std::vector<std::string> list;
  const json* value = fields.find(key);
  if (value == nullptr) return list;
  if (!value->is_array()) fail("{}: {} is {}, a list of strings was expected", fields.where, key, shortened(*value));
  for (const json& entry : *value) {
    if (!entry.is_string()) fail("{}: {} holds {}, a string was expected", fields.where, key, shortened(entry));
    list.push_back(entry.get<std::string>());
  }
  return list;
}

bool is_all_linear(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
  return text == "all-linear";
}

void read_targets(const JsonFields& fields, PeftConfig& config) {
  const json* value = fields.find("target_modules");
  if (value == nullptr) {
    config.lora.target_modules = {"q_proj", "v_proj"};  // PEFT's choice for llama
  } else if (value->is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    config.lora.target_modules = {text};
    config.all_linear = is_all_linear(text);
    if (!config.all_linear) config.target_pattern.emplace(text, fields.where + ": target_modules");
  } else {
    config.lora.target_modules = string_list(fields, "target_modules");
  }
  const json* exclude = fields.find("exclude_modules");
  if (exclude != nullptr && exclude->is_string() && !is_off(*exclude)) {
    config.exclude_pattern.emplace(exclude->get<std::string>(), fields.where + ": exclude_modules");
  } else if (exclude != nullptr && !is_off(*exclude)) {
    config.exclude_names = string_list(fields, "exclude_modules");
  }
}

void read_layers(const JsonFields& fields, PeftConfig& config) {
  if (const json* layers = fields.find("layers_to_transform")) {
    const json list = layers->is_array() ? *layers : json::array({*layers});
    for (const json& layer : list) config.layers.push_back(fields.as_integer("layers_to_transform", layer));
  }
  const json* pattern = fields.find("layers_pattern");
  if (pattern == nullptr || is_off(*pattern)) return;
  const auto list = pattern->is_string() ? std::vector{pattern->get<std::string>()} : string_list(fields, "layers_pattern");
  if (list.size() > 64) fail("{}: layers_pattern has {} entries; at most 64 are read", fields.where, list.size());
  for (const std::string& entry : list) config.layer_prefixes.emplace_back("(?:.*\\.)?" + entry, fields.where + ": layers_pattern");
  if (config.layers.empty()) fail("{}: layers_pattern without layers_to_transform has no meaning", fields.where);
}

// {pattern: number}; `object` keeps the order of the file, which decides between patterns that both match.
template <class Number>
std::vector<std::pair<NamePattern, Number>> read_patterns(const nlohmann::ordered_json& object, const char* key, const std::string& where) {
  std::vector<std::pair<NamePattern, Number>> patterns;
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return patterns;
  if (!found->is_object()) fail("{}: {} is no object of patterns and numbers", where, key);
  if (found->size() > kMaxPatterns) fail("{}: {} has {} patterns; at most {} are read", where, key, found->size(), kMaxPatterns);
  for (const auto& [name, value] : found->items()) {
    if (!value.is_number() || (std::is_integral_v<Number> && !value.is_number_integer()))
      fail("{}: {}: the value of \"{}\" is {}, a number was expected", where, key, name, shortened(value));
    patterns.emplace_back(NamePattern("(.*\\.)?(" + name + ")", fmt::format("{}: {}", where, key)), value.template get<Number>());
  }
  return patterns;
}

void check_rank(int64_t r, const std::string& where, const char* key) {
  if (r < 1 || r > kMaxRank) fail("{}: {} is {}; a rank must lie between 1 and {}", where, key, r, kMaxRank);
}

// The layer's index: the number between dots that ends a prefix of the name which one of the patterns matches.
std::optional<int64_t> layer_of(const PeftConfig& config, std::string_view module) {
  for (size_t dot = module.find('.'); dot != std::string_view::npos; dot = module.find('.', dot + 1)) {
    size_t end = dot + 1;
    while (end < module.size() && module[end] >= '0' && module[end] <= '9' && end - dot <= 9) ++end;
    if (end == dot + 1 || end >= module.size() || module[end] != '.') continue;
    const std::string_view prefix = module.substr(0, dot);
    // Without a pattern PEFT wants any two components before the number.
    const bool fits = config.layer_prefixes.empty()
                          ? prefix.find('.') != std::string_view::npos
                          : std::any_of(config.layer_prefixes.begin(), config.layer_prefixes.end(), [&](const auto& p) { return p.matches(prefix); });
    if (fits) return std::stoll(std::string(module.substr(dot + 1, end - dot - 1)));
  }
  return std::nullopt;
}

template <class Number>
Number by_pattern(const std::vector<std::pair<NamePattern, Number>>& patterns, std::string_view module, Number otherwise) {
  for (const auto& [pattern, value] : patterns)
    if (pattern.matches(module)) return value;
  return otherwise;
}

std::string last_component(const std::string& module) { return module.substr(module.rfind('.') + 1); }

// Names as they were given where PEFT reads them as hone does; else every module by its whole name.
std::vector<std::string> written_targets(const LoraConfig& config, const std::map<std::string, ModuleRank>& modules) {
  std::set<std::string> names;
  const bool all = config.target_modules.size() == 1 && is_all_linear(config.target_modules[0]);
  const auto named = [&](const std::string& module) {
    return std::any_of(config.target_modules.begin(), config.target_modules.end(),
                       [&](const std::string& target) { return is_plain_name(target) && names_module(target, module); });
  };
  const bool plain = std::all_of(config.target_modules.begin(), config.target_modules.end(), is_plain_name) &&
                     std::all_of(modules.begin(), modules.end(), [&](const auto& entry) { return named(entry.first); });
  for (const auto& [module, rank] : modules)
    if (!plain) names.insert(all ? last_component(module) : module);
  if (plain) names.insert(config.target_modules.begin(), config.target_modules.end());
  return {names.begin(), names.end()};
}

nlohmann::ordered_json number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

}  // namespace

PeftConfig parse_peft_config(std::string_view text, const std::string& where) {
  const json object = model::parse_json_object(text, where, 16);
  const JsonFields fields{object, where};
  refuse_unsupported(fields);
  PeftConfig config;
  if (fields.string("task_type", "CAUSAL_LM") == "SEQ_CLS") config.lora.task = Task::seq_cls;
  config.lora.r = fields.integer("r", 8);  // PEFT's defaults, for what an older version did not write
  config.lora.lora_alpha = fields.number("lora_alpha", 8);
  config.lora.lora_dropout = fields.number("lora_dropout", 0);
  config.lora.use_rslora = fields.boolean("use_rslora", false);
  config.lora.use_dora = fields.boolean("use_dora", false);
  config.lora.init_lora_weights = read_init(fields);
  config.lora.modules_to_save = string_list(fields, "modules_to_save");
  config.lora.base_model_name_or_path = fields.string("base_model_name_or_path", "");
  check_rank(config.lora.r, where, "r");
  if (!std::isfinite(config.lora.lora_alpha)) fail("{}: lora_alpha is {}; a finite number was expected", where, config.lora.lora_alpha);
  if (!(config.lora.lora_dropout >= 0 && config.lora.lora_dropout < 1))
    fail("{}: lora_dropout is {}; it must be at least 0 and below 1", where, config.lora.lora_dropout);
  read_targets(fields, config);
  read_layers(fields, config);
  const auto ordered = nlohmann::ordered_json::parse(text);
  config.rank_pattern = read_patterns<int64_t>(ordered, "rank_pattern", where);
  config.alpha_pattern = read_patterns<double>(ordered, "alpha_pattern", where);
  for (const auto& [pattern, r] : config.rank_pattern) check_rank(r, where, "rank_pattern");
  for (const auto& [pattern, alpha] : config.alpha_pattern)
    if (!std::isfinite(alpha)) fail("{}: alpha_pattern holds {}; a finite number was expected", where, alpha);
  return config;
}

bool is_target(const PeftConfig& config, std::string_view module) {
  const auto any_names = [&](const std::vector<std::string>& names) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return names_module(name, module); });
  };
  if (config.exclude_pattern && config.exclude_pattern->matches(module)) return false;
  if (any_names(config.exclude_names)) return false;
  for (const std::string& saved : config.lora.modules_to_save)
    if (holds_module(saved, module)) return false;
  if (config.target_pattern) return config.target_pattern->matches(module);
  if (!config.all_linear) {
    const auto& names = config.lora.target_modules;
    if (std::find(names.begin(), names.end(), module) != names.end()) return true;  // a whole name is not asked for its layer
    if (!any_names(names)) return false;
  }
  if (config.all_linear && names_module("lm_head", module)) return false;
  if (config.layers.empty()) return true;
  const auto layer = layer_of(config, module);
  return layer && std::find(config.layers.begin(), config.layers.end(), *layer) != config.layers.end();
}

ModuleRank module_rank(const PeftConfig& config, std::string_view module) {
  return {by_pattern(config.rank_pattern, module, config.lora.r), by_pattern(config.alpha_pattern, module, config.lora.lora_alpha)};
}

std::string peft_config_text(const LoraConfig& config, const std::map<std::string, ModuleRank>& modules) {
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object(), alphas = ranks;
  for (const auto& [module, rank] : modules) {
    // Without "model.", because older versions of PEFT want something before the pattern.
    const std::string key = module.starts_with("model.") ? module.substr(6) : module;
    if (rank.r != config.r) ranks[key] = rank.r;
    if (rank.lora_alpha != config.lora_alpha) alphas[key] = number(rank.lora_alpha);
  }
  nlohmann::ordered_json json;
  json["alpha_pattern"] = alphas;
  json["auto_mapping"] = nullptr;
  json["base_model_name_or_path"] = config.base_model_name_or_path;
  if (config.base_model_name_or_path.empty()) json["base_model_name_or_path"] = nullptr;
  json["bias"] = "none";
  json["fan_in_fan_out"] = false;
  json["inference_mode"] = true;
  // Never "pissa": PEFT would run it again and change the base under an adapter that is the difference to the unchanged base.
  json["init_lora_weights"] = config.init_lora_weights == InitLora::gaussian ? nlohmann::ordered_json("gaussian") : nlohmann::ordered_json(true);
  json["layers_pattern"] = nullptr;
  json["layers_to_transform"] = nullptr;
  json["lora_alpha"] = number(config.lora_alpha);
  json["lora_dropout"] = config.lora_dropout;
  json["modules_to_save"] = config.modules_to_save.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(config.modules_to_save);
  json["peft_type"] = "LORA";
  json["r"] = config.r;
  json["rank_pattern"] = ranks;
  json["revision"] = nullptr;
  json["target_modules"] = written_targets(config, modules);
  json["task_type"] = config.task == Task::seq_cls ? "SEQ_CLS" : "CAUSAL_LM";
  json["use_dora"] = config.use_dora;
  json["use_rslora"] = config.use_rslora;
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace hone::adapters
