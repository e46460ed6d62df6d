// json:SCHEMA_FILE: every keyword, hostile values, what is refused when the schema is read.
#include <gtest/gtest.h>

#include <fstream>

#include "base/temp_folder.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

using nlohmann::json;

class JsonVerifier : public testing::Test {
 protected:
  std::string spec(const std::string& schema) {
    const auto path = folder_ / ("schema" + std::to_string(count_++) + ".json");
    std::ofstream(path) << schema;
    return "json:" + path.string();
  }
  // Values that fit and values that do not.
  void expect(const std::string& schema, const std::vector<std::string>& fit, const std::vector<std::string>& not_fit) {
    const std::string with_file = spec(schema);
    for (const std::string& value : fit)
      EXPECT_EQ(verdict(with_file, json::object(), value), "right 1")
          << schema << "  " << value << "  " << judgement(with_file, json::object(), value).detail;
    for (const std::string& value : not_fit) EXPECT_EQ(verdict(with_file, json::object(), value), "wrong 0") << schema << "  " << value;
  }

  test::TempFolder folder_;
  int count_ = 0;
};

TEST_F(JsonVerifier, EveryKeyword) {
  expect(R"({"type":"integer"})", {"1", "-3", "1.0"}, {"1.5", "\"1\"", "null"});
  expect(R"({"type":["string","null"]})", {"\"a\"", "null"}, {"1", "[]"});
  expect(R"({"type":"number"})", {"1", "1.5"}, {"\"1\"", "true"});
  expect(R"({"type":"boolean"})", {"true"}, {"0"});
  expect(R"({"enum":["a",1,null]})", {"\"a\"", "1", "1.0", "null"}, {"\"b\"", "2"});
  expect(R"({"const":{"a":[1]}})", {R"({"a":[1]})"}, {R"({"a":[1,2]})"});
  expect(R"({"properties":{"a":{"type":"integer"}},"required":["a"]})", {R"({"a":1,"b":2})", "3"}, {R"({"a":"1"})", "{}"});
  expect(R"({"properties":{"a":true},"additionalProperties":false})", {R"({"a":1})", "{}"}, {R"({"b":1})"});
  expect(R"({"additionalProperties":{"type":"string"}})", {R"({"a":"x"})"}, {R"({"a":1})"});
  expect(R"({"patternProperties":{"^x":{"type":"integer"}},"additionalProperties":false})", {R"({"x1":1})"}, {R"({"x1":"a"})", R"({"y":1})"});
  expect(R"({"propertyNames":{"maxLength":2}})", {R"({"ab":1})"}, {R"({"abc":1})"});
  expect(R"({"minProperties":1,"maxProperties":2})", {R"({"a":1})"}, {"{}", R"({"a":1,"b":1,"c":1})"});
  expect(R"({"dependentRequired":{"a":["b"]}})", {"{}", R"({"a":1,"b":1})"}, {R"({"a":1})"});
  expect(R"({"items":{"type":"integer"}})", {"[]", "[1,2]"}, {"[1,\"a\"]"});
  expect(R"({"prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})", {"[1,\"a\"]", "[1]"}, {"[\"a\"]", "[1,\"a\",2]"});
  expect(R"({"minItems":1,"maxItems":2})", {"[1]"}, {"[]", "[1,2,3]"});
  expect(R"({"uniqueItems":true})", {"[1,2]", "[]"}, {"[1,2,1]", "[{\"a\":1},{\"a\":1}]", "[1,1.0]"});
  expect(R"({"contains":{"type":"integer"}})", {"[\"a\",1]"}, {"[\"a\"]", "[]"});
  expect(R"({"contains":{"type":"integer"},"minContains":2,"maxContains":2})", {"[1,2]"}, {"[1]", "[1,2,3]"});
  expect(R"({"minimum":1,"maximum":3})", {"1", "3", "2.5"}, {"0.99", "3.01"});
  expect(R"({"exclusiveMinimum":1,"exclusiveMaximum":3})", {"2"}, {"1", "3"});
  expect(R"({"multipleOf":0.1})", {"0.3", "1", "-0.7"}, {"0.35"});
  expect(R"({"multipleOf":3})", {"9", "-9", "0"}, {"10", "-10"});
  expect(R"({"minLength":2,"maxLength":3})", {"\"ab\"", "\"\u00e9\u00e9\u00e9\""}, {"\"a\"", "\"abcd\""});
  expect(R"({"pattern":"^a+$"})", {"\"aa\""}, {"\"ab\""});
  expect(R"({"anyOf":[{"type":"integer"},{"minLength":2}]})", {"1", "\"ab\""}, {"\"a\""});
  expect(R"({"oneOf":[{"multipleOf":2},{"multipleOf":3}]})", {"2", "3"}, {"6", "5"});
  expect(R"({"allOf":[{"minimum":1},{"maximum":2}]})", {"1"}, {"0", "3"});
  expect(R"({"not":{"type":"string"}})", {"1"}, {"\"a\""});
  expect(R"({"if":{"type":"integer"},"then":{"minimum":5},"else":{"type":"string"}})", {"5", "\"a\""}, {"4", "null"});
  expect(R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"integer"}}})", {"1"}, {"\"a\""});
  expect(R"({"properties":{"next":{"$ref":"#"}},"required":["v"]})", {R"({"v":1,"next":{"v":2}})"}, {R"({"v":1,"next":{}})"});
  expect(R"({"type":"string","format":"date","title":"t","description":"d","default":1})", {"\"no date\""}, {"1"});
  expect("true", {"1"}, {});
  expect("false", {}, {"1"});
}

