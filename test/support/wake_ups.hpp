#pragma once

/// \file
/// Waits that are ended, or cancelled, at every moment there is.

#include <cstdint>

namespace sessionlock::test {

/// What came of many waits.
struct WakeUpFigures {
  /// Rounds in which the lock changed while it was being waited for: before the waiter's last look, or after.
  std::uint64_t before_sleep{};
  std::uint64_t at_sleep{};
  /// Waits that the periodic look ended, because an event was missed. Is to be zero.
  std::uint64_t ended_by_timer{};
  /// Acquires that failed. Is to be zero.
  std::uint64_t failures{};
  /// None was missed, and both kinds of round took place; complaints are doctest failures.
  void check() const;
};

/// Another process releases the lock just before one of the system calls with which this one looks at it and begins to
/// watch it: before another of them in each round, and before the poll in which it would sleep.
[[nodiscard]] WakeUpFigures release_at_every_call(int rounds);
/// The same with a holder that is killed.
[[nodiscard]] WakeUpFigures kill_at_every_call(int rounds);

struct CancelFigures {
  std::uint64_t acquired{};
  std::uint64_t cancelled{};
  /// Acquires that ended in anything but a lock or `Errc::cancelled`; locks that nobody has and nobody can acquire.
  /// Is to be zero.
  std::uint64_t lost{};
};
/// Where the wait that is cancelled takes place.
enum class Queue { threads, processes };
/// The holder releases and the stop request comes at about the same time.
[[nodiscard]] CancelFigures cancel_at_random(Queue queue, int rounds);

}  // namespace sessionlock::test
