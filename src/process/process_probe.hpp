#pragma once

/// \file
/// What the protocol asks about processes and the kernel. Everything that knows a `/proc`
/// path.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include <sessionlock/process_identity.hpp>

#include "record/witness.hpp"
#include "verdict/classify.hpp"

namespace sessionlock {

/// This process as the observer of others. Costs an atomic load or two, except for the first call.
/// Lifetime: the views and the reference live as long as the process; after a fork the next call gives a new object and
/// leaves the old one alone (it is never freed). So does a call after one that lacked descriptors or memory, if it
/// reads more. Thread safety: safe.
[[nodiscard]] const Observer& this_observer();
/// The cached identity behind `this_process`. Lifetime as `this_observer`.
[[nodiscard]] const ProcessIdentity& this_identity();

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

/// The fields of a `/proc/<pid>/stat` line that matter here; none if it is truncated or malformed.
struct ProcStat {
  char state{};
  std::int64_t threads{};
  std::uint64_t start_time_ticks{};
};
/// Counts fields after the **last** `)`, because a command name may contain anything.
[[nodiscard]] std::optional<ProcStat> parse_proc_stat(std::string_view line);
/// The same of a running process or zombie; none also where `/proc` does not show our own PID namespace.
[[nodiscard]] std::optional<ProcStat> read_proc_stat(pid_t pid);
/// Whether `/proc/self/status` was written by a `/proc` of our own PID namespace. Its `NSpid` lists our pid in the
/// namespace of that `/proc` and in each further one down to ours (proc_pid_status(5), Linux 4.1), so there is one.
[[nodiscard]] bool status_is_of_own_namespace(std::string_view proc_status);

/// Wall-clock time of this kernel's boot: `btime` of `/proc/stat`, in seconds since 1970. None where it cannot be read
/// or where `/proc/self/timens_offsets` is not all zero, because then it is another namespace's. Nor where `/proc/stat`
/// is not the kernel's own: containers are given one with the container's start.
[[nodiscard]] std::optional<std::int64_t> boot_time_seconds();
[[nodiscard]] std::optional<std::int64_t> parse_btime(std::string_view proc_stat);
[[nodiscard]] bool timens_offsets_are_zero(std::string_view timens_offsets);

/// A pid that holds or wants a `flock` on this inode, from `/proc/locks`; none where it cannot be told.
[[nodiscard]] std::optional<pid_t> flock_holder(const FileIdentity& file);
/// As above, from the text of `/proc/locks`; who holds it goes before who waits for it.
[[nodiscard]] std::optional<pid_t> parse_flock_holder(std::string_view proc_locks, unsigned major, unsigned minor,
                                                      std::uint64_t inode);
/// All that hold or want one on an inode of this number, of whatever device.
[[nodiscard]] std::vector<pid_t> parse_flock_pids(std::string_view proc_locks, std::uint64_t inode);

/// `/proc/thread-self/fd/<fd>`: a path to what an open descriptor refers to, for calls that want a path. Not
/// `/proc/self`, which has no descriptors any more once the main thread has ended. Async-signal-safe.
using DescriptorLink = std::array<char, 32>;
[[nodiscard]] DescriptorLink descriptor_link(int fd) noexcept;

}  // namespace sessionlock
