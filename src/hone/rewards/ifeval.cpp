// ifeval: every instruction of the row's instruction_id_list, with its kwargs, must be followed.
#include "hone/rewards/ifeval.h"

#include <re2/re2.h>

#include <algorithm>
#include <map>

#include "hone/base/error.h"
#include "hone/rewards/makers.h"

namespace hone::rewards {
namespace ifeval {
namespace {

using Json = nlohmann::json;

enum class Argument { integer, text, texts, relation, language };
struct NamedArgument {
  const char* name;
  Argument kind;
};
using Check = bool (*)(const Json& k, const std::string& response);
struct Instruction {
  std::vector<NamedArgument> arguments;
  Check follows;
};

int64_t integer(const Json& k, const char* name) { return k.at(name).get<int64_t>(); }
std::string text(const Json& k, const char* name) { return k.at(name).get<std::string>(); }

bool compares(int64_t count, const Json& k, const char* relation, const char* bound) {
  return text(k, relation) == "less than" ? count < integer(k, bound) : count >= integer(k, bound);
}

// Compiled once a thread: no lock in the way of the others.
const re2::RE2& pattern(const char* expression) {
  thread_local std::map<std::string, std::unique_ptr<re2::RE2>, std::less<>> compiled;
  auto it = compiled.find(std::string_view(expression));
  if (it == compiled.end()) it = compiled.emplace(expression, std::make_unique<re2::RE2>(expression)).first;
  return *it->second;
}

// Matches of a pattern with one group, which do not overlap.
std::vector<std::string> matches(const std::string& response, const re2::RE2& expression) {
  std::vector<std::string> found;
  re2::StringPiece input(response);
  std::string match;
  while (re2::RE2::FindAndConsume(&input, expression, &match)) found.push_back(match);
  return found;
}

size_t count_plain(std::string_view haystack, std::string_view needle) {
  size_t count = 0;
  for (size_t at = haystack.find(needle); at != haystack.npos && !needle.empty(); at = haystack.find(needle, at + needle.size())) ++count;
  return count;
}

std::vector<std::string> split(std::string_view response, std::string_view mark) {
  std::vector<std::string> parts;
  size_t from = 0;
  for (size_t at = response.find(mark); at != response.npos; at = response.find(mark, from)) {
    parts.emplace_back(response.substr(from, at - from));
    from = at + mark.size();
  }
  parts.emplace_back(response.substr(from));
  return parts;
}

bool has_keywords(const Json& k, const std::string& response) {
  const std::string low = lower(response);
  return std::all_of(k.at("keywords").begin(), k.at("keywords").end(),
                     [&](const Json& word) { return low.find(lower(word.get<std::string>())) != low.npos; });
}

bool lacks_words(const Json& k, const std::string& response) {
  re2::RE2::Options options;
  options.set_case_sensitive(false);
  options.set_log_errors(false);
  return std::none_of(k.at("forbidden_words").begin(), k.at("forbidden_words").end(), [&](const Json& word) {
    const re2::RE2 whole("\\b" + re2::RE2::QuoteMeta(word.get<std::string>()) + "\\b", options);
    return re2::RE2::PartialMatch(response, whole);
  });
}

bool has_letters(const Json& k, const std::string& response) {
  return compares(static_cast<int64_t>(count_plain(lower(response), lower(text(k, "letter")))), k, "let_relation", "let_frequency");
}

bool has_paragraphs(const Json& k, const std::string& response) {
  const std::vector<std::string> parts = split(response, "***");
  int64_t count = static_cast<int64_t>(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!stripped(parts[i]).empty()) continue;
    if (i != 0 && i + 1 != parts.size()) return false;
    --count;
  }
  return count == integer(k, "num_paragraphs");
}

bool has_first_word(const Json& k, const std::string& response) {
  const std::vector<std::string> parts = split(response, "\n\n");
  int64_t count = 0;
  for (const std::string& part : parts) count += !stripped(part).empty();
  const int64_t nth = integer(k, "nth_paragraph");
  if (nth < 1 || nth > count) return false;
  std::string_view paragraph = stripped(parts[static_cast<size_t>(nth - 1)]);
  std::string_view word = paragraph.substr(0, paragraph.find_first_of(" \t\r\n\v\f"));
  while (word.starts_with('\'')) word.remove_prefix(1);
  while (word.starts_with('"')) word.remove_prefix(1);
  word = word.substr(0, word.find_first_of(".,?!'\""));
  return count == integer(k, "num_paragraphs") && lower(word) == lower(text(k, "first_word"));
}

bool has_postscript(const Json& k, const std::string& response) {
  const std::string marker = text(k, "postscript_marker"), low = lower(response);
  if (marker == "P.P.S") return re2::RE2::PartialMatch(low, pattern("p\\.\\s?p\\.\\s?s"));
  if (marker == "P.S.") return re2::RE2::PartialMatch(low, pattern("p\\.\\s?s\\."));
  return low.find(lower(marker)) != low.npos;
}

bool is_constrained(const Json&, const std::string& response) {
  constexpr const char* options[] = {"My answer is yes.", "My answer is no.", "My answer is maybe."};
  return std::any_of(std::begin(options), std::end(options), [&](const char* option) { return response.find(option) != response.npos; });
}

bool has_bullets(const Json& k, const std::string& response) {
  const size_t count = matches(response, pattern("(?m)(^\\s*\\*[^\\*].*$)")).size() + matches(response, pattern("(?m)(^\\s*-.*$)")).size();
  return static_cast<int64_t>(count) == integer(k, "num_bullets");
}

bool has_highlights(const Json& k, const std::string& response) {
  int64_t count = 0;
  for (const char* expression : {"(\\*[^\\n\\*]*\\*)", "(\\*\\*[^\\n\\*]*\\*\\*)"})
    for (const std::string& match : matches(response, pattern(expression))) count += match.find_first_not_of("* \t\r\v\f") != match.npos;
  return count >= integer(k, "num_highlights");
}

bool has_sections(const Json& k, const std::string& response) {
  const re2::RE2 heading("(" + re2::RE2::QuoteMeta(std::string(stripped(text(k, "section_spliter")))) + "\\s?\\d+)", re2::RE2::Quiet);
  return static_cast<int64_t>(matches(response, heading).size()) >= integer(k, "num_sections");
}

bool is_json(const Json&, const std::string& response) {
  std::string_view value = stripped(response);
  for (const char* fence : {"```json", "```Json", "```JSON", "```"})
    if (value.starts_with(fence)) value.remove_prefix(std::string_view(fence).size());
  if (value.ends_with("```")) value.remove_suffix(3);
  return Json::accept(stripped(value));
}

bool has_title(const Json&, const std::string& response) {
  const auto titles = matches(response, pattern("(<<[^\\n]+>>)"));
  return std::any_of(titles.begin(), titles.end(), [](const std::string& title) {
    const size_t begin = title.find_first_not_of('<'), end = title.find_last_not_of('>');
    return begin != title.npos && end != title.npos && begin <= end && !stripped(std::string_view(title).substr(begin, end - begin + 1)).empty();
  });
}

bool are_two(const Json&, const std::string& response) {
  const std::vector<std::string> parts = split(response, "******");
  std::vector<std::string_view> valid;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!stripped(parts[i]).empty())
      valid.push_back(stripped(parts[i]));
    else if (i != 0 && i + 1 != parts.size())
      return false;
  }
  return valid.size() == 2 && valid[0] != valid[1];
}

