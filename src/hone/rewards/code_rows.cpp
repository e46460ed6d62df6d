// What a completion and a row say: the code, the tests.
#include "hone/rewards/code_program.h"

namespace hone::rewards {
namespace {

/// The fence that a line opens or closes: its character and length; 0 where the line is none (at most three spaces before it, as in Markdown).
struct Fence {
  char mark = 0;
  size_t length = 0;
  bool bare = false;  // nothing behind it: it may close
};
Fence fence_of(std::string_view line) {
  const size_t begin = line.find_first_not_of(' ');
  if (begin == line.npos || begin > 3 || (line[begin] != '`' && line[begin] != '~')) return {};
  Fence fence;
  fence.mark = line[begin];
  const size_t end = std::min(line.find_first_not_of(fence.mark, begin), line.size());
  fence.length = end - begin;
  if (fence.length < 3) return {};
  fence.bare = line.find_first_not_of(" \t\r", end) == line.npos;
  // ```x``` in one line is inline code.
  if (fence.mark == '`' && line.find('`', end) != line.npos) return {};
  return fence;
}

std::optional<std::string> text_member(const nlohmann::json& row, const char* name) {
  const auto it = row.find(name);
  if (it == row.end() || !it->is_string()) return std::nullopt;
  return it->get<std::string>();
}

/// A text, or a list of texts as lines; no value for anything else.
std::optional<std::string> text_or_lines(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return std::nullopt;
  std::string text;
  for (const auto& item : value) {
    if (!item.is_string()) return std::nullopt;
    text += item.get<std::string>() + "\n";
  }
  return text;
}

bool blank(const std::string& text) { return text.find_first_not_of(" \t\r\n") == std::string::npos; }

RowTests fault(std::string text) {
  RowTests tests;
  tests.fault = std::move(text);
  return tests;
}

RowTests humaneval_tests(const nlohmann::json& row) {
  RowTests tests;
  const auto entry = text_member(row, "entry_point"), text = text_member(row, "test");
  if (!text || !entry || blank(*text)) return fault("\"entry_point\" and \"test\" must be texts");
  for (const char c : *entry) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_') return fault("\"entry_point\" is no name");
  }
  tests.entry_point = *entry;
  if (const auto prompt = text_member(row, "prompt"); prompt && prompt->find(*entry) != std::string::npos) tests.prompt = *prompt;
  tests.text = *text + "\ncheck(" + *entry + ")\n";
  return tests;
}

RowTests mbpp_tests(const nlohmann::json& row) {
  RowTests tests;
  for (const char* name : {"test_imports", "test_setup_code"}) {
    const auto it = row.find(name);
    if (it == row.end() || it->is_null()) continue;
    const auto text = text_or_lines(*it);
    if (!text) return fault(std::string("\"") + name + "\" is neither a text nor a list of texts");
    tests.text += *text + "\n";
  }
  const auto list = text_or_lines(row["test_list"]);
  if (!list || blank(*list)) return fault("\"test_list\" is no list of tests");
  tests.text += *list;
  return tests;
}

}  // namespace

std::string completion_code(std::string_view completion) {
  std::string_view code = completion;
  Fence open;
  size_t code_begin = 0;
  for (size_t at = 0; at < completion.size();) {
    const size_t end = std::min(completion.find('\n', at), completion.size());
    const Fence fence = fence_of(completion.substr(at, end - at));
    const size_t next = std::min(end + 1, completion.size());
    if (open.mark == 0 && fence.mark != 0) {
      open = fence;
      code_begin = next;
    } else if (open.mark != 0 && fence.mark == open.mark && fence.length >= open.length && fence.bare) {
      code = completion.substr(code_begin, at - code_begin);
      open = {};
    }
    at = next;
    if (end == completion.size()) break;
  }
  if (open.mark != 0) code = completion.substr(code_begin);
  std::string out;
  out.reserve(code.size());
  for (size_t i = 0; i < code.size(); ++i) {
    if (code[i] != '\r' || i + 1 >= code.size() || code[i + 1] != '\n') out += code[i];
  }
  return out;
}

RowTests row_tests(const nlohmann::json& row) {
  if (const auto it = row.find("tests"); it != row.end()) {
    RowTests tests;
    const auto text = text_or_lines(*it);
    if (!text) return fault(std::string("\"tests\" is ") + it->type_name() + "; wanted a text or a list of texts");
    if (blank(*text)) return fault("\"tests\" is empty");
    tests.text = *text;
    return tests;
  }
  if (row.contains("test") && row.contains("entry_point")) return humaneval_tests(row);
  if (row.contains("test_list")) return mbpp_tests(row);
  return fault("there are no \"tests\" to run (nor \"test\" with \"entry_point\", nor \"test_list\")");
}

}  // namespace hone::rewards
