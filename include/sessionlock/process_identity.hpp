#pragma once

/// \file
/// Which process is which: pid, start time, boot and namespaces; whether a process is alive.
///
/// A pid alone does not name a process: it is given out again. Pid and start time within one boot, PID namespace and
/// time namespace do. This is the only part of the library that reads `/proc`.

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>

#include <sys/types.h>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>

namespace sessionlock {

/// One incarnation of a process. Members that could not be read are empty or 0.
struct ProcessIdentity {
  pid_t pid{};
  /// `/proc/<pid>/stat` field 22: clock ticks after boot, as seen from the reader's time namespace.
  std::optional<std::uint64_t> start_time_ticks{};
  std::string boot_id{};
  /// Inode number of the PID namespace that counts `pid`: the reader's (`/proc/self/ns/pid`), also where the process
  /// itself lives in another. 0 if unknown.
  std::uint64_t pid_namespace{};
  /// Inode number of the time namespace that `start_time_ticks` is told in: the reader's (`/proc/self/ns/time`). 0 if
  /// unknown or where the kernel has no time namespaces.
  std::uint64_t time_namespace{};
  /// For people; never evidence.
  std::string host{};

  friend bool operator==(const ProcessIdentity&, const ProcessIdentity&) = default;
};

/// This process. Read once and cached; read again after a fork, in another time namespace (setns(2)), and while a
/// shortage of descriptors or memory kept a member from being read. Thread safety: safe. Blocking: reads `/proc` the
/// first time.
[[nodiscard]] SESSIONLOCK_API ProcessIdentity this_process();

/// Any process by its pid.
/// Errors: `Errc::invalid_argument` for a pid below 1, ESRCH if there is none or only a zombie. A start time that this
/// process may not read is left empty.
[[nodiscard]] SESSIONLOCK_API Result<ProcessIdentity> identify(pid_t pid);

/// When a process started, in clock ticks after boot (proc_pid_stat(5), field 22).
/// Returns: none for an invalid pid, an unreadable or malformed `/proc` entry, a `/proc` of another PID namespace, or a
/// platform without a provider.
[[nodiscard]] SESSIONLOCK_API std::optional<std::uint64_t> process_start_time(pid_t pid);
/// A pid is a whole number: 1.5 does not compile.
std::optional<std::uint64_t> process_start_time(std::floating_point auto pid) = delete;

/// When a process started, as a text that means nothing but itself: equal for one incarnation of a pid, another for the
/// next. On Linux the decimal start time; elsewhere what ps(1) tells (`lstart` in the C locale and in UTC, so that
/// every reader is told the same), which counts whole seconds, takes at most 2 s to ask for, and is remembered for a
/// second. Returns: none where it cannot be told. Thread safety: safe.
[[nodiscard]] SESSIONLOCK_API std::optional<std::string> process_start_token(pid_t pid);
/// A pid is a whole number: 1.5 does not compile.
std::optional<std::string> process_start_token(std::floating_point auto pid) = delete;

enum class Liveness { dead, alive, unknown };

/// Whether a process with this pid runs. A process that may not be signalled (EPERM) is alive; a zombie is dead, unless
/// its main thread has ended while others run.
[[nodiscard]] SESSIONLOCK_API bool is_pid_alive(pid_t pid);
/// A pid is a whole number: 1.5 does not compile.
bool is_pid_alive(std::floating_point auto pid) = delete;
/// The same for who must not take "cannot tell" for alive.
[[nodiscard]] SESSIONLOCK_API Liveness process_liveness(pid_t pid);

enum class Match { same, different, unknown };

/// Whether two identities are of one incarnation.
///
/// Returns: `different` for two boots, two pids of one namespace, or two start times; `same` for equal start times of
/// one pid; `unknown` where boot or namespace are missing or namespaces differ, or where a start time is missing. The
/// caller decides what unknown means. Two time namespaces of 0 count as equal: the kernel has none.
[[nodiscard]] SESSIONLOCK_API Match same_process(const ProcessIdentity& recorded, const ProcessIdentity& observed);

}  // namespace sessionlock
