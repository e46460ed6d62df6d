#include "completion_text.h"

#include <algorithm>

#include "hone/text/utf8.h"

namespace hone::app {

std::vector<int32_t> stop_ids(const OpenedModel& opened) {
  std::vector<int32_t> ids;
  for (int64_t id : opened.source->config().eos_token_ids) ids.push_back(static_cast<int32_t>(id));
  if (opened.text.tokenizer.eos_id() >= 0) ids.push_back(opened.text.tokenizer.eos_id());
  return ids;
}

size_t CompletionText::stop_at(const std::string& text) const {
  size_t first = std::string::npos;
  for (const std::string& stop : stop_) first = std::min(first, text.find(stop));
  return first;
}

bool CompletionText::stopped(std::span<const int32_t> ids) const {
  return !stop_.empty() && stop_at(opened_.text.tokenizer.decode(ids)) != std::string::npos;
}

std::string CompletionText::bytes(std::span<const int32_t> ids) const {
  if (!ids.empty() && std::find(stop_ids_.begin(), stop_ids_.end(), ids.back()) != stop_ids_.end()) ids = ids.first(ids.size() - 1);
  std::string text = opened_.text.tokenizer.decode(ids);
  const size_t cut = stop_at(text);
  if (cut != std::string::npos) text.resize(cut);
  return text;
}

std::string CompletionText::text(std::span<const int32_t> ids) const { return text::utf8_lossy(bytes(ids)); }

size_t CompletionText::settled(const std::string& bytes) const {
  size_t end = bytes.size();
  for (const std::string& stop : stop_)
    for (size_t n = std::min(stop.size(), bytes.size()); n > 0; --n)
      if (bytes.compare(bytes.size() - n, n, stop, 0, n) == 0) {
        end = std::min(end, bytes.size() - n);
        break;
      }
  // A character is at most four bytes long: look back for the lead byte of one that is not complete.
  for (size_t back = 1; back <= 4 && back <= end; ++back) {
    const auto byte = static_cast<unsigned char>(bytes[end - back]);
    if (byte < 0x80) break;
    if (byte < 0xC0) continue;
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
    if (length > back) end -= back;
    break;
  }
  return end;
}

}  // namespace hone::app
