#pragma once

/// \file
/// Processes that race for one session while dead locks are planted under them.

#include <chrono>
#include <cstdint>

namespace sessionlock::test {

inline constexpr int k_racers = 5;

/// What came of a race. Everything but `acquisitions`, `reclaims` and `planted` is to be zero.
struct RaceFigures {
  std::uint64_t acquisitions{};
  std::uint64_t reclaims{};
  std::uint64_t planted{};
  /// Somebody else was inside at the same time: a directory made inside the critical section was there already.
  std::uint64_t overlaps{};
  /// Acquires, guarded writes and releases that failed.
  std::uint64_t failures{};
  /// Acquisitions that a counter in the session file, read and written under the lock, does not know of.
  std::uint64_t lost_updates{};
};

/// Five processes acquire, write and release as fast as they can, while another plants every kind of dead lock whenever
/// the lock path is free: of processes that are gone, whose pid was given out again, that have exec'ed, of other boots
/// and namespaces, and files without an owner; complete at once, or created first and written then.
/// Prints the figures.
[[nodiscard]] RaceFigures race(std::chrono::seconds duration);

}  // namespace sessionlock::test
