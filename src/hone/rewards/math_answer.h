#pragma once
// Where the answer stands in a completion.
#include <optional>
#include <string_view>

namespace hone::rewards::math {

enum class Source { boxed, marker, number, whole };
struct FoundAnswer {
  std::string_view text;
  Source source = Source::whole;
};

/// What the last complete \boxed{} (or \fbox{}) holds, else what follows the last "####" or "A:" (its first line that is not empty); empty
/// where there is neither.
std::optional<FoundAnswer> marked_answer(std::string_view text);
/// The last number: with its sign, thousands, decimals, exponent, as a fraction a/b or \frac{a}{b}, as a mixed number, with a per cent sign.
std::optional<std::string_view> last_number(std::string_view text);
/// The last choice in a text without a marked answer: "(B)", else a capital letter from A to J that stands alone.
std::optional<std::string_view> last_choice(std::string_view text);

}  // namespace hone::rewards::math
