#pragma once
// JSON Schema (draft 2020-12), the keywords that people use; a keyword that is not known here is refused when the schema is read.
#include <re2/re2.h>
#include <nlohmann/json.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hone::rewards {

class JsonSchema {
 public:
  /// UserError naming `where` and the place in the schema for what is no schema or not known here.
  JsonSchema(nlohmann::json schema, const std::string& where);
  /// Why a value does not fit, with its place ("/items/3: is a string, wanted integer"); empty: it fits. Throws TooMuch for a value that
  /// takes more steps than it may.
  std::string mismatch(const nlohmann::json& value) const;
  struct TooMuch {};

 private:
  struct Check;
  void read(const nlohmann::json& schema, const std::string& at);
  void read_keyword(const std::string& key, const nlohmann::json& value, const std::string& at);
  void read_pattern(const nlohmann::json& pattern, const std::string& at);
  void find_cycles(const nlohmann::json& schema, std::vector<const nlohmann::json*>& path, int64_t& steps) const;
  const nlohmann::json& target(const std::string& reference) const;
  [[noreturn]] void refuse(const std::string& at, const std::string& what) const;

  nlohmann::json root_;
  std::vector<const nlohmann::json*> all_;  // every schema in it, while it is read
  std::string where_;
  std::map<std::string, std::unique_ptr<re2::RE2>> patterns_;
};

}  // namespace hone::rewards