bool repeats_prompt(const Json& k, const std::string& response) {
  return lower(stripped(response)).starts_with(lower(stripped(text(k, "prompt_to_repeat"))));
}

bool ends_with(const Json& k, const std::string& response) {
  std::string_view value = stripped(response);
  while (value.starts_with('"')) value.remove_prefix(1);
  while (value.ends_with('"')) value.remove_suffix(1);
  return lower(value).ends_with(lower(stripped(text(k, "end_phrase"))));
}

bool is_quoted(const Json&, const std::string& response) {
  const std::string_view value = stripped(response);
  return value.size() > 1 && value.front() == '"' && value.back() == '"';
}

const std::map<std::string, Instruction>& instructions() {
  using A = Argument;
  static const std::map<std::string, Instruction> all{
      {"keywords:existence", {{{"keywords", A::texts}}, has_keywords}},
      {"keywords:frequency",
       {{{"keyword", A::text}, {"frequency", A::integer}, {"relation", A::relation}},
        [](const Json& k, const std::string& r) {
          return compares(static_cast<int64_t>(count_plain(lower(r), lower(text(k, "keyword")))), k, "relation", "frequency");
        }}},
      {"keywords:forbidden_words", {{{"forbidden_words", A::texts}}, lacks_words}},
      {"keywords:letter_frequency", {{{"letter", A::text}, {"let_frequency", A::integer}, {"let_relation", A::relation}}, has_letters}},
      {"language:response_language",
       {{{"language", A::language}}, [](const Json& k, const std::string& r) { return detect_language(r) == text(k, "language"); }}},
      {"length_constraints:number_sentences",
       {{{"num_sentences", A::integer}, {"relation", A::relation}},
        [](const Json& k, const std::string& r) { return compares(count_sentences(r), k, "relation", "num_sentences"); }}},
      {"length_constraints:number_paragraphs", {{{"num_paragraphs", A::integer}}, has_paragraphs}},
      {"length_constraints:number_words",
       {{{"num_words", A::integer}, {"relation", A::relation}},
        [](const Json& k, const std::string& r) { return compares(count_words(r), k, "relation", "num_words"); }}},
      {"length_constraints:nth_paragraph_first_word",
       {{{"num_paragraphs", A::integer}, {"nth_paragraph", A::integer}, {"first_word", A::text}}, has_first_word}},
      {"detectable_content:number_placeholders",
       {{{"num_placeholders", A::integer}},
        [](const Json& k, const std::string& r) {
          return static_cast<int64_t>(matches(r, pattern("(\\[.*?\\])")).size()) >= integer(k, "num_placeholders");
        }}},
      {"detectable_content:postscript", {{{"postscript_marker", A::text}}, has_postscript}},
      {"detectable_format:number_bullet_lists", {{{"num_bullets", A::integer}}, has_bullets}},
      {"detectable_format:constrained_response", {{}, is_constrained}},
      {"detectable_format:number_highlighted_sections", {{{"num_highlights", A::integer}}, has_highlights}},
      {"detectable_format:multiple_sections", {{{"section_spliter", A::text}, {"num_sections", A::integer}}, has_sections}},
      {"detectable_format:json_format", {{}, is_json}},
      {"detectable_format:title", {{}, has_title}},
      {"combination:two_responses", {{}, are_two}},
      {"combination:repeat_prompt", {{{"prompt_to_repeat", A::text}}, repeats_prompt}},
      {"startend:end_checker", {{{"end_phrase", A::text}}, ends_with}},
      {"startend:quotation", {{}, is_quoted}},
      {"change_case:capital_word_frequency",
       {{{"capital_frequency", A::integer}, {"capital_relation", A::relation}},
        [](const Json& k, const std::string& r) { return compares(count_capital_words(r), k, "capital_relation", "capital_frequency"); }}},
      {"change_case:english_capital", {{}, [](const Json&, const std::string& r) { return is_upper(r) && detect_language(r) == "en"; }}},
      {"change_case:english_lowercase", {{}, [](const Json&, const std::string& r) { return is_lower(r) && detect_language(r) == "en"; }}},
      {"punctuation:no_comma", {{}, [](const Json&, const std::string& r) { return r.find(',') == r.npos; }}},
  };
  return all;
}

