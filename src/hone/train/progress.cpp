#include "hone/train/progress.h"

#include "hone/base/error.h"

namespace hone::train {
namespace {

std::string identity_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "none" : value.is_object() ? "one" : value.dump();
}

// "NAME: was X, now Y" of every field that differs, those of objects by their own names.
void add_differences(const Json& was, const Json& now, std::string& out) {
  const auto add = [&](const std::string& key, const std::string& before, const std::string& after) {
    out += fmt::format("{}{}: was {}, now {}", out.empty() ? "" : "; ", key, before, after);
  };
  for (const auto& [key, value] : now.items()) {
    if (!was.contains(key))
      add(key, "absent", identity_text(value));
    else if (was.at(key).is_object() && value.is_object())
      add_differences(was.at(key), value, out);
    else if (was.at(key) != value)
      add(key, identity_text(was.at(key)), identity_text(value));
  }
  for (const auto& [key, value] : was.items())
    if (!now.contains(key)) add(key, identity_text(value), "absent");
}

}  // namespace

Json Progress::json() const {
  return {{"tokens", tokens},
          {"bad_in_a_row", bad_in_a_row},
          {"bad_steps", bad_steps},
          {"largest_micro_batch", largest_micro_batch},
          {"seconds", seconds}};
}

Progress Progress::from(const Json& p, int64_t step) {
  return {step, p.at("tokens"), p.at("bad_in_a_row"), p.at("bad_steps"), p.at("largest_micro_batch"), p.at("seconds")};
}

void compare_identity(const Json& recorded, const Json& now, const std::filesystem::path& run) {
  std::string differences;
  add_differences(recorded, now, differences);
  if (!differences.empty())
    fail("--resume: this is not the run in {} ({}); give the same options, or another --output_dir", run.string(), differences);
}

}  // namespace hone::train
