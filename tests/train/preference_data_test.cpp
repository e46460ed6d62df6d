// Preference and unpaired rows of files: tokens, margins, labels, over-long rows, and every fault with its message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hone/base/log.h"
#include "preference_support.h"

namespace hone::train {
namespace {

using test::PreferenceFiles;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

const char* const kTalk =
    R"({"prompt":[{"role":"user","content":"hi"}],"chosen":[{"role":"assistant","content":"yes"}],"rejected":[{"role":"assistant","content":"not at all"}]})";

std::string lines(std::initializer_list<std::string> rows) {
  std::string text;
  for (const std::string& row : rows) text += row + "\n";
  return text;
}

std::string plain(const std::string& prompt, const std::string& chosen, const std::string& rejected, const std::string& more = "") {
  return nlohmann::json{{"prompt", prompt}, {"chosen", chosen}, {"rejected", rejected}}.dump().insert(1, more);
}

TEST(Pairs, SidesShareTheirPromptAndKeepTheirEndOfTurn) {
  PreferenceFiles files;
  const PairData d = files.pairs(lines({kTalk, plain("a b", " c", " d e")}));
  ASSERT_EQ(d.rows.size(), 2u);
  for (const data::PairRow& row : d.rows) {
    EXPECT_EQ(row.chosen.prompt_length, row.rejected.prompt_length);
    EXPECT_EQ(row.margin, 0);
    for (int32_t t = 0; t < row.chosen.prompt_length; ++t) {
      EXPECT_EQ(row.chosen.ids[t], row.rejected.ids[t]);
      EXPECT_EQ(row.chosen.weights[t] + row.rejected.weights[t], 0);
    }
  }
  EXPECT_EQ(files.trained(d.rows[0].chosen), "yes<|im_end|>");
  EXPECT_EQ(files.trained(d.rows[0].rejected), "not at all<|im_end|>");
  EXPECT_EQ(files.trained(d.rows[1].chosen), " c<|im_end|>");
  EXPECT_EQ(d.rows[0].chosen.ids.back(), files.tokenizer.eos_id());  // nothing behind it
  EXPECT_EQ(d.rows_read, 2);
  EXPECT_EQ(d.chosen_longer, 0);
  EXPECT_EQ(d.tokens, static_cast<int64_t>(d.rows[0].chosen.ids.size() + d.rows[0].rejected.ids.size() + d.rows[1].chosen.ids.size() +
                                           d.rows[1].rejected.ids.size()));
  EXPECT_THAT(describe(d, files.config), StartsWith("2 pairs, "));
}

TEST(Pairs, ImplicitPromptsAreTheCommonBeginning) {
  PreferenceFiles files;
  const std::string implicit =
      R"({"chosen":[{"role":"user","content":"hi"},{"role":"assistant","content":"yes"}],"rejected":[{"role":"user","content":"hi"},{"role":"assistant","content":"not at all"}]})";
  const PairData given = files.pairs(lines({kTalk})), found = files.pairs(lines({implicit}));
  EXPECT_EQ(files.text(found.rows[0].chosen), files.text(given.rows[0].chosen));
  EXPECT_EQ(found.rows[0].chosen.prompt_length, given.rows[0].chosen.prompt_length);
  const PairData text = files.pairs(lines({R"({"chosen":"the sky is blue","rejected":"the sky is red"})"}));
  EXPECT_EQ(files.trained(text.rows[0].chosen), " blue<|im_end|>");
  EXPECT_EQ(files.trained(text.rows[0].rejected), " red<|im_end|>");
}

TEST(Pairs, DifferentHistoriesAreAWarningThatNamesTheFirst) {
  PreferenceFiles files;
  const auto pair = [](const std::string& second) {
    return R"({"chosen":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}],)"
           R"("rejected":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":")" +
           second + R"("},{"role":"assistant","content":"f"}]})";
  };
  std::vector<std::string> warnings;
  const LogSink before = set_log_sink([&](const LogEvent& event) {
    if (event.kind == LogKind::warning) warnings.push_back(event.text);
  });
  const PairData d = files.pairs(lines({kTalk, pair("e"), pair("c")}));
  files.pairs(lines({kTalk, pair("e"), pair("c")}));  // from the cache, too
  set_log_sink(before);
  EXPECT_EQ(d.differ_early, 1);
  ASSERT_EQ(warnings.size(), 2u);
  for (const std::string& text : warnings) {
    EXPECT_THAT(text, HasSubstr("1 of 3 pairs differ before the last turn"));
    EXPECT_THAT(text, HasSubstr("rows.jsonl:2"));
  }
  EXPECT_EQ(files.trained(d.rows[1].chosen), "d<|im_end|>");  // the user's turn is not learnt
  EXPECT_EQ(files.trained(d.rows[1].rejected), "f<|im_end|>");
  // Nothing in common at all: both sides whole, and nothing shared.
  const PairData apart = files.pairs(lines(
      {R"({"chosen":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"rejected":[{"role":"user","content":"c"},{"role":"assistant","content":"b"}]})"}));
  EXPECT_EQ(apart.rows[0].chosen.prompt_length, 0);
  EXPECT_EQ(files.trained(apart.rows[0].chosen), "b<|im_end|>");
}

