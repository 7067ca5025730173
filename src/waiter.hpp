#pragma once

/// \file
/// Waiting: deadlines, cancellation, wake-ups. Room `waiter`: it knows when to look again, never what was seen.

#include <chrono>
#include <optional>
#include <random>
#include <stop_token>

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

enum class WakeUp { look_again, deadline, cancelled };

/// One wait for one lock, in as many steps as it takes.
/// Thread safety: for one thread.
class Waiter {
 public:
  Waiter(const Deadline& deadline, std::stop_token stop);

  /// Sleeps until it is time to look again. Blocking: until then, the deadline, or the stop request.
  [[nodiscard]] WakeUp wait();
  /// Something changed: the next wait is short again.
  void reset() noexcept;

 private:
  Deadline deadline_;
  std::stop_token stop_;
  std::chrono::microseconds pause_;
  std::minstd_rand random_;
};

/// Repeats `attempt` until it returns true or the time is over, pausing longer and longer in between: for what is over
/// in a moment and tells nobody when. Returns the last answer.
template <class F>
bool retry_until(std::chrono::steady_clock::time_point end, F&& attempt);

/// Sleeps for a back-off's next pause, doubling from 50 µs to 5 ms, never beyond `end`.
void pause_briefly(int attempt, std::chrono::steady_clock::time_point end);

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
