// The Jinja interpreter: renderings of jinja2, provenance, and templates that are wrong or hostile.
#include "hone/text/jinja.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/text/chat_template.h"
#include "shared_data.h"

namespace hone::text::jinja {
namespace {

using testing::HasSubstr;

Dict variables(const nlohmann::json& messages) {
  List list;
  for (size_t i = 0; i < messages.size(); ++i) {
    Dict dict;
    dict.message = static_cast<int32_t>(i);
    dict.set("role", make_string(messages[i]["role"].get<std::string>(), message_origin(dict.message, true)));
    dict.set("content", make_string(messages[i]["content"].get<std::string>(), message_origin(dict.message, false)));
    list.push_back(make_dict(dict));
  }
  Dict out;
  out.set("messages", make_list(std::move(list)));
  out.set("add_generation_prompt", make_bool(false));
  out.set("bos_token", make_string("<s>"));
  return out;
}

const nlohmann::json two = {{{"role", "user"}, {"content", " ab "}}, {{"role", "assistant"}, {"content", "é"}}};

std::string error_of(const std::string& source) {
  try {
    Template(source).render(variables(two));
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), Exit::usage);
    return error.what();
  }
  return "no error";
}

TEST(Jinja, RendersAsJinja2) {
  const auto rows = read_jsonl(golden("tokenizer/jinja.jsonl"));
  ASSERT_GE(rows.size(), 36u);
  for (const auto& row : rows) {
    const Output output = Template(row["template"].get<std::string>()).render(variables(row["messages"]));
    EXPECT_EQ(output.text, row["text"].get<std::string>()) << row["template"];
    EXPECT_EQ(output.origin.size(), output.text.size());
    EXPECT_EQ(output.turn.size(), output.text.size());
  }
}

// One letter per byte: digits for the message a value came from, '.' for the template's own words.
std::string origins(const Output& output) {
  std::string out;
  for (const int32_t origin : output.origin)
    out += origin < 0 ? '.' : static_cast<char>((origin_is_role(origin) ? 'a' : '0') + origin_message(origin));
  return out;
}

TEST(Jinja, CarriesWhereValuesCameFrom) {
  const auto check = [](const std::string& source, const std::string& text, const std::string& from) {
    const Output output = Template(source).render(variables(two));
    EXPECT_EQ(output.text, text) << source;
    EXPECT_EQ(origins(output), from) << source;
  };
  check("x{{ messages[0].content }}y", "x ab y", ".0000.");
  check("{{ '<' + messages[0].role + '>' ~ messages[1]['content'] }}", "<user>é", ".aaaa.11");
  check("{{ messages[0].content | trim | upper }}", "AB", "00");
  check("{{ messages[0].content.strip()[::-1] }}", "ba", "00");
  check("{{ messages[0].content.replace('a', messages[1].content) }}", " éb ", "01100");
  check("{{ messages[1].content | tojson }}", "\"é\"", ".11.");
  check("{% set x = messages[0].content.split('b') %}{{ x | join('-') }}", " a- ", "00.0");
  check("{% set x %}<{{ messages[1].content }}>{% endset %}{{ x }}", "<é>", ".11.");
  check("{% for m in messages %}{% set c = m.content %}{{ c }}{% endfor %}", " ab é", "000011");
}

TEST(Jinja, CarriesTheTurn) {
  const Output output =
      Template("a{% for m in messages[1:] %}b{{ m.content }}{% for i in range(2) %}c{% endfor %}{% endfor %}d").render(variables(two));
  EXPECT_EQ(output.text, "abéccd");
  EXPECT_EQ(output.turn, (std::vector<int32_t>{-1, 1, 1, 1, 1, 1, -1}));
}

