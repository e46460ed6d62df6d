#include "hone/base/signals.h"

#include <signal.h>

#include <atomic>

namespace hone {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

extern "C" void on_signal(int number) {
  int none = 0;
  if (received.compare_exchange_strong(none, number)) return;
  signal(number, SIG_DFL);
  raise(number);  // held back until this handler returns, then fatal
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // reads and writes under way go on: only the loop decides when to stop
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int interrupt_signal() { return received.load(std::memory_order_relaxed); }

Exit interrupt_exit() { return interrupt_signal() == SIGTERM ? Exit::terminated : Exit::interrupted; }

void clear_interrupt() { received.store(0); }

}  // namespace hone
