#include "training.h"

#include <torch/csrc/api/include/torch/version.h>

#include <algorithm>
#include <optional>

#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/signals.h"
#include "hone/model/export.h"
#include "hone/train/loop.h"
#include "hone/train/rollout_guards.h"
#include "loaded_model.h"
#include "on_policy.h"
#include "reward_models.h"
#include "run_folder.h"
#include "run_identity.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
using train::Json;

// What one start of the command works with; everything that a message or a file of the run tells about.
struct Run {
  config::Command command;
  config::RunConfig config;
  train::Machine machine;
  OpenedModel opened;
  fs::path folder;
  Task task;
  std::optional<Task> eval;
  std::unique_ptr<OnPolicy> policy;  // of an on-policy technique, in place of task and eval
  double begin = 0;
  bool reward_model = false;

  adapters::Task adapter_task() const { return reward_model ? adapters::Task::seq_cls : adapters::Task::causal_lm; }
  // Of what is trained: without the language-model head where a reward head takes its place.
  model::ModelConfig model_config() const { return reward_model ? model::as_reward_model(opened.source->config()) : opened.source->config(); }
  const std::string& name() const { return config::command_name(command); }
  int64_t rows() const { return policy ? std::ssize(policy->prompts.rows) : task.method->num_rows(); }
  int64_t rows_read() const { return policy ? policy->prompts.rows_read : task.rows_read; }
  int64_t total_steps() const { return policy ? train::rollout_steps(config, rows(), policy->source->plan()) : train::total_steps(config, rows()); }
  int64_t longest() const { return policy ? policy->longest(config) : std::max(task.longest, eval ? eval->longest : 0); }
  const methods::Method* eval_method() const { return eval ? eval->method.get() : nullptr; }
  methods::Method* method() const { return policy ? policy->method.get() : task.method.get(); }
  std::string data_key() const { return policy ? policy->prompts.cache_key : task.cache_key; }
  std::string eval_key() const { return policy ? policy->held_out.cache_key : eval ? eval->cache_key : ""; }
  bool evaluates() const { return !config.eval_file.empty(); }
};

Task load_task(const Run& run, const Technique& technique, const std::vector<std::string>& files) {
  return technique.load(row_options(run.config, run.opened, files, run.folder / "bad_rows.jsonl"));
}

// Everything that decides the bits of a run; on resume each of these must be the same.
Json identity_of(const Run& run, const Technique& technique) {
  Json identity{{"command", run.name()},
                {"model", run.opened.source->content_hash()},
                {"data", run.data_key()},
                {"eval_data", run.eval_key()},
                {"rows", run.rows()},
                {"max_steps", run.total_steps()},
                {"backend", run.machine.backend == ops::Backend::kernels ? "kernels" : "reference"}};
  identity.update(options_identity(run.config, run.command));
  if (!technique.options.is_null()) identity["options"] = technique.options;
  if (run.policy) identity["rollouts"] = run.policy->identity(run.config);
  return identity;
}

// The checkpoint itself holds its linears in 4 bits.
bool stored_in_4bit(const OpenedModel& opened) { return opened.source->quantized("model.layers.0.self_attn.q_proj.weight").has_value(); }

// What the run holds in memory, before anything is loaded.
train::MemoryDemand demand_of(const Run& run) {
  const config::RunConfig& config = run.config;
  config::RunConfig stored = config;
  stored.load_in_4bit |= stored_in_4bit(run.opened);
  train::MemoryDemand demand = train::memory_demand(run.model_config(), stored);
  demand.on_policy = run.policy != nullptr;
  const bool ppo = run.command == config::ppo, reference = config.sync_ref_model || (run.policy && run.policy->method->reference());
  if (!config.use_peft) {
    const double one = demand.weights;
    if (ppo) demand.weights += one, demand.trained *= 2;  // the value model
    if (reference) demand.weights += one;
    return demand;
  }
  const adapters::AdapterSize size = config.adapter.empty() ? adapters::adapter_size(run.model_config(), lora_config(config, "", run.adapter_task()))
                                                            : adapters::adapter_size(adapters::read_peft(config.adapter));
  demand.adapter = true;
  demand.trained = static_cast<double>(size.elements) * (ppo ? 2 : 1);  // the value model's own
  demand.adapter_rank = size.rank_columns;
  if (config.sync_ref_model) demand.weights += 4 * demand.trained;
  return demand;
}