TEST(Jinja, RefusesByNameAndLine) {
  EXPECT_THAT(error_of("a\n{{ x | wordwrap }}"), HasSubstr("line 2: the filter wordwrap is not supported"));
  EXPECT_THAT(error_of("{% macro f() %}{% endmacro %}"), HasSubstr("line 1: the block {% macro %} is not supported"));
  EXPECT_THAT(error_of("{% include 'x' %}"), HasSubstr("include"));
  EXPECT_THAT(error_of("{{ strftime_now('%d') }}"), HasSubstr("the function strftime_now() is not supported"));
  EXPECT_THAT(error_of("{{ ''.__class__.mro() }}"), HasSubstr("the method mro() is not supported"));
  EXPECT_THAT(error_of("{{ x is callable }}"), HasSubstr("the test \"is callable\" is not supported"));
  EXPECT_THAT(error_of("{{ [1] }}"), HasSubstr("printing a list"));
  EXPECT_THAT(error_of("{{ raise_exception('no ' ~ messages[0].role) }}"), HasSubstr("no user"));
  EXPECT_THAT(error_of("{{ x.y.z }}"), HasSubstr("undefined value has no members"));
  EXPECT_THAT(error_of("{{ 1 + 'a' }}"), HasSubstr("number + string is not possible"));
  EXPECT_THAT(error_of("{{ 1 // 0 }}"), HasSubstr("division by zero"));
  EXPECT_THAT(error_of("{% set messages.x = 1 %}"), HasSubstr("namespace"));
}

TEST(Jinja, SyntaxErrors) {
  for (const char* source : {"{{", "{{ 'a }}", "{% if x %}", "{% endif %}", "{% for x %}{% endfor %}", "{{ 1 + }}", "{{ a b }}",
                             "{% if x %}{% else %}{% else %}{% endif %}", "{# x", "{{ [1, }}", "{{ f( }}", "{{ a[ }}", "{{ a[1:2:3:4] }}",
                             "{{ '\\xZZ' }}", "{{ 99999999999999999999 }}", "{% break %}", "{{ @ }}", "\xFF"})
    EXPECT_THAT(error_of(source), HasSubstr("chat template")) << source;
}

TEST(Jinja, HostileTemplatesEnd) {
  EXPECT_THAT(error_of("{{ " + std::string(100000, '(') + " }}"), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of("{{ " + std::string(100000, '-') + "1 }}"), HasSubstr("nested deeper"));
  std::string sum = "{{ 1", ifs;
  for (int i = 0; i < 10000; ++i) sum += "+1", ifs += "{% if 1 %}";
  EXPECT_THAT(error_of(sum + " }}"), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of(ifs), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of("{% set n = namespace(s='x') %}{% for i in range(100) %}{% set n.s = n.s ~ n.s %}{% endfor %}"), HasSubstr("longer than"));
  EXPECT_THAT(error_of("{% set n = namespace(s=[1]) %}{% for i in range(1000) %}{% set n.s = [n.s] %}{% endfor %}"), HasSubstr("nested deeper"));
  EXPECT_THAT(error_of("{% set n = namespace(s=[1]) %}{% for i in range(90) %}{% set n.s = [n.s, n.s] %}{% endfor %}"), HasSubstr("values"));
  EXPECT_THAT(error_of("{% set n = namespace() %}{% set n.n = n %}"), HasSubstr("namespace within"));
  EXPECT_THAT(error_of("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"), HasSubstr("steps"));
  EXPECT_THAT(error_of("{% for i in range(99999999) %}{% endfor %}"), HasSubstr("range over"));
  EXPECT_THAT(error_of("{{ 'x' * 999999999 }}"), HasSubstr("longer than"));
  EXPECT_THAT(error_of("{% for i in range(90000) %}{{ 'x' * 100000 }}{% endfor %}"), HasSubstr("bytes"));
}

TEST(ChatTemplateFault, IsKeptUntilUse) {
  const ChatTemplate none;
  EXPECT_FALSE(none.exists());
  EXPECT_THROW(none.render({{"user", "x"}}, true), UserError);
}

}  // namespace
}  // namespace hone::text::jinja
