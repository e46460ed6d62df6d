#include "hone/base/error.h"

#include <algorithm>
#include <cctype>
#include <vector>

namespace hone {
namespace {

/// Names are compared as people mean them: case and the difference between '-' and '_' do not count.
std::string folded(std::string_view name) {
  std::string result(name);
  for (char& c : result) c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

/// Edit distance in which two neighbouring letters swapped count once (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  const size_t width = b.size() + 1;
  std::vector<size_t> before(width), previous(width), current(width);
  for (size_t j = 0; j < width; ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j < width; ++j) {
      const size_t replaced = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) current[j] = std::min(current[j], before[j - 2] + 1);
    }
    std::swap(before, previous);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view name, const std::string* begin, const std::string* end) {
  constexpr size_t longest_name = 200;  // hostile input may hand in a key of megabytes
  if (name.empty() || name.size() > longest_name) return {};
  const std::string wanted = folded(name);
  std::string best;
  size_t best_distance = 0;
  for (const std::string* candidate = begin; candidate != end; ++candidate) {
    if (candidate->size() > longest_name) continue;
    // About one slip in three letters: further away a suggestion misleads more than it helps.
    const size_t allowed = std::max<size_t>(1, std::min(wanted.size(), candidate->size()) / 3);
    const size_t distance = edit_distance(wanted, folded(*candidate));
    if (distance > allowed || distance >= std::max(wanted.size(), candidate->size())) continue;
    if (best.empty() || distance < best_distance) {
      best = *candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace hone
