#pragma once
// Runs one untrusted program: isolated from the host, within limits, with nothing left behind (docs/sandbox.md). The work is done by a helper
// program that is part of this library (jail/jail.h says how).
#include "hone/rewards/sandbox_job.h"

namespace hone::rewards {

/// Runs the job and waits for its end: at most about job.wall_limit. Thread-safe. What the program does is in the result, never an exception.
SandboxResult run_sandboxed(const SandboxJob& job);

/// What keeps programs from being isolated on this machine, for people ("cannot make namespaces for the sandbox: Operation not permitted");
/// empty where isolation works. Found by trying, once in a process.
const std::string& isolation_fault();

/// A folder for one unsandboxed program, removed with all that is in it.
class ScratchFolder {
 public:
  ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// The folders of the system that any program needs: libraries, the shell, compilers.
std::vector<std::string> system_folders();

}  // namespace hone::rewards
