#include "hold/yielding.hpp"

#include <atomic>
#include <cstddef>
#include <string>
#include <unordered_map>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "system/mutex.hpp"
#include "system/per_process.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

/// A full yield is a waiter's time to wake and publish on a busy machine; an unused one is followed by short ones.
constexpr microseconds k_yield_full{12'000};
constexpr microseconds k_yield_unused{200};
constexpr std::size_t k_yields_max = 1024;
/// Between two looks for another process's lock file.
constexpr microseconds k_look_interval{30};

struct Yield {
  std::optional<YieldEnd> until{};
  bool last_was_used{true};
};

struct Yields {
  Mutex mutex;
  std::unordered_map<HoldKey, Yield, HashHoldKey, std::equal_to<>> by_lock GUARDED_BY(mutex);
  /// Spares those who never had a waiter the mutex.
  std::atomic<bool> any_scheduled{false};
};
PerProcess<Yields> g_yields;

}  // namespace

void schedule_yield(const HoldKeyView& key) {
  Yields& yields = g_yields.get();
  const MutexLock lock(yields.mutex);
  if (yields.by_lock.size() >= k_yields_max) {
    yields.by_lock.clear();  // only politeness is lost
  }
  yields.any_scheduled.store(true);
  Yield& yield = yields.by_lock[HoldKey{key.directory, std::string(key.name)}];
  yield.until = Clock::now() + (yield.last_was_used ? k_yield_full : k_yield_unused);
}

std::optional<YieldEnd> take_pending_yield(const HoldKeyView& key) {
  Yields& yields = g_yields.get();
  if (!yields.any_scheduled.load()) [[likely]] {
    return std::nullopt;
  }
  const MutexLock lock(yields.mutex);
  const auto found = yields.by_lock.find(key);
  const auto until = found != yields.by_lock.end() ? std::exchange(found->second.until, std::nullopt) : std::nullopt;
  return until && *until > Clock::now() ? until : std::nullopt;
}

void record_yield_outcome(const HoldKeyView& key, bool was_used) {
  Yields& yields = g_yields.get();
  const MutexLock lock(yields.mutex);
  const auto found = yields.by_lock.find(key);
  if (found == yields.by_lock.end()) {
    return;  // cleared meanwhile, with many others
  }
  if (was_used) {
    yields.by_lock.erase(found);
  } else {
    found->second.last_was_used = false;
  }
}

std::optional<YieldEnd> continue_yield(const SessionLocation& location, YieldEnd end, const std::stop_token& stop) {
  const HoldKeyView key = key_of(location);
  const Place& lock = location.lock;
  if (Clock::now() >= end || stop.stop_requested()) {
    record_yield_outcome(key, false);
    return std::nullopt;
  }
  struct stat status {};
  if (sys::fstatat(lock.directory->fd.get(), lock.name.c_str(), status, AT_SYMLINK_NOFOLLOW).ok()) {
    record_yield_outcome(key, true);
    return std::nullopt;
  }
  return Clock::now() + k_look_interval;
}

}  // namespace sessionlock
