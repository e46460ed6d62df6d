#include "jsonl_io.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "hone/base/error.h"

namespace hone::app {
namespace fs = std::filesystem;

namespace {
constexpr size_t kChunk = size_t{1} << 20;
}

LineSource::LineSource(const std::string& path) : name_(path.empty() ? "standard input" : path) {
  if (!path.empty()) file_ = std::make_unique<data::JsonlReader>(path);
}

bool LineSource::fill() {
  const size_t before = pending_.size();
  pending_.resize(before + kChunk);
  ssize_t count;
  do {
    count = ::read(STDIN_FILENO, pending_.data() + before, kChunk);
  } while (count < 0 && errno == EINTR);
  if (count < 0) fail("standard input: {}", std::strerror(errno));
  pending_.resize(before + static_cast<size_t>(count));
  at_end_ = count == 0;
  return count > 0;
}

void LineSource::take(std::string_view line, std::vector<data::RawLine>& lines) {
  ++line_;
  if (line_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line.find_first_not_of(" \t") != std::string_view::npos) lines.push_back({line_, line});
}

bool LineSource::next(std::vector<data::RawLine>& lines) {
  lines.clear();
  if (file_) return file_->next(lines, kChunk);
  pending_.erase(0, handed_out_);
  handed_out_ = 0;
  while (lines.empty()) {
    size_t end = pending_.rfind('\n');
    while (end == std::string::npos && !at_end_) {
      // parse_json_line refuses a line that long; what is read here only has to be bounded.
      if (pending_.size() > data::longest_line + kChunk) fail("{}:{}: a line is longer than {} bytes", name_, line_ + 1, data::longest_line);
      if (fill()) end = pending_.rfind('\n');
    }
    handed_out_ = end == std::string::npos ? pending_.size() : end + 1;
    const std::string_view complete = std::string_view(pending_).substr(0, handed_out_);
    for (size_t begin = 0; begin < complete.size();) {
      const size_t stop = std::min(complete.find('\n', begin), complete.size());
      take(complete.substr(begin, stop - begin), lines);
      begin = stop + 1;
    }
    if (!lines.empty() || at_end_) break;
    pending_.erase(0, handed_out_);
    handed_out_ = 0;
  }
  return !lines.empty();
}

LineSink::LineSink(const std::string& path, const std::string& input) : path_(path) {
  if (path.empty()) return;
  std::error_code error;
  const fs::file_status status = fs::status(path_, error);
  if (fs::is_directory(status)) fail("--output: {} is a folder", path);
  if (fs::exists(status) && !input.empty() && fs::equivalent(path_, input, error)) fail("--output: {} is the input; give another file", path);
  if (!fs::exists(status) || fs::is_regular_file(status)) {
    part_ = path_;
    part_ += ".part";
  }
  file_ = std::make_unique<FileWriter>(part_.empty() ? path_ : part_);
}

void LineSink::write(std::string_view text) {
  if (file_) return file_->write(text);
  while (!text.empty()) {
    const ssize_t count = ::write(STDOUT_FILENO, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EPIPE) throw BrokenPipe();
    if (count < 0) fail_resource("standard output: {}", std::strerror(errno));
    text.remove_prefix(static_cast<size_t>(count));
  }
}

void LineSink::close() {
  if (!file_) return;
  file_->close();
  if (part_.empty()) return;
  std::error_code error;
  fs::rename(part_, path_, error);
  if (error) fail_resource("--output: cannot rename {} to {}: {}", part_.string(), path_.string(), error.message());
}

}  // namespace hone::app
