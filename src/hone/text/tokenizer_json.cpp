// tokenizer.json of Hugging Face `tokenizers` -> RawVocabulary. What would change ids and is not implemented is refused by name.
#include "hone/text/tokenizer_json.h"

#include <unordered_set>

#include "hone/base/error.h"
#include "hone/text/tokenizer_data.h"

namespace hone::text {

using nlohmann::json;

json parse_json_strictly(std::string_view text, const std::string& source) {
  constexpr int max_depth = 64;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > max_depth) fail("{}: nested deeper than {} levels", source, max_depth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      fail("{}: the key \"{}\" stands twice in one object", source, parsed.get<std::string>());
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    fail("{}: not valid JSON: {}", source, error.what());
  }
}

namespace {

/// One tokenizer.json being read: `source` and the place within it go into every message.
class Reader {
 public:
  Reader(const json& root, const std::string& source) : root_(root), source_(source) {}

  RawVocabulary run() {
    if (!root_.is_object()) fail("{}: expected a JSON object", source_);
    read_model();
    read_added();
    read_normalizer();
    read_pre_tokenizer();
    read_post_processor();
    read_decoder();
    return std::move(out_);
  }

 private:
  const json& member(const json& object, const char* key) const {
    static const json null;
    const auto found = object.find(key);
    return found == object.end() ? null : *found;
  }

  bool flag(const json& object, const char* key, bool fallback, const std::string& where) const {
    const json& value = member(object, key);
    if (value.is_null()) return fallback;
    if (!value.is_boolean()) fail("{}: {}.{} must be true or false", source_, where, key);
    return value.get<bool>();
  }

  std::string type_of(const json& object, const std::string& where) const {
    if (!object.is_object() || !member(object, "type").is_string()) fail("{}: {} must be an object with a \"type\"", source_, where);
    return object["type"].get<std::string>();
  }

  void read_model() {
    const json& model = member(root_, "model");
    if (!model.is_object()) fail("{}: \"model\" is missing", source_);
    const json& type = member(model, "type");  // absent in files of old versions
    if (!type.is_null() && type != "BPE") fail("{}: model type {} is not supported (only BPE)", source_, type.dump());
    const json& dropout = member(model, "dropout");
    if (!dropout.is_null() && dropout != 0.0) fail("{}: model.dropout {} is not supported", source_, dropout.dump());
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const json& value = member(model, affix); !value.is_null() && value != "")
        fail("{}: model.{} {} is not supported", source_, affix, value.dump());
    if (flag(model, "byte_fallback", false, "model")) fail("{}: model.byte_fallback is not supported", source_);
    out_.ignore_merges = flag(model, "ignore_merges", false, "model");
    // unk_token and fuse_unk stand for bytes without a token, which are an error here: they cannot change ids.

    const json& vocab = member(model, "vocab");
    if (!vocab.is_object()) fail("{}: model.vocab must be an object", source_);
    out_.tokens.reserve(vocab.size());
    for (const auto& [token, id] : vocab.items()) {
      if (!id.is_number_integer()) fail("{}: model.vocab: the id of \"{}\" is not a whole number", source_, token);
      out_.tokens.emplace_back(token, id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX ? INT64_MAX : id.get<int64_t>());
    }
    read_merges(member(model, "merges"));
  }