// Packed tokens of the rows: what the micro-batches must hold.
train::RowLengths row_lengths(const Run& run) {
  if (run.policy) {
    const int64_t largest = run.policy->largest_group(run.config);
    return {largest, static_cast<double>(largest)};
  }
  train::RowLengths lengths;
  double sum = 0, rows = 0;
  for (const methods::Method* method : {static_cast<const methods::Method*>(run.method()), run.eval_method()})
    for (int64_t row = 0; method && row < method->num_rows(); ++row, ++rows) {
      lengths.longest = std::max(lengths.longest, method->row_tokens(row));
      sum += static_cast<double>(method->row_tokens(row));
    }
  lengths.mean = rows > 0 ? sum / rows : 1.0;
  return lengths;
}

// Everything that the base's log-probabilities follow from.
std::string base_key(const Run& run) {
  const config::RunConfig& c = run.config;
  return fmt::format("{} {} {} {} float32 {}", run.opened.source->content_hash(), c.load_in_4bit, static_cast<int>(c.bnb_4bit_quant_type),
                     c.use_bnb_nested_quant, run.machine.backend == ops::Backend::kernels ? "kernels" : "reference");
}

// What the method is measured against; the tensors of a reference that follows (--sync_ref_model) are made later.
train::ReferenceSource reference_source(const Run& run) {
  train::ReferenceSource source;
  source.logprobs = run.method()->reference();
  if (run.config.sync_ref_model && !source.logprobs) fail("--sync_ref_model: none of these losses is measured against a reference; leave it out");
  if (!source.logprobs) return source;
  source.per_rollout = run.policy != nullptr;
  if (source.per_rollout) return source;
  source.eval_logprobs = run.eval ? run.eval->method->reference() : nullptr;
  source.base_key = base_key(run);
  source.data_key = run.task.cache_key;
  if (run.eval) source.eval_data_key = run.eval->cache_key;
  source.cache_folder = train::default_cache_folder();
  source.cache_limit = train::cache_limit();
  source.sync_alpha = run.config.ref_model_mixup_alpha;
  source.sync_steps = run.config.ref_model_sync_steps;
  return source;
}

// A reference of its own: one that follows the policy, or that stays while the rows are sampled. A second model, or with an adapter a copy of
// that; an adapter that changes nothing yet is its own reference, switched off.
struct MovingReference {
  std::unique_ptr<model::Model> model;
  std::unique_ptr<adapters::Adapter> adapter;
};
MovingReference moving_reference(const Run& run, const adapters::Adapter* adapter) {
  const bool stays = run.policy && run.policy->method->reference();
  if (!run.config.sync_ref_model && !stays) return {};
  if (stays && adapter && adapters::is_identity(*adapter)) return {};
  if (adapter) return {nullptr, adapters::frozen_copy(*adapter)};
  MovingReference reference{load_weights(*run.opened.source, run.machine, run.config, run.longest()), nullptr};
  for (ops::Parameter* p : reference.model->parameters()) p->trainable = false;
  return reference;
}

// A new adapter, or the one of --adapter to go on with; null where the model itself is trained.
std::unique_ptr<adapters::Adapter> adapter_to_train(const Run& run, model::Model& model) {
  const config::RunConfig& config = run.config;
  const OpenedModel& opened = run.opened;
  if (!config.use_peft) return nullptr;
  std::unique_ptr<adapters::Adapter> adapter =
      config.adapter.empty()
          ? adapters::create_adapter(model, *opened.source, lora_config(config, opened.source->path().string(), run.adapter_task()), config.seed)
          : load_adapter(model, *opened.source, config, true);
  int64_t trained = 0, all = 0;
  for (const ops::Parameter* p : adapter->parameters) trained += p->numel();
  for (const ops::Parameter* p : model.parameters()) all += p->numel();
  log_info("adapter: {} trained values in {} linears, {:.2f} % of the base's {}", trained, adapter->set.paths.size(),
           100.0 * static_cast<double>(trained) / static_cast<double>(all), all);
  return adapter;
}

// run.yaml holds what `auto` came to, so that nobody has to guess later what ran.
void write_run_yaml(const Run& run) {
  config::RunConfig config = run.config;
  config.device = run.machine.device.is_cpu() ? config::Device::cpu : config::Device::cuda;
  config.dtype = config::Dtype::float32;
  config.isa = run.machine.isa == "avx512" ? config::IsaChoice::avx512 : config::IsaChoice::avx2;
  config.threads = run.machine.threads;
  config.resume = false;
  write_atomic(run.folder / "run.yaml", config::to_yaml(config, run.command));
}

