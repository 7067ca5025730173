#pragma once

/// \file
/// Whether a process runs, and when it started.

#include <chrono>
#include <cstdint>
#include <optional>

#include <sys/types.h>

#include "process/proc_text.hpp"
#include "verdict/classify.hpp"

namespace sessionlock {

/// What the kernel says about a pid now.
struct ProcessProbe {
  PidProbe pid{PidProbe::unknown};
  std::optional<std::uint64_t> start_time_ticks{};
};
/// Asks `kill(pid, 0)` and `/proc/<pid>/stat`. Success and EPERM are *exists*, ESRCH is *gone*; so is a zombie none of
/// whose threads runs. `/proc` never makes a process *gone* by being unreadable (`hidepid` hides living ones).
///
/// The id of a thread that is not its process's first *exists*, as kill(2) has it; the start time is then the thread's,
/// which tells it from a process that had the number before. A pid below 1 is *gone*, and is never passed to kill(2).
[[nodiscard]] ProcessProbe probe_process(pid_t pid);

/// How long ago a process started, for its start time in clock ticks. The kernel tells start times and CLOCK_BOOTTIME
/// with the same offset in a time namespace (fs/proc/array.c, do_task_stat). 0 for a start that lies ahead.
[[nodiscard]] std::chrono::milliseconds process_age(std::uint64_t start_time_ticks);

/// `/proc/<pid>/stat` of a running process or zombie; none also where `/proc` does not show our own PID namespace.
[[nodiscard]] std::optional<ProcStat> read_proc_stat(pid_t pid);

}  // namespace sessionlock
