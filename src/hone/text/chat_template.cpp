#include "hone/text/chat_template.h"

#include <algorithm>

#include "hone/base/error.h"

namespace hone::text {

const char* const chatml_template =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

namespace {

jinja::Value message_value(const data::Message& message, int32_t index) {
  jinja::Dict dict;
  dict.message = index;
  dict.set("role", jinja::make_string(message.role, jinja::message_origin(index, true)));
  dict.set("content", jinja::make_string(message.content, jinja::message_origin(index, false)));
  if (message.extra.is_object())
    for (const auto& [key, value] : message.extra.items())
      if (key != "role" && key != "content") dict.set(key, jinja::from_json(value, jinja::message_origin(index, false)));
  return jinja::make_dict(std::move(dict));
}

}  // namespace

ChatTemplate::ChatTemplate() : fault_("the model has no chat template; give rows with \"text\", or \"prompt\" and \"completion\" strings") {}

ChatTemplate::ChatTemplate(std::string source, const Tokenizer& tokenizer)
    : source_(std::move(source)),
      bos_(tokenizer.token_bytes(tokenizer.bos_id())),
      eos_(tokenizer.token_bytes(tokenizer.eos_id())),
      special_(tokenizer.special_strings()),
      exists_(true) {
  try {
    template_.emplace(source_);
  } catch (const UserError& error) {
    fault_ = error.what();
    return;
  }
  const std::vector<data::Message> probe = {{"user", "x"}};
  try {
    const std::string without = run(probe, false, {}).text, with = run(probe, true, {}).text;
    if (!with.starts_with(without) || with.size() == without.size())
      generation_fault_ = "the chat template writes nothing for add_generation_prompt, so it cannot be told where the assistant's turn starts";
    else
      generation_prompt_ = with.substr(without.size());
  } catch (const UserError& error) {
    generation_fault_ = fmt::format("the generation prompt cannot be told from the chat template: {}", error.what());
  }
}

jinja::Output ChatTemplate::run(const std::vector<data::Message>& messages, bool add_generation_prompt, const nlohmann::json& variables) const {
  if (!fault_.empty()) throw UserError(Exit::usage, fault_);
  jinja::List list;
  list.reserve(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) list.push_back(message_value(messages[i], static_cast<int32_t>(i)));
  jinja::Dict names;
  if (variables.is_object())
    for (const auto& [key, value] : variables.items()) names.set(key, jinja::from_json(value, jinja::no_origin));
  names.set("messages", jinja::make_list(std::move(list)));
  names.set("add_generation_prompt", jinja::make_bool(add_generation_prompt));
  if (!bos_.empty()) names.set("bos_token", jinja::make_string(bos_));
  if (!eos_.empty()) names.set("eos_token", jinja::make_string(eos_));
  return template_->render(names);
}

Rendered ChatTemplate::render(const std::vector<data::Message>& messages, bool add_generation_prompt, const nlohmann::json& variables) const {
  jinja::Output output = run(messages, add_generation_prompt, variables);
  Rendered out;
  out.text = std::move(output.text);
  out.turn_of_char = std::move(output.turn);
  out.message_of_char = std::move(output.origin);
  for (int32_t& origin : out.message_of_char) origin = jinja::origin_is_role(origin) ? -1 : jinja::origin_message(origin);
  return out;
}

const std::string& ChatTemplate::generation_prompt() const {
  if (!fault_.empty()) throw UserError(Exit::usage, fault_);
  if (!generation_fault_.empty()) throw UserError(Exit::usage, generation_fault_);
  return generation_prompt_;
}

// Within the turn of the message (the bytes written by its iteration of the loop) the span starts behind the last generation prompt that
// stands before the first byte of the message's own values, and ends behind the first special token after their last byte. So it does not
// matter whether the template trims the content, leaves it out because it is empty, or writes something of its own around it.
AssistantSpan ChatTemplate::span_of(int32_t message, const Rendered& rendered, size_t begin, size_t end) const {
  size_t first = end, last = begin;  // of the message's own bytes
  for (size_t i = begin; i < end; ++i)
    if (rendered.message_of_char[i] == message) {
      first = std::min(first, i);
      last = i + 1;
    }
  const std::string& prompt = generation_prompt();
  const std::string_view before = std::string_view(rendered.text).substr(begin, first - begin);
  const size_t found = before.rfind(prompt);
  if (found == std::string_view::npos)
    fail(
        "messages[{}]: it cannot be told from the chat template where this assistant turn starts (its generation prompt {} does not stand before it)",
        message, nlohmann::json(prompt).dump());
  AssistantSpan span{begin + found + prompt.size(), end, message, false};
  const size_t from = std::max(span.begin, last);
  const std::string_view after = std::string_view(rendered.text).substr(from, end - from);
  size_t nearest = std::string_view::npos;
  for (const std::string& token : special_) {
    const size_t at = after.find(token);
    if (at == std::string_view::npos || at > nearest) continue;
    const size_t stop = from + at + token.size();
    span.end = at == nearest ? std::max(span.end, stop) : stop;
    nearest = at;
    span.closed = true;
  }
  return span;
}

std::vector<AssistantSpan> ChatTemplate::assistant_spans(const std::vector<data::Message>& messages, const Rendered& rendered) const {
  std::vector<std::pair<size_t, size_t>> turns(messages.size(), {0, 0});  // begin and end of each message's turn
  for (size_t i = 0; i < rendered.turn_of_char.size(); ++i) {
    const int32_t turn = rendered.turn_of_char[i];
    if (turn < 0 || static_cast<size_t>(turn) >= messages.size()) continue;
    auto& [begin, end] = turns[static_cast<size_t>(turn)];
    if (end == 0) begin = i;
    if (end != 0 && end != i) fail("the chat template writes messages[{}] in two places; trained spans cannot be told from it", turn);
    end = i + 1;
  }
  std::vector<AssistantSpan> spans;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role != "assistant") continue;
    const auto [begin, end] = turns[i];
    if (begin == end)
      fail("messages[{}]: the chat template writes nothing for this assistant turn in a loop over the messages, so it cannot be trained on", i);
    spans.push_back(span_of(static_cast<int32_t>(i), rendered, begin, end));
  }
  return spans;
}

ChatTemplate chat_template_for(const Tokenizer& tokenizer, const std::string& source) {
  if (!source.empty()) return ChatTemplate(source, tokenizer);
  if (tokenizer.id_of("<|im_start|>") && tokenizer.id_of("<|im_end|>")) return ChatTemplate(chatml_template, tokenizer);
  return {};
}

}  // namespace hone::text
