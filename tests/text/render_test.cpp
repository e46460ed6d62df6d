// Chat renderings against the published ones, and trained spans against hand-made oracles.
#include "hone/text/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "shared_data.h"

namespace hone::text {
namespace {

using data::Content;
using data::Message;
using data::Row;
using data::RowKind;
using testing::HasSubstr;

// ChatML vocabulary over single bytes: ids 0..255 are the bytes, so that oracles can be written as text.
Tokenizer byte_tokenizer() {
  nlohmann::json vocab = nlohmann::json::object();
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const uint32_t code = printable ? byte : next++;
    std::string token;
    if (code < 0x80)
      token += static_cast<char>(code);
    else
      token += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    vocab[token] = byte;
  }
  // Two line ends are one token: where the template's "\n" meets content that starts with one, tokens could straddle a span's border.
  vocab["ĊĊ"] = 256;
  nlohmann::json added = nlohmann::json::array();
  for (const char* token : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"})
    added.push_back({{"id", 257 + added.size()}, {"content", token}, {"special", true}, {"normalized", false}});
  const nlohmann::json root = {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"Ċ Ċ"}}}},
                               {"added_tokens", added},
                               {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                               {"decoder", {{"type", "ByteLevel"}}}};
  return Tokenizer::from_json(root.dump(), "bytes", {.bos = 257, .eos = 259});
}

const char* const smollm2_template =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nDefault.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

// The row as text with every trained stretch in [[ ]].
std::string marked(const Tokenizer& tokenizer, const TokenizedRow& row) {
  std::string out;
  bool open = false;
  for (size_t i = 0; i < row.ids.size(); ++i) {
    const bool trained = row.weights[i] > 0;
    if (trained != open) out += trained ? "[[" : "]]";
    open = trained;
    out += tokenizer.token_bytes(row.ids[i]);
  }
  return open ? out + "]]" : out;
}

Row conversation(std::vector<Message> messages) {
  Row row;
  row.kind = RowKind::messages;
  row.place = {"train.jsonl", 7};
  row.prompt = {true, "", std::move(messages)};
  return row;
}

Row pair(Content prompt, Content completion) {
  Row row;
  row.kind = RowKind::prompt_completion;
  row.place = {"train.jsonl", 7};
  row.prompt = std::move(prompt);
  row.completion = std::move(completion);
  return row;
}

Content text(std::string value) { return {false, std::move(value), {}}; }
Content chat(std::vector<Message> messages) { return {true, "", std::move(messages)}; }

class TrainedSpans : public testing::Test {
 protected:
  std::string mark(const Row& row, const char* source = smollm2_template, const RenderOptions& options = {}) const {
    return marked(tokenizer, tokenize_row(row, tokenizer, ChatTemplate(source, tokenizer), options));
  }
  RowProblem problem(const Row& row, const char* source = smollm2_template) const {
    const RowResult result = try_tokenize_row(row, tokenizer, ChatTemplate(source, tokenizer));
    if (!result.problem) {
      ADD_FAILURE() << "no problem was found";
      return {};
    }
    return *result.problem;
  }
  const Tokenizer tokenizer = byte_tokenizer();
};

const std::string head = "<|im_start|>system\nDefault.<|im_end|>\n";

TEST_F(TrainedSpans, SingleTurn) {
  EXPECT_EQ(mark(conversation({{"user", "Hi"}, {"assistant", "Yes."}})),
            head + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[[Yes.<|im_end|>]]\n");
}

TEST_F(TrainedSpans, MultiTurn) {
  EXPECT_EQ(mark(conversation({{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}})),
            head +
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[b<|im_end|>]]\n<|im_start|>user\nc<|im_end|>\n"
                "<|im_start|>assistant\n[[d<|im_end|>]]\n");
}

TEST_F(TrainedSpans, SystemMessage) {
  EXPECT_EQ(mark(conversation({{"system", "S"}, {"user", "a"}, {"assistant", "b"}})),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[b<|im_end|>]]\n");
  EXPECT_EQ(mark(conversation({{"system", ""}, {"user", "a"}, {"assistant", "b"}})),
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[b<|im_end|>]]\n");
}

TEST_F(TrainedSpans, AssistantSpeaksFirst) {
  EXPECT_EQ(mark(conversation({{"assistant", "b"}, {"user", "a"}})),
            head + "<|im_start|>assistant\n[[b<|im_end|>]]\n<|im_start|>user\na<|im_end|>\n");
}

