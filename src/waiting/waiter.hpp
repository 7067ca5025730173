#pragma once

/// \file
/// Waiting: cancellation and wake-ups. Knows when to look again, never what was seen.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <system_error>

#include <sys/types.h>

#include "protocol/lock_file.hpp"
#include "system/deadline.hpp"
#include "waiting/watch_hub.hpp"

namespace sessionlock {

/// What a waiter can be woken by, as far as who looked at the lock knows.
struct WatchPlan {
  /// The owner's process, where its pid means something here.
  std::optional<pid_t> owner{};
  /// The lock can become free without an event: its owner, or the host that removes it, cannot be watched.
  bool is_silent{false};
  /// Somebody is in the middle of a few system calls on it; also as long as nothing was watched.
  bool is_momentary{false};
  /// The waiter wants the lock, not only to see it free: its holder should let it go first.
  bool wants_lock{true};
  /// A policy says something else then.
  std::optional<std::chrono::milliseconds> due{};
};

enum class WakeUp {
  look_again,
  name_went,  ///< Or seems to have: what is watched changed.
  deadline,
  cancelled
};

/// One wait for one lock, in as many steps as it takes: look, `watch`, look again, `wait`, look …
///
/// A: looks, sees the lock held. B: releases it. A: begins to watch, and would sleep. So A looks once more after
/// `watch` said that it began something, and only then waits. Thread safety: for one thread.
class Waiter {
 public:
  Waiter(const Deadline& deadline, std::stop_token stop);
  ~Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  /// Watches the lock that was looked at, and tells its holder that somebody waits. True if that is new: look again
  /// before waiting.
  [[nodiscard]] bool watch(PinnedLock&& pinned, const FileSystemTraits& traits, const WatchPlan& plan);
  /// Sleeps until it is time to look again; not beyond `report` if one is given. Blocking: until then, the deadline, or
  /// the stop request.
  [[nodiscard]] WakeUp wait(std::optional<Deadline::Clock::time_point> report = std::nullopt);
  /// What was waited for has happened: counts whether it was heard of, or only found at a periodic look.
  void count_end();
  /// Ends the watching, and hands over what it leaves to be closed: that takes as long as the rest of a hand-over, and
  /// is better done by the holder later than by a waiter that was just let in.
  [[nodiscard]] std::shared_ptr<void> detach_watches();
  /// Why the wait has to poll, told once.
  [[nodiscard]] std::optional<std::error_code> take_degradation();

 private:
  /// What is watched, and by what means.
  struct Watching {
    Sleeper sleeper;
    PinnedLock pinned{};
    std::optional<pid_t> owner{};
    bool owner_has_ended{false};
    Watching() = default;
    ~Watching() { unwatch_inode(sleeper); }
    Watching(const Watching&) = delete;
    Watching& operator=(const Watching&) = delete;
  };

  [[nodiscard]] Watching& watching();
  void drop_what_is_foreign();
  void open_bell();
  void begin_watching(const FileSystemTraits& traits);
  void watch_owner(pid_t owner);
  void degrade(std::error_code why);
  [[nodiscard]] std::chrono::microseconds next_pause();

  Deadline deadline_;
  std::stop_token stop_;
  std::shared_ptr<Watching> watching_;
  std::optional<std::stop_callback<std::function<void()>>> on_stop_;  // goes before what it rings
  WatchPlan plan_{.is_momentary = true};
  std::optional<Awakened> last_wake_up_{};
  bool polls_{false};
  bool saw_change_of_hands_{false};
  bool told_degraded_{false};
  std::optional<std::error_code> degradation_{};
  std::chrono::microseconds pause_;
  std::chrono::microseconds momentary_pause_;
  std::minstd_rand random_;
};

}  // namespace sessionlock
