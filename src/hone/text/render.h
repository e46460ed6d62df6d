#pragma once
// Rows -> tokens with weights and roles. Tokens never straddle the border of a trained span: what is trained on is what would be sampled.
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hone/data/rows.h"
#include "hone/text/chat_template.h"
#include "hone/text/tokenizer.h"
#include "hone/text/tokens.h"

namespace hone::text {

/// Who a token belongs to; TokenizedRow::roles holds these. Everything in an assistant's span (its end-of-turn token too) is `assistant`,
/// other content belongs to its message, and what the template itself writes is `template_`.
enum class Role : uint8_t { template_, system, user, assistant, tool, other, prompt, completion, text };

/// The names of the roles, by value.
std::span<const std::string_view> role_names();

struct RenderOptions {
  bool assistant_only_loss = true;                      // messages: train on the assistant's spans only; false: on all tokens
  bool completion_only_loss = true;                     // prompt + completion: train on the completion only
  bool text_eos = true;                                 // plain text ends with EOS
  nlohmann::json variables = nlohmann::json::object();  // further names for the chat template
};

/// Why a row cannot be trained on.
struct RowProblem {
  enum class Kind { bad_text, bad_template, empty_completion, missing_end_of_turn, no_trained_token, doubled_bos, equal_pair, unsupported };
  Kind kind = Kind::bad_text;
  std::string message;  // without the row's place
};

/// A row, or why not. With a problem, `row` holds what could be made (inspect shows it).
struct RowResult {
  TokenizedRow row;
  std::optional<RowProblem> problem;
};

/// Tokens, weights and roles of a row of any kind but `preference` (tokenise its two sides with tokenize_prompt_completion).
/// weights[i] is the weight of predicting ids[i]; where all tokens are trained on, the first has weight 1 too although nothing predicts it.
/// A prompt-only row, and messages with add_generation_prompt, have no trained token and that is no problem.
RowResult try_tokenize_row(const data::Row& row, const Tokenizer& tokenizer, const ChatTemplate& chat, const RenderOptions& options = {});

/// The same; a problem is thrown as UserError "FILE:LINE: ...".
TokenizedRow tokenize_row(const data::Row& row, const Tokenizer& tokenizer, const ChatTemplate& chat, const RenderOptions& options = {});

/// Prompt and completion tokenised apart, as the sampler sees them. The prompt of messages ends with the generation prompt (unless the
/// completion begins with another turn than the assistant's), the completion with the end-of-turn token of its last assistant message; a plain
/// completion ends with EOS. A completion string behind a prompt of messages is the assistant's answer.
RowResult tokenize_prompt_completion(const data::Content& prompt, const data::Content& completion, const Tokenizer& tokenizer,
                                     const ChatTemplate& chat, const RenderOptions& options = {});

/// The two sides of a preference row.
struct PairResult {
  TokenizedRow chosen, rejected;  // the same prompt_length, and the same tokens up to there
  std::optional<RowProblem> problem;
};

/// Both sides, each with tokenize_prompt_completion; a problem names its side. Sides of the same tokens are a problem, too.
PairResult try_tokenize_pair(const data::Row& row, const Tokenizer& tokenizer, const ChatTemplate& chat, const RenderOptions& options = {});

/// What the sampler is given: messages rendered with the generation prompt, or plain text as it is.
std::vector<int32_t> render_prompt(const data::Content& prompt, const Tokenizer& tokenizer, const ChatTemplate& chat,
                                   const nlohmann::json& variables = nlohmann::json::object());

}  // namespace hone::text
