#pragma once
// What every command that samples shares: which tokens end a completion, and the text that people read of it.
#include <span>
#include <string>
#include <vector>

#include "loaded_model.h"

namespace hone::app {

/// The end tokens of the model and of its tokenizer.
std::vector<int32_t> stop_ids(const OpenedModel& opened);

class CompletionText {
 public:
  CompletionText(const OpenedModel& opened, const std::vector<std::string>& stop) : opened_(opened), stop_(stop), stop_ids_(stop_ids(opened)) {}

  /// Whether a stop string stands in the text of these tokens.
  bool stopped(std::span<const int32_t> ids) const;
  /// The text without its end token, cut before a stop string. May end within a character.
  std::string bytes(std::span<const int32_t> ids) const;
  /// The same with what is not UTF-8 replaced.
  std::string text(std::span<const int32_t> ids) const;
  /// How much of bytes(ids) can be shown although more may follow: no part of a character, nothing that may begin a stop string.
  size_t settled(const std::string& bytes) const;

 private:
  size_t stop_at(const std::string& text) const;

  const OpenedModel& opened_;
  const std::vector<std::string>& stop_;
  std::vector<int32_t> stop_ids_;
};

}  // namespace hone::app
