#pragma once

/// \file
/// What the protocol asks about processes and the kernel. Room `process_identity`: everything that knows a `/proc`
/// path.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include <sys/types.h>

#include <sessionlock/process_identity.hpp>

#include "classify.hpp"

namespace sessionlock {

/// This process as the observer of others. Lifetime: the views and the reference live as long as the process; after a
/// fork the next call gives a new object and leaves the old one alone. Thread safety: safe.
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
[[nodiscard]] ProcessProbe probe_process(pid_t pid);

/// The fields of a `/proc/<pid>/stat` line that matter here; none if it is truncated or malformed.
struct ProcStat {
  char state{};
  std::int64_t threads{};
  std::uint64_t start_time_ticks{};
};
/// Counts fields after the **last** `)`, because a command name may contain anything.
[[nodiscard]] std::optional<ProcStat> parse_proc_stat(std::string_view line);

/// Wall-clock time of this kernel's boot: `btime` of `/proc/stat`, in seconds since 1970. None where it cannot be read
/// or where `/proc/self/timens_offsets` is not all zero, because then it is another namespace's.
[[nodiscard]] std::optional<std::int64_t> boot_time_seconds();
[[nodiscard]] std::optional<std::int64_t> parse_btime(std::string_view proc_stat);
[[nodiscard]] bool timens_offsets_are_zero(std::string_view timens_offsets);

/// A pid that holds or wants a `flock` on this inode, from `/proc/locks`; none where it cannot be told.
[[nodiscard]] std::optional<pid_t> flock_holder(const FileIdentity& file);
/// As above, from the text of `/proc/locks`.
[[nodiscard]] std::optional<pid_t> parse_flock_holder(std::string_view proc_locks, unsigned major, unsigned minor,
                                                      std::uint64_t inode);

/// `/proc/self/fd/<fd>`: a path to what an open descriptor refers to, for calls that want a path.
using DescriptorLink = std::array<char, 32>;
[[nodiscard]] DescriptorLink descriptor_link(int fd) noexcept;

}  // namespace sessionlock
