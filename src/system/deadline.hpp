#pragma once

/// \file
/// The monotonic clock: the end of a wait, and short pauses between two tries.

#include <chrono>

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

/// Sleeps. The thread cannot be cancelled meanwhile.
void sleep_until(Deadline::Clock::time_point time);

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