  void read_merges(const json& merges) {
    if (!merges.is_array()) fail("{}: model.merges must be an array", source_);
    out_.merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      const json& merge = merges[i];
      if (merge.is_string()) {
        const auto& text = merge.get_ref<const std::string&>();
        if (text.starts_with("#version")) continue;
        const size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
          fail("{}: merge {} \"{}\" is not two tokens with one space between", source_, i, text);
        out_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        out_.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      } else {
        fail("{}: merge {} is neither a pair of tokens nor a string", source_, i);
      }
    }
  }

  void read_added() {
    const json& list = member(root_, "added_tokens");
    if (list.is_null()) return;
    if (!list.is_array()) fail("{}: added_tokens must be an array", source_);
    for (size_t i = 0; i < list.size(); ++i) {
      const json& entry = list[i];
      const std::string where = fmt::format("added_tokens[{}]", i);
      if (!entry.is_object() || !member(entry, "content").is_string() || !member(entry, "id").is_number_integer())
        fail("{}: {} must have a \"content\" and an \"id\"", source_, where);
      AddedToken token;
      token.content = entry["content"].get<std::string>();
      const auto id = entry["id"].get<int64_t>();
      if (id < 0 || id > INT32_MAX) fail("{}: {} has the id {}, which is out of range", source_, where, entry["id"].dump());
      token.id = static_cast<int32_t>(id);
      token.special = flag(entry, "special", false, where);
      token.lstrip = flag(entry, "lstrip", false, where);
      token.rstrip = flag(entry, "rstrip", false, where);
      token.normalized = flag(entry, "normalized", !token.special, where);
      token.single_word = flag(entry, "single_word", false, where);
      out_.added.push_back(std::move(token));
    }
  }

  void read_normalizer() {
    const json& normalizer = member(root_, "normalizer");
    if (normalizer.is_null()) return;
    const std::string type = type_of(normalizer, "normalizer");
    if (type == "Sequence" && member(normalizer, "normalizers").is_array() && normalizer["normalizers"].empty()) return;
    fail("{}: normalizer {} is not supported", source_, type);
  }

  void read_pre_tokenizer() {
    const json& step = member(root_, "pre_tokenizer");
    if (step.is_null()) fail("{}: no pre_tokenizer; only byte-level vocabularies (pre_tokenizer ByteLevel) are supported", source_);
    bool byte_level = false;
    if (type_of(step, "pre_tokenizer") == "Sequence") {
      const json& list = member(step, "pretokenizers");
      if (!list.is_array()) fail("{}: pre_tokenizer.pretokenizers must be an array", source_);
      for (const json& inner : list) read_step(inner, byte_level);
    } else {
      read_step(step, byte_level);
    }
    if (!byte_level) fail("{}: the pre_tokenizer has no ByteLevel step; only byte-level vocabularies are supported", source_);
  }

  void read_step(const json& step, bool& byte_level) {
    const std::string type = type_of(step, "pre_tokenizer");
    if (byte_level) fail("{}: pre_tokenizer {} after ByteLevel is not supported", source_, type);
    if (type == "ByteLevel") {
      byte_level = true;
      out_.pre_tokenizer.add_prefix_space = flag(step, "add_prefix_space", true, type);
      out_.pre_tokenizer.use_regex = flag(step, "use_regex", true, type);
    } else if (type == "Digits") {
      const bool single = flag(step, "individual_digits", false, type);
      if (single || out_.pre_tokenizer.digits != PreTokenizer::Digits::single)
        out_.pre_tokenizer.digits = single ? PreTokenizer::Digits::single : PreTokenizer::Digits::runs;
    } else {
      fail("{}: pre_tokenizer {} is not supported (ByteLevel and Digits are)", source_, type);
    }
  }

  void read_post_processor() {
    const json& step = member(root_, "post_processor");
    if (step.is_null()) return;
    const std::string type = type_of(step, "post_processor");
    if (type == "Sequence") {
      if (!member(step, "processors").is_array()) fail("{}: post_processor.processors must be an array", source_);
      for (const json& inner : step["processors"]) check_post_step(inner);
    } else {
      check_post_step(step);
    }
  }

  // ByteLevel only moves offsets; a template is harmless when it adds no token to a single text.
  void check_post_step(const json& step) const {
    const std::string type = type_of(step, "post_processor");
    if (type == "ByteLevel") return;
    if (type != "TemplateProcessing") fail("{}: post_processor {} is not supported", source_, type);
    const json& single = member(step, "single");
    if (!single.is_array()) fail("{}: post_processor.single must be an array", source_);
    for (const json& entry : single)
      if (!entry.is_object() || entry.contains("SpecialToken"))
        fail("{}: post_processor TemplateProcessing adds the token {}; tokens added behind the caller's back are not supported", source_,
             entry.dump());
    if (single.size() != 1) fail("{}: post_processor TemplateProcessing repeats or drops the text", source_);
  }

  void read_decoder() const {
    const json& decoder = member(root_, "decoder");
    if (decoder.is_null()) fail("{}: no decoder; expected ByteLevel", source_);
    if (const std::string type = type_of(decoder, "decoder"); type != "ByteLevel") fail("{}: decoder {} is not supported", source_, type);
  }

  const json& root_;
  const std::string& source_;
  RawVocabulary out_;
};

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& source, const SpecialIds& ids) {
  const json root = parse_json_strictly(text, source);
  RawVocabulary raw = Reader(root, source).run();
  raw.ids = ids;
  return Tokenizer(build_tokenizer(std::move(raw), source));
}

}  // namespace hone::text
