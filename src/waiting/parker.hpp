#pragma once

/// \file
/// Where a thread of this process sleeps, and what wakes it.

#include <atomic>
#include <chrono>
#include <system_error>
#include <vector>

#include "system/mutex.hpp"
#include "system/system.hpp"
#include "waiting/wake_event.hpp"

namespace sessionlock {

class Parker;
class HubSleep;

/// What ended a sleep, as far as one wait is concerned.
enum class WakeCause {
  inode_changed,  ///< The watched inode lost or gained a name, or another sign of life was seen of it.
  called,         ///< `WaitSlot::wake`
  owner_ended,
  time  ///< Nothing but the time, or what another wait of the thread was woken for.
};

/// One wait of a thread. Several may share the thread's parker.
/// Thread safety: for that thread, except `wake`. Lifetime: shorter than its parker's.
class WaitSlot {
 public:
  explicit WaitSlot(Parker& parker) noexcept;
  ~WaitSlot();
  WaitSlot(const WaitSlot&) = delete;
  WaitSlot& operator=(const WaitSlot&) = delete;

  /// Ends the thread's sleep, or its next one before that begins. Thread safety: from any thread.
  void wake() noexcept { wake(WakeCause::called); }
  /// What it was woken for, the first in the order of `WakeCause`; asked again, the next.
  [[nodiscard]] WakeCause take_cause() noexcept;
  void forget_causes() noexcept { causes_.store(0); }

  /// From now on the end of this process (a pidfd) wakes it too; no more that of a former one.
  void watch_owner(sys::Fd&& process) noexcept;
  [[nodiscard]] const sys::Fd& owner() const noexcept { return owner_; }
  /// No owner is watched any more.
  [[nodiscard]] sys::Fd take_owner() noexcept;

 private:
  friend class Parker;
  friend class InodeWatch;
  friend bool has_pending_event(WaitSlot& slot);
  static unsigned bit(WakeCause cause) noexcept { return 1U << static_cast<unsigned>(cause); }
  void wake(WakeCause cause) noexcept;
  [[nodiscard]] bool has(WakeCause cause) const noexcept { return (causes_.load() & bit(cause)) != 0; }
  void forget(WakeCause cause) noexcept { causes_.fetch_and(~bit(cause)); }

  Parker& parker_;
  WaitSlot* next_{nullptr};
  std::atomic<unsigned> causes_{0};
  /// Closed once it has fired, because it stays readable.
  sys::Fd owner_{};
};

/// What one thread sleeps on. Without an event of its own it costs no descriptor, and only `WaitSlot::wake` ends a
/// sleep; with one, so does what its slots watch. Thread safety: for that thread.
class Parker {
 public:
  Parker() = default;
  ~Parker() = default;
  Parker(const Parker&) = delete;
  Parker& operator=(const Parker&) = delete;

  /// From now on what the slots watch ends a sleep. Errors: EMFILE and the like; then other threads cannot end it.
  [[nodiscard]] std::error_code open_event();
  [[nodiscard]] bool has_event() const noexcept { return event_.is_open(); }
  /// Whether the event, if there is one, still has its own number (see `sys::Fd`).
  [[nodiscard]] bool has_usable_event() const noexcept { return !event_.is_open() || event_.is_usable(); }
  /// As before `open_event`. Returns what has to be closed, which takes time.
  [[nodiscard]] WakeEvent take_event() noexcept;
  /// Sleeps until a slot is woken, at once if one was already. May end early. Blocking: until then, or `until`.
  void sleep(std::chrono::steady_clock::time_point until);

 private:
  friend class WaitSlot;
  friend class HubSleep;
  /// What a poll has found readable; or it was refused.
  struct Ready {
    bool event{false};
    bool owners{false};
    bool inotify{false};
    bool refused{false};
  };
  /// Ends the sleep under way, if there is one. A thread that is awake is not signalled: that would cost two system
  /// calls of each hand-over. Thread safety: from any thread.
  void unpark() noexcept;
  void set_asleep(bool is_asleep) noexcept;
  [[nodiscard]] bool is_woken() const noexcept;
  void sleep_without_event(std::chrono::steady_clock::time_point until);
  /// False: there is more to sleep for.
  [[nodiscard]] bool poll_once(HubSleep& hub, std::chrono::steady_clock::time_point until);
  [[nodiscard]] Ready poll_for(int inotify, std::chrono::steady_clock::time_point until);
  /// Says which owners have ended. False if a number is foreign.
  [[nodiscard]] bool note_owners() noexcept;

  WaitSlot* slots_{nullptr};
  /// `open_event` was called, whether it could or not.
  bool polls_{false};
  std::vector<::pollfd> poll_set_{};
  Mutex mutex_;
  Condition woken_;
  /// Changed under the mutex, and looked at first without: a thread that is awake has its mutex to itself, and so has a
  /// child that it forks.
  std::atomic<bool> is_asleep_{false};
  /// Opened and closed under the mutex.
  WakeEvent event_{};
};

}  // namespace sessionlock
