#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/data_files.h"
#include "hone/data/json_scan.h"
#include "hone/data/jsonl.h"

namespace hone::data {
namespace {

using nlohmann::json;
using test::TempFolder;
using testing::HasSubstr;

std::vector<std::pair<int64_t, std::string>> lines_of(const std::string& content, size_t block) {
  const TempFolder folder;
  JsonlReader reader(folder.file("a.jsonl", content));
  std::vector<RawLine> lines;
  std::vector<std::pair<int64_t, std::string>> all;
  while (reader.next(lines, block))
    for (const RawLine& line : lines) all.emplace_back(line.number, line.bytes);
  EXPECT_EQ(reader.bytes_read(), content.size());
  return all;
}

TEST(JsonlReader, LinesWithMarkCrlfAndBlanksInBlocksOfAnySize) {
  using Lines = std::vector<std::pair<int64_t, std::string>>;
  for (const size_t block : {1, 3, 1000}) {
    EXPECT_EQ(lines_of("\xEF\xBB\xBF{\"a\":1}\r\n\r\n  \n{}\n\n{\"last\":2}", block), (Lines{{1, "{\"a\":1}"}, {4, "{}"}, {6, "{\"last\":2}"}}));
    EXPECT_EQ(lines_of("\n\n", block), Lines{});
    EXPECT_EQ(lines_of("{}", block), (Lines{{1, "{}"}}));
    EXPECT_EQ(lines_of("{}\n", block), (Lines{{1, "{}"}}));
  }
}

TEST(JsonlReader, CountsBlankLines) {
  const TempFolder folder;
  JsonlReader reader(folder.file("a.jsonl", "\n{}\n \n{}\n"));
  std::vector<RawLine> lines;
  while (reader.next(lines)) {
  }
  EXPECT_EQ(reader.blank_lines(), 2);
}

RowError error_of(const std::string& line) {
  const auto result = parse_json_line(line, {"f", 3});
  const auto* error = std::get_if<RowError>(&result);
  return error ? *error : RowError{{}, "no error", "", "", "", ""};
}

TEST(ParseJsonLine, TheValue) {
  const auto result = parse_json_line("{\"a\":[1,\"\xC3\xA9\\u00e9\"]}", {"f", 1});
  EXPECT_EQ(std::get<json>(result), (json{{"a", {1, "éé"}}}));
}

TEST(ParseJsonLine, DeepNestingIsRefusedBeforeParsing) {
  const auto nested = [](int depth) { return std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']'); };
  EXPECT_EQ(error_of(nested(deepest_json)).kind, "no error");
  EXPECT_EQ(error_of(nested(deepest_json + 1)).kind, "too-deep");
  EXPECT_EQ(error_of(std::string(1 << 20, '[')).kind, "too-deep");
  EXPECT_EQ(error_of("{\"a\":\"" + std::string(1000, '[') + "\"}").kind, "no error");  // brackets in a string do not count
  EXPECT_EQ(error_of("{\"a\":\"\\\"" + std::string(1000, '{') + "\"}").kind, "no error");
}

TEST(ParseJsonLine, InvalidUtf8IsNamedWithItsOffset) {
  const std::vector<std::string> bad = {"\xFF", "\xC3", "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80", "\xF0\x9F\x98"};
  for (const std::string& bytes : bad) {
    const RowError error = error_of("{\"a\":\"xy" + bytes + "\"}");
    EXPECT_EQ(error.kind, "invalid-utf8") << testing::PrintToString(bytes);
    EXPECT_EQ(error.field, "byte 9");
  }
  for (const std::string good :
       {"\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "\xF0\x9F\x98\x80"})
    EXPECT_EQ(error_of("{\"a\":\"xyzabcdefg" + good + "\"}").kind, "no error") << testing::PrintToString(good);
}

TEST(ParseJsonLine, RepeatedKeysInOneObjectOnly) {
  EXPECT_EQ(error_of(R"({"prompt":"a","completion":"b","prompt":"c"})").kind, "duplicate-key");
  EXPECT_EQ(error_of(R"({"a":{"b":1,"c":2,"b":3}})").kind, "duplicate-key");
  EXPECT_EQ(error_of(R"({"a":{"b":1},"b":[{"b":1},{"b":2}],"c":"b"})").kind, "no error");
}

TEST(ParseJsonLine, OtherFaults) {
  EXPECT_EQ(error_of("{\"a\":1").kind, "not-json");
  EXPECT_EQ(error_of("{\"a\":1").found, "the end of the line");
  EXPECT_EQ(error_of("{\"a\":1} x").field, "byte 9");
  EXPECT_EQ(error_of("{\"a\":NaN}").kind, "not-json");
  EXPECT_EQ(error_of("{\"a\":1e999}").kind, "number-range");
  EXPECT_EQ(error_of("{\"a\":\"\\ud800\"}").kind, "not-json");
  EXPECT_EQ(error_of(std::string("{\"a\":1}\0", 8)).kind, "nul-byte");
  EXPECT_EQ(error_of(std::string(longest_line + 1, ' ')).kind, "line-too-long");
}

TEST(InQuotes, OneLineWholeCharactersBounded) {
  EXPECT_EQ(in_quotes("a\nb\"\\"), "\"a\\x0ab\\\"\\\\\"");
  EXPECT_EQ(in_quotes("éé", 3), "\"é…\"");
  EXPECT_EQ(in_quotes("\xFF"), "\"\\xff\"");
}

}  // namespace
}  // namespace hone::data
