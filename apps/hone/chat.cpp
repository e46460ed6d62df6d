// hone chat: a conversation in the terminal. A line is a turn; the answer appears as it is sampled.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "commands.h"
#include "completion_text.h"
#include "console.h"
#include "hone/base/error.h"
#include "hone/base/log.h"
#include "hone/base/signals.h"
#include "hone/rollout/sampler.h"
#include "hone/text/render.h"
#include "hone/text/utf8.h"

namespace hone::app {
namespace {

constexpr const char* kHelp = "/reset begins a new conversation, /exit (or Ctrl-D) ends; Ctrl-C ends an answer\n";

class Chat {
 public:
  Chat(const config::RunConfig& config, const OpenedModel& opened, model::Model& model, const ops::AdapterSet* adapters)
      : config_(config),
        opened_(opened),
        text_(opened, config.stop),
        limit_(opened.source->config().max_position_embeddings),
        session_(model, adapters, limit_) {
    options_.adapters = adapters;
    options_.law = {config.temperature, config.top_p, config.top_k, config.min_p};
    options_.seed = static_cast<uint64_t>(config.seed);
    options_.stop_ids = stop_ids(opened);
    options_.stop = [this](std::span<const int32_t> ids) {
      show(ids, false);
      return interrupt_signal() != 0 || text_.stopped(ids);
    };
    reset();
  }

  void reset() {
    messages_.clear();
    if (!config_.prompt.empty()) messages_.push_back({"system", fmt::format("{}", fmt::join(config_.prompt, " ")), nlohmann::json::object()});
  }

  void answer(const std::string& words) {
    messages_.push_back({"user", words, nlohmann::json::object()});
    rollout::SampleRequest request{fitting_prompt(), turn_++};
    options_.max_new_tokens = std::min(config_.max_new_tokens, limit_ - static_cast<int64_t>(request.prompt.size()));
    shown_ = 0;
    const rollout::Completion completion = session_.reply(request, options_);
    show(completion.ids, true);
    const bool cut = completion.finish == rollout::Finish::length || interrupt_signal() != 0;
    print_result(cut ? " ...\n" : "\n");
    std::fflush(stdout);
    clear_interrupt();
    messages_.push_back({"assistant", text_.text(completion.ids), nlohmann::json::object()});
  }

 private:
  /// The conversation as tokens. Where it has grown beyond the model's positions, the oldest turns are left out.
  std::vector<int32_t> fitting_prompt() {
    for (;;) {
      data::Content prompt;
      prompt.is_messages = true;
      prompt.messages = messages_;
      std::vector<int32_t> ids = text::render_prompt(prompt, opened_.text.tokenizer, opened_.text.chat);
      if (static_cast<int64_t>(ids.size()) + std::min<int64_t>(config_.max_new_tokens, limit_ / 4) <= limit_) return ids;
      const size_t first = config_.prompt.empty() ? 0 : 1;
      if (messages_.size() < first + 3) {
        messages_.pop_back();
        fail("the message has {} tokens, the model holds {} positions", ids.size(), limit_);
      }
      messages_.erase(messages_.begin() + static_cast<int64_t>(first), messages_.begin() + static_cast<int64_t>(first) + 2);
      notice("the conversation is longer than the model holds: its oldest turn is left out");
    }
  }

  /// Prints what is new of the answer.
  void show(std::span<const int32_t> ids, bool all) {
    const std::string bytes = text_.bytes(ids);
    const size_t end = all ? bytes.size() : text_.settled(bytes);
    if (end <= shown_) return;
    print_result(text::utf8_lossy(bytes.substr(shown_, end - shown_)));
    std::fflush(stdout);
    shown_ = end;
  }

  const config::RunConfig& config_;  // its prompt is the system message
  const OpenedModel& opened_;
  CompletionText text_;
  int64_t limit_;
  rollout::Session session_;
  rollout::SampleOptions options_;
  std::vector<data::Message> messages_;
  uint32_t turn_ = 0;  // keys the noise
  size_t shown_ = 0;   // bytes of the answer that are printed
};

bool next_line(std::string& line, bool terminal) {
  if (terminal) {
    print_result("> ");
    std::fflush(stdout);
  }
  if (!std::getline(std::cin, line)) return false;
  clear_interrupt();  // one that came while nothing was being answered
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return true;
}

}  // namespace

int run_chat(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  const train::Machine machine = train::apply_machine_options(config);
  const OpenedModel opened = open_checked_model(config);
  if (!opened.text.chat.exists())
    fail("{} has no chat template; give one with --chat_template_path FILE, or use hone sample for plain text", config.model_name_or_path);
  const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, 1024);
  const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *opened.source, config, false);
  const bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  const auto on_terminate = std::signal(SIGTERM, SIG_DFL);  // SIGTERM goes on ending the program at once
  install_signal_handlers();
  std::signal(SIGTERM, on_terminate);
  Chat chat(config, opened, *model, set_of(adapter));
  if (terminal) print_result(kHelp);
  std::string line;
  while (next_line(line, terminal)) {
    if (line == "/exit" || line == "/quit") break;
    if (line == "/reset") {
      chat.reset();
    } else if (line == "/help") {
      print_result(kHelp);
    } else if (line.find_first_not_of(" \t") != std::string::npos) {
      try {
        if (text::utf8_invalid_at(line) != std::string::npos) fail("standard input: a line that is not UTF-8");
        chat.answer(line);
      } catch (const UserError& error) {
        if (!terminal) throw;  // a person goes on with the conversation
        log_warning("{}", error.what());
      }
    }
  }
  if (terminal) print_result("\n");
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
