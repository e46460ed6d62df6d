#include "reward_models.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <set>

#include "hone/base/error.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

// The ids of a conversation with every role, by the template: what may stand in a sequence besides what people wrote.
std::set<int32_t> template_ids(const TextModel& text) {
  std::set<int32_t> ids;
  if (!text.chat.exists() || !text.chat.fault().empty()) return ids;
  const std::vector<data::Message> turns{{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}};
  std::vector<data::Message> with_system = turns;
  with_system.insert(with_system.begin(), {"system", "s"});
  for (const auto& messages : {turns, with_system}) {
    try {
      for (const bool prompt : {false, true})
        for (const int32_t id : text.tokenizer.encode(text.chat.render(messages, prompt).text)) ids.insert(id);
    } catch (const UserError&) {  // a template without this role
    }
  }
  return ids;
}

bool is_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

}  // namespace

rewards::RewardSettings reward_settings(const config::RunConfig& config) {
  rewards::RewardSettings settings;
  settings.allow_unsandboxed = config.allow_unsandboxed;
  settings.code_command = config.code_command;
  settings.code_timeout = config.code_timeout;
  settings.code_memory_mib = config.code_memory_mib;
  settings.program_timeout = config.reward_timeout;
  settings.seed = static_cast<uint64_t>(config.seed);
  return settings;
}

std::string reward_folder(const std::vector<std::string>& specs) {
  if (specs.empty()) fail("a reward is missing: add --reward model:DIR");
  if (specs.size() > 1) fail("--reward is given {} times; one is used here", specs.size());
  std::string spec = specs.front();
  if (const size_t equals = spec.find('='); equals != std::string::npos && is_word(spec.substr(0, equals))) spec = spec.substr(equals + 1);
  const std::string kind = spec.substr(0, spec.find(':'));
  if (kind == "model" && spec.size() > 6) return spec.substr(6);
  if (kind == "model") fail("--reward {}: name the reward model's folder: --reward model:DIR", spec);
  if (fs::exists(fs::path(spec) / "config.json") || fs::exists(fs::path(spec) / "adapter_config.json"))
    fail("--reward {}: a folder is named with model: in front: --reward model:{}", spec, spec);
  fail("--reward {}: found {}, wanted model:DIR here", spec, kind.empty() ? "nothing" : kind);
}

RewardModelFiles open_reward_model(const config::RunConfig& given, const std::string& folder, const std::string& named) {
  config::RunConfig config = given;
  const bool is_adapter = fs::exists(fs::path(folder) / "adapter_config.json") && !fs::exists(fs::path(folder) / "config.json");
  if (!is_adapter) {
    if (!given.model_name_or_path.empty() && given.model_name_or_path != folder)
      fail("--model {} and {}{} are two models; --model is only for an adapter's base", given.model_name_or_path, named, folder);
    config.model_name_or_path = folder;
    return {open_checked_model(config, config.adapter.empty() ? model::Head::reward : model::Head::any), config};
  }
  if (!given.adapter.empty()) fail("{}{} is an adapter already; leave --adapter {} out", named, folder, given.adapter);
  const adapters::PeftAdapter files = adapters::read_peft(folder);
  if (files.config.task != adapters::Task::seq_cls)
    fail("{}{}: an adapter of a language model (task_type CAUSAL_LM), no reward model: it has no score head", named, folder);
  config.adapter = folder;
  if (config.model_name_or_path.empty()) config.model_name_or_path = files.config.base_model_name_or_path;
  if (config.model_name_or_path.empty()) fail("{}: the adapter names no base; add --model BASE", folder);
  const std::string& trained = files.config.base_quantisation;
  if (!trained.empty() && !config.load_in_4bit) {
    config.load_in_4bit = true;
    config.bnb_4bit_quant_type = trained.starts_with("fp4") ? config::QuantType::fp4 : config::QuantType::nf4;
    config.use_bnb_nested_quant = trained.ends_with("+nested");
  }
  return {open_checked_model(config, model::Head::any), config};
}

LoadedReward load_reward_model(const RewardModelFiles& files, const train::Machine& machine, int64_t positions) {
  LoadedReward loaded;
  loaded.model = load_weights(*files.opened.source, machine, files.config, positions, /*language_head=*/false);
  loaded.adapter = load_adapter(*loaded.model, *files.opened.source, files.config, false);
  return loaded;
}

std::unique_ptr<model::Model> load_reward_weights(const OpenedModel& opened, const train::Machine& machine, const config::RunConfig& config,
                                                  int64_t positions) {
  std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, positions, /*language_head=*/false);
  if (!model->score.defined()) model::add_score_head(*model, static_cast<uint64_t>(config.seed));
  return model;
}

int32_t reward_pad_id(const TextModel& text, const model::ModelConfig& config) {
  std::set<int32_t> taken = template_ids(text);
  taken.insert(text.tokenizer.eos_id());
  for (const int64_t id : config.eos_token_ids) taken.insert(static_cast<int32_t>(id));
  std::vector<int32_t> candidates{text.tokenizer.pad_id(), text.tokenizer.special_ids().unk};
  for (const text::AddedToken& token : text.tokenizer.added_tokens())
    if (token.special) candidates.push_back(token.id);
  for (const int32_t id : candidates)
    if (id >= 0 && id < config.vocab_size && !taken.count(id)) return id;
  return -1;
}

}  // namespace hone::app
