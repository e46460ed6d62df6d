#include "hone/adapters/patterns.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "hone/base/error.h"

namespace hone::adapters {
namespace {

constexpr size_t kMaxExpression = 1 << 16;
constexpr uint32_t kMaxSteps = 200'000;  // a name has about 40 characters: an honest expression takes hundreds

}  // namespace

NamePattern::NamePattern(const std::string& expression, const std::string& where) : expression_(expression), where_(where) {
  if (expression.size() > kMaxExpression) fail("{}: an expression of {} characters; at most {} are read", where, expression.size(), kMaxExpression);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                   PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(error, text, sizeof text);
    fail("{}: \"{}\" is no regular expression: {} at character {}", where, expression.substr(0, 200), reinterpret_cast<const char*>(text), offset);
  }
  code_ = std::shared_ptr<void>(code, [](void* c) { pcre2_code_free(static_cast<pcre2_code*>(c)); });
}

bool NamePattern::matches(std::string_view name) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(pcre2_match_context_create(nullptr),
                                                                                          pcre2_match_context_free);
  check(data != nullptr && context != nullptr, "no memory for matching {}", name);
  pcre2_set_match_limit(context.get(), kMaxSteps);
  pcre2_set_heap_limit(context.get(), 1 << 14);  // KiB
  const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0, data.get(), context.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) fail("{}: matching \"{}\" with \"{}\" takes too many steps; write a simpler expression", where_, name, expression_.substr(0, 200));
  return true;
}

bool is_plain_name(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
}

bool names_module(std::string_view target, std::string_view module) {
  if (target.empty() || !module.ends_with(target)) return false;
  return module.size() == target.size() || module[module.size() - target.size() - 1] == '.';
}

bool holds_module(std::string_view saved, std::string_view module) {
  if (saved.empty()) return false;
  for (size_t at = module.find(saved); at != std::string_view::npos; at = module.find(saved, at + 1)) {
    const size_t end = at + saved.size();
    if ((at == 0 || module[at - 1] == '.') && (end == module.size() || module[end] == '.')) return true;
  }
  return false;
}

}  // namespace hone::adapters
