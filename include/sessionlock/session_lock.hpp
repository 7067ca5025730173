#pragma once

/// \file
/// The right to write one session, as a handle.

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <sys/types.h>

#include <sessionlock/error.hpp>
#include <sessionlock/export.hpp>
#include <sessionlock/lock_record.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

class Hold;        // internal: the hold that handles share
struct LockShare;  // internal: one handle's share of it

namespace detail {

template <class T>
struct IsResult : std::false_type {};
template <class T>
struct IsResult<tl::expected<T, Error>> : std::true_type {};

/// What a guarded write gives back: `Result<T>` for a function that returns `T`, and the same for one that returns
/// `Result<T>` already.
template <class T>
using GuardedResult = std::conditional_t<IsResult<T>::value, T, Result<std::conditional_t<IsResult<T>::value, int, T>>>;

/// A guarded write under way; ends with its scope. Keeps the hold, so that a handle may go inside its own guarded
/// write.
class SESSIONLOCK_API GuardScope {
 public:
  GuardScope(GuardScope&&) noexcept = default;
  GuardScope& operator=(GuardScope&&) = delete;
  ~GuardScope();

 private:
  friend class sessionlock::Hold;
  explicit GuardScope(std::shared_ptr<Hold> hold) noexcept : hold_(std::move(hold)) {}
  std::shared_ptr<Hold> hold_;
};

}  // namespace detail

/// The right to write one session, until it is released or destroyed. Move-only; may outlive the manager it came from.
///
/// The lock is advisory and it is not a lease: while the owner lives, nobody takes it away silently. What an operator
/// or a policy does take away is noticed by the next `guarded` or `verify`, before a byte is written.
///
/// Thread safety: one thread at a time for each handle, except `guarded`, `verify` and `owns`, which any thread may
/// call. In a forked child every call answers `Errc::lost` and touches nothing: the lock stays the parent's.
class SESSIONLOCK_API SessionLock {
 public:
  /// A handle that owns nothing.
  SessionLock() noexcept;
  /// Takes the hold along; the other handle owns nothing afterwards.
  SessionLock(SessionLock&& other) noexcept;
  /// Releases what this handle had, then takes the other's hold along.
  SessionLock& operator=(SessionLock&& other) noexcept;
  /// Releases. A release that fails here is reported to the manager's observer and tried again when this process
  /// acquires, waits for or releases a lock, and at exit.
  ~SessionLock();

  /// Gives the lock up. Idempotent. Inside one's own guarded write it takes effect when that ends.
  /// Blocking: while another thread is in a guarded write, or another process has the lock file's `flock`; 5 s at most.
  /// Errors: `Errc::lost` if the lock was no longer ours (nothing is removed, and this is final); `Errc::timed_out`, or
  /// a system error, after which it can be tried again.
  [[nodiscard]] Result<void> release();

  /// Whether the lock is still ours on disk.
  /// Blocking: as `release`. Errors: `Errc::lost` if it is not; a system error if it cannot be told.
  [[nodiscard]] Result<void> verify() const;

  /// Runs `write` while nobody, not even an operator with force, can take the lock away; if it is gone already, runs
  /// nothing. Nested calls of one thread run under the outermost. An exception unlocks and propagates.
  ///
  /// On a file system that other hosts share, `write` must bring what it wrote to the server (`fsync`, or `close`)
  /// before it returns: what stays in this kernel's memory is written later, over the next owner's records.
  ///
  /// Returns: `Result<T>` for a function that returns `T`; a function's own `Result<T>` is passed on as it is.
  /// Blocking: as `release`, then as `write`. Errors: `Errc::lost`, `Errc::timed_out`, a system error, or `write`'s
  /// own.
  template <class F>
  [[nodiscard]] auto guarded(F&& write) const -> detail::GuardedResult<std::invoke_result_t<F&>>;

  /// Whether this handle has a hold that has not ended as far as this process knows. Asks nobody; see `verify`.
  [[nodiscard]] bool owns() const noexcept;
  /// The stale lock that this acquisition replaced, if it did: an application may have to repair what its owner left
  /// undone. Exact: the turn after an owner's death is told of it, and no other is. Of threads that share a re-entrant
  /// hold it is the one whose acquire returned first. What a sweep or an operator removed is reported there instead.
  [[nodiscard]] const std::optional<Inspection>& reclaimed_from() const;
  /// Canonical. Empty for a handle that owns nothing. Lifetime: that of the handle.
  [[nodiscard]] const std::filesystem::path& session_path() const;
  [[nodiscard]] const std::filesystem::path& lock_path() const;
  [[nodiscard]] const LockRecord& record() const;

  /// Starts a program (posix_spawnp(3)) that inherits the witness: while it lives the lock is not stale, even if this
  /// process is killed. Release by this process ends the hold all the same. A transcript under this lock repairs
  /// nothing from then on; `Transcript::repair` does it before. Returns: the child's pid. Errors: `Errc::lost`;
  /// `Errc::invalid_argument` for a joined handle, which has no witness of its own (let the process that acquired start
  /// the program); what posix_spawn(3) says.
  [[nodiscard]] Result<pid_t> spawn_with(const char* file, char* const argv[], char* const envp[]) const;

 private:
  friend struct SessionLockAccess;
  explicit SessionLock(std::shared_ptr<LockShare> share) noexcept;
  [[nodiscard]] Result<detail::GuardScope> enter_guard() const;

  std::shared_ptr<LockShare> share_;
};

template <class F>
auto SessionLock::guarded(F&& write) const -> detail::GuardedResult<std::invoke_result_t<F&>> {
  auto scope = enter_guard();
  if (!scope) {
    return tl::unexpected(std::move(scope).error());
  }
  if constexpr (std::is_void_v<std::invoke_result_t<F&>>) {
    write();
    return {};
  } else {
    return write();
  }
}

/// A lock this process holds.
struct HeldLock {
  std::filesystem::path session_path{};
  std::filesystem::path lock_path{};
  LockRecord record{};
  std::chrono::milliseconds held_for{0};
  /// How many handles share it; 0 for one whose release failed and is to be tried again.
  int depth{0};
};

}  // namespace sessionlock
