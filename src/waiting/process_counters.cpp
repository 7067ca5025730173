#include "waiting/process_counters.hpp"

#include <algorithm>

#include <sessionlock/counters.hpp>

#include "system/system.hpp"

namespace sessionlock {
namespace {

Tally g_tally;
/// The process incarnation that `g_tally` counts for.
std::atomic<std::uint64_t> g_counted{0};

void start_at_zero(Tally& tally) noexcept {
  for (Tally::Count* count : {&tally.acquisitions, &tally.waits, &tally.wait_time_us, &tally.unknown_verdicts,
                              &tally.release_failures, &tally.wake_ups_by_event, &tally.wake_ups_by_timer}) {
    count->store(0);
  }
  for (Tally::Count& count : tally.reclaims) {
    count.store(0);
  }
}

}  // namespace

Tally& this_process_tally() noexcept {
  const std::uint64_t generation = sys::process_generation();
  std::uint64_t counted = g_counted.load(std::memory_order_relaxed);
  if (counted != generation && g_counted.compare_exchange_strong(counted, generation)) {
    start_at_zero(g_tally);
  }
  return g_tally;
}

Counters counters() {
  const Tally& tally = this_process_tally();
  Counters counters;
  counters.acquisitions = tally.acquisitions.load();
  counters.waits = tally.waits.load();
  counters.wait_time = std::chrono::microseconds{tally.wait_time_us.load()};
  std::transform(tally.reclaims.begin(), tally.reclaims.end(), counters.reclaims.begin(),
                 [](const Tally::Count& count) { return count.load(); });
  counters.unknown_verdicts = tally.unknown_verdicts.load();
  counters.release_failures = tally.release_failures.load();
  counters.wake_ups_by_event = tally.wake_ups_by_event.load();
  counters.wake_ups_by_timer = tally.wake_ups_by_timer.load();
  return counters;
}

}  // namespace sessionlock
