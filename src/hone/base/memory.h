#pragma once

namespace hone {

/// Bytes of memory that are free for this process: MemAvailable, bounded by the control group's limit.
double available_memory();

}  // namespace hone
