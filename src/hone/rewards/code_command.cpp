// --code_command: which program, where it stands on the host, and what it needs to see.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <sstream>

#include "hone/base/error.h"
#include "hone/rewards/child_process.h"
#include "hone/rewards/code_program.h"

namespace hone::rewards {
namespace {

namespace fs = std::filesystem;

constexpr double kInterpreterSeconds = 60;  // of asking Python where it stands; a cold disk is slow

struct Tool {
  const char* name;  // the program's name begins so; a version may follow
  CodeLanguage language;
  const char* extension;
};
constexpr Tool kTools[] = {{"python", CodeLanguage::python, ".py"}, {"pypy", CodeLanguage::python, ".py"}, {"g++", CodeLanguage::c, ".cpp"},
                           {"c++", CodeLanguage::c, ".cpp"},        {"clang++", CodeLanguage::c, ".cpp"},  {"gcc", CodeLanguage::c, ".c"},
                           {"cc", CodeLanguage::c, ".c"},           {"clang", CodeLanguage::c, ".c"},      {"tcc", CodeLanguage::c, ".c"},
                           {"node", CodeLanguage::other, ".js"},    {"ruby", CodeLanguage::other, ".rb"},  {"perl", CodeLanguage::other, ".pl"},
                           {"bash", CodeLanguage::other, ".sh"},    {"sh", CodeLanguage::other, ".sh"},    {"rustc", CodeLanguage::other, ".rs"},
                           {"go", CodeLanguage::other, ".go"},      {"lua", CodeLanguage::other, ".lua"},  {"php", CodeLanguage::other, ".php"},
                           {"java", CodeLanguage::other, ".java"}};

bool is_tool(const std::string& program, const Tool& tool) {
  const std::string name = fs::path(program).filename().string(), head = tool.name;
  return name.rfind(head, 0) == 0 && name.find_first_not_of("0123456789.-", head.size()) == std::string::npos;
}

/// Where a program stands: as a shell would look for it; empty where it does not.
std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? fs::absolute(name).string() : std::string();
  const char* path = getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = folder + "/" + name;
    if (!folder.empty() && access(candidate.c_str(), X_OK) == 0 && fs::is_regular_file(candidate)) return candidate;
  }
  return {};
}

bool is_below(const fs::path& path, const fs::path& folder) {
  const auto [end, ignored] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return end == folder.end();
}

/// Adds a folder unless it is seen already, or is so high that far more than the program would be.
void add_folder(CodeCommand& command, const fs::path& folder) {
  if (folder.empty() || !folder.is_absolute() || std::distance(folder.begin(), folder.end()) < 3) return;
  const char* home = getenv("HOME");
  if (home != nullptr && is_below(home, folder)) return;
  for (const std::string& seen : command.visible) {
    if (is_below(folder, seen)) return;
  }
  command.visible.push_back(folder.string());
}

/// What a Python says of itself, asked once in a process; a failure is a UserError.
std::string ask_python(const std::string& word, const std::string& command) {
  static std::mutex mutex;
  static std::map<std::string, std::string> answers;
  const std::lock_guard lock(mutex);
  const auto known = answers.find(word);
  if (known != answers.end()) return known->second;
  std::string fault;
  const std::string script =
      "import sys; print(sys.executable); print(sys.prefix); print(sys.base_prefix); print(sys.exec_prefix); print(*sys.path, sep='\\n')";
  const std::string answer = output_of({word, "-I", "-c", script}, kInterpreterSeconds, fault);
  if (!fault.empty()) fail("--code_command \"{}\": {}", command, fault);
  return answers[word] = answer;
}

/// Python is asked itself: what PATH names may be a script that chooses (pyenv), or a link of a virtual environment.
std::string find_python(const std::string& word, CodeCommand& command) {
  std::istringstream answer(ask_python(word, command.text));
  std::string executable, folder;
  std::getline(answer, executable);
  while (std::getline(answer, folder)) {
    if (fs::is_directory(folder)) add_folder(command, folder);
  }
  std::error_code ignored;
  if (const fs::path real = fs::canonical(executable, ignored); !ignored) add_folder(command, real.parent_path());
  add_folder(command, fs::path(executable).parent_path());
  return executable;
}

std::string find_other(const std::string& word, CodeCommand& command) {
  const std::string path = find_program(word);
  if (path.empty()) fail("--code_command \"{}\": there is no program {}", command.text, word);
  for (const fs::path& place : {fs::path(path), fs::canonical(path)}) {
    add_folder(command, place.parent_path());
    if (place.parent_path().filename() != "bin") continue;
    for (const char* beside : {"lib", "lib64", "libexec", "include", "share"}) {
      const fs::path folder = place.parent_path().parent_path() / beside;
      if (fs::is_directory(folder)) add_folder(command, folder);
    }
  }
  return path;
}

}  // namespace

CodeCommand parse_code_command(const std::string& text) {
  CodeCommand command;
  command.text = text;
  const size_t file = text.find("{file}");
  if (file == std::string::npos) fail("--code_command \"{}\": write {{file}} where the program's file goes, as in python3 {{file}}", text);
  const size_t begin = text.find_first_not_of(" \t"), end = std::min(text.find_first_of(" \t", begin), text.size());
  const std::string word = text.substr(begin, end - begin);
  command.shell = text.find_first_of("|&;<>()$`\\\"'*?[]#~=%\n") != std::string::npos;
  command.visible = system_folders();
  std::string extension;
  for (const Tool& tool : kTools) {
    if (!is_tool(word, tool)) continue;
    command.language = tool.language;
    extension = tool.extension;
  }
  // {file}.EXT names the extension; it becomes part of the file's name.
  const size_t behind = file + 6;
  if (behind + 1 < text.size() && text[behind] == '.' && std::isalnum(static_cast<unsigned char>(text[behind + 1]))) extension.clear();
  std::string given;
  if (extension.empty()) {
    size_t stop = behind;
    while (stop < text.size() && (text[stop] == '.' || std::isalnum(static_cast<unsigned char>(text[stop])))) ++stop;
    given = text.substr(behind, stop - behind);
    command.text.erase(behind, given.size());
  }
  command.file_name = "solution" + (extension.empty() ? given : extension);
  const size_t word_end = begin + word.size();
  const std::string found = word == "{file}"                           ? word
                            : command.language == CodeLanguage::python ? find_python(word, command)
                                                                       : find_other(word, command);
  if (found.find_first_of(" \t") == std::string::npos) command.text = found + command.text.substr(word_end);
  return command;
}

}  // namespace hone::rewards
