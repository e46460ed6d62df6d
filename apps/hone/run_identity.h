#pragma once
// What of the options decides the bits of a run, whatever the technique.
#include "hone/config/run_config.h"
#include "hone/train/metrics.h"

namespace hone::app {

/// By the options' names; "adapter" is null without one, and of --adapter it holds the hashes of its files. Nothing that only decides how the
/// work is cut (threads, micro-batches, checkpointing) is in it.
train::Json options_identity(const config::RunConfig& config, config::Command command);

}  // namespace hone::app
