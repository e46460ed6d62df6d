// Completions that attack: none is right, each ends with its verdict, and the host stays as it was.
#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "code_support.h"
#include "hone/base/process.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

const char* const kTests =
    "assert add(2, 3) == 5\nassert add(-1, 1) == 0\nassert sorted([add(1, 1), 0]) == [0, 2]\n"
    "import bisect\nassert bisect.bisect([1, 2, 3], add(0, 2)) == 2\n";

std::string judged(const std::string& completion, const std::string& tests = kTests, double seconds = 1) {
  RewardSettings settings;
  settings.code_timeout = seconds;
  const auto reward = make_reward("code", settings);
  const nlohmann::json row = {{"prompt", "add two numbers"}, {"tests", tests}};
  const Sample sample{&row, completion, {}, false};
  const Judgement one = reward->judge({&sample, 1}).at(0);
  return fmt::format("{} {} {}", verdict_name(one.verdict), one.reward ? fmt::format("{}", *one.reward) : "-", one.detail);
}

/// Empty where the process is gone.
std::string file_text(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

int parent_of(int pid) {
  const std::string text = file_text("/proc/" + std::to_string(pid) + "/stat");
  const size_t name_end = text.rfind(')');  // "pid (name) state parent ..."
  return name_end == std::string::npos || name_end + 4 > text.size() ? 0 : std::atoi(text.c_str() + name_end + 4);
}

bool is_of_a_sandbox(int pid) {
  const std::string text = file_text("/proc/" + std::to_string(pid) + "/cmdline");
  return text.find("/program/solution") != std::string::npos || text.find("hone-sandbox") != std::string::npos;
}

/// Processes of a sandbox that are below this process, or whose starter is gone: those of other tests that run meanwhile have theirs.
std::set<int> processes_of_sandbox() {
  std::set<int> found;
  DIR* folder = opendir("/proc");
  while (const dirent* entry = folder != nullptr ? readdir(folder) : nullptr) {
    const int pid = std::atoi(entry->d_name);
    if (pid <= 0 || !is_of_a_sandbox(pid)) continue;
    int above = parent_of(pid);
    while (above > 1 && is_of_a_sandbox(above)) above = parent_of(above);
    if (above <= 1 || above == getpid()) found.insert(pid);
  }
  if (folder != nullptr) closedir(folder);
  return found;
}

/// Whether nothing is left but what was there before; another test's sandbox may be coming to its end just now.
bool nothing_left(const std::set<int>& before) {
  for (int i = 0; i < 50; ++i) {
    std::set<int> now = processes_of_sandbox();
    std::erase_if(now, [&](int pid) { return before.count(pid) > 0; });
    if (now.empty()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

struct Attack {
  const char* name;
  const char* code;
  const char* verdict;
};

class CodeHostile : public testing::TestWithParam<Attack> {};

TEST_P(CodeHostile, IsNotRight) {
  NEEDS_ISOLATION();
  const std::set<int> before = processes_of_sandbox();
  const Attack& attack = GetParam();
  const std::string result = judged(attack.code);
  EXPECT_EQ(result.substr(0, result.find(' ')), attack.verdict) << result;
  EXPECT_TRUE(nothing_left(before));
}

const Attack kForgeries[] = {
    {"exit_0", "import os\ndef add(a, b): os._exit(0)", "wrong"},
    {"exit_0_at_once", "import os\nos._exit(0)", "wrong"},
    {"system_exit", "import sys\ndef add(a, b): sys.exit(0)", "wrong"},
    {"system_exit_at_once", "raise SystemExit(0)", "wrong"},
    {"quit", "def add(a, b): quit(0)", "wrong"},
    {"atexit", "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): return 0", "wrong"},
    {"atexit_stops", "import atexit, os\natexit.register(lambda: os._exit(0))\nraise ValueError", "wrong"},
    {"excepthook", "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef add(a, b): return 0", "wrong"},
    {"signal_handler",
     "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\nsignal.setitimer(signal.ITIMER_REAL, 0.2)\ndef add(a, b):\n  while "
     "True: pass",
     "wrong"},
    {"forged_output", "print('1' * 64)\nprint('PASSED')\nprint('OK')\nimport os\nos._exit(0)", "wrong"},
    {"forged_reports", "import os\nfor fd in range(3, 256):\n  try: os.write(fd, b'1' * 64)\n  except OSError: pass\nos._exit(0)", "wrong"},
    {"echoed_keys",
     "import os, fcntl\ngot = b''\nfor fd in range(3, 256):\n  try:\n    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)\n    got += os.read(fd, "
     "65536)\n"
     "  except OSError: pass\nfor fd in range(3, 256):\n  try: os.write(fd, got[-64:])\n  except OSError: pass\nos._exit(0)",
     "wrong"},
    {"replaced_assertion_error", "import builtins\nclass Mild(Exception): pass\nbuiltins.AssertionError = Mild\ndef add(a, b): return 0", "wrong"},
    // One wrong answer that calls itself equal, the others right.
    {"equal_to_all", "class E:\n  def __eq__(s, o): return True\ndef add(a, b): return E() if a == 2 else a + b", "wrong"},
    {"equal_int", "class E(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\ndef add(a, b): return E(0) if a == 2 else a + b",
     "wrong"},
    {"equal_inside",
     "class E:\n  def __eq__(s, o): return True\n  def __lt__(s, o): return False\n  def __gt__(s, o): return True\n"
     "def add(a, b): return E() if a == b else a + b",
     "wrong"},
    {"equal_by_exec", "exec('class E:\\n  def __eq__(s, o): return True')\ndef add(a, b): return E() if a == 2 else a + b", "wrong"},
    {"patched_sorted",
     "import builtins\nreal = sorted\nbuiltins.sorted = lambda x: [0, 2] if None in x else real(x)\ndef add(a, b): return None if a == b else a + b",
     "wrong"},
    {"shadowed_sorted", "def sorted(x): return [0, 2]\ndef add(a, b): return None if a == b else a + b", "wrong"},
    {"builtins_dict",
     "import builtins\n__builtins__ = dict(vars(builtins), sorted=lambda x: [0, 2])\ndef add(a, b): return None if a == b else a + b", "wrong"},
    {"patched_exec", "import builtins\nbuiltins.exec = lambda *a: None\ndef add(a, b): return 0", "wrong"},
    {"patched_compile", "import builtins\nreal = builtins.compile\nbuiltins.compile = lambda s, *a, **k: real('', *a, **k)\ndef add(a, b): return 0",
     "wrong"},
    {"patched_import",
     "import builtins\nreal = builtins.__import__\nbuiltins.__import__ = lambda *a, **k: real(*a, **k)\ndef add(a, b): return a + b", "wrong"},
    {"patched_write", "import posix\nreal = posix.write\nposix.write = lambda f, d: real(f, d)\ndef add(a, b): return a + b", "wrong"},
    {"patched_module", "import sys\nclass M: pass\nsys.modules['math'] = M()\ndef add(a, b): return a + b", "wrong"},
    {"trace_jumps",
     "import sys\ndef trace(frame, event, arg):\n  if event == 'line': frame.f_lineno = frame.f_lineno + 1\n  return trace\n"
     "sys._getframe().f_trace = trace\nsys.settrace(trace)\ndef add(a, b): return 0",
     "wrong"},
    {"trace_in_test", "import sys\ndef add(a, b):\n  sys.settrace(lambda *a: None)\n  return a + b", "wrong"},
    // The tests hold the answers: whoever reads their constants finds them.
    {"frames", "import sys\ndef add(a, b):\n  return [c for c in sys._getframe(1).f_code.co_consts if c == a + b][0]", "wrong"},
    {"inspect_frames", "import inspect\ndef add(a, b):\n  return [c for c in inspect.currentframe().f_back.f_code.co_consts if c == a + b][0]",
     "wrong"},
    {"inspect_stack", "import inspect\ndef add(a, b):\n  return [c for c in inspect.stack()[1].frame.f_code.co_consts if c == a + b][0]", "wrong"},
    {"traceback_frames",
     "def add(a, b):\n  try: raise ValueError\n  except ValueError as e: return [c for c in e.__traceback__.tb_frame.f_back.f_code.co_consts if c == "
     "a + b][0]",
     "wrong"},
    {"frames_of_other_threads",
     "import sys, threading\ndef add(a, b):\n  found = []\n  main = threading.get_ident()\n"
     "  t = threading.Thread(target=lambda: found.append(sys._current_frames()[main]))\n  t.start(); t.join()\n  return a + b",
     "wrong"},
    {"constants_of_main",
     "import sys\ncode = sys._getframe().f_code\nanswers = [c for c in code.co_consts if isinstance(c, bytes) and b'assert add' in c]\n"
     "answers += [c for c in code.co_consts if isinstance(c, str) and 'assert add(2' in c and len(c) > 2000]\n"
     "def add(a, b): return a + b if answers else 9",
     "wrong"},
    {"garbage_collector", "import gc\ndef add(a, b): return len(gc.get_objects()) * 0 + a + b", "wrong"},
    {"fork_and_guess",
     "import os\ndef add(a, b):\n  for guess in range(-3, 6):\n    pid = os.fork()\n    if pid == 0: return guess\n"
     "    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0: os._exit(0)\n  os._exit(1)",
     "wrong"},
    {"own_source",
     "import re\nanswers = dict(re.findall(r'assert add\\((.*?)\\) =' + r'= (\\d+)', open(__file__).read()))\n"
     "def add(a, b): return int(answers['%d, %d' % (a, b)])",
     "wrong"},
    {"own_source_by_line",
     "import linecache\ntext = ''.join(linecache.getlines(__file__))\ndef add(a, b): return a + b if 'assert ' + 'add' in text else 9", "wrong"},
    {"own_source_by_inspect",
     "import inspect, sys\ntext = inspect.getsource(sys.modules['__main__'])\ndef add(a, b): return a + b if 'sea' + 'led' in text else 9", "wrong"},
    {"own_folder",
     "import os\ntext = ''.join(open('/program/' + f).read() for f in os.listdir('/program'))\n"
     "def add(a, b): return a + b if 'assert ' + 'add' in text else 9",
     "wrong"},
    {"proc", "import os\nopen('/proc/self/maps')\ndef add(a, b): return a + b", "wrong"},
    {"module_of_its_own",
     "import sys\nopen('/tmp/bisect.py', 'w').write('def bisect(*a): return 2')\nsys.path.insert(0, '/tmp')\nimport bisect\n"
     "def add(a, b): return a + b if a else 7",
     "wrong"},
    {"module_for_later",
     "import sys\nsys.modules.pop('bisect', 0)\nopen('/tmp/bisect.py', 'w').write('def bisect(*a): return 2')\nsys.path.insert(0, '/tmp')\n"
     "def add(a, b): return a + b if a else 7",
     "wrong"},
    {"replaced_in_module", "import bisect\nbisect.bisect = lambda *a: 2\ndef add(a, b): return a + b if a else 7", "wrong"},
    {"debugger", "import bdb, sys\nclass T(bdb.Bdb):\n  def user_line(s, f): pass\ndef add(a, b):\n  T().set_trace()\n  return a + b", "wrong"},
    {"thread_exits",
     "import threading, os, time\nthreading.Thread(target=lambda: (time.sleep(0.5), os._exit(0))).start()\ndef add(a, b):\n  while True: pass",
     "wrong"},
    {"unclosed_text", "def add(a, b): return 0\nx = '''", "wrong"},
    {"backslash", "def add(a, b): return 0\nx = 1 \\", "wrong"},
    {"end_comment", "def add(a, b): return 0\n#", "wrong"},
    {"nul", "def add(a, b): return 0\n\x1a", "wrong"},
};

const Attack kHarm[] = {
    {"fork_bomb", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "timed-out"},
    {"fork_bomb_waiting", "import os, time\nfor i in range(1000):\n  if os.fork() == 0: time.sleep(100)", "wrong"},
    {"memory_bomb", "x = bytearray(4 << 30)\ndef add(a, b): return a + b", "wrong"},
    {"memory_bomb_slow", "x = []\nwhile True: x.append(bytearray(1 << 20))", "wrong"},
    {"memory_bomb_forked", "import os, time\nfor i in range(4): os.fork()\nx = bytearray(300 << 20)\ntime.sleep(60)", "crashed"},
    {"memory_shared",
     "import mmap, os, time\nfor i in range(4):\n  os.fork()\nm = mmap.mmap(-1, 300 << 20)\nm.write(b'1' * (300 << 20))\ntime.sleep(60)", "crashed"},
    {"memory_file", "import os\nfd = os.memfd_create('x')\ndef add(a, b): return a + b", "wrong"},
    {"disk_fill", "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'1' * (1 << 20))", "wrong"},
    {"disk_fill_files", "for i in range(10**6): open('/tmp/x%d' % i, 'wb').write(b'1' * (1 << 20))", "wrong"},
    {"socket", "import socket\nsocket.socket()\ndef add(a, b): return a + b", "wrong"},
    {"socket_unix", "import socket\nsocket.socket(socket.AF_UNIX)\ndef add(a, b): return a + b", "wrong"},
    {"write_outside", "open('/usr/hone-was-here', 'w')\ndef add(a, b): return a + b", "wrong"},
    {"write_root", "open('/hone-was-here', 'w')\ndef add(a, b): return a + b", "wrong"},
    {"write_program", "open(__file__, 'w')\ndef add(a, b): return a + b", "wrong"},
    {"read_shadow", "open('/etc/shadow').read()\ndef add(a, b): return a + b", "wrong"},
    {"read_home", "import os\nos.listdir('/root')\nos.listdir('/home')\nopen('/etc/passwd')\ndef add(a, b): return a + b", "wrong"},
    {"kill_init", "import os, signal\nos.kill(1, signal.SIGKILL)\ndef add(a, b): return 0", "wrong"},
    {"kill_all", "import os, signal\nos.kill(-1, signal.SIGKILL)\ndef add(a, b): return 0", "wrong"},
    {"kill_parent", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef add(a, b): return 0", "wrong"},
    {"kill_itself", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "crashed"},
    {"segmentation_fault", "import ctypes\nctypes.string_at(0)", "crashed"},
    {"abort", "import os\nos.abort()", "crashed"},
    {"loop", "while True: pass", "timed-out"},
    {"loop_in_test", "def add(a, b):\n  while True: pass", "timed-out"},
    {"sleep", "import time\ntime.sleep(1000)", "timed-out"},
    {"sleep_ignoring_signals",
     "import signal, time\nfor s in range(1, 32):\n  try: signal.signal(s, signal.SIG_IGN)\n  except OSError: pass\ntime.sleep(1000)", "timed-out"},
    {"loop_in_children", "import os\nfor i in range(4):\n  if os.fork() == 0:\n    while True: pass\nos.wait()", "timed-out"},
    {"reads_input", "input()\ndef add(a, b): return a + b", "wrong"},
    {"output_flood", "while True: print('x' * 100000)", "timed-out"},
    {"output_flood_then_wrong", "import sys\nfor i in range(2000): sys.stdout.write('x' * 10000)\ndef add(a, b): return 0", "wrong"},
    {"daemon",
     "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    time.sleep(1000)\n  os._exit(0)\ndef add(a, b): return 0",
     "wrong"},
    {"stopped", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timed-out"},
    {"waits_for_child", "import os, time\nif os.fork() == 0: time.sleep(1000)\nos.wait()", "timed-out"},
    {"ptrace", "import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0\ndef add(a, b): return a + b", "wrong"},
    {"mount", "import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0\ndef add(a, b): return a + b", "wrong"},
    {"namespace", "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0\ndef add(a, b): return a + b", "wrong"},
    {"raise_limits", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\ndef add(a, b): return a + b", "wrong"},
    {"become_root", "import os\nos.setuid(0)\ndef add(a, b): return a + b", "wrong"},
    {"device", "import os\nos.mknod('/tmp/m', 0o600 | 0o60000, os.makedev(8, 0))\ndef add(a, b): return a + b", "wrong"},
};

std::string attack_name(const testing::TestParamInfo<Attack>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Forgery, CodeHostile, testing::ValuesIn(kForgeries), attack_name);
INSTANTIATE_TEST_SUITE_P(Harm, CodeHostile, testing::ValuesIn(kHarm), attack_name);

}  // namespace
}  // namespace hone::rewards