TEST(Pairs, MarginsComeThroughTheCache) {
  PreferenceFiles files;
  const std::string text = lines({plain("p", " a", " b"), plain("p", " a", " c", R"("margin":0.1,)"), plain("p", " d", " c", R"("margin":-2,)")});
  for (int round = 0; round < 2; ++round) {
    const PairData d = files.pairs(text);
    ASSERT_EQ(d.rows.size(), 3u);
    EXPECT_EQ(d.rows[0].margin, 0);
    EXPECT_EQ(d.rows[1].margin, 0.1);  // to the bit
    EXPECT_EQ(d.rows[2].margin, -2);
    EXPECT_EQ(d.margins, 2);
  }
}

TEST(Pairs, MarginsStayWithTheirPairsWhenOthersAreDropped) {
  PreferenceFiles files;
  files.config.max_length = 200;
  std::string text = lines({plain("p", " " + std::string(300, 'x'), " b", R"("margin":7,)"), plain("p", " a", " c", R"("margin":0.5,)")});
  for (int i = 0; i < 200; ++i) text += plain("p", " a", " b") + "\n";
  const PairData d = files.pairs(text);
  ASSERT_EQ(d.rows.size(), 201u);
  EXPECT_EQ(d.overlong, 1);
  EXPECT_EQ(d.rows[0].margin, 0.5);
  EXPECT_EQ(d.rows[0].chosen.source, 1);
  EXPECT_THAT(describe(d, files.config), HasSubstr("1 over-long dropped"));
}

TEST(Pairs, CuttingTakesTheFrontOfThePromptFromBothSides) {
  PreferenceFiles files;
  const std::string text = lines({plain("one two three four five six", " yes", " not at all")});
  const PairData whole = files.pairs(text);
  const data::PairRow full = whole.rows[0];
  files.config.overlong = config::Overlong::cut;
  const auto longest = static_cast<int64_t>(full.rejected.ids.size());
  files.config.max_length = longest - 3;
  const PairData d = files.pairs(text);
  const data::PairRow& cut = d.rows.at(0);
  EXPECT_EQ(d.cut, 1);
  EXPECT_EQ(d.overlong, 1);
  EXPECT_EQ(cut.chosen.prompt_length, full.chosen.prompt_length - 3);
  EXPECT_EQ(cut.rejected.prompt_length, cut.chosen.prompt_length);
  EXPECT_THAT(cut.chosen.ids, testing::ElementsAreArray(full.chosen.ids.subspan(3)));
  EXPECT_THAT(cut.rejected.ids, testing::ElementsAreArray(full.rejected.ids.subspan(3)));
  EXPECT_EQ(files.trained(cut.chosen), files.trained(full.chosen));
  EXPECT_EQ(static_cast<int64_t>(cut.rejected.ids.size()), files.config.max_length);
  // One token of the prompt must be left to predict the completion from; a completion is never cut.
  files.config.max_length = longest - full.rejected.prompt_length + 1;
  EXPECT_EQ(files.pairs(text).rows[0].rejected.prompt_length, 1);
  files.config.max_length -= 1;
  EXPECT_THAT(files.message([&] { files.pairs(text); }), HasSubstr("1 of 1 rows are longer than --max_length"));
}

