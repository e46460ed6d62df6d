// ifeval: each of the 25 instruction types, followed and not; the real prompts.
#include <gtest/gtest.h>

#include <set>

#include "hone/rewards/ifeval.h"
#include "judge_support.h"
#include "shared_rows.h"

namespace hone::rewards {
namespace {

using nlohmann::json;

struct Case {
  const char* id;
  json kwargs;
  std::vector<std::string> followed, broken;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"keywords:existence", {{"keywords", {"waste", "Meal"}}}, {"A meal is no WASTE.", "mealtime wastes"}, {"a meal", "waste"}},
      {"keywords:frequency",
       {{"keyword", "story"}, {"frequency", 2}, {"relation", "at least"}},
       {"Story, story", "a story of stories' story"},
       {"one story"}},
      {"keywords:frequency", {{"keyword", "a.b"}, {"frequency", 1}, {"relation", "at least"}}, {"a.b"}, {"axb"}},
      {"keywords:forbidden_words", {{"forbidden_words", {"rock"}}}, {"rocket", "a stone"}, {"The Rock!", "rock"}},
      {"keywords:letter_frequency", {{"letter", "T"}, {"let_frequency", 2}, {"let_relation", "less than"}}, {"at a", "nice"}, {"Tt", "that"}},
      {"keywords:letter_frequency", {{"letter", "!"}, {"let_frequency", 2}, {"let_relation", "at least"}}, {"Oh! No!"}, {"Oh!"}},
      {"language:response_language",
       {{"language", "de"}},
       {"Das ist ein Haus und der Hund ist nicht hier."},
       {"This is a house and the dog is not here."}},
      {"length_constraints:number_sentences",
       {{"num_sentences", 3}, {"relation", "at least"}},
       {"One. Two! Three?"},
       {"Mr. Smith has 3.5 pounds. He smiles.", "One. two"}},
      {"length_constraints:number_sentences",
       {{"num_sentences", 3}, {"relation", "less than"}},
       {"One. Two.", "e.g. this. That"},
       {"One. Two. Three."}},
      {"length_constraints:number_paragraphs", {{"num_paragraphs", 2}}, {"a\n***\nb", "***\na\n***\nb\n***"}, {"a\n\nb", "a *** *** b", "a***b***c"}},
      {"length_constraints:number_words", {{"num_words", 3}, {"relation", "at least"}}, {"one two three", "it's me"}, {"one two"}},
      {"length_constraints:number_words", {{"num_words", 3}, {"relation", "less than"}}, {"one two"}, {"one-two three"}},
      {"length_constraints:nth_paragraph_first_word",
       {{"num_paragraphs", 2}, {"nth_paragraph", 2}, {"first_word", "Weekend"}},
       {"a\n\n\"weekend, b"},
       {"weekend\n\na", "a\n\nweekends", "a\n\nweekend\n\nc", "a"}},
      {"detectable_content:number_placeholders", {{"num_placeholders", 2}}, {"[a] and [b]", "[a] [b] [c]"}, {"[a", "[a\nb] [c]"}},
      {"detectable_content:postscript", {{"postscript_marker", "P.S."}}, {"x\np.s. y", "P. S. z"}, {"PS y", "p.s"}},
      {"detectable_content:postscript", {{"postscript_marker", "P.P.S"}}, {"P.P.S. y", "p. p. s"}, {"P.S. y"}},
      {"detectable_format:number_bullet_lists", {{"num_bullets", 2}}, {"* a\n* b", "- a\n  - b", "* a\n- b"}, {"* a", "* a\n* b\n* c", "** a\n** b"}},
      {"detectable_format:constrained_response",
       json::object(),
       {"My answer is yes.", "Well. My answer is maybe. Or not"},
       {"yes", "My answer is yes"}},
      {"detectable_format:number_highlighted_sections", {{"num_highlights", 2}}, {"*a* and *b*", "**a** **b**"}, {"*a*", "** and **", "*a\nb* *c*"}},
      {"detectable_format:multiple_sections",
       {{"section_spliter", "Section"}, {"num_sections", 2}},
       {"Section 1 a Section 2 b", "Section1\nSection 22"},
       {"Section 1 a", "section 1 section 2", "Section a Section b"}},
      {"detectable_format:json_format",
       json::object(),
       {"{\"a\": 1}", "```json\n[1]\n```", "```\n1\n```"},
       {"{a: 1}", "x {\"a\": 1}", "{\"a\": 1} x"}},
      {"detectable_format:title", json::object(), {"<<A title>>\ntext", "x <<y>> z"}, {"<< >>", "<title>", "<<a\nb>>", "<<<>>>"}},
      {"combination:two_responses", json::object(), {"a\n******\nb", "******a******b"}, {"a", "a******a", "a******b******c", "a************b"}},
      {"combination:repeat_prompt", {{"prompt_to_repeat", "Say Hi. "}}, {" say hi. Hi!"}, {"Hi! Say hi."}},
      {"startend:end_checker", {{"end_phrase", "Is that all?"}}, {"x is that all?", "\"Is that ALL?\" \n"}, {"Is that all? Yes."}},
      {"startend:quotation", json::object(), {"\"a\"", " \"a\nb\" "}, {"\"a", "a\"", "\"", "'a'"}},
      {"change_case:capital_word_frequency",
       {{"capital_frequency", 2}, {"capital_relation", "at least"}},
       {"NASA and EU", "I AM here", "(USA), UN."},
       {"Nasa EU", "A1b EU"}},
      {"change_case:english_capital",
       json::object(),
       {"THIS IS THE END.", "HELLO"},
       {"This IS THE END", "DAS IST NICHT DER HUND UND DIE KATZE", "123"}},
      {"change_case:english_lowercase",
       json::object(),
       {"this is the end.", "it costs $5"},
       {"This is", "das ist nicht der hund und die katze", "123"}},
      {"punctuation:no_comma", json::object(), {"a; b"}, {"a, b"}},
  };
  return all;
}

