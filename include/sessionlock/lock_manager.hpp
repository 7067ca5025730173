#pragma once

/// \file
/// Acquiring, inspecting and forcing locks.

#include <chrono>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include <sessionlock/error.hpp>
#include <sessionlock/event.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/options.hpp>
#include <sessionlock/session_lock.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

class Watchdog;  // internal

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
  /// `Errc::not_a_lock_file`, `Errc::aliased_session`, `Errc::unsupported_file_system`, `Errc::invalid_argument`,
  /// also for a wait that this very thread would keep from ending; a system error under its own name.
  [[nodiscard]] Result<SessionLock> acquire(const std::filesystem::path& session, const AcquireOptions& options = {});

  /// `acquire` with a single try.
  [[nodiscard]] Result<SessionLock> try_acquire(const std::filesystem::path& session,
                                                const AcquireOptions& options = {});

  /// Which process holds a session, and what an acquire with these options would do. Changes nothing.
  /// Errors: `Errc::not_a_lock_file` and those of reading it. What would make an acquire fail is no error:
  /// `Inspection::obstacle`.
  [[nodiscard]] Result<Inspection> inspect(const std::filesystem::path& session,
                                           const AcquireOptions& options = {}) const;

  /// Returns when the session is free or its lock could be taken over, without acquiring it.
  /// Blocking and errors: as `acquire`; where an acquire would then fail (`Inspection::obstacle`), so does this.
  [[nodiscard]] Result<void> wait_until_free(const std::filesystem::path& session, const AcquireOptions& options = {});

  /// Writes under a hold of another process, an ancestor as a rule, that told its `lockId`. The handle's guarded writes
  /// check the inode and the id; its release removes nothing, and it cannot give a program the lock (`spawn_with`).
  /// Errors: `Errc::lost` if the session's lock is not that acquisition.
  [[nodiscard]] Result<SessionLock> join(const std::filesystem::path& session, std::string_view lock_id);

  /// Takes away exactly the named acquisition: by `lockId`, or by pid where the record has no id. Without `force` only
  /// if its owner is provably gone; with it also a live owner's, whose next guarded write then fails with `lost`.
  /// Returns: what was removed. Errors: `Errc::locked` with the holder if it may be alive, or is inside a guarded write
  /// (even with `force`; the detail names the pid); `Errc::lost` if that acquisition has no lock, or not any more; the
  /// system's own error if the lock cannot be read.
  [[nodiscard]] Result<Inspection> force_release(const std::filesystem::path& session, std::string_view lock_id_or_pid,
                                                 bool force = false);

  /// What this process holds, through any manager, and what it could not release.
  [[nodiscard]] std::vector<HeldLock> held() const;

 private:
  std::shared_ptr<const ManagerOptions> options_;
  std::unique_ptr<Watchdog> watchdog_;
};

}  // namespace sessionlock
