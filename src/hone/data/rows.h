#pragma once
// The rows of the command-line contract, as parsed from JSONL; no tokens yet.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hone::data {

/// One message of a conversation. `extra` keeps every other key (tool_calls, name, ...) for the chat template.
struct Message {
  std::string role;
  std::string content;
  nlohmann::json extra = nlohmann::json::object();
};

/// A prompt or completion: plain text, or messages.
struct Content {
  bool is_messages = false;
  std::string text;
  std::vector<Message> messages;
};

enum class RowKind { messages, prompt_completion, text, preference, unpaired, prompt_only };

/// Where a row stands, for messages: "train.jsonl:17".
struct Place {
  std::string file;
  int64_t line = 0;  // 1-based
};

struct Row {
  RowKind kind = RowKind::text;
  Place place;
  Content prompt;       // prompt_completion, preference, unpaired, prompt_only; kind messages keeps its conversation in prompt.messages
  Content completion;   // prompt_completion, unpaired
  Content chosen, rejected;  // preference
  std::string text;     // kind text
  bool label = false;   // unpaired
  bool add_generation_prompt = false;  // {"messages", "add_generation_prompt": true} in `hone inspect`
  nlohmann::json columns;  // the whole JSON object, for verifiers and for the filters' output
};

}  // namespace hone::data