json row_of(const Case& c) { return {{"instruction_id_list", {c.id}}, {"kwargs", json::array({c.kwargs})}}; }

TEST(IfEval, EveryInstructionIsFollowedOrNot) {
  std::set<std::string> types;
  for (const Case& c : cases()) {
    types.insert(c.id);
    EXPECT_EQ(row_fault("ifeval", row_of(c)), "");
    for (const std::string& response : c.followed) EXPECT_EQ(verdict("ifeval", row_of(c), response), "right 1") << c.id << ": " << response;
    for (const std::string& response : c.broken) EXPECT_EQ(verdict("ifeval", row_of(c), response), "wrong 0") << c.id << ": " << response;
    EXPECT_EQ(verdict("ifeval", row_of(c), " \n"), "wrong 0") << c.id;  // nothing follows nothing
  }
  EXPECT_EQ(types.size(), 25u);
}

TEST(IfEval, AllMustBeFollowedAndTheOthersAreNamed) {
  const json row{{"instruction_id_list", {"punctuation:no_comma", "startend:quotation", "detectable_format:title"}},
                 {"kwargs", {json::object(), nullptr, json::object()}}};
  EXPECT_EQ(verdict("ifeval", row, "\"<<a>> b\""), "right 1");
  const Judgement judged = judgement("ifeval", row, "<<a>> b, c");
  EXPECT_EQ(judged.verdict, Verdict::wrong);
  EXPECT_EQ(judged.detail, "not followed: punctuation:no_comma, startend:quotation");
}

