// The command line: finds the command, turns what it throws into one message and an exit code. Nothing else prints errors or exits.
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "commands.h"
#include "console.h"
#include "hone/base/error.h"
#include "loaded_model.h"

namespace hone::app {
namespace {

constexpr const char* kOutOfMemory = "out of memory; give a smaller --max_length or --micro_batch_tokens, or close other programs";
constexpr int kMessageLines = 6;  // the most that a message may take on standard error

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

/// At most kMessageLines lines; a longer message ends with a line that says how much is left out.
void print_error(const std::string& message) {
  end_progress_line();
  std::string text = "hone: " + message;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  size_t at = 0;
  int lines = 1;
  size_t cut = std::string::npos;
  while ((at = text.find('\n', at)) != std::string::npos) {
    if (++lines == kMessageLines) cut = at;
    ++at;
  }
  if (lines > kMessageLines) text = fmt::format("{}\n... and {} more lines", text.substr(0, cut), lines - kMessageLines + 1);
  fmt::print(stderr, "{}\n", text);
}

int run(config::Command command, const Arguments& arguments) {
  switch (command) {
    case config::sft:
      return run_sft(arguments);
    case config::inspect:
      return run_inspect(arguments);
    case config::tokenize:
      return run_tokenize(arguments);
    case config::score:
      return run_score(arguments);
    case config::sample:
      return run_sample(arguments);
    case config::chat:
      return run_chat(arguments);
    case config::eval:
      return run_eval(arguments);
    case config::grade:
      return run_grade(arguments);
    case config::merge:
      return run_merge(arguments);
    case config::convert:
      return run_convert(arguments);
    case config::doctor:
      return run_doctor(arguments);
    case config::dpo:
      return run_dpo(arguments);
    case config::grpo:
      return run_grpo(arguments);
    case config::ppo:
      return run_ppo(arguments);
    case config::rloo:
      return run_rloo(arguments);
    case config::reward:
      return run_reward(arguments);
    case config::kto:
      return run_kto(arguments);
    case config::orpo:
      return run_orpo(arguments);
    case config::simpo:
      return run_simpo(arguments);
    case config::rlhf:
      return run_rlhf(arguments);
  }
  throw ProgrammerError("a command of the table has no function");
}

int dispatch(const std::vector<std::string>& words) {
  if (words.empty()) fail("no command given; hone --help lists them");
  const std::string& first = words.front();
  if (first == "--version" || first == "version") return print(fmt::format("hone {}\n", HONE_VERSION)), 0;
  if (first == "--help" || first == "-h" || first == "--help_all" || first == "--help-all") return print(config::program_help()), 0;
  if (first == "help" && words.size() == 1) return print(config::program_help()), 0;
  if (first.starts_with("-")) fail("the command comes first: hone COMMAND [--flag value ...]; hone --help lists the commands");
  const config::Command command = config::find_command(first);
  const Arguments arguments = config::parse_arguments(command, std::span(words).subspan(1));
  if (arguments.help != config::Help::none) return print(config::command_help(command, arguments.help)), 0;
  install_console(!(command & config::kRunCommands) || arguments.config.format == config::Format::json);
  Arguments resolved = arguments;
  if (config::find_field(command, "load_in_4bit")) follow_adapter(resolved.config, arguments.given);
  return run(command, resolved);
}

int guarded(const std::vector<std::string>& words) {
  try {
    return dispatch(words);
  } catch (const UserError& error) {
    print_error(error.what());
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    print_error(kOutOfMemory);
    return static_cast<int>(Exit::resource);
  } catch (const std::filesystem::filesystem_error& error) {
    print_error(fmt::format("{}: {}", error.path1().string(), error.code().message()));
    return static_cast<int>(error.code() == std::errc::no_space_on_device ? Exit::resource : Exit::usage);
  } catch (const std::exception& error) {
    if (std::string_view(error.what()).find("DefaultCPUAllocator") != std::string_view::npos) {  // how LibTorch says bad_alloc
      print_error(kOutOfMemory);
      return static_cast<int>(Exit::resource);
    }
    print_error(fmt::format("a defect in hone, please report it with the command line: {}", error.what()));
    return static_cast<int>(Exit::defect);
  }
}

/// Ends a program that has nothing to save at once, with the contract's exit code; a training command takes the signals over for its checkpoints.
void leave_at_once(int signal) { _exit(signal == SIGINT ? static_cast<int>(Exit::interrupted) : static_cast<int>(Exit::terminated)); }

}  // namespace
}  // namespace hone::app

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that leaves is a failed write, handled where it happens
  std::signal(SIGINT, hone::app::leave_at_once);
  std::signal(SIGTERM, hone::app::leave_at_once);
  return hone::app::guarded(std::vector<std::string>(argv + 1, argv + argc));
}
