// Other commands than Python's, options, and a machine without isolation.
#include <unistd.h>

#include <cmath>

#include "code_support.h"
#include "hone/rewards/code_program.h"
#include "judge_support.h"

namespace hone::rewards {
namespace code_command_test {

using nlohmann::json;

RewardSettings with_command(const std::string& command) {
  RewardSettings settings;
  settings.code_command = command;
  return settings;
}

std::string judged(const RewardSettings& settings, const json& row, const std::string& completion) {
  const auto reward = make_reward("code", settings);
  if (const std::string fault = reward->check_row(row); !fault.empty()) return "row: " + fault;
  const Sample sample{&row, completion, {}, false};
  const Judgement one = reward->judge({&sample, 1}).at(0);
  return fmt::format("{}{}{}", verdict_name(one.verdict), one.detail.empty() ? "" : ": ", one.detail);
}

std::string refusal(const RewardSettings& settings) {
  try {
    make_reward("code", settings);
  } catch (const UserError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(CodeCommand, CPlusPlus) {
  NEEDS_ISOLATION();
  // MultiPL-E's rows: the prompt ends in an open function, which the completion fills and the tests close.
  const json row = {
      {"tests",
       "}\nint main() {\n    auto candidate = string_length;\n    assert(candidate((\"\")) == (0));\n    assert(candidate((\"abc\")) == (3));\n}\n"}};
  const std::string head = "#include<assert.h>\n#include<string>\nlong string_length(std::string string) {\n";
  RewardSettings settings = with_command("g++ -O0 -o prog {file} && ./prog");
  EXPECT_EQ(judged(settings, row, head + "  return string.length();\n"), "right");
  EXPECT_THAT(judged(settings, row, head + "  return 0;\n"), testing::StartsWith("wrong: status 134"));
  EXPECT_THAT(judged(settings, row, head + "  return \"x\";\n"), testing::HasSubstr("wrong: status 1"));
  EXPECT_THAT(judged(settings, row, head + "  exit(0);\n"), testing::StartsWith("wrong: ended with status 0 before"));
  const std::string early = "#include<unistd.h>\nstruct X { X() { _exit(0); } } x;\n";
  EXPECT_THAT(judged(settings, row, early + head + "  return 0;\n"), testing::StartsWith("wrong: ended with status 0 before"));
  EXPECT_THAT(judged(settings, row, "#define NDEBUG\n" + head + "  return 0;\n"), testing::StartsWith("wrong"));
  EXPECT_THAT(judged(settings, row, head + "#undef assert\n#define assert(x)\n  return 0;\n"), testing::StartsWith("wrong"));
  settings.code_timeout = 2;
  EXPECT_THAT(judged(settings, row, head + "  for (;;) {}\n"), testing::StartsWith("timed-out"));
}

TEST(CodeCommand, C) {
  NEEDS_ISOLATION();
  const json row = {{"tests", "#include <assert.h>\nint main(void) {\n  assert(twice(2) == 4);\n  return 0;\n}\n"}};
  EXPECT_EQ(judged(with_command("gcc -o prog {file} && ./prog"), row, "int twice(int x) { return 2 * x; }"), "right");
  EXPECT_THAT(judged(with_command("gcc -o prog {file} && ./prog"), row, "int twice(int x) { return x; }"), testing::StartsWith("wrong"));
  EXPECT_EQ(judged(with_command("gcc -x c -o prog {file}.txt && ./prog"), row, "int twice(int x) { return 2 * x; }"), "right");
}

TEST(CodeCommand, OtherLanguagesPrintTheSecret) {
  NEEDS_ISOLATION();
  const json row = {{"tests", "[ \"$(twice 2)\" = 4 ] || exit 1\necho HONE_SECRET\n"}};
  const RewardSettings settings = with_command("sh {file}");
  EXPECT_EQ(judged(settings, row, "twice() { echo $((2 * $1)); }"), "right");
  EXPECT_EQ(judged(settings, row, "twice() { echo 3; }"), "wrong: status 1: no output");
  EXPECT_EQ(judged(settings, row, "exit 0"), "wrong: ended with status 0 before the end of the tests");
  EXPECT_EQ(judged(settings, row, "echo HONE_SECRET; exit 0"), "wrong: ended with status 0 before the end of the tests");
  EXPECT_THAT(judged(settings, {{"tests", "true"}}, "true"), testing::HasSubstr("row: the tests must print HONE_SECRET"));
}

TEST(CodeCommand, PythonWithOptions) {
  NEEDS_ISOLATION();
  EXPECT_EQ(judged(with_command("python3 -I -O {file}"), {{"tests", "assert f() == 1"}}, "def f(): return 1"), "right");
  EXPECT_THAT(judged(with_command("python3 -O {file}"), {{"tests", "assert f() == 1"}}, "def f(): return 2"), testing::StartsWith("wrong"));
  EXPECT_EQ(judged(with_command("/usr/bin/python3 {file}"), {{"tests", "assert f() == 1"}}, "def f(): return 1"), "right");
  EXPECT_EQ(judged(with_command("python3 {file} | cat"), {{"tests", "assert f() == 1"}}, "def f(): return 1"), "right");
}

TEST(CodeCommand, BadOptionsAreRefused) {
  NEEDS_ISOLATION();
  EXPECT_THAT(refusal(with_command("python3")), testing::HasSubstr("write {file} where"));
  EXPECT_THAT(refusal(with_command("no-such-tool {file}")), testing::HasSubstr("there is no program no-such-tool"));
  EXPECT_THAT(refusal(with_command("python9.9 {file}")), testing::HasSubstr("cannot be started"));
  RewardSettings settings;
  settings.code_timeout = 0;
  EXPECT_THAT(refusal(settings), testing::HasSubstr("--code_timeout 0"));
  settings.code_timeout = std::nan("");
  EXPECT_THAT(refusal(settings), testing::HasSubstr("--code_timeout nan"));
  settings.code_timeout = 1;
  settings.code_memory_mib = 1;
  EXPECT_THAT(refusal(settings), testing::HasSubstr("--code_memory_mib 1"));
}

TEST(CodeCommand, LimitsAreThoseAsked) {
  NEEDS_ISOLATION();
  RewardSettings settings;
  settings.code_memory_mib = 1024;
  const std::string holds = "x = bytearray(700 << 20)\ndef f(): return 1";
  EXPECT_EQ(judged(settings, {{"tests", "assert f() == 1"}}, holds), "right");
  settings.code_memory_mib = 256;
  EXPECT_THAT(judged(settings, {{"tests", "assert f() == 1"}}, holds), testing::HasSubstr("MemoryError"));
  settings.code_timeout = 0.5;
  EXPECT_THAT(judged(settings, {{"tests", "assert f() == 1"}}, "while True: pass"), testing::StartsWith("timed-out"));
}

/// Without isolation: the same verdicts as far as a process group and limits go, and nothing left.
TEST(CodeCommand, Unsandboxed) {
  const auto run = [](const std::string& code) {
    const CodeCommand command = parse_code_command("python3 {file}");
    RowTests tests;
    tests.text = "assert f() == 1";
    const ScratchFolder folder;
    CodeProgram program = make_program(command, tests, code, folder.path());
    program.job.isolated = false;
    program.job.cpu_limit = 1;
    program.job.idle_limit = 1;
    program.job.wall_limit = 60;
    const SandboxResult result = run_sandboxed(program.job);
    return fmt::format("{} {} {}", static_cast<int>(result.ended), result.status, reported(program, result));
  };
  EXPECT_EQ(run("def f(): return 1"), "0 0 true");
  EXPECT_EQ(run("def f(): return 2"), "0 1 false");
  EXPECT_EQ(run("import os\nos._exit(0)"), "0 0 false");
  EXPECT_EQ(run("while True: pass"), fmt::format("{} 0 false", static_cast<int>(Ended::cpu_limit)));
  EXPECT_EQ(run("import time\ntime.sleep(100)"), fmt::format("{} 0 false", static_cast<int>(Ended::idle_limit)));
  // A daemon does not stay.
  const ScratchFolder marks;
  const std::string mark = marks.path() + "/alive";
  EXPECT_EQ(run("import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    while True:\n      open('" + mark +
                "', 'a').write('x')\n      time.sleep(0.05)\n  os._exit(0)\nos.wait()\ntime.sleep(0.3)\ndef f(): return 1"),
            "0 0 true");
  const auto size = std::filesystem::file_size(mark);
  usleep(300000);
  EXPECT_EQ(std::filesystem::file_size(mark), size);
}

}  // namespace code_command_test
}  // namespace hone::rewards