TEST(IfEval, BadRowsAreNamed) {
  const auto fault = [](const json& ids, const json& kwargs) { return row_fault("ifeval", {{"instruction_id_list", ids}, {"kwargs", kwargs}}); };
  using testing::HasSubstr;
  EXPECT_THAT(row_fault("ifeval", json::object()), HasSubstr("no \"instruction_id_list\""));
  EXPECT_THAT(fault({"punctuation:no_coma"}, json::array({json::object()})), HasSubstr("did you mean punctuation:no_comma?"));
  EXPECT_THAT(fault({"punctuation:no_comma"}, json::array()), HasSubstr("one entry for each"));
  EXPECT_THAT(fault({"keywords:existence"}, json::array({json::object()})), HasSubstr("lack \"keywords\""));
  EXPECT_THAT(fault({"keywords:existence"}, {{{"keywords", json::array()}}}), HasSubstr("no list of texts"));
  EXPECT_THAT(fault({"length_constraints:number_paragraphs"}, {{{"num_paragraphs", "two"}}}), HasSubstr("whole number"));
  EXPECT_THAT(fault({"length_constraints:number_words"}, {{{"num_words", 3}, {"relation", "at most"}}}), HasSubstr("neither"));
  EXPECT_THAT(fault({"language:response_language"}, {{{"language", "xx"}}}), HasSubstr("no language"));
  EXPECT_EQ(verdict("ifeval", json::object(), "x"), "gold-unparsed -");
}

TEST(IfEval, EveryRealRowIsRead) {
  const auto rows = shared_rows("ifeval/ifeval_dev.jsonl");
  if (rows.empty()) GTEST_SKIP() << "ifeval/ifeval_dev.jsonl is not here";
  std::set<std::string> types;
  for (const json& row : rows) {
    EXPECT_EQ(row_fault("ifeval", row), "");
    for (const json& id : row["instruction_id_list"]) types.insert(id);
    const Verdict verdict = judgement("ifeval", row, "I would rather not say, thank you.").verdict;
    EXPECT_TRUE(verdict == Verdict::wrong || verdict == Verdict::right);
  }
  EXPECT_EQ(rows.size(), 341u);
  EXPECT_EQ(types.size(), 25u);
}

