#include "hone/config/text_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "hone/base/error.h"

namespace hone::config {

std::string normal_name(std::string_view name) {
  std::string normal(name);
  for (char& c : normal) {
    if (c == '-') c = '_';
  }
  return normal;
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
    if (length == 0 || i + length > text.size()) return false;
    uint32_t code = length == 1 ? lead : lead & (0x7Fu >> length);
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0) != 0x80) return false;
      code = code << 6 | (next & 0x3Fu);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    i += length;
  }
  return true;
}

std::string printable(std::string_view text) {
  constexpr size_t kLimit = 60;
  if (!is_utf8(text)) return "(not UTF-8)";
  size_t end = std::min(text.size(), kLimit);
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // never through a character
  std::string out;
  for (char c : text.substr(0, end)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7F ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return out + (end < text.size() ? "..." : "");
}

std::string shown(std::string_view text) { return fmt::format("'{}'", printable(text)); }

std::optional<bool> bool_value(std::string_view text) {
  if (text == "true" || text == "True") return true;
  if (text == "false" || text == "False") return false;
  return std::nullopt;
}

double parse_duration(std::string_view text, const std::string& where) {
  double total = 0;
  double last_unit = 1e9;
  std::string_view rest = text;
  bool good = !rest.empty();
  while (good && !rest.empty()) {
    double number = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    const size_t used = static_cast<size_t>(end - rest.data());
    good = error == std::errc() && std::isfinite(number) && number >= 0 && used < rest.size();
    if (!good) break;
    const char letter = rest[used];
    const double unit = letter == 'd' ? 86400 : letter == 'h' ? 3600 : letter == 'm' ? 60 : letter == 's' ? 1 : 0;
    good = unit > 0 && unit < last_unit;
    last_unit = unit;
    total += number * unit;
    rest.remove_prefix(used + 1);
  }
  if (!good) fail("{}: {} is not a duration; write 90s, 20m, 1h30m", where, shown(text));
  if (!(total > 0 && total <= 366.0 * 86400)) fail("{}: {} is out of range; allowed: above 0s, at most 366d", where, shown(text));
  return total;
}

std::string duration_text(double seconds) {
  if (seconds != std::floor(seconds)) return fmt::format("{}s", seconds);
  auto whole = static_cast<int64_t>(seconds);
  std::string text;
  if (whole >= 3600) text += fmt::format("{}h", whole / 3600);
  if (whole % 3600 >= 60) text += fmt::format("{}m", whole % 3600 / 60);
  if (whole % 60 != 0 || text.empty()) text += fmt::format("{}s", whole % 60);
  return text;
}

}  // namespace hone::config
