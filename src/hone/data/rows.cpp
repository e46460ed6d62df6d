#include "hone/data/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>

#include "hone/base/error.h"
#include "hone/data/foreign_names.h"
#include "hone/data/json_scan.h"
#include "hone/data/row_phrases.h"

namespace hone::data {
namespace {

using nlohmann::json;

struct Shape {
  RowKind kind;
  std::string_view text;
  std::vector<std::string> columns;
};

/// The first shape whose columns are all there and whose kind is accepted is taken: the more columns, the earlier.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {RowKind::preference, "chosen + rejected", {"chosen", "rejected"}},
      {RowKind::unpaired, "prompt + completion + label", {"prompt", "completion", "label"}},
      {RowKind::prompt_completion, "prompt + completion", {"prompt", "completion"}},
      {RowKind::messages, "messages", {"messages"}},
      {RowKind::text, "text", {"text"}},
      {RowKind::prompt_only, "prompt", {"prompt"}},
  };
  return all;
}

std::string nearest(std::string_view name, const std::vector<std::string>& known) {
  return nearest_name(name, known.data(), known.data() + known.size());
}

bool has_value(const json& object, const std::string& column) {
  const auto found = object.find(column);
  return found != object.end() && !found->is_null();
}

bool all_there(const json& object, const std::vector<std::string>& columns, bool null_counts) {
  return std::all_of(columns.begin(), columns.end(), [&](const std::string& c) { return null_counts ? object.contains(c) : has_value(object, c); });
}

/// One row on its way. Every function returns false after it has filled `error`.
class RowParser {
 public:
  RowParser(json&& object, Place&& place, const RowRules& rules) : object_(std::move(object)), rules_(rules) { row.place = std::move(place); }

  bool parse() {
    if (!object_.is_object()) {
      const bool whole_file = object_.is_array() && row.place.line == 1;
      return fault("not-an-object", "", phrase(object_), "a JSON object", whole_file ? "jq -c '.[]' makes one line of each element" : "");
    }
    if (!choose_kind()) return false;
    if (!parse_columns()) return false;
    if (const auto tools = object_.find("tools"); tools != object_.end()) row.tools = *tools;
    if (const auto flag = object_.find("add_generation_prompt"); flag != object_.end() && flag->is_boolean())
      row.add_generation_prompt = flag->get<bool>();
    if (rules_.for_training && !check_trainable()) return false;
    if (rules_.keep_columns) row.columns = std::move(object_);
    return true;
  }

  Row row;
  RowError error;

 private:
  bool fault(std::string kind, std::string field, std::string found, std::string wanted, std::string suggestion = "") {
    error = {row.place, std::move(kind), std::move(field), std::move(found), std::move(wanted), std::move(suggestion)};
    return false;
  }

  std::string accepted_text() const {
    std::string text;
    for (const RowKind kind : rules_.accepted) text += (text.empty() ? "" : " | ") + std::string(columns_of(kind));
    return text;
  }

  bool accepted(RowKind kind) const { return std::find(rules_.accepted.begin(), rules_.accepted.end(), kind) != rules_.accepted.end(); }

  bool choose_kind() {
    for (const bool null_counts : {false, true}) {
      for (const Shape& shape : shapes()) {
        if (!accepted(shape.kind) || !all_there(object_, shape.columns, null_counts)) continue;
        row.kind = shape.kind;
        return !rules_.for_training || note_other_forms(shape);
      }
    }
    for (const ForeignShape& foreign : foreign_shapes())
      if (all_there(object_, foreign.columns, false))
        return fault(foreign.kind, "", foreign.name, accepted_text(), "such rows come with a later version; until then " + foreign.advice);
    if (const Renames renames = misspelt_columns(); !renames.empty()) {
      const auto& [key, meant] = renames.front();
      std::string advice;
      for (const auto& [from, to] : renames) advice += fmt::format("{}{} to \"{}\"", advice.empty() ? "rename " : ", ", in_quotes(from), to);
      return fault("misspelt-column", in_quotes(key), "an unknown column", fmt::format("column \"{}\"", meant), advice);
    }
    for (const auto& [side, other] : {std::pair("chosen", "rejected"), std::pair("rejected", "chosen")})
      if (accepted(RowKind::preference) && object_.contains(side) && !object_.contains(other))
        return fault("missing-column", other, "nothing", fmt::format("a completion beside \"{}\"", side));
    for (const Shape& shape : shapes())
      if (all_there(object_, shape.columns, false))
        return fault("row-kind", "", fmt::format("a row with {}", shape.text), accepted_text(), trainers_of(shape.kind));
    return fault("missing-column", "", key_phrase(object_), accepted_text());
  }

