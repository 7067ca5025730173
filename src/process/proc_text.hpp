#pragma once

/// \file
/// What the texts of `/proc` say. Pure: no file is read here, and a text that was cut off or is malformed gives nothing
/// rather than something wrong.

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace sessionlock {

/// A decimal pid and nothing else, as the link `/proc/self` has it.
[[nodiscard]] std::optional<pid_t> parse_pid(std::string_view text);

/// The fields of a `/proc/<pid>/stat` line that matter here; none if it is truncated or malformed.
struct ProcStat {
  char state{};
  std::int64_t threads{};
  std::uint64_t start_time_ticks{};
};
/// Counts fields after the **last** `)`, because a command name may contain anything.
[[nodiscard]] std::optional<ProcStat> parse_proc_stat(std::string_view line);

/// Whether `/proc/self/status` was written by a `/proc` of our own PID namespace. Its `NSpid` lists our pid in the
/// namespace of that `/proc` and in each further one down to ours (proc_pid_status(5), Linux 4.1), so there is one.
[[nodiscard]] bool status_is_of_own_namespace(std::string_view proc_status);

/// `btime` of `/proc/stat`, in seconds since 1970.
[[nodiscard]] std::optional<std::int64_t> parse_btime(std::string_view proc_stat);
/// Whether `/proc/<pid>/timens_offsets` shifts no clock.
[[nodiscard]] bool timens_offsets_are_zero(std::string_view timens_offsets);

/// A pid that holds or wants a `flock` on this inode, from the text of `/proc/locks`; a holder goes before a process
/// that waits.
[[nodiscard]] std::optional<pid_t> parse_flock_holder(std::string_view proc_locks, unsigned major, unsigned minor,
                                                      std::uint64_t inode);
/// A process that holds a `flock`, and the number that the kernel gives the file system of the file.
struct ListedFlock {
  pid_t pid{};
  unsigned major{};
  unsigned minor{};
  friend bool operator==(const ListedFlock&, const ListedFlock&) = default;
};
/// All that hold one on an inode of this number, of whatever device.
[[nodiscard]] std::vector<ListedFlock> parse_flocks(std::string_view proc_locks, std::uint64_t inode);
/// Whether `/proc/<pid>/fdinfo/<fd>` lists a `flock` on this inode that was taken through the descriptor.
[[nodiscard]] bool has_flock_line(std::string_view fdinfo, unsigned major, unsigned minor, std::uint64_t inode);
/// The type of a file system by `/proc/<pid>/mountinfo`, such as `btrfs`; empty where it is not mounted there.
/// Lifetime: that of the argument.
[[nodiscard]] std::string_view mounted_type(std::string_view mountinfo, unsigned major, unsigned minor);

/// Whether the text of `/proc/locks` lists an OFD write lock on this byte of a file with this inode number, of whatever
/// device. None: the text is cut off, or malformed where such a lock may stand.
[[nodiscard]] std::optional<bool> lists_ofd_write_lock(std::string_view proc_locks, std::uint64_t inode,
                                                       std::uint64_t offset);

}  // namespace sessionlock
