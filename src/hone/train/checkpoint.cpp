#include "hone/train/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/model/safetensors.h"

namespace hone::train {
namespace {

namespace fs = std::filesystem;
constexpr const char* kTensors = "tensors.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kMarker = "COMPLETE";  // sizes and checksums of the other files; written last

ExtraTensors tensors_of(Adamw& optimizer, const ExtraTensors& extra) {
  ExtraTensors all;
  for (const ops::Parameter* p : optimizer.parameters()) all.emplace_back("value/" + p->name(), p->value.detach());
  for (auto& state : optimizer.state_tensors()) all.push_back(std::move(state));
  all.insert(all.end(), extra.begin(), extra.end());
  // Two models of one run (PPO) have tensors of the same names: a later one has its number behind it.
  std::map<std::string, int> seen;
  for (auto& [name, tensor] : all)
    if (const int number = ++seen[name]; number > 1) name += fmt::format("#{}", number);
  return all;
}

model::DType stored_type(const at::Tensor& tensor) { return tensor.scalar_type() == at::kByte ? model::DType::u8 : model::DType::f32; }

// Stored flat, in the layout in memory.
model::TensorProducer producer(const std::string& name, const at::Tensor& tensor) {
  at::Tensor flat = tensor.is_cpu() ? tensor.view({-1}) : tensor.cpu().view({-1});
  return {name,
          {flat.numel()},
          [flat](int64_t begin, int64_t end, float* out) {
            if (flat.scalar_type() == at::kByte)
              std::copy(flat.const_data_ptr<uint8_t>() + begin, flat.const_data_ptr<uint8_t>() + end, out);  // whole numbers: exact
            else
              std::memcpy(out, flat.const_data_ptr<float>() + begin, sizeof(float) * (end - begin));
          },
          stored_type(tensor)};
}

void restore(const model::TensorView& view, at::Tensor& tensor) {
  at::NoGradGuard no_grad;
  if (tensor.scalar_type() == at::kByte) {
    std::memcpy(tensor.mutable_data_ptr<uint8_t>(), view.bytes.data(), view.bytes.size());
  } else if (tensor.is_cpu()) {
    model::to_float32(view, tensor.mutable_data_ptr<float>());
  } else {
    at::Tensor loaded = at::empty({tensor.numel()}, at::kFloat);
    model::to_float32(view, loaded.mutable_data_ptr<float>());
    tensor.view({-1}).copy_(loaded);
  }
}

Json checksums(const fs::path& folder) {
  Json files;
  for (const char* name : {kTensors, kState}) {
    const MappedFile file(folder / name);
    files[name] = {{"size", file.bytes().size()}, {"xxh3_128", hash_hex(file.bytes().data(), file.bytes().size())}};
  }
  return files;
}

}  // namespace

fs::path checkpoint_path(const fs::path& run, int64_t step) { return run / "checkpoints" / fmt::format("step-{}", step); }

std::vector<int64_t> list_checkpoints(const fs::path& run) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", error)) {
    const std::string name = entry.path().filename();
    if (name.size() < 6 || name.size() > 20 || name.rfind("step-", 0) != 0 || name.find_first_not_of("0123456789", 5) != std::string::npos) continue;
    if (fs::exists(entry.path() / kMarker)) steps.push_back(std::stoll(name.substr(5)));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void save_checkpoint(const fs::path& run, const CheckpointState& state, Adamw& optimizer, const ExtraTensors& extra) {
  const fs::path final_path = checkpoint_path(run, state.step), folder = final_path.parent_path();
  const fs::path temporary = folder / fmt::format(".step-{}.writing", state.step);
  std::error_code error;
  fs::create_directories(folder, error);
  fs::remove_all(temporary, error);
  fs::create_directory(temporary, error);
  if (error) fail_resource("cannot create {}: {}; the older checkpoints are untouched", temporary.string(), error.message());
  try {
    std::vector<model::TensorProducer> producers;
    for (const auto& [name, tensor] : tensors_of(optimizer, extra)) producers.push_back(producer(name, tensor));
    model::write_safetensors(temporary / kTensors, producers, model::DType::f32);
    Json json = state.data;
    json["step"] = state.step;
    json["optimizer_steps"] = optimizer.steps();
    write_atomic(temporary / kState, json.dump(1) + "\n");
    write_atomic(temporary / kMarker, checksums(temporary).dump(1) + "\n");
    sync_folder(temporary);
    fs::remove_all(final_path);
    fs::rename(temporary, final_path);
    sync_folder(folder);
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
}

std::string verify_checkpoint(const fs::path& folder) {
  try {
    const Json marker = Json::parse(read_text(folder / kMarker, 1 << 20));
    const Json found = checksums(folder);
    for (const char* name : {kTensors, kState})
      if (marker.at(name) != found.at(name))
        return fmt::format("{} is damaged: recorded {}, found {}", (folder / name).string(), marker.at(name).dump(), found.at(name).dump());
  } catch (const UserError& e) {
    return e.what();
  } catch (const nlohmann::json::exception& e) {
    return fmt::format("{}: {}", (folder / kMarker).string(), e.what());
  }
  return {};
}

std::optional<int64_t> newest_checkpoint(const fs::path& run) {
  std::vector<int64_t> steps = list_checkpoints(run);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::string problem = verify_checkpoint(checkpoint_path(run, *step));
    if (problem.empty()) return *step;
    log_warning("checkpoint of step {} is not used: {}", *step, problem);
  }
  return std::nullopt;
}

CheckpointState read_state(const fs::path& run, int64_t step) {
  CheckpointState state;
  state.data = Json::parse(read_text(checkpoint_path(run, step) / kState));
  state.step = state.data.at("step").get<int64_t>();
  return state;
}

void load_checkpoint(const fs::path& run, int64_t step, Adamw& optimizer, bool weights_only, const ExtraTensors& extra) {
  const fs::path folder = checkpoint_path(run, step);
  const model::SafetensorsFile file(folder / kTensors);
  for (auto& [name, tensor] : tensors_of(optimizer, extra)) {
    const bool is_value = name.rfind("value/", 0) == 0;
    if (weights_only && !is_value) continue;
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end() || found->second.elements() != tensor.numel())
      fail("{}: tensor {} is missing or has another size: the checkpoint is of another {}", folder.string(), name,
           is_value ? "model" : "model or --optim");
    if (found->second.dtype != stored_type(tensor))
      fail("{}: tensor {} is {}, {} was expected: the checkpoint was made with another --optim", folder.string(), name,
           model::dtype_name(found->second.dtype), model::dtype_name(stored_type(tensor)));
    restore(found->second, tensor);
  }
  if (!weights_only) optimizer.set_steps(Json::parse(read_text(folder / kState)).at("optimizer_steps").get<int64_t>());
}

