#pragma once

/// \file
/// What stands between a handle and the hold that it shares with other handles.

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include <sessionlock/error.hpp>
#include <sessionlock/session_lock.hpp>

#include "hold/hold.hpp"

namespace sessionlock {

/// One handle's share of a hold.
struct LockShare {
  std::shared_ptr<Hold> hold;
  /// The first of those that share the hold to reach its caller: what was taken over is reported to it alone.
  bool is_told{false};
  std::atomic<bool> released{false};

  /// Errors: `lost` once it was released; otherwise as `Hold::enter_guard`.
  [[nodiscard]] Result<detail::GuardScope> enter_guard() const;
  /// Idempotent. Errors: as `Hold::drop_share`.
  [[nodiscard]] Result<void> release(std::chrono::milliseconds wait = k_hold_wait);
};

/// Gives up a share whose release has failed. If it was the last, the lock is released later; the observer is told.
void abandon(LockShare& share, const std::optional<Error>& why) noexcept;

/// For a share that no handle will have. What cannot be released now is released later, if the share was the last.
void give_up_share(const std::shared_ptr<Hold>& hold) noexcept;
/// A handle's side of a share that a hold has given already. Throws `std::bad_alloc`; the share is given up then.
[[nodiscard]] std::shared_ptr<LockShare> make_share(const std::shared_ptr<Hold>& hold);
/// The error of a handle that has no lock. Null: one that never had any.
[[nodiscard]] tl::unexpected<Error> owns_nothing(const LockShare* share);

/// For the library's own rooms: makes handles, and looks behind them.
struct SessionLockAccess {
  static SessionLock make(std::shared_ptr<LockShare> share) { return SessionLock(std::move(share)); }
  static const std::shared_ptr<LockShare>& share(const SessionLock& lock) { return lock.share_; }
};

}  // namespace sessionlock
