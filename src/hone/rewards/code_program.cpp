#include "hone/rewards/code_program.h"

#include <errno.h>
#include <sys/random.h>

#include <algorithm>

#include "hone/base/error.h"
#include "hone/rewards/carried_files.h"

namespace hone::rewards {
namespace {

constexpr size_t kSecretSize = 32;

/// Bytes that nobody can guess. They decide nothing but who knows them, so replays are the same without a seed.
std::string secret_bytes(size_t size) {
  std::string bytes(size, 0);
  size_t at = 0;
  while (at < size) {
    const ssize_t got = getrandom(bytes.data() + at, size - at, 0);
    check(got > 0 || errno == EINTR, "getrandom: {}", errno);
    if (got > 0) at += static_cast<size_t>(got);
  }
  return bytes;
}

std::string hexadecimal(std::string_view bytes) {
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

/// A literal of Python's bytes, or of C's char arrays: every byte as \xNN.
std::string escaped(std::string_view bytes) {
  std::string text;
  text.reserve(4 * bytes.size());
  constexpr const char* digits = "0123456789abcdef";
  for (const unsigned char byte : bytes) (((text += "\\x") += digits[byte >> 4]) += digits[byte & 15]);
  return text;
}

/// The text as a literal of Python's str.
std::string python_text(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\\' || c == '\'') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "'";
}

/// The last line of a Python program: the tests and a secret, sealed, and the code that opens them (code_trailer.py).
void end_python(CodeProgram& program, const std::string& code, const std::string& tests) {
  SandboxJob& job = program.job;
  const std::string secret = secret_bytes(kSecretSize), plain = secret + tests;
  job.key = secret_bytes(plain.size() + kSecretSize);
  std::string sealed = plain;
  for (size_t i = 0; i < sealed.size(); ++i) sealed[i] = static_cast<char>(sealed[i] ^ job.key[i]);
  program.expected = secret + job.key.substr(plain.size());
  const std::string builtins = "__import__(\"builtins\")";
  job.file_text = fmt::format(
      "{0}\n{1}.exec({1}.compile({2}, \"<end>\", \"exec\", 0, True, 0), {{\"sealed\": b\"{3}\", \"key_fd\": {4}, \"report_fd\": {5}, \"path\": {6}, "
      "\"program\": {1}.globals()}})\n",
      code, builtins, python_text(code_trailer()), escaped(sealed), job.key_fd, job.report_fd, python_text(job.folder + "/" + job.file_name));
  job.shown_text = code;
  job.read_once = true;
}

/// Where in C tests the last thing that main does is over: before the last closing brace and a `return 0;` in front of it.
std::string with_end_call(const std::string& tests, const std::string& call) {
  const size_t brace = tests.rfind('}');
  if (brace == std::string::npos) return tests;
  std::string head = tests.substr(0, brace);
  const size_t last = head.find_last_not_of(" \t\r\n");
  constexpr std::string_view plain_return = "return 0;";
  if (last != std::string::npos && last + 1 >= plain_return.size() &&
      head.compare(last + 1 - plain_return.size(), plain_return.size(), plain_return) == 0) {
    head.resize(last + 1 - plain_return.size());
  }
  return head + call + tests.substr(brace);
}

/// A C or C++ program: main's last act is a function that the completion cannot see, which reports a secret and what it reads.
void end_c(CodeProgram& program, const std::string& code, const std::string& tests) {
  SandboxJob& job = program.job;
  const std::string secret = secret_bytes(kSecretSize), name = "end_" + hexadecimal(secret_bytes(8));
  job.key = secret_bytes(kSecretSize);
  program.expected = secret + job.key;
  // assert is made anew: the completion may have turned it off.
  job.file_text = fmt::format(
      "{0}\n#undef NDEBUG\n#include <assert.h>\n{1}\n#undef int\n#undef char\n#undef return\n#include <unistd.h>\nint {2}(void) {{\n"
      "  char all[{3}] = \"{4}\";\n  if (read({5}, all + {6}, {6}) != {6}) return 97;\n  return write({7}, all, {8}) == {8} ? 0 : 97;\n}}\n",
      code, with_end_call(tests, fmt::format("  {{ int {0}(void); return {0}(); }}\n", name)), name, 2 * kSecretSize + 1, escaped(secret), job.key_fd,
      kSecretSize, job.report_fd, 2 * kSecretSize);
  job.shown_text = code;
  job.read_once = true;
}

void end_other(CodeProgram& program, const std::string& code, std::string tests) {
  program.expected = hexadecimal(secret_bytes(kSecretSize));
  program.by_output = true;
  for (size_t at = tests.find(kSecretWord); at != std::string::npos; at = tests.find(kSecretWord, at + program.expected.size())) {
    tests.replace(at, kSecretWord.size(), program.expected);
  }
  program.job.file_text = code + "\n" + tests + "\n";
  program.job.key_fd = program.job.report_fd = -1;
}

/// Whether Python code defines a function of that name at its outermost level.
bool defines(const std::string& code, const std::string& name) {
  for (const char* word : {"def ", "async def ", "class "}) {
    const std::string head = word + name;
    for (size_t at = code.find(head); at != std::string::npos; at = code.find(head, at + 1)) {
      const char next = at + head.size() < code.size() ? code[at + head.size()] : ' ';
      if ((at == 0 || code[at - 1] == '\n') && !std::isalnum(static_cast<unsigned char>(next)) && next != '_') return true;
    }
  }
  return code.find("\n" + name + " =") != std::string::npos || code.rfind(name + " =", 0) == 0;
}

std::string without_bad_bytes(std::string text) {
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

std::vector<std::string> environment(const std::string& home) {
  // One thread for numerical libraries and one order of Python's hashes: a replay gives the same verdict.
  return {"PATH=/usr/local/bin:/usr/bin:/bin",
          "HOME=" + home,
          "TMPDIR=" + home,
          "LANG=C.UTF-8",
          "LC_ALL=C.UTF-8",
          "PYTHONHASHSEED=0",
          "PYTHONDONTWRITEBYTECODE=1",
          "PYTHONNOUSERSITE=1",
          "PYTHONIOENCODING=utf-8",
          "OMP_NUM_THREADS=1",
          "OPENBLAS_NUM_THREADS=1",
          "MKL_NUM_THREADS=1",
          "MALLOC_ARENA_MAX=2"};
}

void set_argv(SandboxJob& job, const CodeCommand& command) {
  std::string text = command.text;
  const std::string path = job.folder + "/" + job.file_name;
  for (size_t at = text.find("{file}"); at != std::string::npos; at = text.find("{file}", at + path.size())) text.replace(at, 6, path);
  if (command.shell) {
    job.argv = {"/bin/sh", "-c", text};
    return;
  }
  job.argv.clear();
  for (size_t at = 0; at < text.size();) {
    const size_t begin = text.find_first_not_of(" \t", at), end = std::min(text.find_first_of(" \t", begin), text.size());
    if (begin == std::string::npos) break;
    job.argv.push_back(text.substr(begin, end - begin));
    at = end;
  }
}

}  // namespace

CodeProgram make_program(const CodeCommand& command, const RowTests& tests, std::string_view completion, const std::string& folder) {
  CodeProgram program;
  SandboxJob& job = program.job;
  job.folder = folder;
  job.file_name = command.file_name;
  job.visible = command.visible;
  job.environment = environment(folder == "/program" ? "/tmp" : folder);
  const std::string numbers = secret_bytes(2);
  job.key_fd = 10 + static_cast<unsigned char>(numbers[0]) % 100;
  job.report_fd = 120 + static_cast<unsigned char>(numbers[1]) % 100;
  std::string code = without_bad_bytes(completion_code(completion));
  if (command.language == CodeLanguage::python && !tests.entry_point.empty() && !defines(code, tests.entry_point)) code = tests.prompt + code;
  const std::string text = without_bad_bytes(tests.text);
  switch (command.language) {
    case CodeLanguage::python:
      end_python(program, code, text);
      break;
    case CodeLanguage::c:
      end_c(program, code, text);
      break;
    case CodeLanguage::other:
      end_other(program, code, text);
      break;
  }
  set_argv(job, command);
  return program;
}

bool reported(const CodeProgram& program, const SandboxResult& result) {
  if (!program.by_output) return result.report == program.expected;
  std::string_view output = result.output;
  while (!output.empty() && std::isspace(static_cast<unsigned char>(output.back()))) output.remove_suffix(1);
  const size_t line = output.rfind('\n');
  return output.substr(line == output.npos ? 0 : line + 1) == program.expected;
}

}  // namespace hone::rewards
