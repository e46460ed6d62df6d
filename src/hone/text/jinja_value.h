#pragma once
// Values of the Jinja interpreter. A string carries, byte by byte, which message it came from.
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hone::text::jinja {

/// Where a byte came from: a message and whether it was the message's role; no_origin for the template's own words.
constexpr int32_t no_origin = -1;
inline int32_t message_origin(int32_t message, bool role) { return message << 1 | static_cast<int32_t>(role); }
inline int32_t origin_message(int32_t origin) { return origin < 0 ? -1 : origin >> 1; }
inline bool origin_is_role(int32_t origin) { return origin >= 0 && (origin & 1) != 0; }

/// A string with the origin of each byte (origin.size() == bytes.size()).
struct Text {
  std::string bytes;
  std::vector<int32_t> origin;
  void append(std::string_view more, int32_t from) {
    bytes.append(more);
    origin.insert(origin.end(), more.size(), from);
  }
  void append(const Text& more) { append(more, 0, more.bytes.size()); }
  void append(const Text& more, size_t begin, size_t end) {
    bytes.append(more.bytes, begin, end - begin);
    origin.insert(origin.end(), more.origin.begin() + static_cast<ptrdiff_t>(begin), more.origin.begin() + static_cast<ptrdiff_t>(end));
  }
  Text part(size_t begin, size_t end) const {
    Text out;
    out.append(*this, begin, end);
    return out;
  }
};

enum class Kind { undefined, none, boolean, integer, number, string, list, dict };

struct Dict;
struct Value;
using List = std::vector<Value>;

struct Value {
  Kind kind = Kind::undefined;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;
  int32_t origin = no_origin;  // of numbers and booleans, for when they are printed
  int32_t depth = 0;           // of lists and mappings: bounded, so that walking and freeing them cannot run out of stack
  int32_t weight = 1;          // values within, shared ones counted each time: bounded, so that walking them ends
  std::shared_ptr<const Text> string;
  std::shared_ptr<List> list;
  std::shared_ptr<Dict> dict;
};

/// Keys keep their order. `message` >= 0 marks the dict as that message of the conversation.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  int32_t message = -1;
  bool is_namespace = false;
  const Value* find(std::string_view key) const;
  void set(const std::string& key, Value value);
};

Value make_none();
Value make_bool(bool value);
Value make_int(int64_t value);
Value make_number(double value);
Value make_string(Text text);
Value make_string(std::string_view bytes, int32_t origin = no_origin);
/// UserError when the value would be nested deeper than 100 levels or hold more than 4 million values.
Value make_list(List list);
Value make_dict(Dict dict);
/// A JSON value whose strings and numbers all have this origin.
Value from_json(const nlohmann::json& value, int32_t origin);

/// Python's truth.
bool truth(const Value& value);
/// Python's ==.
bool equal(const Value& a, const Value& b);
/// "string", "list", ... for messages.
const char* kind_name(const Value& value);
bool is_numeric(const Value& value);  // integer, number or boolean
double as_number(const Value& value);
/// What `{{ value }}` prints: Python's str().
Text to_text(const Value& value);
/// Python's json.dumps(value, ensure_ascii=False, indent=indent); indent < 0: on one line.
Text to_json(const Value& value, int indent);

/// Number of code points of UTF-8 text, and the byte offset of the n-th (text.size() at and past the end).
int64_t code_points(std::string_view text);
size_t code_point_offset(std::string_view text, int64_t n);

}  // namespace hone::text::jinja