TEST(Unpaired, LabelsAndPairsTakenApart) {
  PreferenceFiles files;
  const std::string text =
      lines({R"({"prompt":"p","completion":" a","label":false})", plain("q", " good", " bad"), R"({"prompt":"p","completion":" c","label":true})"});
  for (int round = 0; round < 2; ++round) {
    const UnpairedData d = files.unpaired(text);
    ASSERT_EQ(d.rows.size(), 4u);
    std::string labels;
    for (const data::UnpairedRow& row : d.rows) labels += row.label ? '1' : '0';
    EXPECT_EQ(labels, "0101");
    EXPECT_EQ(files.trained(d.rows[1].row), " good<|im_end|>");
    EXPECT_EQ(files.trained(d.rows[2].row), " bad<|im_end|>");
    EXPECT_EQ(d.good, 2);
    EXPECT_EQ(d.from_pairs, 1);
  }
  EXPECT_THAT(describe(files.unpaired(text), files.config), HasSubstr("4 rows (2 good, 2 bad)"));
}

TEST(Preferences, CachesOfPairsAndOfUnpairedRowsAreNotMixedUp) {
  PreferenceFiles files;
  const std::string text = lines({kTalk});
  EXPECT_NE(files.pairs(text).cache_key, files.unpaired(text).cache_key);
  EXPECT_EQ(files.pairs(text).cache_key, files.pairs(text).cache_key);
  EXPECT_EQ(files.unpaired(text).rows.size(), 2u);
}

struct Broken {
  const char* name;
  std::string row;
  std::string message;  // after the row's place
};

class BrokenPairs : public testing::TestWithParam<Broken> {};

TEST_P(BrokenPairs, NameFileAndLine) {
  PreferenceFiles files;
  const std::string message = files.message([&] { files.pairs(lines({kTalk, GetParam().row})); });
  EXPECT_THAT(message, HasSubstr("rows.jsonl:2: " + GetParam().message));
  EXPECT_THAT(message, StartsWith("1 of 2 rows "));
  EXPECT_THAT(read_text(files.folder / "bad_rows.jsonl"), HasSubstr("\"line\":2"));
}

