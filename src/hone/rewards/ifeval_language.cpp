// Which language a text is in: by script, and within a script by letters that only one language has and by its commonest words.
#include <utf8proc.h>

#include <algorithm>
#include <map>
#include <set>

#include "hone/rewards/ifeval.h"
#include "hone/text/utf8.h"

namespace hone::rewards::ifeval {
namespace {

struct Script {
  uint32_t first, last;
  const char* code;  // a language, or a script that several share
};
constexpr Script kScripts[] = {{0x0041, 0x024F, "latin"},      {0x1E00, 0x1EFF, "latin"},  {0x0370, 0x03FF, "el"},     {0x0400, 0x052F, "cyrillic"},
                               {0x0590, 0x05FF, "he"},         {0x0600, 0x06FF, "arabic"}, {0x0750, 0x077F, "arabic"}, {0xFB50, 0xFEFF, "arabic"},
                               {0x0900, 0x097F, "devanagari"}, {0x0980, 0x09FF, "bn"},     {0x0A00, 0x0A7F, "pa"},     {0x0A80, 0x0AFF, "gu"},
                               {0x0B80, 0x0BFF, "ta"},         {0x0C00, 0x0C7F, "te"},     {0x0C80, 0x0CFF, "kn"},     {0x0D00, 0x0D7F, "ml"},
                               {0x0E00, 0x0E7F, "th"},         {0x1100, 0x11FF, "ko"},     {0x3130, 0x318F, "ko"},     {0xAC00, 0xD7AF, "ko"},
                               {0x3040, 0x30FF, "ja"},         {0x4E00, 0x9FFF, "zh"}};

// A language's commonest words, and letters that its neighbours do not use (a letter counts as a word does).
struct Profile {
  const char* code;
  const char* script;
  const char* words;
  const char* letters;
};
constexpr Profile kProfiles[] = {
    {"en", "latin",
     "the of and to in is that for it with as was on be are this by not you have at or from his her they we an will your can has my i if but so all "
     "what there how about who me do she had were would been their each does much many more than two one if then when which some them these into "
     "make write python function find given use using number should could my out up were each every his him her its just only other over such no am "
     "don",
     ""},
    {"de", "latin",
     "der die und das ist in den von zu mit sich des auf für nicht ein eine als auch es an werden aus er hat dass sie nach wird bei ich wir im dem "
     "sind oder wie zum zur über ihre ihr haben kann",
     "ß"},
    {"fr", "latin",
     "le la les de des et est un une dans que qui pour pas sur au aux avec ce cette il elle nous vous sont par plus ne se du ou mais être je leur en "
     "été sa son ces comme",
     "œ"},
    {"es", "latin",
     "el la los las de y que en un una es por con para del se no al lo como más su sus pero este esta son fue ha o yo mi muy sin sobre también hay "
     "cuando",
     "ñ¿¡"},
    {"pt", "latin",
     "o a os as de e que em um uma é para com do da dos das não no na por mais se como mas foi ao ele ela seu sua são ou muito também você eu nos "
     "isso à até",
     "ãõ"},
    {"it", "latin",
     "il lo la i gli le di e che un una è per con del della dei non in si da al come più ma sono nel alla questo questa anche o mi ha suo sua ho "
     "delle nella dal molto",
     ""},
    {"nl", "latin",
     "de het een en van is in op te dat die voor met zijn niet aan er ook als bij door naar ik wij om maar hebben wordt uit je over nog", ""},
    {"pl", "latin", "i w na z się nie do że jest to o jak ale po co za od jego był tym przez dla są czy tylko może być oraz który która ten",
     "łąężśćź"},
    {"vi", "latin", "và của là có trong cho không được một với những này các để người khi đã từ tôi bạn như về rất ở cũng",
     "đơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ"},
    {"sw", "latin",
     "ya na wa kwa ni katika za la kuwa hii cha kama yake hiyo au lakini pia ambayo kila yao wao mimi sana watu hivyo wake huu zaidi moja si hata "
     "ili wetu vya baada",
     ""},
    {"fi", "latin",
     "ja on ei se että oli hän mutta ovat kun myös joka niin kuin sen tai olen mitä vain jos ole tämä voi sekä hänen minä olla mukaan jotka", ""},
    {"sv", "latin", "och att det som en på är av för med den till inte har om ett jag men de var så från vi kan han", "å"},
    {"da", "latin", "og at det som en på er af for med den til ikke har om et jeg men de var så fra vi kan han", "æø"},
    {"tr", "latin", "ve bir bu da de için ile çok olarak daha olan gibi ne var ben ama kadar değil en sonra", "ğışİ"},
    {"id", "latin", "yang dan di dari untuk dengan ini itu pada tidak dalam adalah akan ke saya oleh juga kami mereka bisa", ""},
    {"tl", "latin", "ang ng sa na mga ay at para ito ko siya hindi kung mo ako si niya may", ""},
    {"ro", "latin", "și în de la cu pe este un o care nu din pentru că mai sunt sau ca", "țșă"},
    {"cs", "latin", "a v se na je že to s z do o ale jako za by jsem pro jsou není", "řůěž"},
    {"hu", "latin", "a az és hogy nem is egy ez van volt de csak meg már mint", "őű"},
    {"ru", "cyrillic", "и в не на что я с он как это по но к из у за от для так же или его все она мы быть есть", "ыэё"},
    {"uk", "cyrillic", "і в не на що я з він як це по але до із у за від для так або його все вона ми та", "іїєґ"},
    {"bg", "cyrillic", "и в не на че аз с той как това по но от за да се е са или го тя ние със като най", "ѝ"},
    {"mk", "cyrillic", "и во не на дека јас со тој како ова но од за да се е или го таа ние", "ѓќѕџљњј"},
    {"ar", "arabic", "في من على إلى أن هذا هذه التي الذي عن مع لا ما كان هو هي أو كل ذلك بعد كما قد لم ثم", "ةأإىؤئ"},
    {"fa", "arabic", "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز شد شود های ما من می", "پچژگ"},
    {"ur", "arabic", "کے میں کی ہے اور سے کا کو اس کہ ہیں نے پر یہ بھی ایک کر جو تھا نہیں ہم آپ وہ", "ٹڈڑںےہھ"},
    {"hi", "devanagari", "के में है की से का को और पर यह हैं ने एक भी कि इस नहीं हो कर था जो तो वह लिए अपने आप हम साथ ही गया", ""},
    {"mr", "devanagari", "आणि आहे या हे ते च्या मध्ये आहेत एक नाही होते व तर की ही असे केले त्या मी आपण साठी त्यांच्या होता होती करण्यासाठी खूप तो ती", "ळ"},
    {"ne", "devanagari", "र छ मा को यो पनि हो लागि छन् भएको गर्न हुन्छ छैन गरेको लाई ले म तपाईं हामी थियो धेरै यस अनि गर्नुहोस् गर्छ", ""},
};

const char* script_of(uint32_t code) {
  for (const Script& s : kScripts)
    if (code >= s.first && code <= s.last) return s.code;
  return nullptr;
}

bool is_letter_or_mark(uint32_t code) {
  const utf8proc_category_t c = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ME;
}

struct Lexicon {
  std::map<std::string, std::set<std::string, std::less<>>, std::less<>> words;
  std::map<std::string, std::set<uint32_t>, std::less<>> letters;
};
const Lexicon& lexicon() {
  static const Lexicon built = [] {
    Lexicon l;
    for (const Profile& p : kProfiles) {
      std::string_view words = p.words;
      while (!words.empty()) {
        const size_t end = std::min(words.find(' '), words.size());
        l.words[p.code].insert(std::string(words.substr(0, end)));
        words.remove_prefix(std::min(end + 1, words.size()));
      }
      const std::string_view letters = p.letters;
      for (size_t at = 0; at < letters.size();) {
        const text::CodePoint c = text::code_at(letters, at);
        l.letters[p.code].insert(c.code);
        at += static_cast<size_t>(c.length);
      }
    }
    return l;
  }();
  return built;
}

// The language of a script whose words and letters are most frequent; the first listed at a tie, empty where nothing was met.
std::string best_of_script(std::string_view script, const std::map<std::string, int64_t>& words, const std::map<uint32_t, int64_t>& letters) {
  std::string best;
  int64_t best_count = 0;
  for (const Profile& p : kProfiles) {
    if (script != p.script) continue;
    int64_t count = 0;
    for (const std::string& word : lexicon().words.at(p.code))
      if (const auto it = words.find(word); it != words.end()) count += it->second;
    if (const auto own = lexicon().letters.find(p.code); own != lexicon().letters.end())
      for (const uint32_t letter : own->second)
        if (const auto it = letters.find(letter); it != letters.end()) count += it->second;
    if (count > best_count) best_count = count, best = p.code;
  }
  return best;
}

}  // namespace

const std::vector<std::string>& languages() {
  static const std::vector<std::string> codes = [] {
    std::set<std::string> all;
    for (const Profile& p : kProfiles) all.insert(p.code);
    for (const Script& s : kScripts)
      if (std::string_view(s.code).size() == 2) all.insert(s.code);
    return std::vector<std::string>(all.begin(), all.end());
  }();
  return codes;
}

std::string detect_language(std::string_view given) {
  const std::string text = lower(given);
  std::map<std::string, int64_t> scripts, words;
  std::map<uint32_t, int64_t> letters;
  std::string word;
  for (size_t at = 0; at < text.size();) {
    const int length = text::utf8_length(text, at);
    if (length == 0) {
      ++at;
      continue;
    }
    const uint32_t code = text::utf8_code(text, at, length);
    if (is_letter_or_mark(code)) {
      word.append(text, at, static_cast<size_t>(length));
      if (const char* script = script_of(code)) ++scripts[script];
    } else if (!word.empty()) {
      ++words[word];
      word.clear();
    }
    if (code >= 0x80) ++letters[code];
    at += static_cast<size_t>(length);
  }
  if (!word.empty()) ++words[word];
  if (scripts.empty()) return {};
  if (scripts.count("ja") && scripts.count("zh")) scripts["ja"] += scripts["zh"];  // kana among Chinese characters
  const auto most = std::max_element(scripts.begin(), scripts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most->first.size() == 2) return most->first;
  const std::string best = best_of_script(most->first, words, letters);
  if (!best.empty()) return best;
  // letters without a known word: the language that is written with plain letters of its script
  return most->first == "latin" ? "en" : most->first == "cyrillic" ? "ru" : most->first == "arabic" ? "ar" : "hi";
}

}  // namespace hone::rewards::ifeval
