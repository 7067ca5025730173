#pragma once

/// \file
/// Acquiring, inspecting and forcing locks.

#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include <sessionlock/counters.hpp>
#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/session_lock.hpp>
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
  /// Accept a session file with several hard links, each of which would have a lock of its own.
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

class Watchdog;  // internal

/// Something that happened to a lock of this process.
enum class EventKind {
  acquired,        ///< `duration`: the wait; `inspection`: what was taken over, if anything.
  contended,       ///< Somebody else has it: `inspection`. Once for each acquire that has to wait.
  waiting,         ///< Still waiting, and for whom now: `inspection`. At growing intervals.
  released,        ///< `duration`: the hold.
  lost,            ///< The lock was found gone, or somebody else's.
  overrun,         ///< Held longer than `max_hold`: `duration`. At growing intervals.
  release_failed,  ///< `error`. It will be tried again.
  degraded         ///< The wait has to poll: `error` says why.
};
/// "acquired", "contended", … Lifetime: static storage.
[[nodiscard]] SESSIONLOCK_API std::string_view to_string(EventKind kind);

struct Event {
  EventKind kind{EventKind::acquired};
  std::filesystem::path session_path{};
  std::filesystem::path lock_path{};
  std::chrono::milliseconds duration{0};
  std::optional<Inspection> inspection{};
  std::optional<Error> error{};
};

/// What the watchdog does with a hold past its `max_hold`, besides telling the observer.
enum class OverrunAction {
  report,  ///< Nothing.
  release  ///< Gives it up, unless a guarded write is under way: the handle's next one fails with `lost`.
};

/// The signals that end a program as a rule, for `ManagerOptions::cleanup_signals`.
inline constexpr int k_cleanup_signals[] = {SIGINT, SIGTERM, SIGQUIT, SIGABRT, SIGHUP};

struct ManagerOptions {
  /// Permissions of lock files, less the umask. Whoever can open one can take its `flock` and so delay its owner.
  mode_t mode{0600};
  /// Where locks lie; empty: beside their sessions. For programs on one kernel that reach the session by one path.
  std::filesystem::path lock_directory{};
  /// Release at normal exit what is held then. Only for holds that write through `guarded` alone: buffered streams that
  /// are flushed later, or threads that go on, would write without the lock.
  bool release_at_exit{true};
  /// Release what may be released at exit also when one of these signals ends the process; none unless asked, because a
  /// library does not own its process's signals. Only where the signal has its default action: one that is ignored or
  /// handled stays the application's. For the whole process, from the first manager on that names it.
  std::vector<int> cleanup_signals{};
  /// How often a thread of this manager looks for over-long holds; zero or less: there is no such thread.
  std::chrono::milliseconds watchdog_interval{0};
  OverrunAction overrun{OverrunAction::report};
  /// Is told of events, by the thread they happen on, under no lock of the library. What it throws is dropped.
  std::function<void(const Event&)> observer{};
};

/// A lock this process holds.
struct HeldLock {
  std::filesystem::path session_path{};
  std::filesystem::path lock_path{};
  LockRecord record{};
  std::chrono::milliseconds held_for{0};
  /// How many handles share it; 0 for one whose release failed and is to be tried again.
  int depth{0};
};

/// Acquires locks and tells about them. Any number of managers in a process share one table of holds.
/// Thread safety: safe from any thread. Lifetime: handles may outlive it, and are not watched by its watchdog then.
class SESSIONLOCK_API LockManager {
 public:
  explicit LockManager(ManagerOptions options = {});
  ~LockManager();
  LockManager(LockManager&&) noexcept;
  LockManager& operator=(LockManager&&) noexcept;

  /// Takes the lock, waiting for it if need be; takes away at once what is provably nobody's.
  ///
  /// Missing directories above the session are made; the session file itself need not exist.
  /// Blocking: until `options.timeout`. Threads of this process queue first-in first-out.
  /// Errors: `Errc::timed_out` or, without waiting, `Errc::locked`, both with the holder; `Errc::cancelled`;
  /// `Errc::not_a_lock_file`, `Errc::aliased_session`, `Errc::unsupported_file_system`, `Errc::invalid_argument`; a
  /// system error under its own name.
  [[nodiscard]] Result<SessionLock> acquire(const std::filesystem::path& session, const AcquireOptions& options = {});

  /// `acquire` with a single try.
  [[nodiscard]] Result<SessionLock> try_acquire(const std::filesystem::path& session,
                                                const AcquireOptions& options = {});

  /// Who holds a session and what an acquire would make of it. Changes nothing.
  /// Errors: `Errc::not_a_lock_file` and those of reading it.
  [[nodiscard]] Result<Inspection> inspect(const std::filesystem::path& session, const StalePolicy& policy = {}) const;

  /// Returns when the session is free or its lock could be taken away, without taking it.
  /// Blocking and errors: as `acquire`.
  Result<void> wait_until_free(const std::filesystem::path& session, const AcquireOptions& options = {});

  /// Writes under a hold of another process, an ancestor as a rule, that told its `lockId`. The handle's guarded writes
  /// check the inode and the id; its release removes nothing.
  /// Errors: `Errc::lost` if the session's lock is not that acquisition.
  [[nodiscard]] Result<SessionLock> join(const std::filesystem::path& session, std::string_view lock_id);

  /// Takes away exactly the named acquisition: by `lockId`, or by pid where the record has no id. Without `force` only
  /// if its owner is provably gone; with it also a live owner's, whose next guarded write then fails with `lost`.
  /// Returns: what was removed. Errors: `Errc::locked` with the holder if it may be alive, or is inside a guarded write
  /// (even with `force`; the detail names the pid); `Errc::lost` if that acquisition has no lock, or not any more; the
  /// system's own error if the lock cannot be read.
  Result<Inspection> force_release(const std::filesystem::path& session, std::string_view lock_id_or_pid,
                                   bool force = false);

  /// What this process holds, through any manager, and what it could not release.
  [[nodiscard]] std::vector<HeldLock> held() const;

 private:
  std::shared_ptr<const ManagerOptions> options_;
  std::unique_ptr<Watchdog> watchdog_;
};

}  // namespace sessionlock