  /// A row may have several forms at once (messages and the same as text): what is not read is noted. Half a form beside the one that was
  /// chosen is a fault: its answer would be dropped, and what is missing of it is probably misspelt.
  bool note_other_forms(const Shape& chosen) {
    for (const char* column : {"messages", "text", "prompt", "completion", "chosen", "rejected"}) {
      const bool used = std::find(chosen.columns.begin(), chosen.columns.end(), column) != chosen.columns.end() ||
                        (chosen.kind == RowKind::preference && column == std::string_view("prompt"));
      if (!used && has_value(object_, column)) row.unread += (row.unread.empty() ? "" : ", ") + std::string(column);
    }
    for (const auto& [half, other] : {std::pair("completion", "prompt"), std::pair("chosen", "rejected"), std::pair("rejected", "chosen")}) {
      const bool chosen_form = std::find(chosen.columns.begin(), chosen.columns.end(), other) != chosen.columns.end();
      if (!chosen_form && has_value(object_, half) && !has_value(object_, other))
        return fault("mixed-forms", half, fmt::format("a column beside {} and no \"{}\"", chosen.text, other), "one whole form",
                     fmt::format("add \"{}\", or remove \"{}\" to use {}", other, half, chosen.text));
    }
    return true;
  }

  using Renames = std::vector<std::pair<std::string, std::string>>;

  /// Keys that look like columns which the accepted kinds lack here: slips first, then names that other tools use.
  Renames misspelt_columns() const {
    std::vector<std::string> missing;
    for (const Shape& shape : shapes())
      for (const std::string& column : shape.columns)
        if (accepted(shape.kind) && !object_.contains(column)) missing.push_back(column);
    Renames renames;
    const auto take = [&](const std::string& key, const std::string& meant) {
      renames.emplace_back(key, meant);
      std::erase(missing, meant);
    };
    for (const auto& [key, value] : object_.items())
      if (const std::string meant = nearest(key, missing); !meant.empty()) take(key, meant);
    for (const auto& [other, ours] : other_names)
      if (object_.contains(std::string(other)) && std::find(missing.begin(), missing.end(), ours) != missing.end())
        take(std::string(other), std::string(ours));
    return renames;
  }

  bool parse_columns() {
    switch (row.kind) {
      case RowKind::messages:
        row.prompt.is_messages = true;
        return parse_messages(object_["messages"], "messages", row.prompt.messages);
      case RowKind::text:
        return parse_string("text", row.text);
      case RowKind::prompt_only:
        return parse_content("prompt", row.prompt);
      case RowKind::prompt_completion:
        return parse_content("prompt", row.prompt) && parse_answer("completion", row.completion);
      case RowKind::unpaired:
        return parse_content("prompt", row.prompt) && parse_answer("completion", row.completion) && parse_label();
      case RowKind::preference:
        return parse_preference();
    }
    return false;
  }

  bool parse_string(const std::string& column, std::string& out) {
    json& value = object_[column];
    if (!value.is_string()) return fault("wrong-type", column, phrase(value), "a string");
    out = value.get_ref<const std::string&>();
    return true;
  }

  bool parse_content(const std::string& column, Content& out) {
    const json& value = object_[column];
    out.is_messages = value.is_array();
    if (out.is_messages) return parse_messages(value, column, out.messages);
    if (!value.is_string()) return fault("wrong-type", column, phrase(value), "a string or a list of messages");
    out.text = value.get_ref<const std::string&>();
    return true;
  }

  /// A completion of the prompt that was read before; from here on both are text or both are messages.
  bool parse_answer(const std::string& column, Content& out) {
    if (!parse_content(column, out)) return false;
    if (out.is_messages == row.prompt.is_messages) return true;
    if (out.is_messages)
      return fault("mixed-forms", column, "messages, though the prompt is a string", "a string", "or write the prompt as messages");
    out.messages = {Message{"assistant", std::move(out.text)}};
    out.text.clear();
    out.is_messages = true;
    return true;
  }

  bool parse_label() {
    const json& value = object_["label"];
    if (!value.is_boolean()) return fault("wrong-type", "label", phrase(value), "true or false");
    row.label = value.get<bool>();
    return true;
  }

