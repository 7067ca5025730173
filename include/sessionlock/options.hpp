#pragma once

/// \file
/// How to acquire a lock, and what a manager does besides.

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <sys/types.h>

#include <sessionlock/event.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

/// The longest hold limit that is written down: about 24.8 days, what a 32-bit count of milliseconds holds.
inline constexpr std::chrono::milliseconds k_max_hold_max{2'147'000'000};

/// How to acquire. Durations are measured on the monotonic clock.
struct SESSIONLOCK_API AcquireOptions {
  /// How long to wait. Zero or less: one try. `milliseconds::max()`: no limit.
  std::chrono::milliseconds timeout{std::chrono::seconds{60}};
  /// How long the holder means to hold; written into the record, reported when exceeded, enforced by nobody.
  std::chrono::milliseconds max_hold{std::chrono::minutes{5}};
  StalePolicy stale{};
  /// Let the thread that acquired, or a caller with the same non-empty `owner`, share the hold and its count.
  bool reentrant{false};
  /// Names who shares a re-entrant hold across threads; empty: the thread does.
  std::string owner{};
  /// The application's words for people who meet the lock: a run id, a command. At most 1 KiB.
  std::string label{};
  /// Gives up a wait: `Errc::cancelled`. The lock is then either held by nobody here or was returned, never lost.
  std::stop_token stop{};
  /// Accept a session file with several names, each of which has a lock of its own: one with several hard links, or
  /// one that is mounted over the session's name.
  bool allow_hard_links{false};

  /// The defaults, changed by `SESSIONLOCK_ACQUIRE_TIMEOUT_MS`, `SESSIONLOCK_STALE_MS` and `SESSIONLOCK_MAX_HOLD_MS`
  /// where those hold nothing but decimal digits; anything else is ignored.
  [[nodiscard]] static AcquireOptions from_environment();
};

/// A hold limit that suits a wait: the longer of `min` and `timeout + grace`, at most `k_max_hold_max`, and that for an
/// unlimited wait.
[[nodiscard]] SESSIONLOCK_API std::chrono::milliseconds max_hold_for(
    std::chrono::milliseconds timeout, std::chrono::milliseconds grace = std::chrono::minutes{2},
    std::chrono::milliseconds min = std::chrono::minutes{5});

/// What the watchdog does with a hold past its `max_hold`, besides telling the observer.
enum class OverrunAction {
  report,  ///< Nothing.
  release  ///< Gives it up, unless a guarded write is under way: the handle's next one fails with `lost`.
};

/// The signals that end a program as a rule, for `ManagerOptions::cleanup_signals`.
inline constexpr int k_cleanup_signals[] = {SIGINT, SIGTERM, SIGQUIT, SIGABRT, SIGHUP};

struct ManagerOptions {
  /// Permissions of the locks, and of the session files that a `Transcript` makes, whatever the umask is: 0600 to 0666,
  /// without execute bits (`Errc::invalid_argument`). A lock never gets those that would let others write, since they
  /// could make it name another process. None: a lock can be read by those who may write its session, as far as
  /// permissions tell (the group only if the lock can be given it and neither file has an access control list); a
  /// session is made with 0600 less the umask. A process that can open a lock can `flock` it, and so delay its owner.
  std::optional<mode_t> mode{};
  /// Where locks lie; empty: beside their sessions. A relative path is relative to the working directory in which the
  /// manager is constructed. For programs on one kernel that reach the session by one path: a lock there is named after
  /// the session's path, so a hold is lost (`Errc::lost`) when the session's directory or this one is moved meanwhile.
  std::filesystem::path lock_directory{};
  /// Release at normal exit what is held then. Only for holds that write through `guarded` alone: buffered streams that
  /// are flushed later, or threads that go on, would write without the lock.
  bool release_at_exit{true};
  /// Release what may be released at exit also when one of these signals ends the process; none unless asked, because a
  /// library does not own its process's signals. Only where the signal has its default action: one that is ignored or
  /// handled stays the application's. For the whole process, from the first manager on that names it. Pid 1 of a PID
  /// namespace, which no signal ends by default, exits with 128 plus the signal's number.
  std::vector<int> cleanup_signals{};
  /// How often a thread of this manager looks for over-long holds; zero or less: there is no such thread.
  std::chrono::milliseconds watchdog_interval{0};
  OverrunAction overrun{OverrunAction::report};
  /// Is told of events, by the thread they happen on, under no lock of the library. What it throws is dropped.
  /// It may use the library. Where its thread goes on with the lock when it returns (`acquired`, `contended`,
  /// `waiting`, `degraded`, `overrun`), it must not wait for that lock: an acquire that would have to wait answers
  /// `Errc::invalid_argument`. It must not wait for another thread either that acquires that lock.
  std::function<void(const Event&)> observer{};
};

}  // namespace sessionlock
