#pragma once
// The rows of the command-line contract, as parsed from JSONL; no tokens yet.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>
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
  Content prompt;            // prompt_completion, preference, unpaired, prompt_only; kind messages keeps its conversation in prompt.messages
  Content completion;        // prompt_completion, unpaired
  Content chosen, rejected;  // preference
  std::string text;          // kind text
  bool label = false;        // unpaired
  nlohmann::json tools;      // the column of that name, for the chat template; null where there is none
  double margin = 0;         // preference: how much better chosen is; 0 where the row has no such column
  bool add_generation_prompt = false;  // {"messages", "add_generation_prompt": true} in `hone inspect`
  std::string unread;                  // "prompt, text": columns of other forms that the row has as well (only with RowRules::for_training)
  nlohmann::json columns;              // the whole JSON object, for verifiers and for the filters' output (null unless RowRules::keep_columns)
};

/// What is wrong with one row. `kind` is a short slug that is the same for every row with this fault ("missing-role"); found, wanted and
/// suggestion (which may be empty) are phrases of one line each.
struct RowError {
  Place place;
  std::string kind, field, found, wanted, suggestion;
};

/// One line: `train.jsonl:17: messages[0].content: found null, wanted a string (write "" for no text)`.
std::string describe(const RowError& error);

struct RowRules {
  std::vector<RowKind> accepted;
  bool for_training = true;     // there must be something to train on: no empty completion, no row labelled false that would be imitated
  bool needs_assistant = true;  // a training conversation has an assistant's turn (not with --assistant_only_loss false)
  bool keep_columns = true;     // fill Row::columns
};

/// Reads one JSON value as a row of one of the accepted kinds, chosen by its columns. Columns of other names are left alone, unless one of
/// them looks like a misspelt column that is missing. A text completion of a prompt of messages becomes one assistant's message; the
/// common beginning of chosen and rejected becomes the prompt where none is given.
std::variant<Row, RowError> parse_row(nlohmann::json object, Place place, const RowRules& rules);

/// Whether chosen and rejected have other messages before their last one (or one has more): what is preferred is then not only an answer.
bool differs_before_last_turn(const Row& row);

/// The columns that make a kind: "prompt + completion".
std::string_view columns_of(RowKind kind);

}  // namespace hone::data
