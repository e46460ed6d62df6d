// The sandbox itself: what a program finds inside, what ends it, what it leaves behind.
#include "hone/rewards/sandbox.h"

#include <dirent.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "code_support.h"
#include "hone/base/process.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

SandboxJob shell_job(const std::string& script) {
  SandboxJob job;
  job.argv = {"/bin/sh", "/program/run.sh"};
  job.environment = {"PATH=/usr/bin:/bin"};
  job.visible = system_folders();
  job.folder = "/program";
  job.file_name = "run.sh";
  job.file_text = script;
  job.cpu_limit = 2;
  job.idle_limit = 1;
  job.wall_limit = 60;
  return job;
}

std::string output(const std::string& script) { return run_sandboxed(shell_job(script)).output; }

TEST(Sandbox, GivesStatusAndOutput) {
  NEEDS_ISOLATION();
  const SandboxResult result = run_sandboxed(shell_job("echo hello; echo there >&2; exit 7"));
  EXPECT_EQ(result.ended, Ended::exited) << result.fault;
  EXPECT_EQ(result.status, 7);
  EXPECT_EQ(result.output, "hello\nthere\n");
  EXPECT_EQ(run_sandboxed(shell_job("kill -SEGV $$")).ended, Ended::signalled);
}

TEST(Sandbox, HoldsNothingOfTheHost) {
  NEEDS_ISOLATION();
  setenv("HONE_TEST_SECRET", "1", 1);
  EXPECT_THAT(output("env"), Not(HasSubstr("SECRET")));
  EXPECT_THAT(output("for f in /*; do echo $f; done"),
              Not(testing::AnyOf(HasSubstr("/home"), HasSubstr("/root"), HasSubstr("/proc"), HasSubstr("/sys"), HasSubstr("/var"))));
  EXPECT_THAT(output("echo /etc/*"), StartsWith("/etc/alternatives /etc/ld.so.cache"));
  EXPECT_THAT(output("echo /etc/*"), Not(HasSubstr("passwd")));
  EXPECT_EQ(output("echo /program/* /tmp/*"), "/program/run.sh /tmp/*\n");
  EXPECT_EQ(output("echo $$"), "2\n");
  EXPECT_EQ(output("hostname 2>/dev/null || uname -n"), "sandbox\n");
  EXPECT_NE(output("id -u"), "0\n");
  EXPECT_NE(output("id -u"), std::to_string(geteuid() == 0 ? 0 : geteuid()) + "\n");
  // No descriptor but the standard three: whatever this process has open stays here.
  EXPECT_EQ(output("for n in 3 4 5 6 7 8 9; do if (true <&$n) 2>/dev/null; then echo $n; fi; done"), "");
  EXPECT_EQ(output("cat"), "");
}

TEST(Sandbox, NothingCanBeWrittenButTmp) {
  NEEDS_ISOLATION();
  EXPECT_EQ(output("for d in / /program /usr /usr/bin /etc /dev /lib; do touch $d/x 2>/dev/null && echo $d; done; rm -f /program/run.sh 2>/dev/null; "
                   "ls /program"),
            "run.sh\n");
  EXPECT_EQ(output("echo a > /tmp/x && cat /tmp/x"), "a\n");
  EXPECT_EQ(output("ls /tmp"), "");  // not that of the run before
}

TEST(Sandbox, FileIsReadOnce) {
  NEEDS_ISOLATION();
  SandboxJob job = shell_job("cat /program/run.sh; exit 3\n");
  job.read_once = true;
  job.shown_text = "only this\n";
  const SandboxResult result = run_sandboxed(job);
  EXPECT_EQ(result.output, "only this\n");
  EXPECT_EQ(result.status, 3);
  // Larger than a pipe holds; and a program that never reads it.
  job.file_text = std::string(300000, '#') + "\nexit 4\n";
  EXPECT_EQ(run_sandboxed(job).status, 4);
  job.argv = {"/bin/true"};
  EXPECT_EQ(run_sandboxed(job).status, 0);
}

TEST(Sandbox, KeyAndReport) {
  NEEDS_ISOLATION();
  SandboxJob job = shell_job("cat <&7 >&8");
  job.key = std::string(100, 'k');
  job.key_fd = 7;
  job.report_fd = 8;
  EXPECT_EQ(run_sandboxed(job).report, job.key);
  job.file_text = "yes >&8";  // a report without an end: bounded, then nobody listens
  const SandboxResult result = run_sandboxed(job);
  EXPECT_EQ(result.ended, Ended::exited);
  EXPECT_EQ(result.report.size(), kReportKept);
  job.file_text = "exit 0";  // nobody reads a key that fills the pipe
  job.key = std::string(1 << 20, 'k');
  EXPECT_EQ(run_sandboxed(job).status, 0);
}

TEST(Sandbox, OutputIsBounded) {
  NEEDS_ISOLATION();
  const SandboxResult result = run_sandboxed(shell_job("echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last"));
  EXPECT_LE(result.output.size(), 2 * kOutputKept + 64);
  EXPECT_THAT(result.output, StartsWith("first\nxxx"));
  EXPECT_THAT(result.output, HasSubstr("bytes left out"));
  EXPECT_THAT(result.output, testing::EndsWith("x\nlast\n"));
}

TEST(Sandbox, ManyAtATimeAndNothingStays) {
  NEEDS_ISOLATION();
  const auto descriptors = [] {
    int count = 0;
    DIR* folder = opendir("/proc/self/fd");
    while (folder != nullptr && readdir(folder) != nullptr) ++count;
    closedir(folder);
    return count;
  };
  const int before = descriptors();
  std::atomic<int> good{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 8; ++i) {
        const int status = (t * 8 + i) % 100;
        good += run_sandboxed(shell_job("sleep 100 & exit " + std::to_string(status))).status == status;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(good, 64);
  EXPECT_EQ(descriptors(), before);
}

TEST(Sandbox, AProgramThatIsNotThere) {
  NEEDS_ISOLATION();
  SandboxJob job = shell_job("");
  job.argv = {"/usr/bin/no-such-program"};
  const SandboxResult result = run_sandboxed(job);
  EXPECT_EQ(result.ended, Ended::internal_fault);
  EXPECT_THAT(result.fault, HasSubstr("cannot start /usr/bin/no-such-program: No such file"));
}

/// The bytes that go to the helper and back: what ends early is noticed, at every length.
TEST(SandboxWire, RoundTripAndTruncation) {
  SandboxJob job = shell_job("text");
  job.environment = {"A=1", ""};
  job.key = std::string("\0x", 2);
  WireWriter writer;
  exchange_job(writer, job);
  SandboxJob back;
  WireReader reader(writer.bytes());
  exchange_job(reader, back);
  ASSERT_TRUE(reader.good());
  EXPECT_EQ(back.argv, job.argv);
  EXPECT_EQ(back.environment, job.environment);
  EXPECT_EQ(back.key, job.key);
  EXPECT_EQ(back.wall_limit, job.wall_limit);
  EXPECT_EQ(back.isolated, job.isolated);
  for (size_t size = 0; size < writer.bytes().size(); ++size) {
    WireReader cut(std::string_view(writer.bytes()).substr(0, size));
    SandboxJob ignored;
    exchange_job(cut, ignored);
    EXPECT_FALSE(cut.good()) << size;
  }
}

}  // namespace
}  // namespace hone::rewards
