#pragma once
// Checkpoints that cannot be lost: the complete state, written into a temporary folder beside the final one, synced, checksummed, a marker
// file last, then renamed. A folder under its final name that has the marker is whole; an older checkpoint is deleted only after a newer
// one has been read back and verified.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hone/train/optimizer.h"

namespace hone::train {

using Json = nlohmann::ordered_json;

/// What a checkpoint holds beside the tensors: step, position in the data, counters, the run's identity. Plain JSON, written as state.json.
struct CheckpointState {
  int64_t step = 0;
  Json data;
};

/// Tensors of a run beside weights and moments, by a name of their own.
using ExtraTensors = std::vector<std::pair<std::string, at::Tensor>>;

std::filesystem::path checkpoint_path(const std::filesystem::path& run, int64_t step);

/// Steps of the complete checkpoints in run/checkpoints, ascending (a folder without its marker is not one).
std::vector<int64_t> list_checkpoints(const std::filesystem::path& run);

/// Writes checkpoints/step-N. UserError (exit 4) when the disk is full: nothing of the new one is left, the older ones are untouched.
void save_checkpoint(const std::filesystem::path& run, const CheckpointState& state, Adamw& optimizer, const ExtraTensors& extra = {});

/// Reads every file back and compares size and checksum; the reason why not, or empty.
std::string verify_checkpoint(const std::filesystem::path& folder);

/// The newest checkpoint that verifies; damaged ones are skipped with a warning. Empty where there is none.
std::optional<int64_t> newest_checkpoint(const std::filesystem::path& run);

/// Only state.json.
CheckpointState read_state(const std::filesystem::path& run, int64_t step);

/// Restores weights, and moments, extra tensors and step count unless weights_only. UserError when the tensors do not fit the model.
void load_checkpoint(const std::filesystem::path& run, int64_t step, Adamw& optimizer, bool weights_only = false, const ExtraTensors& extra = {});

/// Deletes all but the newest `limit` checkpoints (and never those of `keep`), after the newest has verified.
void rotate_checkpoints(const std::filesystem::path& run, int64_t limit, const std::vector<int64_t>& keep);

/// Deletes the checkpoint of `step`, after that of `newer` has verified.
void remove_checkpoint(const std::filesystem::path& run, int64_t step, int64_t newer);

/// Deletes what a kill in the middle of saving left behind.
void remove_torn_checkpoints(const std::filesystem::path& run);

/// Bytes of one checkpoint of these parameters and this state.
int64_t checkpoint_bytes(const Adamw& optimizer, const ExtraTensors& extra = {});

}  // namespace hone::train
