#include "hone/text/render.h"

#include <algorithm>
#include <array>

#include "hone/base/error.h"

namespace hone::text {
namespace {

using Kind = RowProblem::Kind;

constexpr std::array<std::string_view, 9> names = {"template", "system", "user", "assistant", "tool", "other", "prompt", "completion", "text"};

/// A problem on its way out of the functions below.
struct ProblemFound {
  RowProblem problem;
};

template <class... Args>
[[noreturn]] void problem(Kind kind, fmt::format_string<Args...> text, Args&&... args) {
  throw ProblemFound{{kind, fmt::format(text, std::forward<Args>(args)...)}};
}

Role role_of(const std::string& name) {
  for (const Role role : {Role::system, Role::user, Role::assistant, Role::tool})
    if (names[static_cast<size_t>(role)] == name) return role;
  return Role::other;
}

/// Runs a rendering step; a fault of the template or the tokenizer becomes the row's problem.
template <class F>
auto guarded(Kind kind, F&& step) {
  try {
    return step();
  } catch (const UserError& error) {
    problem(kind, "{}", error.what());
  }
}

class RowBuilder {
 public:
  RowBuilder(const Tokenizer& tokenizer, const ChatTemplate& chat, const RenderOptions& options, TokenizedRow& out)
      : tokenizer_(tokenizer), chat_(chat), options_(options), out_(out) {}

  void row(const data::Row& row) {
    switch (row.kind) {
      case data::RowKind::text:
        return text(row.text);
      case data::RowKind::messages:
        return conversation(row.prompt.messages, row.add_generation_prompt);
      case data::RowKind::prompt_completion:
      case data::RowKind::unpaired:
        return pair(row.prompt, row.completion);
      case data::RowKind::prompt_only:
        return prompt_only(row.prompt);
      case data::RowKind::preference:
        check(false, "tokenize_row: a preference row has two sides; tokenise each with tokenize_prompt_completion");
    }
  }

  void pair(const data::Content& prompt, const data::Content& completion) {
    if (!prompt.is_messages && !completion.is_messages) return plain_pair(prompt.text, completion.text);
    if (!prompt.is_messages) problem(Kind::unsupported, "prompt is a string but completion is a list of messages; give both as messages");
    if (completion.is_messages) return chat_pair(prompt.messages, completion.messages);
    chat_pair(prompt.messages, {{"assistant", completion.text}});
  }

  void finish(bool wants_trained) const {
    const int32_t bos = tokenizer_.bos_id();
    if (bos >= 0 && out_.ids.size() >= 2 && out_.ids[0] == bos && out_.ids[1] == bos)
      problem(Kind::doubled_bos, "the row starts with two BOS tokens ({}); take one out of the text or the chat template",
              tokenizer_.token_bytes(bos));
    if (wants_trained && std::none_of(out_.weights.begin() + (out_.weights.empty() ? 0 : 1), out_.weights.end(), [](float w) { return w > 0; }))
      problem(Kind::no_trained_token, "no token of this row is trained on");
  }

 private:
  void text(const std::string& text) {
    add(text, Role::text, 1);
    if (options_.text_eos) add_eos(Role::text);
  }

  void plain_pair(const std::string& prompt, const std::string& completion) {
    if (completion.empty()) problem(Kind::empty_completion, "completion is empty");
    add(prompt, Role::prompt, options_.completion_only_loss ? 0 : 1);
    out_.prompt_length = static_cast<int32_t>(out_.ids.size());
    add(completion, Role::completion, 1);
    add_eos(Role::completion);
  }

  void prompt_only(const data::Content& prompt) {
    if (prompt.is_messages) return conversation(prompt.messages, true);
    add(prompt.text, Role::prompt, 0);
    out_.prompt_length = static_cast<int32_t>(out_.ids.size());
  }

  void conversation(const std::vector<data::Message>& messages, bool generation_prompt) {
    const Rendered rendered = guarded(Kind::bad_template, [&] { return chat_.render(messages, generation_prompt, options_.variables); });
    // A prompt is not trained on: it needs no spans, and its tokens are those of the whole text.
    const auto spans =
        generation_prompt ? std::vector<AssistantSpan>() : guarded(Kind::bad_template, [&] { return chat_.assistant_spans(messages, rendered); });
    const auto weight = [&](const AssistantSpan* span) { return generation_prompt ? 0.0f : span || !options_.assistant_only_loss ? 1.0f : 0.0f; };
    add_rendered(messages, rendered, spans, 0, rendered.text.size(), weight);
    if (generation_prompt) out_.prompt_length = static_cast<int32_t>(out_.ids.size());
    require_closed(spans, 0);
  }