TEST_F(TrainedSpans, EmptyAssistantMessage) {
  EXPECT_EQ(mark(conversation({{"user", "a"}, {"assistant", ""}, {"user", "b"}, {"assistant", "c"}})),
            head +
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[<|im_end|>]]\n<|im_start|>user\nb<|im_end|>\n"
                "<|im_start|>assistant\n[[c<|im_end|>]]\n");
}

TEST_F(TrainedSpans, ContentThatLooksLikeMarkup) {
  EXPECT_EQ(mark(conversation({{"user", "say <|im_start|>assistant\nx<|im_end|>"}, {"assistant", "<|im_start|>assistant\ny<|im_end|>z"}})),
            head +
                "<|im_start|>user\nsay <|im_start|>assistant\nx<|im_end|><|im_end|>\n<|im_start|>assistant\n"
                "[[<|im_start|>assistant\ny<|im_end|>z<|im_end|>]]\n");
}

TEST_F(TrainedSpans, TemplateThatTrimsAndAddsWords) {
  const char* trims =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}<think></think>{% endif %}"
      "{{ m.content | trim }}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  EXPECT_EQ(mark(conversation({{"user", " a "}, {"assistant", "\n b \n"}}), trims),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[<think></think>b<|im_end|>]]\n");
  EXPECT_EQ(mark(conversation({{"user", "a"}, {"assistant", "  "}}), trims),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[<think></think><|im_end|>]]\n");
}

TEST_F(TrainedSpans, TokensDoNotStraddleTheBorder) {
  const TokenizedRow row = tokenize_row(conversation({{"user", "a"}, {"assistant", "\nb"}}), tokenizer, ChatTemplate(smollm2_template, tokenizer));
  EXPECT_EQ(marked(tokenizer, row), head + "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[\nb<|im_end|>]]\n");
  EXPECT_EQ(std::count(row.ids.begin(), row.ids.end(), 256), 0);
}

TEST_F(TrainedSpans, AllTokens) {
  EXPECT_EQ(mark(conversation({{"user", "a"}, {"assistant", "b"}}), chatml_template, {.assistant_only_loss = false}),
            "[[<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n]]");
}

TEST_F(TrainedSpans, PromptAndCompletion) {
  EXPECT_EQ(mark(pair(text("2+2="), text("4"))), "2+2=[[4<|im_end|>]]");
  EXPECT_EQ(mark(pair(text("2+2="), text("4<|im_end|>"))), "2+2=[[4<|im_end|>]]");
  EXPECT_EQ(mark(pair(text("a\n"), text("\nb"))), "a\n[[\nb<|im_end|>]]");
  EXPECT_EQ(mark(pair(text("2+2="), text("4")), smollm2_template, {.completion_only_loss = false}), "[[2+2=4<|im_end|>]]");
  const Row row = pair(chat({{"user", "a"}, {"assistant", "b"}, {"user", "c"}}), chat({{"assistant", "d"}}));
  const std::string prompt =
      head + "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(mark(row), prompt + "[[d<|im_end|>]]");
  EXPECT_EQ(mark(pair(row.prompt, text("d"))), prompt + "[[d<|im_end|>]]");
  const ChatTemplate chat_template(smollm2_template, tokenizer);
  const TokenizedRow tokens = tokenize_row(row, tokenizer, chat_template);
  const auto given = render_prompt(row.prompt, tokenizer, chat_template);
  ASSERT_EQ(tokens.prompt_length, static_cast<int32_t>(given.size()));
  EXPECT_TRUE(std::equal(given.begin(), given.end(), tokens.ids.begin()));
}

TEST_F(TrainedSpans, OnlyTheAssistantOfALongCompletion) {
  EXPECT_EQ(
      mark(pair(chat({{"user", "a"}}), chat({{"assistant", "b"}, {"tool", "t"}, {"assistant", "c"}})), chatml_template),
      "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[b<|im_end|>]]\n<|im_start|>tool\nt<|im_end|>\n<|im_start|>assistant\n[[c<|im_end|>]]");
}

TEST_F(TrainedSpans, PlainText) {
  Row row;
  row.text = "ab";
  EXPECT_EQ(mark(row), "[[ab<|im_end|>]]");
  EXPECT_EQ(mark(row, smollm2_template, {.text_eos = false}), "[[ab]]");
}

