#include "hold/events.hpp"

#include "system/cancellation.hpp"

namespace sessionlock {

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

}  // namespace sessionlock