Json write_summary(const Run& run, const train::TrainResult& result, const Json& report) {
  Json summary;
  summary["command"] = run.name();
  summary["hone_version"] = HONE_VERSION;
  summary["libtorch_version"] = TORCH_VERSION;
  summary["exit_code"] = static_cast<int>(result.exit);
  summary["message"] = result.message;
  summary["steps"] = result.steps;
  summary["total_steps"] = result.total_steps;
  summary["rows"] = run.rows();
  summary["rows_dropped"] = run.rows_read() - run.rows();
  summary["device"] = run.machine.device.str();
  summary["isa"] = run.machine.isa;
  summary["threads"] = run.machine.threads;
  summary["dtype"] = "float32";
  summary["wall_seconds"] = monotonic_seconds() - run.begin;
  summary["peak_memory_mib"] = peak_rss_mib();
  summary["train"] = result.last_metrics;
  if (!result.last_kls.empty()) summary["train"]["kl_median"] = train::median_of(result.last_kls);
  summary["eval"] = result.last_eval;
  if (!report.is_null()) summary["eval"].update(report);  // of what stands in model/
  write_atomic(run.folder / "summary.json", summary.dump(1) + "\n");
  return summary;
}

// The job but for the model, which is loaded last: everything that can be wrong is found before.
train::TrainJob plan_job(Run& run, const Technique& technique) {
  const train::MemoryPlan plan =
      train::plan_memory(run.opened.source->config(), demand_of(run), run.config, row_lengths(run), train::available_memory());
  run.config.micro_batch_tokens = plan.micro_batch_tokens;
  run.config.gradient_checkpointing = plan.checkpointing;
  if (run.evaluates() && !run.config.eval_steps) {  // every epoch's end
    const train::RolloutPlan* rollouts = run.policy ? &run.policy->source->plan() : nullptr;
    const int64_t rows = rollouts ? rollouts->prompts : run.config.batch_size;
    run.config.eval_steps = (run.rows() + rows - 1) / rows * (rollouts ? rollouts->steps : 1);
  }

  train::TrainJob job;
  job.config = &run.config;
  job.method = run.method();
  job.eval_method = run.eval_method();
  if (run.policy) {
    job.rollouts = run.policy->source.get();
    job.on_policy = run.policy->method.get();
  }
  job.reference = reference_source(run);
  job.run = run.folder;
  job.micro_batch_tokens = plan.micro_batch_tokens;
  job.checkpointing = plan.checkpointing;
  job.checkpoint_above = plan.checkpoint_above;
  job.activation_bytes_per_token = plan.activation_bytes_per_token;
  job.spill_optimizer = plan.spill_optimizer;
  job.identity = identity_of(run, technique);
  if (run.longest() > run.opened.source->config().max_position_embeddings)
    log_warning("the longest row has {} tokens, the model was made for {}: lower --max_length", run.longest(),
                run.opened.source->config().max_position_embeddings);
  const std::string batch = run.policy ? fmt::format("{} prompts x {} = {} completions", run.config.batch_size, run.config.num_generations,
                                                     run.config.batch_size * run.config.num_generations)
                                       : fmt::format("{} {}", run.config.batch_size, technique.unit);
  log_info("{} on {} ({} threads, float32), {} a step, {} steps, micro-batches of {} tokens{}", run.opened.source->path().string(), run.machine.isa,
           run.machine.threads, batch, run.total_steps(), plan.micro_batch_tokens, plan.checkpointing ? ", gradient checkpointing" : "");
  return job;
}

// Rows of files become a method over them; prompts become a source of rollouts.
void load_data(Run& run, const Technique& technique) {
  if (!technique.on_policy) {
    run.task = load_task(run, technique, run.config.data);
    log_info("data: {}", run.task.description);
    if (!run.config.eval_file.empty()) run.eval = load_task(run, technique, {run.config.eval_file});
    return;
  }
  run.policy = load_on_policy(run.config, run.opened, run.machine, run.folder / "bad_rows.jsonl");
  if (technique.on_policy->check) technique.on_policy->check(run.config, run.opened);
  std::vector<std::string> names;
  for (const train::NamedReward& r : run.policy->rewards) names.push_back(r.name);
  run.policy->method = technique.on_policy->method(run.config, std::move(names));
  train::RolloutPlan plan = technique.on_policy->plan(run.config);
  plan.shuffle = run.config.shuffle_dataset;
  plan.dynamic_sampling = run.config.dynamic_sampling;
  plan.max_resample = run.config.max_resample;
  train::SamplingSetup setup = sampling_setup(run.config, run.opened, run.policy->rewards);
  run.policy->source =
      std::make_unique<train::RolloutSource>(run.folder, run.policy->prompts, std::move(setup), std::move(plan), *run.policy->method);
}

