#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "data/data_files.h"
#include "hone/base/files.h"
#include "hone/base/rng.h"
#include "hone/base/threads.h"

namespace hone::data {
namespace {

using test::TempFolder;

std::string text_row(int i) { return fmt::format("{{\"text\":\"row {}\"}}\n", i); }

TEST(LoadRows, OrderPlacesAndStats) {
  const TempFolder folder;
  std::string content = "\n";
  content += text_row(0);
  content += R"({"prompt":"p","completion":"c","n":1})";
  const auto first = folder.file("a.jsonl", content);
  const auto second = folder.file("b.jsonl", R"({"n":1,"completion":"c", "prompt":"p"})"
                                             "\n"
                                             R"({"messages":[{"role":"assistant","content":"a"},{"role":"user","content":"q"}]})");
  const Dataset data = load_rows({{first, second}, sft_rules(), {}});
  ASSERT_EQ(data.rows.size(), 4u);
  EXPECT_EQ(data.rows[0].text, "row 0");
  EXPECT_EQ(data.rows[0].place.line, 2);
  EXPECT_EQ(data.rows[2].place.file, second.string());
  EXPECT_EQ(data.rows[3].place.line, 2);
  EXPECT_EQ(data.stats.rows, 4);
  EXPECT_EQ(data.stats.blank_lines, 1);
  EXPECT_EQ(data.stats.kinds, (std::map<RowKind, int64_t>{{RowKind::messages, 1}, {RowKind::prompt_completion, 2}, {RowKind::text, 1}}));
  EXPECT_EQ(data.stats.duplicates, 1);
  EXPECT_EQ(data.stats.first_duplicate.file, second.string());
  EXPECT_EQ(data.stats.first_duplicate.line, 1);
  EXPECT_EQ(data.stats.first_original.line, 3);
  EXPECT_EQ(data.stats.without_last_answer, 1);
}

TEST(LoadRows, TheSameRowsForAnyNumberOfThreads) {
  const TempFolder folder;
  std::string content;
  for (int i = 0; i < 5000; ++i) content += text_row(i % 4000);
  std::vector<std::string> hashes;
  for (const int count : {1, 4}) {
    set_threads(count);
    const Dataset data = load_text(folder, content);
    ASSERT_EQ(data.rows.size(), 5000u);
    for (int i = 0; i < 5000; ++i) {
      ASSERT_EQ(data.rows[static_cast<size_t>(i)].text, fmt::format("row {}", i % 4000));
      ASSERT_EQ(data.rows[static_cast<size_t>(i)].place.line, i + 1);
    }
    EXPECT_EQ(data.stats.duplicates, 1000);
    EXPECT_EQ(data.stats.first_duplicate.line, 4001);
    EXPECT_EQ(data.stats.first_original.line, 1);
    hashes.push_back(data.stats.content_hash);
  }
  set_threads(0);
  EXPECT_EQ(hashes[0], hashes[1]);
  EXPECT_NE(load_text(folder, content + text_row(0)).stats.content_hash, hashes[0]);
}

TEST(LoadRows, SixLinesAtMostAndAllFaultsInTheFile) {
  const TempFolder folder;
  std::string content;
  const std::vector<std::string> bad = {"x", "7", "{}", R"({"text":""})", R"({"text":1})", R"({"messages":[]})", "\"\xFF\""};
  for (int i = 0; i < 10; ++i)
    for (size_t kind = 0; kind < bad.size(); ++kind)
      if (static_cast<size_t>(i) < 10 - kind) content += bad[kind] + "\n" + text_row(i);
  try {
    load_rows({{folder.file("rows.jsonl", content)}, sft_rules(), folder / "out/run/bad_rows.jsonl"});
    FAIL();
  } catch (const UserError& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), Exit::usage);
    EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 5) << message;
    EXPECT_THAT(message, testing::StartsWith("49 of 98 rows cannot be used; all of them: " + (folder / "out/run/bad_rows.jsonl").string() +
                                             "\n  10 x not-json"));
    EXPECT_THAT(message, testing::EndsWith("\n  and 3 more kinds of fault"));
  }
  const std::string written = read_text(folder / "out/run/bad_rows.jsonl");
  EXPECT_EQ(std::count(written.begin(), written.end(), '\n'), 49);
  const auto first = nlohmann::json::parse(written.substr(0, written.find('\n')));
  EXPECT_EQ(first["line"], 1);
  EXPECT_EQ(first["kind"], "not-json");
  EXPECT_EQ(first["wanted"], "one JSON object");
}

TEST(LoadRows, MessagesStayOnOneLineWhateverTheDataHolds) {
  const std::string message = load_error(R"({"a\nb":"c"})"
                                         "\n"
                                         R"({"messages":"x\ny)" +
                                         std::string(500, 'z') + "\"}\n");
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 2) << message;
  EXPECT_LT(message.size(), 500u);
}

TEST(LoadRows, AHostileFileOfBadLinesStopsEarly) {
  std::string content;
  for (int i = 0; i < 101000; ++i) content += "x\n";
  for (int i = 0; i < 9; ++i) content.append(1 << 20, ' ').append("x\n");  // more than one block, so that a later block is left unread
  const std::string message = load_error(content);
  EXPECT_THAT(message, testing::StartsWith("100000 of the first "));
  EXPECT_THAT(message, testing::Not(testing::HasSubstr("of the first 101009 rows")));
}

/// Random damage to valid files: whatever happens, it is rows or one UserError, never a crash.
TEST(LoadRows, MutatedFilesNeverCrash) {
  const TempFolder folder;
  const std::string valid =
      R"({"messages":[{"role":"user","content":"hi \u00e9 é","name":"x"},{"role":"assistant","content":"ho"}],"meta":{"a":[1,2.5,-3e4,null,true]}})"
      "\n"
      R"({"prompt":"p","completion":"c"})"
      "\r\n"
      R"({"text":"some \"text\" \\ here"})"
      "\n"
      R"({"prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"b"}]})"
      "\n";
  const RowRules everything = {
      {RowKind::messages, RowKind::prompt_completion, RowKind::text, RowKind::preference, RowKind::unpaired, RowKind::prompt_only}};
  int accepted = 0, refused = 0;
  for (uint32_t round = 0; round < 1000; ++round) {
    std::string content = valid;
    auto draw = [&, count = uint32_t{0}](size_t bound) mutable {
      return static_cast<size_t>(random_bits(1, Purpose::test, round, count++, 0) % bound);
    };
    for (size_t edits = 1 + draw(4); edits > 0; --edits) {
      const size_t at = draw(content.size());
      const std::string marks = "{}[]\",:\\ntu0\n\r";
      switch (draw(5)) {
        case 0:
          content[at] = static_cast<char>(draw(256));
          break;
        case 1:
          content[at] = marks[draw(marks.size())];
          break;
        case 2:
          content.erase(at, 1 + draw(20));
          break;
        case 3:
          content.insert(at, content.substr(draw(content.size()), draw(60)));
          break;
        default:
          content.resize(at + 1);
          break;
      }
      if (content.empty()) content.assign(1, 'x');
    }
    try {
      load_text(folder, content, everything);
      ++accepted;
    } catch (const UserError& error) {
      const std::string message = error.what();
      ASSERT_LE(std::count(message.begin(), message.end(), '\n'), 5);
      ++refused;
    }
  }
  EXPECT_GT(accepted, 5);
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace hone::data
