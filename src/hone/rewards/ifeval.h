#pragma once
// The 25 instruction types of IFEval (arXiv:2311.07911), after google-research's instruction_following_eval, strict.
#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace hone::rewards::ifeval {

/// What is wrong with an instruction and its arguments; empty: nothing.
std::string instruction_fault(const std::string& id, const nlohmann::json& kwargs);
/// Whether a response follows an instruction without a fault. An empty response follows none.
bool is_followed(const std::string& id, const nlohmann::json& kwargs, const std::string& response);

// Text (ifeval_text.cpp).
std::string lower(std::string_view text);
std::string_view stripped(std::string_view text);
/// Runs of word characters (\w of Unicode).
int64_t count_words(std::string_view text);
/// Sentences as Punkt's English model finds them, nearly: it ends one at . ? ! before white space, not behind abbreviations and initials.
int64_t count_sentences(std::string_view text);
/// Words of capitals as NLTK's word_tokenize splits them, nearly.
int64_t count_capital_words(std::string_view text);
/// At least one letter with case, and none of the other case.
bool is_upper(std::string_view text);
bool is_lower(std::string_view text);

// Language (ifeval_language.cpp).
/// The codes that are told apart.
const std::vector<std::string>& languages();
/// The language of a text by its script and, within a script, by its letters and commonest words; empty where no letter says anything.
std::string detect_language(std::string_view text);

}  // namespace hone::rewards::ifeval
