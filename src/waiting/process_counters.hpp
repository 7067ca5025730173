#pragma once

/// \file
/// The process-wide figures behind `counters`.

#include <array>
#include <atomic>
#include <cstdint>

#include <sessionlock/staleness.hpp>

namespace sessionlock {

struct Tally {
  using Count = std::atomic<std::uint64_t>;
  Count acquisitions{0};
  Count waits{0};
  Count wait_time_us{0};
  std::array<Count, k_stale_reason_count> reclaims{};
  Count unknown_verdicts{0};
  Count release_failures{0};
  Count wake_ups_by_event{0};
  Count wake_ups_by_timer{0};
};

/// Thread safety: safe. Lifetime: the process; a forked child begins at zero, at its first call. Takes no memory, so
/// that destructors may count.
[[nodiscard]] Tally& this_process_tally() noexcept;

}  // namespace sessionlock
