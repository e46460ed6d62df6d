#pragma once
// The sandbox's helper program: runs one program once, isolated, within limits, and leaves nothing behind.
//
// Three processes. The supervisor (main.cpp) is what hone starts: it stands outside, measures, kills. The init (init.cpp) is process 1 of new
// pid, mount, network, ipc and uts namespaces (and of a user namespace, unless hone is root): it makes the file system and starts the program;
// when it ends, the kernel kills every process inside, so nothing can outlive it. The program runs without capabilities or new privileges, under
// rlimits and a seccomp filter. Death is tied downwards (PR_SET_PDEATHSIG): hone -> supervisor -> init -> all.
//
// It stands apart from hone because hone is large and has threads: a process that sets up namespaces between fork and exec must be neither.
#include <sys/types.h>

#include <string>

#include "hone/rewards/sandbox_job.h"

namespace hone::jail {

using rewards::SandboxJob;
using rewards::SandboxResult;

/// A pipe whose ends are closed on exec; -1 once closed.
struct Pipe {
  int read = -1, write = -1;
  bool open(int flags);
  void close_read();
  void close_write();
};

struct Pipes {
  Pipe output, report, key;  // of the program
  Pipe go;                   // supervisor -> init: a byte once init may begin; its end of file means that the supervisor died
  Pipe status;               // init or program -> supervisor: a Status
};

/// What comes through Pipes::status; smaller than PIPE_BUF, so written at once.
struct Status {
  enum Kind : int { ended, no_isolation, fault } kind = fault;
  int wait_status = 0;  // ended: of the program
  char text[240] = {};  // else: what was tried and the system's word for why not
};
/// Writes a Status about `what` and errno, and ends the process.
[[noreturn]] void give_up(const Pipes& pipes, Status::Kind kind, const char* what);

/// The user that a program has in the sandbox. As root, hone takes a number that nobody else has for each run, so that the number of
/// processes can be limited and no file of the host belongs to it; otherwise it is hone's own user, alone in a user namespace.
struct Identity {
  bool root = false;
  unsigned outside = 0, group = 0;  // as numbered outside: inside a new user namespace they are not known any more
};

/// Runs as process 1 (isolated) or as the program's parent in its own session; does not return.
[[noreturn]] void run_init(const SandboxJob& job, Pipes& pipes, const Identity& identity);

/// Namespaces' file system: a new root with only `job.visible`, /dev/{null,zero,full,random,urandom}, a bounded /tmp, and job.folder.
/// Returns a descriptor of job.folder through which alone it can be written. Gives up on a fault.
int build_root(const SandboxJob& job, const Pipes& pipes);

/// Hands the program its file (SandboxJob::read_once) until it ended; returns its wait status.
int feed_and_wait(const SandboxJob& job, int folder_fd, pid_t program);
/// Puts the file in place before the program starts.
void place_file(const SandboxJob& job, int folder_fd, const Pipes& pipes);

/// In the program's process, before exec: rlimits, then user, capabilities and seccomp where isolated.
void set_limits(const SandboxJob& job, const Pipes& pipes);
void drop_privileges(const SandboxJob& job, const Identity& identity, const Pipes& pipes);

/// What a process and all below it use now.
struct Usage {
  double cpu_seconds = 0;
  int64_t address_space = 0;  // bytes
  bool runnable = false;      // a thread runs, waits for a processor or for a disk
};
Usage measure(pid_t root);
/// Kills every process below `root`, again and again until there is none (unsandboxed runs; needs PR_SET_CHILD_SUBREAPER).
void kill_below(pid_t root);

}  // namespace hone::jail
