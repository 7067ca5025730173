#pragma once

/// \file
/// One wait for one lock: what it is woken by, and how long it sleeps otherwise. Knows when to look again, never what
/// was seen.

#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <system_error>

#include <sys/types.h>
#include <tl/expected.hpp>

#include "record/witness.hpp"
#include "system/deadline.hpp"
#include "waiting/watch_hub.hpp"

namespace sessionlock {

/// What a waiter can be woken by, as far as the look at the lock has shown.
struct WatchPlan {
  /// The owner's process, where its pid means something here.
  std::optional<pid_t> owner{};
  /// The lock can become free without an event: its owner, or the host that removes it, cannot be watched.
  bool expect_no_event{false};
  /// Another process is in the middle of a few system calls on it; also as long as nothing was watched.
  bool poll_briefly{false};
  /// A policy says something else then.
  std::optional<std::chrono::milliseconds> due{};
};

/// A file to watch, kept open. Without a descriptor: one that cannot be read, and so cannot be watched.
struct WatchedFile {
  sys::Fd fd{};
  FileIdentity file{};
  /// Only this kernel changes it; another's changes raise no event here.
  bool is_local{false};
};

/// What a rest has led to, or why there is to be none.
enum class WaitResult {
  look_again,
  name_went,  ///< Or seems to have: what is watched changed.
  deadline,
  cancelled
};

/// What was watched, and the descriptors it was watched by; closed with this.
struct EndedWait {
  explicit EndedWait(WaitSlot& slot) noexcept : watch(slot) {}
  sys::Fd watched{};
  InodeWatch watch;
  sys::Fd owner{};
  WakeEvent event{};
};

/// One wait for one lock, in as many steps as it takes: look, `watch`, look again, rest, look … It never sleeps itself:
/// its thread does, on its parker, between `begin_rest` and `end_rest`.
///
/// A: looks, sees the lock held. B: releases it. A: begins to watch, and would sleep. So A looks once more after
/// `watch` said that it began something, and only then rests. Thread safety: for one thread, but for `slot().wake()`.
class Waiter {
 public:
  Waiter(Parker& parker, const Deadline& deadline, std::stop_token stop);
  ~Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  /// Watches the lock that was looked at. True if that is new: look again before resting.
  [[nodiscard]] bool watch(WatchedFile&& file, const WatchPlan& plan);
  /// The file that is watched. Precondition: `watch` has said that it is.
  [[nodiscard]] int watched_fd() const noexcept { return watching_->watched.get(); }
  /// Until when to sleep, not beyond `report` if one is given; or why there is to be no rest: `deadline` or
  /// `cancelled`.
  [[nodiscard]] tl::expected<Deadline::Clock::time_point, WaitResult> begin_rest(
      std::optional<Deadline::Clock::time_point> report = std::nullopt);
  /// Why the sleep has ended; anything but `deadline`.
  [[nodiscard]] WaitResult end_rest();
  /// Lets a stop request wake the slot from now on. `begin_rest` does it too.
  void wake_on_stop();
  /// What was waited for has happened: counts whether an event told of it, or it was only found at a periodic look.
  void count_end();
  /// Ends the watching, as if nothing had been watched. Null: nothing was. Returns what has to be closed: that takes as
  /// long as the rest of a hand-over, and is better done by the holder later than by a waiter that was just let in.
  [[nodiscard]] std::unique_ptr<EndedWait> detach_watches() noexcept;
  /// Why the wait has to poll, told once.
  [[nodiscard]] std::optional<std::error_code> take_degradation();
  [[nodiscard]] WaitSlot& slot() noexcept { return slot_; }

 private:
  struct WakeOnStop {
    WaitSlot& slot;
    void operator()() const noexcept { slot.wake(); }
  };

  void drop_what_is_foreign();
  void open_event();
  void begin_watching(bool is_local);
  void watch_owner(pid_t owner);
  void degrade(std::error_code why);
  [[nodiscard]] std::chrono::microseconds next_pause();

  Parker& parker_;
  WaitSlot slot_;
  Deadline deadline_;
  std::stop_token stop_;
  std::optional<std::stop_callback<WakeOnStop>> on_stop_{};  // goes before the slot that it wakes
  std::unique_ptr<EndedWait> watching_{};
  /// Of what is watched.
  FileIdentity file_{};
  std::optional<pid_t> owner_{};
  bool owner_has_ended_{false};
  WatchPlan plan_{.poll_briefly = true};
  std::optional<WakeCause> last_cause_{};
  bool polls_{false};
  bool saw_change_of_hands_{false};
  bool told_degraded_{false};
  std::optional<std::error_code> degradation_{};
  std::chrono::microseconds pause_;
  std::chrono::microseconds momentary_pause_;
  std::minstd_rand random_;
};

}  // namespace sessionlock