std::string argument_fault(const NamedArgument& argument, const Json& kwargs) {
  const auto it = kwargs.find(argument.name);
  if (it == kwargs.end() || it->is_null()) return std::string("kwargs lack \"") + argument.name + "\"";
  const auto is_texts = [&] {
    return it->is_array() && !it->empty() &&
           std::all_of(it->begin(), it->end(), [](const Json& v) { return v.is_string() && !v.get<std::string>().empty(); });
  };
  const std::string name = std::string("kwargs' \"") + argument.name + "\"";
  switch (argument.kind) {
    case Argument::integer:
      return it->is_number_integer() ? "" : name + " is no whole number";
    case Argument::text:
      return it->is_string() && !it->get<std::string>().empty() ? "" : name + " is no text";
    case Argument::texts:
      return is_texts() ? "" : name + " is no list of texts";
    case Argument::relation:
      return *it == "less than" || *it == "at least" ? "" : name + " is neither \"less than\" nor \"at least\"";
    case Argument::language:
      return it->is_string() && std::count(languages().begin(), languages().end(), it->get<std::string>())
                 ? ""
                 : name + " is no language that is told apart here";
  }
  return {};
}

}  // namespace

std::string instruction_fault(const std::string& id, const Json& kwargs) {
  const auto it = instructions().find(id);
  if (it == instructions().end()) {
    std::vector<std::string> names;
    for (const auto& [name, instruction] : instructions()) names.push_back(name);
    const std::string near = nearest_name(id, names.data(), names.data() + names.size());
    return "there is no instruction " + id + (near.empty() ? "" : ": did you mean " + near + "?");
  }
  for (const NamedArgument& argument : it->second.arguments)
    if (const std::string fault = argument_fault(argument, kwargs); !fault.empty()) return id + ": " + fault;
  return {};
}

