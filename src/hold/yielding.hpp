#pragma once

/// \file
/// Lets the waiters of a lock go first that this process has released.
///
/// Between processes there is no queue: when a lock is released, the first to publish a lock file has it. A process
/// that holds a lock, releases it and acquires it again would mostly be the first, because it is awake while the others
/// have to wake up. So who releases a lock that has a waiter's mark schedules a yield, and its next acquire of that
/// lock begins with a pause: until another process has published, or the pause is over. Measured without it: a longest
/// wait of 880 ms instead of 25 (docs/waiting.md).

#include <chrono>
#include <optional>
#include <stop_token>

#include "hold/hold_key.hpp"

namespace sessionlock {

using YieldEnd = std::chrono::steady_clock::time_point;

/// Called when a lock was released that others wait for. Thread safety: safe. Throws `std::bad_alloc`.
void schedule_yield(const HoldKeyView& key);
/// Until when the yield that is scheduled for this lock lasts; told once, and not once that is past. Thread safety:
/// safe.
[[nodiscard]] std::optional<YieldEnd> take_pending_yield(const HoldKeyView& key);
/// Whether another process published meanwhile. Where none did, because the waiter is stopped or hostile, the next
/// yields are short. Thread safety: safe.
void record_yield_outcome(const HoldKeyView& key, bool was_used);

/// One step of a yield that lasts until `end`: when to look again; none once it is over, and its outcome recorded.
/// Never waits.
[[nodiscard]] std::optional<YieldEnd> continue_yield(const SessionLocation& location, YieldEnd end,
                                                     const std::stop_token& stop);

}  // namespace sessionlock
