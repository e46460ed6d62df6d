#include "hone/train/journal.h"

#include <fmt/format.h>

#include <bit>
#include <nlohmann/json.hpp>

#include "hone/base/error.h"

namespace hone::train {
namespace {

namespace fs = std::filesystem;

std::vector<uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  bits.reserve(values.size());
  for (const float v : values) bits.push_back(std::bit_cast<uint32_t>(v));
  return bits;
}

std::vector<float> from_bits(const nlohmann::json& bits) {
  std::vector<float> values;
  values.reserve(bits.size());
  for (const nlohmann::json& b : bits) values.push_back(std::bit_cast<float>(b.get<uint32_t>()));
  return values;
}

/// Where a law is the one before it, its bits are not written twice.
void add_law(nlohmann::json& line, const char* name, const std::vector<float>& values, const std::vector<float>& before) {
  const std::vector<uint32_t> bits = bits_of(values);
  if (bits != bits_of(before)) line[name] = bits;
}

std::vector<float> law_of(const nlohmann::json& line, const char* name, const std::vector<float>& before) {
  return line.contains(name) ? from_bits(line.at(name)) : before;
}

std::string printable(const nlohmann::json& line) { return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"; }

}  // namespace

fs::path Journal::path_of(const fs::path& run, int64_t rollout) { return run / "rollouts" / fmt::format("rollout-{}.jsonl", rollout); }

Journal::Journal(const fs::path& run, int64_t rollout, const std::string& key)
    : path_(path_of(run, rollout)), header_(printable({{"rollout", rollout}, {"key", key}})) {
  fs::create_directories(path_.parent_path());
  if (fs::exists(path_)) {
    const std::string text = read_text(path_);
    if (text.starts_with(header_)) take(std::string_view(text).substr(header_.size()));
  }
  write_atomic(path_, header_ + lines_);  // without what was torn, or is another run's
  file_ = std::make_unique<FileWriter>(path_, /*append=*/true);
  found_ = static_cast<int64_t>(completions_.size());
}

Journal::Journal(const fs::path& run, int64_t rollout, const std::string& key, const std::string& lines)
    : path_(path_of(run, rollout)), header_(printable({{"rollout", rollout}, {"key", key}})) {
  fs::create_directories(path_.parent_path());
  take(lines);
  write_atomic(path_, header_ + lines_);
  file_ = std::make_unique<FileWriter>(path_, /*append=*/true);
  found_ = static_cast<int64_t>(completions_.size());
}

void Journal::take(std::string_view text) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string_view::npos || !take_line(text.substr(begin, end - begin))) return;
    lines_.append(text, begin, end - begin + 1);
    begin = end + 1;
  }
}

bool Journal::take_line(std::string_view text) {
  try {
    const nlohmann::json line = nlohmann::json::parse(text);
    const std::pair<int64_t, uint32_t> place{line.at("draw").get<int64_t>(), line.at("sample").get<uint32_t>()};
    if (line.contains("reward")) {
      rewards::Judgement j;
      const auto verdict = line.at("verdict").get<int>();
      if (verdict < 0 || verdict >= rewards::kVerdicts) return false;
      j.verdict = static_cast<rewards::Verdict>(verdict);
      if (line.contains("bits")) j.reward = std::bit_cast<double>(line.at("bits").get<uint64_t>());
      j.detail = line.value("detail", "");
      judgements_[{line.at("reward").get<size_t>(), place}] = std::move(j);
      return true;
    }
    rollout::Completion c;
    c.ids = line.at("ids").get<std::vector<int32_t>>();
    c.logprobs = from_bits(line.at("logprobs"));
    c.tempered_logprobs = law_of(line, "tempered", c.logprobs);
    c.sampler_logprobs = law_of(line, "sampler", c.tempered_logprobs);
    if (c.ids.empty() || c.logprobs.size() != c.ids.size() || c.tempered_logprobs.size() != c.ids.size() || c.sampler_logprobs.size() != c.ids.size())
      return false;
    c.finish = line.at("stopped").get<bool>() ? rollout::Finish::stop : rollout::Finish::length;
    completions_[place] = std::move(c);
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

const rollout::Completion* Journal::completion(int64_t draw, uint32_t sample) const {
  const auto found = completions_.find({draw, sample});
  return found == completions_.end() ? nullptr : &found->second;
}

const rewards::Judgement* Journal::judgement(size_t reward, int64_t draw, uint32_t sample) const {
  const auto found = judgements_.find({reward, {draw, sample}});
  return found == judgements_.end() ? nullptr : &found->second;
}

void Journal::write(const std::string& line) {
  lines_ += line;
  file_->write(line);
}

void Journal::add(int64_t draw, uint32_t sample, const rollout::Completion& c) {
  nlohmann::json line{
      {"draw", draw}, {"sample", sample}, {"ids", c.ids}, {"logprobs", bits_of(c.logprobs)}, {"stopped", c.finish == rollout::Finish::stop}};
  add_law(line, "tempered", c.tempered_logprobs, c.logprobs);
  add_law(line, "sampler", c.sampler_logprobs, c.tempered_logprobs);
  write(printable(line));
  flush();  // a kill of this process loses nothing that the operating system has
  completions_[{draw, sample}] = c;
}

void Journal::add(size_t reward, int64_t draw, uint32_t sample, const rewards::Judgement& j) {
  nlohmann::json line{{"reward", reward}, {"draw", draw}, {"sample", sample}, {"verdict", static_cast<int>(j.verdict)}};
  if (j.reward) line["bits"] = std::bit_cast<uint64_t>(*j.reward);
  if (!j.detail.empty()) line["detail"] = j.detail;
  write(printable(line));
  judgements_[{reward, {draw, sample}}] = j;
}

std::string Journal::lines() const { return lines_; }

void Journal::remove_before(const fs::path& run, int64_t rollout) {
  std::error_code ignored;
  for (fs::directory_iterator entry(run / "rollouts", ignored), end; !ignored && entry != end; entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    int64_t number = 0;
    if (std::sscanf(name.c_str(), "rollout-%ld.jsonl", &number) == 1 && number < rollout) {
      std::error_code error;
      fs::remove(entry->path(), error);
    }
  }
}

}  // namespace hone::train
