#pragma once
// A chat template, what it wrote for which message, and from that the spans an assistant is trained on: exact without {% generation %} marks.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "hone/data/rows.h"
#include "hone/text/jinja.h"
#include "hone/text/tokenizer.h"

namespace hone::text {

/// The plain ChatML template, for models that bring none.
extern const char* const chatml_template;

/// What an assistant wrote in a rendered conversation: bytes [begin, end), from after the generation prompt up to and including the
/// end-of-turn token. `closed` = false: the template writes no special token behind the message; end is then the end of its turn.
struct AssistantSpan {
  size_t begin = 0, end = 0;
  int32_t message = 0;
  bool closed = false;
};

/// A rendered conversation. The vectors have one entry per byte of `text`.
struct Rendered {
  std::string text;
  std::vector<int32_t> message_of_char;  // the message whose value (anything but its role) was printed, -1 for all else
  std::vector<int32_t> turn_of_char;     // the message during whose loop iteration the byte was written, -1 outside the loop over messages
};

class ChatTemplate {
 public:
  /// No template: every use is a user error that says so.
  ChatTemplate();
  /// `source` is Jinja text. A fault in it is kept and thrown at the first use, so that rows without messages need no template.
  ChatTemplate(std::string source, const Tokenizer& tokenizer);

  /// The conversation as text. `variables` are further names for the template (an object; "tools", ...).
  Rendered render(const std::vector<data::Message>& messages, bool add_generation_prompt,
                  const nlohmann::json& variables = nlohmann::json::object()) const;
  /// What add_generation_prompt writes, e.g. "<|im_start|>assistant\n".
  const std::string& generation_prompt() const;
  /// The spans of all assistant messages, in order. UserError when they cannot be told from the template.
  std::vector<AssistantSpan> assistant_spans(const std::vector<data::Message>& messages, const Rendered& rendered) const;

  const std::string& source() const { return source_; }
  /// Whether there is a template at all (it may still be faulty).
  bool exists() const { return exists_; }
  /// The fault of the template, empty when it can be used.
  const std::string& fault() const { return fault_; }

 private:
  jinja::Output run(const std::vector<data::Message>& messages, bool add_generation_prompt, const nlohmann::json& variables) const;
  AssistantSpan span_of(int32_t message, const Rendered& rendered, size_t begin, size_t end) const;

  std::string source_, bos_, eos_;
  std::vector<std::string> special_;
  std::optional<jinja::Template> template_;
  bool exists_ = false;
  std::string fault_;
  std::string generation_prompt_, generation_fault_;
};

/// The template to use with a tokenizer: `source`, or ChatML where `source` is empty and the vocabulary has its two tokens, or none.
ChatTemplate chat_template_for(const Tokenizer& tokenizer, const std::string& source);

}  // namespace hone::text