Run open_run(const Arguments& arguments, const Technique& technique, double begin) {
  config::RunConfig config = arguments.config;
  const train::Machine machine = train::apply_machine_options(config);
  Run run{arguments.command,
          config,
          machine,
          open_checked_model(config, technique.reward_model ? model::Head::any : model::Head::language),
          {},
          {},
          {},
          {},
          begin,
          technique.reward_model};
  if (stored_in_4bit(run.opened) && !config.use_peft)
    fail("{}: its linears are stored in 4 bits and cannot be trained themselves; add --use_peft to train an adapter on them",
         run.opened.source->path().string());
  return run;
}

// The weights, and what follows from them; the run's figures as summary.json has them.
TrainedRun execute(Run& run, const Technique& technique, train::TrainJob& job) {
  const std::unique_ptr<model::Model> model = run.reward_model ? load_reward_weights(run.opened, run.machine, run.config, run.longest())
                                                               : load_weights(*run.opened.source, run.machine, run.config, run.longest());
  const std::unique_ptr<adapters::Adapter> adapter = adapter_to_train(run, *model);
  const MovingReference moving = moving_reference(run, adapter.get());
  job.reference.moving_model = moving.model.get();
  job.reference.moving_adapter = moving.adapter.get();
  job.model = model.get();
  job.adapter = adapter.get();
  if (run.policy) {
    for (const SharedReward& shared : run.policy->models.shared) place_shared_reward(shared, run.config, run.opened, *model);
    run.policy->source->set_key(hash_hex(job.identity.dump()));
    if (run.evaluates()) job.evaluate = [&] { return evaluate_held_out(*run.policy, run.config, run.opened, *model, set_of(adapter)); };
  }
  job.model_bytes = adapter ? adapters::saved_bytes(*adapter) : model::saved_bytes(run.model_config(), model::DType::f32);
  job.save_model = [&](const fs::path& path) {
    adapter ? save_adapter_folder(path, run.opened, *adapter) : save_model_folder(path, run.opened, *model);
  };
  std::shared_ptr<void> roles;
  if (technique.on_policy && technique.on_policy->roles)
    roles = technique.on_policy->roles({run.config, run.opened, run.machine, *run.policy, run.longest()}, job);
  const train::TrainResult result = train::train(job);
  Json report;
  if (technique.report && run.evaluates() && result.exit == Exit::ok) {
    report = technique.report(*model, set_of(adapter), *run.eval, run.config);
    write_atomic(run.folder / (run.name() + "_report.json"), report.dump(1) + "\n");
  }
  return {false, result.exit, result.message, job.identity, write_summary(run, result, report)};
}

}  // namespace

TrainedRun train_run(const Arguments& arguments, const Technique& technique, const StageOptions& stage) {
  Run run = open_run(arguments, technique, monotonic_seconds());
  RunFolder folder(run.config, run.name());
  run.folder = folder.path();
  take_resolved(run.config, arguments, run.folder);
  load_data(run, technique);
  train::TrainJob job = plan_job(run, technique);
  if (stage.check_only) return {};
  if (stage.stands && stage.stands(job.identity)) return {.kept = true, .message = {}, .identity = job.identity, .summary = {}};
  job.started = [&](bool resumed) {
    folder.start();
    if (!resumed || !fs::exists(run.folder / "run.yaml")) write_run_yaml(run);
  };
  TrainedRun done = execute(run, technique, job);
  if (done.exit != Exit::ok) return done;
  if (!done.message.empty()) log_info("{}", done.message);
  log_info("done: {} steps in {:.0f} s; results in {}, model in {}", done.summary.at("steps").get<int64_t>(), monotonic_seconds() - run.begin,
           run.folder.string(), (run.folder / "model").string());
  return done;
}

int run_training(const Arguments& arguments, const Technique& technique) {
  install_signal_handlers();
  const TrainedRun done = train_run(arguments, technique);
  if (arguments.config.format == config::Format::json) print_result(done.summary.dump() + "\n");
  if (done.exit != Exit::ok) throw UserError(done.exit, done.message);
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