INSTANTIATE_TEST_SUITE_P(
    Rows, BrokenPairs,
    testing::Values(
        Broken{"equal", plain("p", " a", " a"), "rejected: found the same as chosen"},
        Broken{"equal_tokens", plain("p", " a", " a<|im_end|>"), "chosen and rejected are the same tokens"},
        Broken{"equal_messages", R"({"prompt":"p","chosen":" a","rejected":[{"role":"assistant","content":" a"}]})",
               "rejected: found messages, though the prompt is a string"},
        Broken{"no_rejected", R"({"prompt":"p","chosen":" a"})", "rejected: found nothing, wanted a completion beside \"chosen\""},
        Broken{"no_chosen", R"({"prompt":"p","rejected":" a"})", "chosen: found nothing, wanted a completion beside \"rejected\""},
        Broken{"misspelt", R"({"prompt":"p","choosen":" a","rejected":" b"})", "\"choosen\": found an unknown column"},
        Broken{"unpaired", R"({"prompt":"p","completion":" a","label":true})",
               "found a row with prompt + completion + label, wanted chosen + rejected (hone kto trains on such rows)"},
        Broken{"demonstration", R"({"prompt":"p","completion":" a"})",
               "found a row with prompt + completion, wanted chosen + rejected (hone sft trains on such rows)"},
        Broken{"empty", plain("p", "", " a"), "chosen: found an empty string"},
        Broken{
            "empty_message",
            R"({"prompt":[{"role":"user","content":"x"}],"chosen":[{"role":"assistant","content":""}],"rejected":[{"role":"assistant","content":"a"}]})",
            "chosen[0].content: found an empty string"},
        Broken{"prefix",
               R"({"chosen":[{"role":"user","content":"x"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"x"}]})",
               "rejected: found nothing after what chosen and rejected share"},
        Broken{
            "no_assistant",
            R"({"prompt":[{"role":"user","content":"x"}],"chosen":[{"role":"user","content":"a"}],"rejected":[{"role":"assistant","content":"a"}]})",
            "chosen: found only the role \"user\""},
        Broken{"null", R"({"prompt":"p","chosen":null,"rejected":" b"})", "chosen: found null"},
        Broken{"number", R"({"prompt":"p","chosen":3,"rejected":" b"})", "chosen: found the number 3"},
        Broken{"margin_text", plain("p", " a", " b", R"("margin":"1",)"), "margin: found \"1\", wanted a number"},
        Broken{"margin_null", plain("p", " a", " b", R"("margin":null,)"), "margin: found null, wanted a number"},
        Broken{"margin_bool", plain("p", " a", " b", R"("margin":true,)"), "margin: found true, wanted a number"},
        Broken{"margin_list", plain("p", " a", " b", R"("margin":[1],)"), "margin: found a list of 1, wanted a number"},
        Broken{"margin_huge", plain("p", " a", " b", R"("margin":1e999,)"), "found a number beyond the range of a double"},
        Broken{"margin_nan", plain("p", " a", " b", R"("margin":NaN,)"), "byte 11: found \"NaN"},
        Broken{"mixed", R"({"chosen":" a","rejected":[{"role":"assistant","content":"b"}]})",
               "rejected: found a list of 1, wanted a string, as chosen"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Unpaired, FaultsNameFileAndLine) {
  PreferenceFiles files;
  const auto message = [&](const std::string& row) {
    return files.message([&] { files.unpaired(lines({R"({"prompt":"p","completion":" a","label":true})", row})); });
  };
  EXPECT_THAT(message(R"({"prompt":"p","completion":" b","label":"false"})"),
              HasSubstr("rows.jsonl:2: label: found \"false\", wanted true or false"));
  EXPECT_THAT(message(R"({"prompt":"p","completion":" b","label":1})"), HasSubstr("rows.jsonl:2: label: found the number 1"));
  EXPECT_THAT(message(R"({"prompt":"p","completion":" b"})"), HasSubstr("wanted prompt + completion + label | chosen + rejected"));
  EXPECT_THAT(message(R"({"prompt":"p","completion":"","label":false})"), HasSubstr("rows.jsonl:2: completion: found an empty string"));
  EXPECT_EQ(message(R"({"prompt":"p","completion":" b","label":true})"),
            "rows.jsonl: the label of every row is true; kto learns from the difference between good and bad completions: add rows labelled false");
  EXPECT_EQ(message(kTalk), "no error");
}

TEST(Sft, RefusesPairsByName) {
  PreferenceFiles files;
  files.config = config::defaults(config::sft);
  EXPECT_THAT(files.message([&] { load_sft_data(files.options(lines({plain("p", " a", " b")}))); }),
              HasSubstr("rows.jsonl:1: found a row with chosen + rejected, wanted messages | prompt + completion | text (hone dpo, reward, orpo"));
}

TEST(Pairs, OverlongRowsAreAnErrorAboveOnePercent) {
  PreferenceFiles files;
  files.config.max_length = 60;
  std::string text;
  for (int i = 0; i < 98; ++i) text += plain("p", " a", " b") + "\n";
  const std::string longer = plain("p", " a", " " + std::string(200, 'y')) + "\n";
  EXPECT_EQ(files.pairs(text + longer + plain("p", " c", " b") + "\n").rows.size(), 99u);  // 1 of 100
  const std::string message = files.message([&] { files.pairs(text + longer + longer); });
  EXPECT_THAT(message, StartsWith("2 of 100 rows are longer than --max_length 60 tokens, and dropping more than 1 % is an error"));
  EXPECT_THAT(message, HasSubstr("first rows.jsonl:99 with "));
  files.config.overlong = config::Overlong::error;
  EXPECT_THAT(files.message([&] { files.pairs(text + longer); }), HasSubstr("give --overlong drop or cut"));
}

TEST(Pairs, ExamplesLoadForEveryCommand) {
  PreferenceFiles files;
  for (const char* part : {"train", "dev", "test"}) {
    const std::string text =
        read_text(std::filesystem::path(HONE_SOURCE_DIR) / fmt::format("examples/data/preference_{}.jsonl", part), size_t{1} << 26);
    const PairData pairs = files.pairs(text);
    EXPECT_EQ(static_cast<int64_t>(pairs.rows.size()), pairs.rows_read) << part;
    EXPECT_GE(pairs.rows_read, 200) << part;
    EXPECT_EQ(pairs.differ_early, 0) << part;
    EXPECT_EQ(static_cast<int64_t>(files.unpaired(text).rows.size()), 2 * pairs.rows_read) << part;
  }
}

}  // namespace
}  // namespace hone::train
