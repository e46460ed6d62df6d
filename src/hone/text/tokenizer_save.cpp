// A Tokenizer as the files that Hugging Face tools read.
#include <nlohmann/json.hpp>

#include "hone/text/tokenizer_data.h"

namespace hone::text {

using Ordered = nlohmann::ordered_json;

namespace {

Ordered pre_tokenizer_json(const PreTokenizer& pre) {
  const Ordered byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", pre.add_prefix_space}, {"trim_offsets", true}, {"use_regex", pre.use_regex}};
  if (pre.digits == PreTokenizer::Digits::together) return byte_level;
  const Ordered digits = {{"type", "Digits"}, {"individual_digits", pre.digits == PreTokenizer::Digits::single}};
  return {{"type", "Sequence"}, {"pretokenizers", Ordered::array({digits, byte_level})}};
}

Ordered added_json(const AddedToken& token, bool with_id) {
  Ordered out = Ordered::object();
  if (with_id) out["id"] = token.id;
  out["content"] = token.content;
  out["single_word"] = token.single_word;
  out["lstrip"] = token.lstrip;
  out["rstrip"] = token.rstrip;
  out["normalized"] = token.normalized;
  out["special"] = token.special;
  return out;
}

}  // namespace

std::string Tokenizer::to_tokenizer_json() const {
  const Data& data = *data_;
  Ordered vocab = Ordered::object();
  // ordered_json looks every key up linearly: the members are known to differ, so they go straight into its vector.
  auto& members = vocab.get_ref<Ordered::object_t&>();
  bool spaces = false;  // in tokens: then "a b" would not be readable
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    if (!data.in_model[id]) continue;
    members.push_back({data.tokens[id], id});
    spaces = spaces || data.tokens[id].find(' ') != std::string::npos;
  }
  // The form "a b" is read by every version of `tokenizers`, pairs only from 0.20 on.
  Ordered merges = Ordered::array();
  for (const auto& [left, right] : data.merge_list) {
    const std::string &a = data.tokens[static_cast<size_t>(left)], &b = data.tokens[static_cast<size_t>(right)];
    merges.push_back(spaces ? Ordered::array({a, b}) : Ordered(a + " " + b));
  }
  Ordered added = Ordered::array();
  for (const AddedToken& token : data.added) added.push_back(added_json(token, true));
  Ordered model = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", data.ignore_merges}};
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
  Ordered root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  root["added_tokens"] = std::move(added);
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = pre_tokenizer_json(data.pre_tokenizer);
  root["post_processor"] = nullptr;
  root["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  root["model"] = std::move(model);
  return root.dump(1) + "\n";
}

std::string Tokenizer::to_tokenizer_config_json(const std::string& chat_template, int64_t model_max_length) const {
  const Data& data = *data_;
  Ordered root = Ordered::object();
  // The generic class takes tokenizer.json as it is; a family's class would rebuild its own pre-tokenizer.
  root["tokenizer_class"] = "PreTrainedTokenizerFast";
  root["add_prefix_space"] = data.pre_tokenizer.add_prefix_space;
  root["clean_up_tokenization_spaces"] = false;
  Ordered added = Ordered::object();
  for (const AddedToken& token : data.added) added[std::to_string(token.id)] = added_json(token, false);
  root["added_tokens_decoder"] = std::move(added);
  const std::pair<const char*, int32_t> roles[] = {
      {"bos_token", data.ids.bos}, {"eos_token", data.ids.eos}, {"unk_token", data.ids.unk}, {"pad_token", data.ids.pad}};
  // A role whose token is not an added one stays out: transformers would make it one, and then match it in texts.
  for (const auto& [key, id] : roles)
    if (id >= 0 && data.special[static_cast<size_t>(id)]) root[key] = data.tokens[static_cast<size_t>(id)];
  if (model_max_length > 0) root["model_max_length"] = model_max_length;
  if (!chat_template.empty()) root["chat_template"] = chat_template;
  return root.dump(2) + "\n";
}

}  // namespace hone::text