TEST_F(TrainedSpans, Roles) {
  const TokenizedRow row = tokenize_row(conversation({{"user", "Hi"}, {"assistant", "Yo"}}), tokenizer, ChatTemplate(chatml_template, tokenizer));
  std::string seen;
  for (const uint8_t role : row.roles) seen += role_names()[role][0];
  EXPECT_EQ(seen,
            "tttttt"
            "uu"
            "tt"
            "ttttttttttt"
            "aaa"
            "t");
}

TEST_F(TrainedSpans, ProblemsAreNamed) {
  using Kind = RowProblem::Kind;
  EXPECT_EQ(problem(pair(text("a"), text(""))).kind, Kind::empty_completion);
  EXPECT_EQ(problem(pair(chat({{"user", "a"}}), chat({{"assistant", ""}}))).kind, Kind::empty_completion);
  EXPECT_EQ(problem(conversation({{"user", "a"}})).kind, Kind::no_trained_token);
  EXPECT_EQ(problem(pair(chat({{"user", "a"}}), chat({{"user", "b"}}))).kind, Kind::no_trained_token);
  EXPECT_EQ(problem(conversation({{"user", "a"}, {"assistant", "b"}}),
                    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt "
                    "%}<|im_start|>assistant\n{% endif %}")
                .kind,
            Kind::missing_end_of_turn);
  EXPECT_EQ(problem(conversation({{"user", "a"}, {"assistant", "b"}}), "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}").kind,
            Kind::bad_template);
  EXPECT_EQ(problem(conversation({{"user", "a"}, {"assistant", "b"}}), "{{ messages[0].content }}{% if add_generation_prompt %}A:{% endif %}").kind,
            Kind::bad_template);
  EXPECT_EQ(problem(conversation({{"user", "a"}, {"assistant", "b"}}), "{{ raise_exception('no ' + messages[0].role) }}").kind, Kind::bad_template);
  EXPECT_EQ(problem(pair(text("a"), chat({{"assistant", "b"}}))).kind, Kind::unsupported);
  Row doubled;
  doubled.text = "<|endoftext|><|endoftext|>a";
  EXPECT_EQ(problem(doubled).kind, Kind::doubled_bos);
  Row invalid = conversation({{"user", "ok"}, {"assistant", "b\xFF"}});
  EXPECT_EQ(problem(invalid).kind, Kind::bad_text);
  EXPECT_THAT(problem(invalid).message, HasSubstr("messages[1].content: byte 0xFF at offset 1"));
  try {
    tokenize_row(invalid, tokenizer, ChatTemplate(smollm2_template, tokenizer));
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("train.jsonl:7: messages[1].content"));
  }
}

TEST_F(TrainedSpans, NoTemplateAndNoEos) {
  const RowResult chatless = try_tokenize_row(conversation({{"user", "a"}, {"assistant", "b"}}), tokenizer, ChatTemplate());
  ASSERT_TRUE(chatless.problem.has_value());
  EXPECT_THAT(chatless.problem->message, HasSubstr("no chat template"));
  Row row;
  row.text = "ab";
  EXPECT_EQ(try_tokenize_row(row, tokenizer.with_special_ids({}), ChatTemplate()).problem->kind, RowProblem::Kind::missing_end_of_turn);
}

TEST(ChatVectors, SmolLM2TextAndIds) {
  const auto folder = shared_tokenizers();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no tokenizer vectors in " << folder << " (set HONE_SHARED)";
  const Tokenizer tokenizer = Tokenizer::from_json(read_text(folder / "smollm2" / "tokenizer.json"), "smollm2", {.bos = 1, .eos = 2});
  const ChatTemplate chat_template(read_text(folder / "smollm2" / "chat_template.jinja"), tokenizer);
  const auto rows = read_jsonl(folder / "smollm2.chat.jsonl");
  ASSERT_EQ(rows.size(), 40u);
  for (const auto& json : rows) {
    std::vector<Message> messages;
    for (const auto& m : json["messages"]) messages.push_back({m["role"], m["content"]});
    EXPECT_EQ(chat_template.render(messages, json["add_generation_prompt"]).text, json["text"].get<std::string>());
    Row row = conversation(messages);
    row.add_generation_prompt = json["add_generation_prompt"];
    const RowResult result = try_tokenize_row(row, tokenizer, chat_template);
    EXPECT_EQ(result.row.ids, json["ids"].get<std::vector<int32_t>>());
  }
}

}  // namespace
}  // namespace hone::text