bool is_followed(const std::string& id, const Json& kwargs, const std::string& response) {
  return !stripped(response).empty() && instructions().at(id).follows(kwargs, response);
}

}  // namespace ifeval

namespace {

class IfEval : public Reward {
 public:
  std::string check_row(const nlohmann::json& row) const override {
    const auto ids = row.find("instruction_id_list"), kwargs = row.find("kwargs");
    if (ids == row.end() || !ids->is_array() || ids->empty()) return "there is no \"instruction_id_list\"";
    if (kwargs == row.end() || !kwargs->is_array() || kwargs->size() != ids->size())
      return "\"kwargs\" is not a list with one entry for each instruction";
    for (size_t i = 0; i < ids->size(); ++i) {
      if (!(*ids)[i].is_string()) return "\"instruction_id_list\" holds something else than texts";
      if (!(*kwargs)[i].is_object() && !(*kwargs)[i].is_null()) return "\"kwargs\" holds something else than objects";
      if (std::string fault = ifeval::instruction_fault((*ids)[i], (*kwargs)[i]); !fault.empty()) return fault;
    }
    return {};
  }

  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    return judge_each(samples, [this](const Sample& sample) -> Judgement {
      if (std::string fault = check_row(*sample.row); !fault.empty()) return {Verdict::gold_unparsed, std::nullopt, std::move(fault)};
      const auto &ids = sample.row->at("instruction_id_list"), &kwargs = sample.row->at("kwargs");
      std::string failed;
      for (size_t i = 0; i < ids.size(); ++i)
        if (!ifeval::is_followed(ids[i], kwargs[i], sample.completion))
          failed += (failed.empty() ? "not followed: " : ", ") + ids[i].get<std::string>();
      if (failed.empty()) return {Verdict::right, 1.0, {}};
      return {Verdict::wrong, 0.0, std::move(failed)};
    });
  }
};

}  // namespace

std::unique_ptr<Reward> make_ifeval(const std::string&, const RewardSettings&) { return std::make_unique<IfEval>(); }

}  // namespace hone::rewards
