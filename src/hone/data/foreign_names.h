#pragma once
// What other tools call rows, columns and roles: recognised so that a refusal can say what to write instead.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hone::data {

/// Rows of other tools, recognised so that the refusal can name them.
struct ForeignShape {
  std::string kind, name;
  std::vector<std::string> columns;
  std::string advice;
};

inline const std::vector<ForeignShape>& foreign_shapes() {
  static const std::vector<ForeignShape> all = {
      {"sharegpt-row", "a ShareGPT row (conversations)", {"conversations"}, "write {\"messages\":[{\"role\",\"content\"}…]}"},
      {"alpaca-row", "an Alpaca row (instruction, output)", {"instruction", "output"}, "write {\"prompt\",\"completion\"}"},
      {"gsm8k-row", "a GSM8K row (question, answer)", {"question", "answer"}, "write {\"prompt\",\"completion\"}"},
  };
  return all;
}

/// Names that other tools use for our columns.
inline constexpr std::pair<std::string_view, std::string_view> other_names[] = {
    {"response", "completion"}, {"output", "completion"},  {"target", "completion"},     {"solution", "completion"},
    {"problem", "prompt"},      {"instruction", "prompt"}, {"input", "prompt"},          {"question", "prompt"},
    {"query", "prompt"},        {"dialogue", "messages"},  {"conversation", "messages"}, {"document", "text"},
    {"content", "text"},        {"positive", "chosen"},    {"negative", "rejected"},     {"from", "role"},
    {"value", "content"},
};

inline const std::vector<std::string> known_roles = {"system", "user", "assistant", "tool", "developer", "function", "ipython"};

/// What other tools call these roles.
inline constexpr std::pair<std::string_view, std::string_view> other_roles[] = {
    {"human", "user"},         {"prompter", "user"},          {"customer", "user"},     {"person", "user"},
    {"gpt", "assistant"},      {"bot", "assistant"},          {"chatbot", "assistant"}, {"model", "assistant"},
    {"ai", "assistant"},       {"agent", "assistant"},        {"chatgpt", "assistant"}, {"observation", "tool"},
    {"tool_response", "tool"}, {"function_response", "tool"},
};

}  // namespace hone::data