void rotate_checkpoints(const fs::path& run, int64_t limit, const std::vector<int64_t>& keep) {
  const std::vector<int64_t> steps = list_checkpoints(run);
  if (static_cast<int64_t>(steps.size()) <= limit) return;
  for (size_t i = 0; i + limit < steps.size(); ++i)
    if (std::find(keep.begin(), keep.end(), steps[i]) == keep.end()) remove_checkpoint(run, steps[i], steps.back());
}

void remove_checkpoint(const fs::path& run, int64_t step, int64_t newer) {
  const std::string problem = verify_checkpoint(checkpoint_path(run, newer));
  if (!problem.empty()) {
    log_warning("no older checkpoint is deleted: {}", problem);
    return;
  }
  const fs::path folder = checkpoint_path(run, step);
  std::error_code error;
  fs::remove(folder / kMarker, error);  // first, so that a kill in between leaves no half checkpoint that looks whole
  fs::remove_all(folder, error);
}

void remove_torn_checkpoints(const fs::path& run) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(".step-") && name.ends_with(".writing")) fs::remove_all(entry.path(), error);
  }
}

int64_t checkpoint_bytes(const Adamw& optimizer, const ExtraTensors& extra) {
  // state.json, the marker, and a header entry for each tensor
  const auto tensors = static_cast<int64_t>(optimizer.parameters().size() + optimizer.state_tensors().size() + extra.size());
  int64_t bytes = (1 << 16) + 256 * tensors + optimizer.state_bytes();
  for (const ops::Parameter* p : optimizer.parameters()) bytes += static_cast<int64_t>(p->value.nbytes());
  for (const auto& [name, tensor] : extra) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

}  // namespace hone::train