  bool parse_margin() {
    const auto margin = object_.find("margin");
    if (margin == object_.end()) return true;
    if (!margin->is_number() || !std::isfinite(margin->get<double>()))
      return fault("bad-margin", "margin", phrase(*margin), "a number", "how much better chosen is; leave the column out where it is not known");
    row.margin = margin->get<double>();
    return true;
  }

  bool parse_preference() {
    if (!parse_margin()) return false;
    if (object_["chosen"] == object_["rejected"]) return fault("equal-pair", "rejected", "the same as chosen", "a completion that differs");
    if (has_value(object_, "prompt"))
      return parse_content("prompt", row.prompt) && parse_answer("chosen", row.chosen) && parse_answer("rejected", row.rejected);
    if (!parse_content("chosen", row.chosen) || !parse_content("rejected", row.rejected)) return false;
    if (row.chosen.is_messages != row.rejected.is_messages)
      return fault("mixed-forms", "rejected", phrase(object_["rejected"]), row.chosen.is_messages ? "messages, as chosen" : "a string, as chosen");
    take_common_prompt();
    return true;
  }

  /// The common beginning of chosen and rejected becomes the prompt; text is split before the last space of it, as TRL does.
  void take_common_prompt() {
    row.prompt.is_messages = row.chosen.is_messages;
    if (row.prompt.is_messages) {
      const json &chosen = object_["chosen"], &rejected = object_["rejected"];
      size_t common = 0;
      while (common < std::min(chosen.size(), rejected.size()) && chosen[common] == rejected[common]) ++common;
      const auto count = static_cast<std::ptrdiff_t>(common);
      row.prompt.messages.assign(row.chosen.messages.begin(), row.chosen.messages.begin() + count);
      for (Content* side : {&row.chosen, &row.rejected}) side->messages.erase(side->messages.begin(), side->messages.begin() + count);
      return;
    }
    const auto differ = std::mismatch(row.chosen.text.begin(), row.chosen.text.end(), row.rejected.text.begin(), row.rejected.text.end());
    size_t common = static_cast<size_t>(differ.first - row.chosen.text.begin());
    const auto splits_character = [&](const std::string& text) {
      return common < text.size() && (static_cast<unsigned char>(text[common]) & 0xC0) == 0x80;
    };
    while (common > 0 && (splits_character(row.chosen.text) || splits_character(row.rejected.text))) --common;
    if (common > 0 && row.chosen.text[common - 1] == ' ') --common;
    row.prompt.text = row.chosen.text.substr(0, common);
    for (Content* side : {&row.chosen, &row.rejected}) side->text.erase(0, common);
  }

  bool parse_messages(const json& list, const std::string& column, std::vector<Message>& out) {
    if (!list.is_array()) return fault("wrong-type", column, phrase(list), "a list of messages");
    if (list.empty()) return fault("no-messages", column, "an empty list", "at least one message");
    out.resize(list.size());
    for (size_t i = 0; i < list.size(); ++i)
      if (!parse_message(list[i], fmt::format("{}[{}]", column, i), out[i])) return false;
    return true;
  }

  bool parse_message(const json& value, const std::string& field, Message& out) {
    if (!value.is_object()) return fault("wrong-type", field, phrase(value), "an object with role and content");
    for (const char* name : {"role", "content"}) {
      if (value.contains(name)) continue;
      return fault(fmt::format("missing-{}", name), fmt::format("{}.{}", field, name), "nothing", "a string", rename_advice(value, name));
    }
    const json &role = value["role"], &content = value["content"];
    if (!role.is_string() || role.get_ref<const std::string&>().empty())
      return fault("bad-role", field + ".role", phrase(role), "a name such as \"user\" or \"assistant\"");
    out.role = role.get<std::string>();
    if (const std::string near = nearest(out.role, known_roles); !near.empty() && near != out.role)
      return fault("misspelt-role", field + ".role", in_quotes(out.role), in_quotes(near));
    if (std::find(known_roles.begin(), known_roles.end(), out.role) == known_roles.end()) return unknown_role(field, out.role);
    if (content.is_null()) return fault("null-content", field + ".content", "null", "a string", "write \"\" for a message without text");
    if (content.is_array()) return fault("list-content", field + ".content", phrase(content), "a string", "lists of content parts are not supported");
    if (!content.is_string()) return fault("wrong-type", field + ".content", phrase(content), "a string");
    out.content = content.get<std::string>();
    for (const auto& [key, extra] : value.items())
      if (key != "role" && key != "content") out.extra[key] = extra;
    return true;
  }

