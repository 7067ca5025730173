#include "process/process_probe.hpp"

#include <cerrno>

#include <unistd.h>

#include "process/procfs.hpp"
#include "process/this_process.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr int k_probe_attempts_max = 2;

}  // namespace

std::chrono::milliseconds process_age(std::uint64_t start_time_ticks) {
  constexpr std::uint64_t k_ms_per_second = 1000;
  const auto ticks_per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  const std::uint64_t seconds = start_time_ticks / ticks_per_second;
  const std::uint64_t rest = start_time_ticks % ticks_per_second * k_ms_per_second / ticks_per_second;
  const auto now = static_cast<std::uint64_t>(sys::time_since_boot().count());
  const bool lies_ahead = seconds > now / k_ms_per_second || seconds * k_ms_per_second + rest > now;
  return std::chrono::milliseconds{lies_ahead ? 0 : now - seconds * k_ms_per_second - rest};
}

std::optional<ProcStat> read_proc_stat(pid_t pid) {
  return pid > 0 ? read_stat(pid, trusted_proc_device()).stat : std::nullopt;
}

ProcessProbe probe_process(pid_t pid) {
  if (pid <= 0) {
    return {PidProbe::gone, {}};  // for kill(2) these are process groups
  }
  const std::uint64_t trusted_device = trusted_proc_device();
  for (int attempt = 0; attempt < k_probe_attempts_max; ++attempt) {
    const auto asked = sys::kill(pid, 0);
    if (asked.error == ESRCH) {
      return {PidProbe::gone, {}};
    }
    if (!asked.ok() && asked.error != EPERM) {
      return {};
    }
    const auto read = read_stat(pid, trusted_device);
    if (read.error == ENOENT || read.error == ESRCH) {
      continue;  // it has ended since, or is hidden: kill(2) knows
    }
    if (!read.stat) {
      return {PidProbe::exists, {}};
    }
    if (read.stat->state != 'Z' && read.stat->state != 'X' && read.stat->state != 'x') {
      return {PidProbe::exists, read.stat->start_time_ticks};
    }
    // A zombie counts as a thread itself, so with others running there are two or more.
    if (read.stat->threads == 1) {
      return {PidProbe::gone, {}};
    }
    if (read.stat->threads > 1) {
      return {PidProbe::exists, read.stat->start_time_ticks};
    }
    // None at all: the entry went while it was read (fs/proc/array.c, `do_task_stat` counts under the signal lock).
    //   1. A (a reader) looks up the main thread of B, which has ended while another thread of B runs.
    //   2. B's other thread calls execve, takes over the pid and disposes of the old main thread (fs/exec.c,
    //   de_thread).
    //   3. A reads from what it looked up: Z or X, no threads. Yet B lives.
    // So it is looked up again, and only ESRCH or a whole zombie says gone.
  }
  return {PidProbe::exists, {}};
}

}  // namespace sessionlock