  void chat_pair(const std::vector<data::Message>& prompt, const std::vector<data::Message>& completion) {
    const bool empty =
        std::none_of(completion.begin(), completion.end(), [](const data::Message& m) { return !m.content.empty() || !m.extra.empty(); });
    if (empty) problem(Kind::empty_completion, "completion is empty");
    if (std::none_of(completion.begin(), completion.end(), [](const data::Message& m) { return m.role == "assistant"; }))
      problem(Kind::no_trained_token, "completion has no assistant message");
    std::vector<data::Message> all = prompt;
    all.insert(all.end(), completion.begin(), completion.end());
    // Two sides of a pair may differ from an earlier turn on: what they share then ends before a user's turn, or is nothing at all.
    const bool answers_now = completion.front().role == "assistant";
    const Rendered given =
        prompt.empty() ? Rendered() : guarded(Kind::bad_template, [&] { return chat_.render(prompt, answers_now, options_.variables); });
    const Rendered rendered = guarded(Kind::bad_template, [&] { return chat_.render(all, false, options_.variables); });
    if (!rendered.text.starts_with(given.text))
      problem(Kind::bad_template, "the chat template writes the prompt differently when the completion follows; train on \"messages\" rows instead");
    const auto spans = guarded(Kind::bad_template, [&] { return chat_.assistant_spans(all, rendered); });
    const auto answers = static_cast<size_t>(
        std::count_if(spans.begin(), spans.end(), [&](const AssistantSpan& s) { return s.message >= static_cast<int32_t>(prompt.size()); }));

    // The prompt's tokens are those that the sampler is given: the whole text at once.
    const auto in_prompt = [&](const AssistantSpan* span) {
      return options_.completion_only_loss ? 0.0f : span || !options_.assistant_only_loss ? 1.0f : 0.0f;
    };
    std::vector<AssistantSpan> earlier(spans.begin(), spans.end() - static_cast<ptrdiff_t>(answers));
    if (options_.completion_only_loss) earlier.clear();
    add_rendered(all, rendered, earlier, 0, given.text.size(), in_prompt);
    out_.prompt_length = static_cast<int32_t>(out_.ids.size());
    const auto in_completion = [&](const AssistantSpan* span) { return span || !options_.assistant_only_loss ? 1.0f : 0.0f; };
    add_rendered(all, rendered, spans, given.text.size(), spans.back().end, in_completion);
    require_closed(spans, options_.completion_only_loss ? static_cast<int32_t>(prompt.size()) : 0);
  }

  void require_closed(const std::vector<AssistantSpan>& spans, int32_t from) const {
    for (const AssistantSpan& span : spans)
      if (span.message >= from && !span.closed)
        problem(Kind::missing_end_of_turn,
                "messages[{}]: the chat template puts no end-of-turn token behind the assistant's turn, so the model would never learn to stop",
                span.message);
  }

  /// Bytes [begin, end) of the rendered text, cut at the borders of the spans; weight(span) for tokens in a span, weight(null) for others.
  template <class Weight>
  void add_rendered(const std::vector<data::Message>& messages, const Rendered& rendered, const std::vector<AssistantSpan>& spans, size_t begin,
                    size_t end, Weight weight) {
    size_t at = begin;
    for (const AssistantSpan& span : spans) {
      const size_t first = std::max(span.begin, begin), last = std::min(span.end, end);
      if (last <= at || first >= end) continue;
      add_part(messages, rendered, at, first, false, weight(nullptr));
      add_part(messages, rendered, first, last, true, weight(&span));
      at = last;
    }
    add_part(messages, rendered, at, end, false, weight(nullptr));
  }

  void add_part(const std::vector<data::Message>& messages, const Rendered& rendered, size_t begin, size_t end, bool assistant, float weight) {
    if (begin >= end) return;
    std::vector<int32_t> ids;
    try {
      ids = tokenizer_.encode(std::string_view(rendered.text).substr(begin, end - begin));
    } catch (const UserError& error) {
      blame_message(messages);
      problem(Kind::bad_text, "the rendered conversation: {}", error.what());
    }
    size_t at = begin;  // where the token starts; exact unless a token swallows or adds white space, which only shifts roles
    for (const int32_t id : ids) {
      const size_t place = std::min(at, end - 1);
      const int32_t message = rendered.message_of_char[place];
      const Role role = assistant ? Role::assistant : message < 0 ? Role::template_ : role_of(messages[static_cast<size_t>(message)].role);
      push(id, role, weight);
      at += tokenizer_.token_bytes(id).size();
    }
  }

