#pragma once
// What this process uses: memory and time.

namespace hone {

/// The high-water mark of resident memory (VmHWM), MiB; 0 where /proc does not tell.
double peak_rss_mib();

/// Begins the high-water mark anew, at what is resident now; what was freed goes back to the system before. Does nothing where /proc does not let it.
void reset_peak_rss();

/// Resident memory now (VmRSS), MiB; 0 where /proc does not tell.
double current_rss_mib();

/// Seconds of a clock that never goes back; only differences mean anything.
double monotonic_seconds();

}  // namespace hone
