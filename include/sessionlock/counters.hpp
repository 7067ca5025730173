#pragma once

/// \file
/// Process-wide figures.

#include <array>
#include <chrono>
#include <cstdint>

#include <sessionlock/export.hpp>
#include <sessionlock/staleness.hpp>

namespace sessionlock {

/// What happened in this process since it began (or was forked), for applications that export figures.
struct Counters {
  std::uint64_t acquisitions{0};
  /// Acquires and waits that could not have the lock at once.
  std::uint64_t waits{0};
  /// Time spent in them.
  std::chrono::microseconds wait_time{0};
  /// Stale locks taken away, by the first reason of the verdict: indexed by `StaleReason`.
  std::array<std::uint64_t, k_stale_reason_count> reclaims{};
  /// Times that the owner of a lock in the way could not be judged.
  std::uint64_t unknown_verdicts{0};
  std::uint64_t release_failures{0};
  /// How waits were ended: by an event, or by the timer that covers what raises none.
  std::uint64_t wake_ups_by_event{0};
  std::uint64_t wake_ups_by_timer{0};
};
/// The figures now. Thread safety: safe; each figure is exact, all together are not of one moment.
[[nodiscard]] SESSIONLOCK_API Counters counters();

}  // namespace sessionlock
