// hone sft: supervised fine-tuning, from files to a model folder.
#include <nlohmann/json.hpp>

#include <torch/csrc/api/include/torch/version.h>

#include "commands.h"
#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/signals.h"
#include "hone/methods/sft.h"
#include "hone/model/export.h"
#include "hone/train/loop.h"
#include "hone/train/sft_data.h"
#include "loaded_model.h"
#include "run_folder.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
using train::Json;

train::SftData load_data(const config::RunConfig& config, const std::vector<std::string>& files, const OpenedModel& opened, const fs::path& run) {
  train::SftDataOptions options;
  options.files = files;
  options.config = &config;
  options.tokenizer = &opened.text.tokenizer;
  options.chat = &opened.text.chat;
  options.vocab_size = opened.source->config().vocab_size;
  options.bad_rows = run / "bad_rows.jsonl";
  options.cache_folder = train::default_cache_folder();
  return train::load_sft_data(options);
}

// Of the adapter and the base's storage; null without an adapter.
Json adapter_identity(const config::RunConfig& c) {
  if (!c.use_peft) return nullptr;
  Json identity{{"lora_r", c.lora_r},
                {"lora_alpha", c.lora_alpha},
                {"lora_dropout", c.lora_dropout},
                {"lora_target_modules", c.lora_target_modules},
                {"lora_modules_to_save", c.lora_modules_to_save},
                {"use_rslora", c.use_rslora},
                {"use_dora", c.use_dora},
                {"init_lora_weights", static_cast<int>(c.init_lora_weights)},
                {"loraplus_lr_ratio", c.loraplus_lr_ratio},
                {"load_in_4bit", c.load_in_4bit},
                {"bnb_4bit_quant_type", static_cast<int>(c.bnb_4bit_quant_type)},
                {"use_bnb_nested_quant", c.use_bnb_nested_quant}};
  if (!c.adapter.empty()) {
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
      const MappedFile file(fs::path(c.adapter) / name);
      identity["started_from"].push_back(hash_hex(file.bytes().data(), file.bytes().size()));
    }
  }
  return identity;
}

// Everything that decides the bits of a run; on resume each of these must be the same.
Json identity_of(const config::RunConfig& c, const OpenedModel& opened, const train::SftData& data, const train::SftData* eval,
                 const train::Machine& machine, int64_t total_steps) {
  return {{"command", "sft"},
          {"model", opened.source->content_hash()},
          {"data", data.cache_key},
          {"eval_data", eval ? eval->cache_key : ""},
          {"rows", data.rows.size()},
          {"max_length", c.max_length},
          {"overlong", static_cast<int>(c.overlong)},
          {"seed", c.seed},
          {"shuffle_dataset", c.shuffle_dataset},
          {"batch_size", c.batch_size},
          {"max_steps", total_steps},
          {"learning_rate", c.learning_rate},
          {"lr_scheduler_type", static_cast<int>(c.lr_scheduler_type)},
          {"warmup_steps", c.warmup_steps},
          {"weight_decay", c.weight_decay},
          {"max_grad_norm", c.max_grad_norm},
          {"adam_beta1", c.adam_beta1},
          {"adam_beta2", c.adam_beta2},
          {"adam_epsilon", c.adam_epsilon},
          {"max_tree_tokens", c.max_tree_tokens},
          {"dtype", "float32"},
          {"optim", static_cast<int>(c.optim)},
          {"adapter", adapter_identity(c)},
          {"metric_for_best_model", static_cast<int>(c.metric_for_best_model)},
          {"backend", machine.backend == ops::Backend::kernels ? "kernels" : "reference"}};
}

// The checkpoint itself holds its linears in 4 bits.
bool stored_in_4bit(const OpenedModel& opened) { return opened.source->quantized("model.layers.0.self_attn.q_proj.weight").has_value(); }

// What the run holds in memory, before anything is loaded.
train::MemoryDemand demand_of(const config::RunConfig& config, const OpenedModel& opened) {
  config::RunConfig stored = config;
  stored.load_in_4bit |= stored_in_4bit(opened);
  train::MemoryDemand demand = train::memory_demand(opened.source->config(), stored);
  if (!config.use_peft) return demand;
  const adapters::AdapterSize size = config.adapter.empty() ? adapters::adapter_size(opened.source->config(), lora_config(config, ""))
                                                            : adapters::adapter_size(adapters::read_peft(config.adapter));
  demand.adapter = true;
  demand.trained = static_cast<double>(size.elements);
  demand.adapter_rank = size.rank_columns;
  return demand;
}

// A new adapter, or the one of --adapter to go on with; null where the model itself is trained.
std::unique_ptr<adapters::Adapter> adapter_to_train(const config::RunConfig& config, const OpenedModel& opened, model::Model& model) {
  if (!config.use_peft) return nullptr;
  std::unique_ptr<adapters::Adapter> adapter =
      config.adapter.empty() ? adapters::create_adapter(model, *opened.source, lora_config(config, opened.source->path().string()), config.seed)
                             : load_adapter(model, *opened.source, config, true);
  int64_t trained = 0, all = 0;
  for (const ops::Parameter* p : adapter->parameters) trained += p->numel();
  for (const ops::Parameter* p : model.parameters()) all += p->numel();
  log_info("adapter: {} trained values in {} linears, {:.2f} % of the base's {}", trained, adapter->set.paths.size(),
           100.0 * static_cast<double>(trained) / static_cast<double>(all), all);
  return adapter;
}

