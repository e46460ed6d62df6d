// hone eval: held-out loss and token accuracy; on pairs the report of a reward model, or the preference accuracy of a policy.
#include <cmath>

#include "commands.h"
#include "console.h"
#include "eval_pairs.h"
#include "eval_prompts.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/methods/sft.h"
#include "hone/train/loop.h"
#include "hone/train/sft_data.h"
#include "jsonl_filter.h"
#include "loaded_model.h"
#include "long_rows.h"

namespace hone::app {

int run_eval(const Arguments& arguments) {
  config::RunConfig config = arguments.config;
  if (!config.reward.empty()) return holds_pairs(config.data.front()) ? eval_reward_model(config) : eval_prompts(config);
  if (holds_pairs(config.data.front())) return eval_policy_on_pairs(config);
  const train::Machine machine = train::apply_machine_options(config);
  const OpenedModel opened = open_checked_model(config);
  const train::SftData data = train::load_sft_data(row_options(config, opened, config.data));
  LongRows long_rows(opened.source->config().max_position_embeddings);
  long_rows.add(data.rows, config.data);
  long_rows.warn();
  const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, data.longest);
  const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *opened.source, config, false);
  const methods::Sft method(data.rows);
  train::Json result = train::evaluation(*model, set_of(adapter), method, config.micro_batch_tokens.value_or(512));
  if (!std::isfinite(result["eval_loss"].get<double>()))
    fail("{}: the loss is not finite: the model's values overflow float32; take another checkpoint", config.data.front());
  result["rows"] = data.rows.size();
  result["rows_dropped"] = data.rows_read - static_cast<int64_t>(data.rows.size());
  result["trained_tokens"] = data.trained_tokens;
  std::string text;
  if (config.format == config::Format::json || !config.output.empty()) {
    text = result.dump() + "\n";
  } else {
    text = fmt::format("{} rows, {} trained tokens\n", data.rows.size(), data.trained_tokens);
    for (const char* key : {"eval_loss", "eval_mean_token_accuracy", "eval_entropy"})
      if (const std::string k = key; result.contains(k))
        text += fmt::format("{:<26} {:.6f}{}\n", k, result[k].get<double>(),
                            result.contains(k + "_low")
                                ? fmt::format("  ({:.6f} to {:.6f})", result[k + "_low"].get<double>(), result[k + "_high"].get<double>())
                                : "");
  }
  if (config.output.empty())
    print_result(text);
  else
    write_atomic(config.output, text);
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
