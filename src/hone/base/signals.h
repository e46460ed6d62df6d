#pragma once
// SIGINT and SIGTERM as a flag that the loop reads between steps, so that it can write a checkpoint and leave.
#include "hone/base/error.h"

namespace hone {

/// From now on the first SIGINT or SIGTERM only sets the flag; a second one (of either) ends the process at once.
void install_signal_handlers();

/// 0, or the signal (SIGINT, SIGTERM) that asks the process to stop. Cheap: one relaxed atomic read.
int interrupt_signal();

/// The exit code for interrupt_signal(): 130 for SIGINT, 143 for SIGTERM.
Exit interrupt_exit();

/// Forgets a signal that was seen (for tests, and for `hone chat`, where SIGINT ends an answer and not the program).
void clear_interrupt();

}  // namespace hone