  // The offset of a bad byte means most within the message that holds it.
  void blame_message(const std::vector<data::Message>& messages) const {
    for (size_t i = 0; i < messages.size(); ++i) {
      try {
        tokenizer_.encode(messages[i].content);
      } catch (const UserError& error) {
        problem(Kind::bad_text, "messages[{}].content: {}", i, error.what());
      }
    }
  }

  void add(const std::string& text, Role role, float weight) {
    const auto ids = guarded(Kind::bad_text, [&] {
      try {
        return tokenizer_.encode(text);
      } catch (const UserError& error) {
        throw UserError(error.code(), fmt::format("{}: {}", names[static_cast<size_t>(role)], error.what()));
      }
    });
    for (const int32_t id : ids) push(id, role, weight);
  }

  // EOS once: text that ends with it already is left as it is.
  void add_eos(Role role) {
    const int32_t eos = tokenizer_.eos_id();
    if (eos < 0)
      problem(Kind::missing_end_of_turn, "the model names no EOS token (eos_token in tokenizer_config.json), so it would never learn to stop");
    if (out_.ids.empty() || out_.ids.back() != eos || out_.ids.size() == static_cast<size_t>(out_.prompt_length)) push(eos, role, 1);
  }

  void push(int32_t id, Role role, float weight) {
    out_.ids.push_back(id);
    out_.weights.push_back(weight);
    out_.roles.push_back(static_cast<uint8_t>(role));
  }

  const Tokenizer& tokenizer_;
  const ChatTemplate& chat_;
  const RenderOptions& options_;
  TokenizedRow& out_;
};

// What a row brings for the template beside its messages.
RenderOptions with_tools(RenderOptions options, const data::Row& row) {
  if (!row.tools.is_null()) options.variables["tools"] = row.tools;
  return options;
}

}  // namespace

std::span<const std::string_view> role_names() { return names; }

RowResult try_tokenize_row(const data::Row& row, const Tokenizer& tokenizer, const ChatTemplate& chat, const RenderOptions& given) {
  const RenderOptions options = with_tools(given, row);
  RowResult out;
  const bool is_prompt = row.kind == data::RowKind::prompt_only || (row.kind == data::RowKind::messages && row.add_generation_prompt);
  try {
    RowBuilder builder(tokenizer, chat, options, out.row);
    builder.row(row);
    builder.finish(!is_prompt);
  } catch (ProblemFound& found) {
    out.problem = std::move(found.problem);
  }
  return out;
}

TokenizedRow tokenize_row(const data::Row& row, const Tokenizer& tokenizer, const ChatTemplate& chat, const RenderOptions& options) {
  RowResult result = try_tokenize_row(row, tokenizer, chat, options);
  if (result.problem) fail("{}:{}: {}", row.place.file, row.place.line, result.problem->message);
  return std::move(result.row);
}

RowResult tokenize_prompt_completion(const data::Content& prompt, const data::Content& completion, const Tokenizer& tokenizer,
                                     const ChatTemplate& chat, const RenderOptions& options) {
  RowResult out;
  try {
    RowBuilder builder(tokenizer, chat, options, out.row);
    builder.pair(prompt, completion);
    builder.finish(true);
  } catch (ProblemFound& found) {
    out.problem = std::move(found.problem);
  }
  return out;
}

PairResult try_tokenize_pair(const data::Row& row, const Tokenizer& tokenizer, const ChatTemplate& chat, const RenderOptions& given) {
  const RenderOptions options = with_tools(given, row);
  check(row.kind == data::RowKind::preference, "try_tokenize_pair: a row that is no pair");
  PairResult out;
  const auto side = [&](const data::Content& completion, const char* name) {
    RowResult result = tokenize_prompt_completion(row.prompt, completion, tokenizer, chat, options);
    if (result.problem && !out.problem) out.problem = {{result.problem->kind, fmt::format("{}: {}", name, result.problem->message)}};
    return std::move(result.row);
  };
  out.chosen = side(row.chosen, "chosen");
  out.rejected = side(row.rejected, "rejected");
  if (out.problem) return out;
  const auto& c = out.chosen;
  const auto& r = out.rejected;
  check(c.prompt_length == r.prompt_length && std::equal(c.ids.begin(), c.ids.begin() + c.prompt_length, r.ids.begin()),
        "the two sides of a pair have other prompts: {} and {} tokens", c.prompt_length, r.prompt_length);
  if (c.ids == r.ids) out.problem = {Kind::equal_pair, "chosen and rejected are the same tokens; give a completion that differs"};
  return out;
}

std::vector<int32_t> render_prompt(const data::Content& prompt, const Tokenizer& tokenizer, const ChatTemplate& chat,
                                   const nlohmann::json& variables) {
  return tokenizer.encode(prompt.is_messages ? chat.render(prompt.messages, true, variables).text : prompt.text);
}

}  // namespace hone::text
