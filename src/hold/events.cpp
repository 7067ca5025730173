#include "hold/events.hpp"

#include <cstdint>
#include <optional>
#include <utility>

#include "system/cancellation.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// One call of an observer, on its thread's stack.
struct Midway {
  HoldKeyView lock;
  const Midway* outer{nullptr};
  /// A child that an observer forks has the list, but not the parent's waits.
  std::uint64_t generation{sys::process_generation()};
};
thread_local const Midway* t_midway{nullptr};

}  // namespace

std::string_view to_string(EventKind kind) {
  switch (kind) {
    case EventKind::acquired:
      return "acquired";
    case EventKind::contended:
      return "contended";
    case EventKind::waiting:
      return "waiting";
    case EventKind::released:
      return "released";
    case EventKind::lost:
      return "lost";
    case EventKind::overrun:
      return "overrun";
    case EventKind::release_failed:
      return "release-failed";
    case EventKind::degraded:
      return "degraded";
  }
  return "?";
}

void notify(const ManagerOptions& options, const Event& event) noexcept {
  if (options.observer) {
    const sys::CancellationDisabled disabled;  // an exception that nobody may swallow would be swallowed here
    try {
      options.observer(event);
    } catch (...) {  // an observer's trouble is not the lock's
    }
  }
}

// Without this an observer of `contended` that acquires the same session would end in a recursion without end:
// 1. A has the turn in this process's queue, finds the lock held by another process, and notifies. 2. The observer
// acquires the session: A queues behind its own turn, and notifies of that. 3. The observer acquires …
void notify_midway(const ManagerOptions& options, const HoldKeyView& lock, const Event& event) noexcept {
  const Midway midway{.lock = lock, .outer = std::exchange(t_midway, &midway)};
  notify(options, event);
  t_midway = midway.outer;
}

bool is_notifying(const HoldKeyView& lock) noexcept {
  for (const Midway* midway = t_midway; midway != nullptr; midway = midway->outer) {
    if (midway->generation == sys::process_generation() && midway->lock == lock) {
      return true;
    }
  }
  return false;
}

Error wait_inside_observer(const std::filesystem::path& lock) {
  return {
      Errc::invalid_argument, "acquire", lock, std::nullopt,
      "an observer is called about this lock by the same thread, which would wait for itself; set a time limit of 0, "
      "or wait in another thread that the observer does not wait for"};
}

}  // namespace sessionlock
