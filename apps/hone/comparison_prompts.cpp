// What two models are compared on: rows of the user's, or texts of many kinds.
#include <algorithm>
#include <array>

#include "hone/base/error.h"
#include "hone/base/rng.h"
#include "hone/data/jsonl.h"
#include "hone/text/render.h"
#include "jsonl_filter.h"
#include "model_comparison.h"

namespace hone::app {
namespace {

constexpr size_t kRowTokens = 1024;    // rows are cut to this
constexpr size_t kTotalTokens = 8192;  // then no further row is read
constexpr int kRandomRows = 8, kRandomTokens = 64;

// Prose, numbers, code, markup and other languages: each leans on other parts of the vocabulary, and on other rules of the tokenizer.
const char* const kTexts[] = {
    "The river had risen during the night, and by morning the lower field was under water as far as the old stone bridge.",
    "In 1869 Dmitri Mendeleev arranged the 63 known elements by atomic weight and left gaps for those that nobody had found yet.",
    "A train leaves at 08:45 and arrives at 13:20. It stops for 12 minutes in between. How long is it moving? 4 h 35 min - 12 min = 4 h 23 min.",
    "3 + 5 = 8, 17 * 23 = 391, 1024 / 16 = 64, 0.1 + 0.2 = 0.30000000000000004, 2^31 - 1 = 2147483647",
    "def median(values):\n    ordered = sorted(values)\n    middle = len(ordered) // 2\n    if len(ordered) % 2:\n        return "
    "ordered[middle]\n    return (ordered[middle - 1] + ordered[middle]) / 2\n",
    "for (int i = 0; i < n; ++i) {\n\tif (a[i] != b[i]) return false;\n}\n",
    "SELECT name, COUNT(*) AS orders FROM customers JOIN orders USING (customer_id) WHERE year >= 2020 GROUP BY name ORDER BY orders DESC;",
    "{\"name\": \"Ada\", \"born\": 1815, \"fields\": [\"mathematics\", \"computing\"], \"alive\": false}",
    "## Method\n\n1. Melt 50 g of butter.\n2. Add the flour, stir, and cook for 2 minutes.\n3. Pour in 500 ml of milk, a little at a time.\n",
    "Dear Ms. O'Neill,\n\nI'm writing about the invoice we've received (no. 4471-B); it isn't ours. Couldn't you check it?\n\nRegards,\nJ. Smith",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen; the energy comes from light that chlorophyll absorbs.",
    "\"Who's there?\" she whispered. Nobody answered; only the clock went on ticking, and somewhere a door closed.",
    "Le conseil municipal a d\u00e9cid\u00e9 hier soir de r\u00e9nover l'\u00e9cole du village et d'agrandir la biblioth\u00e8que.",
    "Die Br\u00fccke \u00fcber den Fluss wurde 1932 gebaut und nach dem Hochwasser von 1954 vollst\u00e4ndig erneuert.",
    "El perro duerme debajo de la mesa mientras los ni\u00f1os juegan en el jard\u00edn con una pelota roja.",
    "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002 \u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd\u3002",
    "THE QUICK BROWN FOX jumps over the lazy dog;   two  spaces,\ttabs\tand\n\n\nempty lines   \n",
    "https://example.org/path/to/page?id=42&lang=en#section-3 user@example.com C:\\Users\\ada 192.168.0.1",
};
const char* const kQuestions[][2] = {
    {"What is the capital of France?", "The capital of France is Paris."},
    {"Tom has 3 apples and buys 4 more. How many has he?", "Tom has 3 + 4 = 7 apples."},
    {"Write a haiku about rain.", "Soft rain on the roof,\nthe garden drinks in silence;\na snail lifts its horns."},
};

// The row's ids; a row that could not be trained on has some too, but one that cannot be written has none.
std::vector<int32_t> checked_ids(text::RowResult result, const data::Place& place) {
  if (result.problem && result.problem->kind != text::RowProblem::Kind::no_trained_token)
    fail("{}:{}: {}", place.file, place.line, result.problem->message);
  return std::move(result.row.ids);
}

// A text that the vocabulary cannot write (SmolLM2 lacks 21 bytes), or a template that cannot take a conversation, is no fault of the model.
void add_if_possible(const data::Row& row, const TextModel& text, std::vector<std::vector<int32_t>>& prompts) {
  try {
    prompts.push_back(checked_ids(text::try_tokenize_row(row, text.tokenizer, text.chat), row.place));
  } catch (const UserError&) {
  }
}

std::vector<std::vector<int32_t>> built_in_prompts(const TextModel& text) {
  std::vector<std::vector<int32_t>> prompts;
  for (const char* words : kTexts) {
    data::Row row;
    row.text = words;
    add_if_possible(row, text, prompts);
  }
  for (const auto& [question, answer] : kQuestions) {
    if (!text.chat.exists()) continue;
    data::Row row;
    row.kind = data::RowKind::messages;
    row.prompt.is_messages = true;
    row.prompt.messages = {{"user", question, nlohmann::json::object()}, {"assistant", answer, nlohmann::json::object()}};
    add_if_possible(row, text, prompts);
  }
  return prompts;
}

std::vector<std::vector<int32_t>> random_prompts(int64_t vocabulary) {
  std::vector<std::vector<int32_t>> prompts(kRandomRows);
  for (uint32_t row = 0; row < kRandomRows; ++row)
    for (uint32_t i = 0; i < kRandomTokens; ++i)
      prompts[row].push_back(static_cast<int32_t>(random_bits(0, Purpose::sample, row, i, 0) % static_cast<uint64_t>(vocabulary)));
  return prompts;
}

std::vector<int32_t> row_ids(const FilterRow& row, const TextModel* text) {
  if (!row.error.empty()) fail("{}", row.error);
  if (const auto ids = row.in.find("ids"); ids != row.in.end()) return read_ids(*ids);
  if (text == nullptr) fail("the model has no tokenizer: only rows of {{\"ids\"}} can be compared");
  data::RowRules rules;
  rules.accepted = {data::RowKind::messages,   data::RowKind::prompt_completion, data::RowKind::text,
                    data::RowKind::preference, data::RowKind::unpaired,          data::RowKind::prompt_only};
  rules.for_training = rules.needs_assistant = rules.keep_columns = false;
  auto parsed = data::parse_row(row.in, row.place, rules);
  if (const auto* error = std::get_if<data::RowError>(&parsed)) fail("{}", data::describe(*error));
  const data::Row& given = std::get<data::Row>(parsed);
  if (given.kind == data::RowKind::preference)
    return checked_ids(text::tokenize_prompt_completion(given.prompt, given.chosen, text->tokenizer, text->chat), row.place);
  return checked_ids(text::try_tokenize_row(given, text->tokenizer, text->chat), row.place);
}

std::vector<std::vector<int32_t>> prompts_of_files(const TextModel* text, std::span<const std::string> files) {
  std::vector<std::vector<int32_t>> prompts;
  size_t tokens = 0;
  for (const std::string& file : files) {
    data::JsonlReader reader(file);
    std::vector<data::RawLine> lines;
    while (tokens < kTotalTokens && reader.next(lines, 1 << 16)) {
      for (const FilterRow& row : read_rows(lines, file)) {
        if (tokens >= kTotalTokens) break;
        try {
          prompts.push_back(row_ids(row, text));
        } catch (const UserError& error) {
          fail("{}", at_place(row, error.what()));
        }
        tokens += std::min(prompts.back().size(), kRowTokens);
      }
    }
  }
  return prompts;
}

}  // namespace

std::vector<std::vector<int32_t>> comparison_prompts(const TextModel* text, const model::ModelConfig& config, std::span<const std::string> files) {
  std::vector<std::vector<int32_t>> prompts = !files.empty()    ? prompts_of_files(text, files)
                                              : text != nullptr ? built_in_prompts(*text)
                                                                : random_prompts(config.vocab_size);
  // A vocabulary may be able to write none of the texts.
  if (files.empty() && std::none_of(prompts.begin(), prompts.end(), [](const auto& ids) { return ids.size() > 1; }))
    prompts = random_prompts(config.vocab_size);
  const size_t most = std::min(kRowTokens, static_cast<size_t>(config.max_position_embeddings));
  for (auto& ids : prompts) {
    ids.resize(std::min(ids.size(), most));
    for (const int32_t id : ids)
      if (id < 0 || id >= config.vocab_size) fail("the comparison's prompts have the id {}; the model's vocabulary has {}", id, config.vocab_size);
  }
  std::erase_if(prompts, [](const auto& ids) { return ids.size() < 2; });
  if (prompts.empty()) fail("no prompt of at least two tokens to compare the models on; give rows with --data");
  return prompts;
}

}  // namespace hone::app
