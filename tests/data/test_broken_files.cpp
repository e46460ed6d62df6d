// The table of broken data files: content, and the whole message.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdlib>

#include "data/data_files.h"

namespace hone::data {
namespace {

struct Broken {
  std::string name, file, content, message;
};

std::string bytes(std::string_view text) { return std::string(text); }
using std::string_view_literals::operator""sv;

const std::string one_line = "JSONL is needed: one JSON object a line";
const std::string good = R"({"text":"a"})"
                         "\n";
const std::string kinds = "messages | prompt + completion | text";

/// The message of a file of one good row and one bad row.
std::string second_row(const std::string& kind, const std::string& rest) {
  return "1 of 2 rows cannot be used\n  1 x " + kind + ", first rows.jsonl:2: " + rest;
}

const std::vector<Broken> table = {
    {"empty", "rows.jsonl", "", "rows.jsonl: is empty; " + one_line},
    {"blank", "rows.jsonl", "\n \r\n", "rows.jsonl: has no rows, only blank lines; " + one_line},
    {"gzip", "rows.jsonl", bytes("\x1F\x8B\x08\x00rest"sv), "rows.jsonl: is gzip-compressed; unpack it first (gunzip)"},
    {"zip", "rows.jsonl", bytes("PK\x03\x04rest"sv), "rows.jsonl: is a zip archive; unpack it first (unzip)"},
    {"zstd", "rows.jsonl", bytes("\x28\xB5\x2F\xFDrest"sv), "rows.jsonl: is zstd-compressed; unpack it first (unzstd)"},
    {"parquet", "rows.jsonl", "PAR1rest",
     "rows.jsonl: is a Parquet file; Parquet comes with a later version; convert it to JSONL (pandas: to_json(orient=\"records\", lines=True))"},
    {"utf16", "rows.jsonl", bytes("\xFF\xFE{\0"sv), "rows.jsonl: is UTF-16 text; save it as UTF-8"},
    {"binary", "rows.jsonl", bytes("ab\0c"sv), "rows.jsonl: is a binary file (byte 2 is NUL); " + one_line},
    {"model_as_data", "rows.jsonl", "GGUF\x03", "rows.jsonl: is a GGUF model; give the data with --data and the model with --model"},
    {"csv", "rows.csv", "prompt,completion\na,b\n", "rows.csv: is a table of comma- or tab-separated values; " + one_line},
    {"not_json", "rows.jsonl", good + "hello\n", second_row("not-json", "byte 1: found \"hello\", wanted one JSON object")},
    {"cut_off", "rows.jsonl", good + R"({"text":"a)", second_row("not-json", "byte 11: found the end of the line, wanted one JSON object")},
    {"two_values", "rows.jsonl", good + R"({"text":"a"}{"text":"b"})",
     second_row("not-json", R"(byte 13: found "{\"text\":\"b\"}", wanted one JSON object)")},
    {"single_quotes", "rows.jsonl", good + "{'text': 'a'}",
     second_row("not-json", "byte 2: found \"'text': 'a'}\", wanted one JSON object (JSON strings stand in double quotes)")},
    {"pretty_printed", "rows.jsonl", "[\n",
     "1 of 1 row cannot be used\n  1 x not-json, first rows.jsonl:1: byte 2: found the end of the line, wanted one JSON object (JSON over several "
     "lines is not JSONL; jq -c . makes one line of each value)"},
    {"json_array", "rows.jsonl", R"([{"text":"a"},{"text":"b"}])",
     "1 of 1 row cannot be used\n  1 x not-an-object, first rows.jsonl:1: found a list of 2, wanted a JSON object (jq -c '.[]' makes one line of "
     "each element)"},
    {"bad_utf8", "rows.jsonl", good + "{\"text\":\"\xE9t\xE9\"}",
     second_row("invalid-utf8", "byte 10: found byte 0xe9, which is not UTF-8, wanted UTF-8 text")},
    {"too_deep", "rows.jsonl", good + "{\"text\":" + std::string(100, '['),
     second_row("too-deep", "byte 72: found more than 64 nested lists or objects, wanted at most 64")},
    {"key_twice", "rows.jsonl", good + R"({"prompt":"a","prompt":"b"})",
     second_row("duplicate-key", "byte 27: found the key \"prompt\" twice in one object, wanted each key once")},
    {"misspelt_column", "rows.jsonl", good + R"({"mesages":[]})",
     second_row("misspelt-column", "\"mesages\": found an unknown column, wanted column \"messages\" (rename \"mesages\" to \"messages\")")},
    {"other_tools_column", "rows.jsonl", good + R"({"prompt":"a","response":"b"})",
     second_row("misspelt-column", "\"response\": found an unknown column, wanted column \"completion\" (rename \"response\" to \"completion\")")},
    {"other_tools_columns", "rows.jsonl", good + R"({"input":"a","target":"b"})",
     second_row("misspelt-column",
                "\"target\": found an unknown column, wanted column \"completion\" (rename \"target\" to \"completion\", \"input\" to \"prompt\")")},
    {"sharegpt", "rows.jsonl", good + R"({"conversations":[{"from":"human","value":"x"}]})",
     second_row("sharegpt-row", "found a ShareGPT row (conversations), wanted " + kinds +
                                    " (such rows come with a later version; until then write {\"messages\":[{\"role\",\"content\"}…]})")},
    {"alpaca", "rows.jsonl", good + R"({"instruction":"a","input":"","output":"b"})",
     second_row("alpaca-row", "found an Alpaca row (instruction, output), wanted " + kinds +
                                  " (such rows come with a later version; until then write {\"prompt\",\"completion\"})")},
    {"gsm8k", "rows.jsonl", good + R"({"question":"a","answer":"#### 4"})",
     second_row("gsm8k-row", "found a GSM8K row (question, answer), wanted " + kinds +
                                 " (such rows come with a later version; until then write {\"prompt\",\"completion\"})")},
    {"preference_row", "rows.jsonl", good + R"({"prompt":"a","chosen":"b","rejected":"c"})",
     second_row("row-kind", "found a row with chosen + rejected, wanted " + kinds + " (hone dpo, reward, orpo, simpo and kto train on such rows)")},
    {"prompt_row", "rows.jsonl", good + R"({"prompt":"a","answer":"4"})", second_row("row-kind", "found a row with prompt, wanted " + kinds)},
    {"no_known_column", "rows.jsonl", good + R"({"a":1,"b":2})", second_row("missing-column", "found columns \"a\", \"b\", wanted " + kinds)},
    {"no_column", "rows.jsonl", good + "{}", second_row("missing-column", "found no columns, wanted " + kinds)},
    {"not_an_object", "rows.jsonl", good + "7", second_row("not-an-object", "found the number 7, wanted a JSON object")},
    {"messages_string", "rows.jsonl", good + R"({"messages":"hi"})", second_row("wrong-type", "messages: found \"hi\", wanted a list of messages")},
    {"messages_empty", "rows.jsonl", good + R"({"messages":[]})",
     second_row("no-messages", "messages: found an empty list, wanted at least one message")},
    {"message_string", "rows.jsonl", good + R"({"messages":["hi"]})",
     second_row("wrong-type", "messages[0]: found \"hi\", wanted an object with role and content")},
    {"no_role", "rows.jsonl", good + R"({"messages":[{"content":"hi"}]})",
     second_row("missing-role", "messages[0].role: found nothing, wanted a string")},
    {"no_content", "rows.jsonl", good + R"({"messages":[{"role":"user","contents":"hi"}]})",
     second_row("missing-content", "messages[0].content: found nothing, wanted a string (rename \"contents\" to \"content\")")},
    {"from_and_value", "rows.jsonl", good + R"({"messages":[{"from":"user","value":"hi"}]})",
     second_row("missing-role", "messages[0].role: found nothing, wanted a string (rename \"from\" to \"role\")")},
    {"null_content", "rows.jsonl", good + R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null}]})",
     second_row("null-content", "messages[1].content: found null, wanted a string (write \"\" for a message without text)")},
    {"list_content", "rows.jsonl", good + R"({"messages":[{"role":"user","content":[{"type":"text","text":"q"}]}]})",
     second_row("list-content", "messages[0].content: found a list of 1, wanted a string (lists of content parts are not supported)")},
    {"role_number", "rows.jsonl", good + R"({"messages":[{"role":1,"content":"q"}]})",
     second_row("bad-role", "messages[0].role: found the number 1, wanted a name such as \"user\" or \"assistant\"")},
    {"role_slip", "rows.jsonl", good + R"({"messages":[{"role":"asistant","content":"q"}]})",
     second_row("misspelt-role", "messages[0].role: found \"asistant\", wanted \"assistant\"")},
    {"foreign_role", "rows.jsonl", good + R"({"messages":[{"role":"human","content":"q"},{"role":"gpt","content":"a"}]})",
     second_row("foreign-role", "messages[0].role: found \"human\", wanted \"user\"")},
    {"unknown_role", "rows.jsonl",
     good + R"({"messages":[{"role":"user","content":"q"},{"role":"robot","content":"a"},{"role":"assistant","content":"b"}]})",
     second_row("unknown-role", "messages[1].role: found \"robot\", wanted one of system, user, assistant, tool, developer, function, ipython")},
    {"empty_turn", "rows.jsonl", good + R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":""}]})",
     second_row("empty-completion", "messages[1].content: found an empty string, wanted text to train on")},
    {"empty_completion", "rows.jsonl", good + R"({"prompt":"a","completion":""})",
     second_row("empty-completion", "completion: found an empty string, wanted text to train on")},
    {"completion_number", "rows.jsonl", good + R"({"prompt":"a","completion":4})",
     second_row("wrong-type", "completion: found the number 4, wanted a string or a list of messages")},
    {"completion_null", "rows.jsonl", good + R"({"prompt":"a","completion":null})",
     second_row("wrong-type", "completion: found null, wanted a string or a list of messages")},
    {"empty_text", "rows.jsonl", good + R"({"text":""})", second_row("empty-text", "text: found an empty string, wanted text to train on")},
    {"text_list", "rows.jsonl", good + R"({"text":["a"]})", second_row("wrong-type", "text: found a list of 1, wanted a string")},
};

