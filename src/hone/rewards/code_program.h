#pragma once
// From a completion and a row to the program that is run: the completion's code, the row's tests, and an end that reports a secret.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hone/rewards/sandbox.h"

namespace hone::rewards {

/// The code of a completion: its last fenced block (``` or ~~~; one that is cut off counts), or all of it where there is none.
std::string completion_code(std::string_view completion);

/// The tests of a row and what goes before the completion's code. Read are, in this order: "tests" (text, or a list of texts), "test" with
/// "entry_point" (HumanEval), "test_list" with "test_setup_code" or "test_imports" (MBPP).
struct RowTests {
  std::string text;
  std::string entry_point, prompt;  // HumanEval: a completion that does not define entry_point continues the prompt
  std::string fault;                // what is wrong with the row; empty: nothing
};
RowTests row_tests(const nlohmann::json& row);

enum class CodeLanguage { python, c, other };

/// --code_command, ready to run: found on the host, with the folders that it needs inside the sandbox.
struct CodeCommand {
  CodeLanguage language = CodeLanguage::other;
  std::string text;       // the command as given, its program replaced by the path that was found
  std::string file_name;  // of {file}
  bool shell = false;     // it has characters that a shell must read
  std::vector<std::string> visible;
};
/// UserError for a command without {file}, or whose program is not there.
CodeCommand parse_code_command(const std::string& command);

/// The word in tests of other languages than Python, C and C++ that stands for the secret: the program must print it as its last line.
constexpr std::string_view kSecretWord = "HONE_SECRET";

/// One completion's program, and how to see that it ran to its end.
struct CodeProgram {
  SandboxJob job;
  std::string expected;  // the report; or, for other languages, the last line of output
  bool by_output = false;
};
CodeProgram make_program(const CodeCommand& command, const RowTests& tests, std::string_view completion, const std::string& folder);
/// Whether the program ran to its end.
bool reported(const CodeProgram& program, const SandboxResult& result);

}  // namespace hone::rewards