TEST_F(JsonVerifier, ReadsTheLastFencedBlockOrAll) {
  const std::string integer = spec(R"({"type":"integer"})");
  const auto is = [&](const std::string& completion, const char* wanted) {
    EXPECT_EQ(verdict(integer, json::object(), completion), wanted) << completion;
  };
  is(" 1\n", "right 1");
  is("Here:\n```json\n1\n```\nDone.", "right 1");
  is("```\n\"a\"\n```\nno:\n```json\n1\n```", "right 1");
  is("```\n1\n```\nno:\n```json\n\"a\"\n```", "wrong 0");
  is("```1```", "right 1");
  is("The answer is 1", "unparsed 0");
  is("```json\n1", "unparsed 0");
  is("", "unparsed 0");
  is("{\"a\":", "unparsed 0");
  is("NaN", "unparsed 0");
  is("1e999", "unparsed 0");
}

TEST_F(JsonVerifier, SaysWhere) {
  const std::string list = spec(R"({"properties":{"a":{"items":{"type":"integer"}}}})");
  EXPECT_EQ(judgement(list, json::object(), R"({"a":[1,"x"]})").detail, "/a/1: is string, wanted \"integer\"");
}

TEST_F(JsonVerifier, HostileValuesEnd) {
  const std::string deep = spec(R"({"items":{"$ref":"#"},"uniqueItems":true})");
  EXPECT_EQ(verdict(deep, json::object(), std::string(1000000, '[')), "timed-out 0");
  EXPECT_EQ(verdict(deep, json::object(), std::string(350, '[') + std::string(350, ']')), "right 1");
  std::string many = "[0";
  for (int i = 1; i < 20000; ++i) many += "," + std::to_string(i);
  EXPECT_EQ(verdict(deep, json::object(), many + "]"), "timed-out 0");
  const std::string branching =
      spec(R"({"anyOf":[{"items":{"$ref":"#"},"minItems":1,"contains":{"$ref":"#"}},{"items":{"$ref":"#"},"minItems":1}]})");
  EXPECT_EQ(verdict(branching, json::object(), std::string(100, '[') + std::string(100, ']')), "timed-out 0");
}

TEST_F(JsonVerifier, BadSchemasAreRefused) {
  const auto refused = [&](const char* schema, const char* why) { EXPECT_THAT(refusal(spec(schema)), testing::HasSubstr(why)) << schema; };
  refused(R"({"minimun":1})", "/minimun: the keyword minimun is not known");
  refused(R"({"properties":{"a":{"unevaluatedProperties":false}}})", "/properties/a/unevaluatedProperties");
  refused(R"({"type":"int"})", "there is no type \"int\"");
  refused(R"({"pattern":"(a"})", "no regular expression");
  refused("{\"pattern\":\"(?=a)\"}", "no regular expression");
  refused(R"({"$ref":"http://x/y"})", "not in this file");
  refused(R"({"$ref":"#/$defs/a"})", "there is no #/$defs/a");
  refused(R"({"$ref":"#"})", "leads back to itself");
  refused(R"({"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"not":{"$ref":"#/$defs/a"}}}})", "leads back to itself");
  refused(R"({"items":[{}]})", "prefixItems");
  refused(R"({"minItems":-1})", "whole number");
  refused(R"({"multipleOf":0})", "wanted a number");
  refused(R"([1])", "wanted an object");
  refused("{", "holds no JSON");
  EXPECT_THAT(refusal("json:/nowhere.json"), testing::HasSubstr("cannot be read"));
}

}  // namespace
}  // namespace hone::rewards
