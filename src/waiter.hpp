#pragma once

/// \file
/// Waiting: deadlines, cancellation, wake-ups. Room `waiter`: it knows when to look again, never what was seen.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <system_error>

#include <sys/types.h>

#include "lock_file.hpp"
#include "watch_hub.hpp"

namespace sessionlock {

/// The end of a wait on the monotonic clock.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  /// Zero or less: one try, no waiting. `milliseconds::max()`: no end.
  explicit Deadline(std::chrono::milliseconds timeout);

  /// There is to be no waiting at all.
  [[nodiscard]] bool is_single_try() const noexcept { return timeout_ <= std::chrono::milliseconds{0}; }
  [[nodiscard]] bool is_unlimited() const noexcept { return timeout_ == std::chrono::milliseconds::max(); }
  [[nodiscard]] bool has_passed() const noexcept { return Clock::now() >= end_; }
  /// `time_point::max()` where there is none.
  [[nodiscard]] Clock::time_point end() const noexcept { return end_; }
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept { return timeout_; }
  [[nodiscard]] Clock::time_point start() const noexcept { return start_; }

 private:
  std::chrono::milliseconds timeout_;
  Clock::time_point start_;
  Clock::time_point end_;
};

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
  [[nodiscard]] std::shared_ptr<void> take_remains();
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

/// Sleeps for a back-off's next pause, doubling from 50 µs to 5 ms, never beyond `end`.
void pause_briefly(int attempt, std::chrono::steady_clock::time_point end);

/// Repeats `attempt` until it returns true or the time is over, pausing longer and longer in between: for what is over
/// in a moment and tells nobody when. Returns the last answer.
template <class F>
bool retry_until(std::chrono::steady_clock::time_point end, F&& attempt) {
  for (int i = 0;; ++i) {
    if (attempt()) {
      return true;
    }
    if (std::chrono::steady_clock::now() >= end) {
      return false;
    }
    pause_briefly(i, end);
  }
}

}  // namespace sessionlock