// run.yaml holds what `auto` came to, so that nobody has to guess later what ran.
void write_run_yaml(const fs::path& run, config::RunConfig config, const train::Machine& machine) {
  config.device = machine.device.is_cpu() ? config::Device::cpu : config::Device::cuda;
  config.dtype = config::Dtype::float32;
  config.isa = machine.isa == "avx512" ? config::IsaChoice::avx512 : config::IsaChoice::avx2;
  config.threads = machine.threads;
  config.resume = false;
  write_atomic(run / "run.yaml", config::to_yaml(config, config::sft));
}

Json write_summary(const fs::path& run, const train::TrainResult& result, const train::Machine& machine, const train::SftData& data, double seconds) {
  Json summary;
  summary["command"] = "sft";
  summary["hone_version"] = HONE_VERSION;
  summary["libtorch_version"] = TORCH_VERSION;
  summary["exit_code"] = static_cast<int>(result.exit);
  summary["message"] = result.message;
  summary["steps"] = result.steps;
  summary["total_steps"] = result.total_steps;
  summary["rows"] = data.rows.size();
  summary["rows_dropped"] = data.rows_read - static_cast<int64_t>(data.rows.size());
  summary["device"] = machine.device.str();
  summary["isa"] = machine.isa;
  summary["threads"] = machine.threads;
  summary["dtype"] = "float32";
  summary["wall_seconds"] = seconds;
  summary["peak_memory_mib"] = peak_rss_mib();
  summary["train"] = result.last_metrics;
  summary["eval"] = result.last_eval;
  write_atomic(run / "summary.json", summary.dump(1) + "\n");
  return summary;
}

}  // namespace

int run_sft(const Arguments& arguments) {
  const double begin = monotonic_seconds();
  config::RunConfig config = arguments.config;
  install_signal_handlers();
  const train::Machine machine = train::apply_machine_options(config);
  const OpenedModel opened = open_checked_model(config);
  if (stored_in_4bit(opened) && !config.use_peft)
    fail("{}: its linears are stored in 4 bits and cannot be trained themselves; add --use_peft to train an adapter on them",
         opened.source->path().string());
  RunFolder folder(config, "sft");
  const fs::path run = folder.path();
  take_resolved(config, arguments.given, run);
  const train::SftData data = load_data(config, config.data, opened, run);
  log_info("data: {}", train::describe(data, config));
  std::optional<train::SftData> eval;
  if (!config.eval_file.empty()) eval = load_data(config, {config.eval_file}, opened, run);

  const int64_t longest = std::max(data.longest, eval ? eval->longest : 0);
  const train::MemoryPlan plan = train::plan_memory(opened.source->config(), demand_of(config, opened), config, longest, train::available_memory());
  config.micro_batch_tokens = plan.micro_batch_tokens;
  config.gradient_checkpointing = plan.checkpointing;
  const methods::Sft method(data.rows);
  if (eval && !config.eval_steps) config.eval_steps = (method.num_rows() + config.batch_size - 1) / config.batch_size;  // the end of every epoch
  std::optional<methods::Sft> eval_method;
  if (eval) eval_method.emplace(eval->rows);

  train::TrainJob job;
  job.config = &config;
  job.method = &method;
  job.eval_method = eval_method ? &*eval_method : nullptr;
  job.run = run;
  job.micro_batch_tokens = plan.micro_batch_tokens;
  job.checkpointing = plan.checkpointing;
  job.activation_bytes_per_token = plan.activation_bytes_per_token;
  job.spill_optimizer = plan.spill_optimizer;
  job.identity = identity_of(config, opened, data, eval ? &*eval : nullptr, machine, train::total_steps(config, method.num_rows()));
  job.started = [&](bool resumed) {
    folder.start();
    if (!resumed || !fs::exists(run / "run.yaml")) write_run_yaml(run, config, machine);
  };
  if (longest > opened.source->config().max_position_embeddings)
    log_warning("the longest row has {} tokens, the model was made for {}: lower --max_length", longest,
                opened.source->config().max_position_embeddings);
  log_info("{} on {} ({} threads, float32), {} rows a step, {} steps, micro-batches of {} tokens{}", opened.source->path().string(), machine.isa,
           machine.threads, config.batch_size, train::total_steps(config, method.num_rows()), plan.micro_batch_tokens,
           plan.checkpointing ? ", gradient checkpointing" : "");

  const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, longest);
  const std::unique_ptr<adapters::Adapter> adapter = adapter_to_train(config, opened, *model);
  job.model = model.get();
  job.adapter = adapter.get();
  job.model_bytes = adapter ? adapters::saved_bytes(*adapter) : model::saved_bytes(opened.source->config(), model::DType::f32);
  job.save_model = [&](const fs::path& folder) {
    adapter ? save_adapter_folder(folder, opened, *adapter) : save_model_folder(folder, opened, *model);
  };
  const train::TrainResult result = train::train(job);
  const Json summary = write_summary(run, result, machine, data, monotonic_seconds() - begin);
  if (config.format == config::Format::json) print_result(summary.dump() + "\n");
  if (result.exit != Exit::ok) throw UserError(result.exit, result.message);
  if (!result.message.empty()) log_info("{}", result.message);
  log_info("done: {} steps in {:.0f} s; results in {}, model in {}", result.steps, monotonic_seconds() - begin, run.string(),
           (run / "model").string());
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
