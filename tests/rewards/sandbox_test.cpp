// The sandbox itself: what a program finds inside, what ends it, what it leaves behind.
#include "hone/rewards/sandbox.h"

#include <gmock/gmock.h>
#include <unistd.h>
#include "code_support.h"

namespace hone::rewards {
namespace {

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
  job.wall_limit = 30;
  return job;
}

TEST(Sandbox, GivesStatusAndOutput) {
  NEEDS_ISOLATION();
  const SandboxResult result = run_sandboxed(shell_job("echo hello; echo there >&2; ls -a / /tmp /program; id; exit 7"));
  EXPECT_EQ(result.ended, Ended::exited) << result.fault;
  EXPECT_EQ(result.status, 7);
  EXPECT_THAT(result.output, testing::StartsWith("hello\nthere\n"));
  puts(result.output.c_str());
}

}  // namespace
}  // namespace hone::rewards
