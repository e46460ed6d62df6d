#pragma once
// hone eval on prompts: completions are sampled and judged.
#include "hone/config/run_config.h"

namespace hone::app {

/// hone eval --reward SPEC: pass@k, majority@k and what else the completions say, with intervals. With --output FILE.json the figures go there, and
/// the verdict of every completion to FILE.rows.jsonl beside it. Returns the exit code.
int eval_prompts(const config::RunConfig& config);

}  // namespace hone::app
