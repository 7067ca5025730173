#include "waiting/process_counters.hpp"

#include <algorithm>

#include <sessionlock/counters.hpp>

#include "system/per_process.hpp"

namespace sessionlock {
namespace {

PerProcess<Tally> g_tally;

}  // namespace

Tally& this_process_tally() {
  return g_tally.get();
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
