#pragma once
// Lines in and lines out of the JSONL filters.
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hone/base/files.h"
#include "hone/data/jsonl.h"

namespace hone::app {

/// Lines of a file, or of standard input (which may be a pipe: a batch is what has arrived, so that a conversation with another program
/// does not stall).
class LineSource {
 public:
  /// An empty path is standard input.
  explicit LineSource(const std::string& path);
  /// The next lines that are not blank; false at the end. The views live until the next call.
  bool next(std::vector<data::RawLine>& lines);
  const std::string& name() const { return name_; }

 private:
  bool fill();
  void take(std::string_view line, std::vector<data::RawLine>& lines);

  std::string name_;
  std::unique_ptr<data::JsonlReader> file_;
  std::string pending_;    // bytes read and not handed out
  size_t handed_out_ = 0;  // bytes of pending_ behind the last call's views
  int64_t line_ = 0;
  bool at_end_ = false;
};

/// Whoever reads our standard output has left.
struct BrokenPipe {};

/// Standard output, or a file that appears whole under its name when it is closed (a terminal, pipe or device is written directly).
class LineSink {
 public:
  /// An empty path is standard output. UserError when it names the input.
  LineSink(const std::string& path, const std::string& input);
  void write(std::string_view text);
  void close();

 private:
  std::filesystem::path path_;
  std::filesystem::path part_;  // empty: written directly
  std::unique_ptr<FileWriter> file_;
};

}  // namespace hone::app