struct BrokenFile : testing::TestWithParam<Broken> {};

TEST_P(BrokenFile, HasThisMessage) {
  const Broken& broken = GetParam();
  EXPECT_EQ(load_error(broken.content, sft_rules(), broken.file), broken.message);
}

INSTANTIATE_TEST_SUITE_P(Table, BrokenFile, testing::ValuesIn(table), [](const auto& info) { return info.param.name; });

std::string load_message(const std::filesystem::path& path) {
  try {
    load_rows({{path}, sft_rules(), {}});
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(BrokenPaths, MissingAndFolder) {
  const test::TempFolder folder;
  folder.file("train.jsonl", good);
  const std::string base = folder.path.string();
  EXPECT_EQ(load_message(folder / "trian.jsonl"), base + "/trian.jsonl: no such file; did you mean " + base + "/train.jsonl?");
  EXPECT_EQ(load_message(folder / "other"), base + "/other: no such file");
  EXPECT_EQ(load_message(folder / "x.parquet"), base + "/x.parquet: no such file; Parquet comes with a later version anyway, " + one_line);
  EXPECT_EQ(load_message(folder.path), base + ": is a folder, a file is needed");
  EXPECT_THROW(load_rows({{}, sft_rules(), {}}), UserError);
}

/// Root reads every file whatever its permissions: for the life of the object this process is nobody.
struct ScopedNobody {
  const uid_t user = ::geteuid();
  const bool changed = user == 0 && ::seteuid(65534) == 0;
  ~ScopedNobody() {
    if (changed && ::seteuid(user) != 0) std::abort();
  }
};

TEST(BrokenPaths, Unreadable) {
  const test::TempFolder folder;
  const auto path = folder.file("train.jsonl", good);
  std::filesystem::permissions(path, std::filesystem::perms::none);
  std::filesystem::permissions(folder.path, std::filesystem::perms(0755));
  const ScopedNobody nobody;
  if (FILE* readable = std::fopen(path.c_str(), "r")) {
    std::fclose(readable);
    GTEST_SKIP() << "this user (root, who cannot become another here) reads every file whatever its permissions";
  }
  EXPECT_EQ(load_message(path), path.string() + ": not readable: permission denied");
}

}  // namespace
}  // namespace hone::data