// Prompts of IFEval are English; so are GSM8K's questions. Few words are enough in every other language.
TEST(Language, IsTold) {
  const std::vector<std::pair<const char*, const char*>> texts{
      {"en", "Tom has three apples and buys four more at the market."},
      {"de", "Tom hat drei Äpfel und kauft auf dem Markt noch vier."},
      {"fr", "Tom a trois pommes et il en achète quatre sur le marché avec une amie."},
      {"es", "Tom tiene tres manzanas y compra cuatro más en el mercado con una amiga."},
      {"pt", "O Tom tem três maçãs e compra mais quatro no mercado com uma amiga. Não é muito."},
      {"it", "Tom ha tre mele e ne compra altre quattro al mercato con una amica. Non è molto."},
      {"sw", "Tom ana matufaa matatu na ananunua mengine manne katika soko la kijiji. Hii ni zawadi kwa mama yake."},
      {"vi", "Tom có ba quả táo và mua thêm bốn quả ở chợ."},
      {"fi", "Tomilla on kolme omenaa ja hän ostaa torilta vielä neljä, mutta ei syö niitä."},
      {"pl", "Tomek ma trzy jabłka i kupuje jeszcze cztery na targu. To jest dużo."},
      {"ru", "У Тома есть три яблока, и он покупает ещё четыре на рынке. Это был хороший день."},
      {"uk", "У Тома є три яблука, і він купує ще чотири на ринку. Це був гарний день."},
      {"bg", "Том има три ябълки и купува още четири от пазара. Той не е гладен, но са му нужни."},
      {"ar", "لدى توم ثلاث تفاحات ويشتري أربعا أخرى من السوق. هذا يوم جيد في المدينة."},
      {"fa", "تام سه سیب دارد و چهار سیب دیگر از بازار می‌خرد. این روز خوبی برای او است."},
      {"ur", "ٹام کے پاس تین سیب ہیں اور وہ بازار سے چار مزید خریدتا ہے۔ یہ اچھا دن ہے۔"},
      {"hi", "टॉम के पास तीन सेब हैं और वह बाज़ार से चार और खरीदता है। यह अच्छा दिन है।"},
      {"mr", "टॉमकडे तीन सफरचंद आहेत आणि तो बाजारातून आणखी चार विकत घेतो. हा चांगला दिवस आहे."},
      {"ne", "टमसँग तीनवटा स्याउ छन् र उनले बजारबाट थप चारवटा किन्छन्। यो राम्रो दिन हो।"},
      {"bn", "টমের তিনটি আপেল আছে এবং সে বাজার থেকে আরও চারটি কেনে।"},
      {"pa", "ਟੌਮ ਕੋਲ ਤਿੰਨ ਸੇਬ ਹਨ ਅਤੇ ਉਹ ਬਾਜ਼ਾਰ ਤੋਂ ਚਾਰ ਹੋਰ ਖਰੀਦਦਾ ਹੈ।"},
      {"gu", "ટોમ પાસે ત્રણ સફરજન છે અને તે બજારમાંથી વધુ ચાર ખરીદે છે."},
      {"ta", "டாமிடம் மூன்று ஆப்பிள்கள் உள்ளன, சந்தையில் மேலும் நான்கு வாங்குகிறார்."},
      {"te", "టామ్ దగ్గర మూడు ఆపిల్స్ ఉన్నాయి, మార్కెట్లో మరో నాలుగు కొంటాడు."},
      {"kn", "ಟಾಮ್ ಬಳಿ ಮೂರು ಸೇಬುಗಳಿವೆ ಮತ್ತು ಮಾರುಕಟ್ಟೆಯಲ್ಲಿ ಇನ್ನೂ ನಾಲ್ಕು ಖರೀದಿಸುತ್ತಾನೆ."},
      {"ml", "ടോമിന് മൂന്ന് ആപ്പിളുണ്ട്, ചന്തയിൽ നിന്ന് നാലെണ്ണം കൂടി വാങ്ങുന്നു."},
      {"th", "ทอมมีแอปเปิลสามลูกและซื้ออีกสี่ลูกที่ตลาด"},
      {"ko", "톰은 사과 세 개를 가지고 있고 시장에서 네 개를 더 산다."},
      {"ja", "トムはりんごを三つ持っていて、市場でさらに四つ買います。"},
      {"zh", "汤姆有三个苹果，又在市场上买了四个。"},
      {"he", "לתום יש שלושה תפוחים והוא קונה עוד ארבעה בשוק."},
      {"el", "Ο Τομ έχει τρία μήλα και αγοράζει άλλα τέσσερα στην αγορά."},
      {"", "1 + 2 = 3!"}};
  for (const auto& [code, text] : texts) EXPECT_EQ(ifeval::detect_language(text), code) << text;
}

TEST(Language, RealEnglishIsEnglish) {
  int64_t english = 0, all = 0;
  for (const char* name : {"ifeval/ifeval_dev.jsonl", "mbpp/test_11_260.jsonl"})
    for (const json& row : shared_rows(name)) {
      all += 1;
      english += ifeval::detect_language(row[row.contains("prompt") ? "prompt" : "text"].get<std::string>()) == "en";
    }
  for (const json& row : shared_rows("gsm8k/train.jsonl")) all += 1, english += ifeval::detect_language(row["question"].get<std::string>()) == "en";
  if (all == 0) GTEST_SKIP() << "ifeval and gsm8k are not here";
  EXPECT_GE(static_cast<double>(english), 0.995 * static_cast<double>(all)) << english << " of " << all;
}

TEST(Sentences, AreCountedAsPunktDoes) {
  const auto is = [](const char* text, int64_t count) { EXPECT_EQ(ifeval::count_sentences(text), count) << text; };
  is("", 0);
  is("no end", 1);
  is("One. Two.", 2);
  is("Dr. Who met Mrs. Pond. They left.", 2);
  is("It costs 3.50 dollars, i.e. little. Yes!", 2);
  is("\"Stop!\" he said.", 2);  // Punkt, too, ends a sentence there
  is("Wait... what? No.", 2);
  is("J. Smith came.\nA line\nand another.", 2);
  is("He came at 5 p.m. Then he left.", 2);
  is("!!! ??? ...", 3);
}

}  // namespace
}  // namespace hone::rewards