  /// Templates write whatever role they are given: a foreign one would be trained on as a word that the model does not know.
  bool unknown_role(const std::string& field, const std::string& role) {
    std::string lower = role;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const auto& [other, ours] : other_roles)
      if (lower == other) return fault("foreign-role", field + ".role", in_quotes(role), in_quotes(ours));
    return fault("unknown-role", field + ".role", in_quotes(role), fmt::format("one of {}", fmt::join(known_roles, ", ")));
  }

  /// "rename ..." when one of the keys of a message seems to be meant for `name`.
  static std::string rename_advice(const json& message, const std::string& name) {
    for (const auto& [key, value] : message.items()) {
      bool meant = nearest(key, {name}) == name;
      for (const auto& [other, ours] : other_names) meant = meant || (key == other && ours == name);
      if (meant && key != "role" && key != "content") return fmt::format("rename {} to \"{}\"", in_quotes(key), name);
    }
    return {};
  }

  bool check_trainable() {
    switch (row.kind) {
      case RowKind::messages:
        return check_turns(row.prompt.messages, "messages");
      case RowKind::text:
        return row.text.empty() ? fault("empty-text", "text", "an empty string", "text to train on") : true;
      case RowKind::prompt_only:
        return check_prompt();
      case RowKind::preference:
        return check_completion(row.chosen, "chosen") && check_completion(row.rejected, "rejected");
      case RowKind::unpaired:
        return check_completion(row.completion, "completion");
      case RowKind::prompt_completion:
        // The row is about to be imitated; a label of false says that it should not be.
        if (const auto label = object_.find("label"); label != object_.end() && label->is_boolean() && !label->get<bool>())
          return fault("labelled-false", "label", "false", "completions worth imitating", "leave such rows out, or drop the column");
        return check_completion(row.completion, "completion");
    }
    return true;
  }

  bool check_prompt() {
    if (!row.prompt.is_messages && row.prompt.text.empty()) return fault("empty-prompt", "prompt", "an empty string", "a prompt to answer");
    return true;
  }

  bool check_completion(const Content& content, const std::string& column) {
    if (content.is_messages && content.messages.empty())
      return fault("empty-completion", column, "nothing after what chosen and rejected share", "a turn of its own");
    if (content.is_messages) return check_turns(content.messages, column);
    if (content.text.empty()) return fault("empty-completion", column, "an empty string", "text to train on");
    return true;
  }

  bool check_turns(const std::vector<Message>& messages, const std::string& column) {
    bool assistant = !rules_.needs_assistant && row.kind == RowKind::messages;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].role != "assistant") continue;
      assistant = true;
      if (messages[i].content.empty() && !messages[i].extra.contains("tool_calls"))
        return fault("empty-completion", fmt::format("{}[{}].content", column, i), "an empty string", "text to train on");
    }
    if (assistant) return true;
    return fault("no-assistant-turn", column, role_phrase(messages), "an assistant's turn to train on");
  }

  json object_;
  const RowRules& rules_;
};

}  // namespace

bool differs_before_last_turn(const Row& row) {
  const std::vector<Message>&chosen = row.chosen.messages, &rejected = row.rejected.messages;
  if (row.kind != RowKind::preference || chosen.empty() || rejected.empty()) return false;
  const auto same = [](const Message& a, const Message& b) { return a.role == b.role && a.content == b.content && a.extra == b.extra; };
  return !std::equal(chosen.begin(), chosen.end() - 1, rejected.begin(), rejected.end() - 1, same);
}

std::string_view columns_of(RowKind kind) {
  for (const Shape& shape : shapes())
    if (shape.kind == kind) return shape.text;
  return {};
}

std::string describe(const RowError& error) {
  std::string text = fmt::format("{}:{}: ", error.place.file, error.place.line);
  if (!error.field.empty()) text += error.field + ": ";
  text += fmt::format("found {}, wanted {}", error.found, error.wanted);
  if (!error.suggestion.empty()) text += fmt::format(" ({})", error.suggestion);
  return text;
}

std::variant<Row, RowError> parse_row(nlohmann::json object, Place place, const RowRules& rules) {
  RowParser parser(std::move(object), std::move(place), rules);
  if (!parser.parse()) return std::move(parser.error);
  return std::move(parser.row);
}

}  // namespace hone::data
