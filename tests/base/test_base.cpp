// Errors, hashes, the log sink, signals, memory and clock.
#include <gtest/gtest.h>

#include <array>
#include <csignal>
#include <vector>

#include "hone/base/error.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/signals.h"

namespace hone {
namespace {

std::string nearest(std::string_view name) {
  static const std::vector<std::string> known = {"messages", "prompt", "completion", "text", "learning_rate", "lora_r", "lr", "max_steps"};
  return nearest_name(name, known.data(), known.data() + known.size());
}

TEST(NearestName, SlipsAreFoundAndStrangersAreNot) {
  EXPECT_EQ(nearest("mesages"), "messages");
  EXPECT_EQ(nearest("message"), "messages");
  EXPECT_EQ(nearest("promtp"), "prompt");
  EXPECT_EQ(nearest("Learning-Rate"), "learning_rate");
  EXPECT_EQ(nearest("learn_rate"), "learning_rate");
  EXPECT_EQ(nearest("lora-r"), "lora_r");
  EXPECT_EQ(nearest("maxsteps"), "max_steps");
  EXPECT_EQ(nearest("conversations"), "");
  EXPECT_EQ(nearest("zz"), "");
  EXPECT_EQ(nearest(""), "");
  EXPECT_EQ(nearest(std::string(1 << 20, 'm')), "");
}

TEST(Errors, CarryTheirExitCode) {
  try {
    fail("row {}", 3);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_STREQ(error.what(), "row 3");
    EXPECT_EQ(error.code(), Exit::usage);
  }
  EXPECT_THROW(fail_resource("full"), UserError);
  EXPECT_THROW(check(false, "shape {}", 1), ProgrammerError);
  EXPECT_NO_THROW(check(true, "shape {}", 1));
}

TEST(Hash, KnownValuesAndLengths) {
  EXPECT_EQ(hash_hex(""), "99aa06d3014798d86001c324468d497f");  // XXH3 128 of the empty input, from xxHash's own test vectors
  EXPECT_EQ(hash_hex("a").size(), 32u);
  EXPECT_NE(hash_hex("a"), hash_hex("b"));
  Hasher raw;
  raw.add("ab", 2);
  EXPECT_EQ(raw.hex(), hash_hex("ab"));
  raw.add("c", 1);
  EXPECT_EQ(raw.hex(), hash_hex("abc"));
}

TEST(Hash, PiecesDoNotRunTogether) {
  Hasher a, b;
  a.add("ab");
  a.add("c");
  b.add("a");
  b.add("bc");
  EXPECT_NE(a.hex(), b.hex());
}

TEST(Log, EventsReachTheSinkAndOnlyTheSink) {
  log_info("dropped");
  std::vector<LogEvent> seen;
  LogSink before = set_log_sink([&](const LogEvent& event) { seen.push_back(event); });
  log_info("a {}", 1);
  log_warning("b");
  log_progress("work", 3, 10, "rows");
  set_log_sink(std::move(before));
  log_info("dropped");
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].text, "a 1");
  EXPECT_EQ(seen[1].kind, LogKind::warning);
  EXPECT_EQ(seen[2].kind, LogKind::progress);
  EXPECT_EQ(seen[2].done, 3);
  EXPECT_EQ(seen[2].total, 10);
  EXPECT_EQ(seen[2].unit, "rows");
}

TEST(Signals, TheFirstIsAFlag) {
  install_signal_handlers();
  EXPECT_EQ(interrupt_signal(), 0);
  raise(SIGTERM);
  EXPECT_EQ(interrupt_signal(), SIGTERM);
  EXPECT_EQ(interrupt_exit(), Exit::terminated);
  clear_interrupt();
  raise(SIGINT);
  EXPECT_EQ(interrupt_signal(), SIGINT);
  EXPECT_EQ(interrupt_exit(), Exit::interrupted);
  clear_interrupt();
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

TEST(SignalsDeathTest, TheSecondKills) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        raise(SIGINT);
        raise(SIGTERM);
      },
      testing::KilledBySignal(SIGTERM), "");
}

TEST(Process, MemoryIsCounted) {
  const double before = current_rss_mib();
  ASSERT_GT(before, 0);
  std::vector<char> block(64 << 20, 1);
  EXPECT_GT(current_rss_mib(), before + 50);
  EXPECT_GE(peak_rss_mib(), before + 50);
  EXPECT_EQ(block.back(), 1);
}

TEST(Process, TheClockDoesNotGoBack) {
  const double start = monotonic_seconds();
  EXPECT_GE(monotonic_seconds(), start);
}

}  // namespace
}  // namespace hone
