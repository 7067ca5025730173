#include "cli/verbose.hpp"

#include <chrono>
#include <string>
#include <utility>

#include <fmt/core.h>

#include "cli/exit_status.hpp"
#include "text/duration_text.hpp"

namespace sessionlock::cli {
namespace {

/// As a time-out would name the holder.
std::string holder_words(const Event& event, std::string words) {
  return Error{Errc::locked, "wait", event.lock_path, event.inspection, std::move(words)}.message();
}

/// `has_waited` is about the acquire under way, if there is one.
void print_event(const Event& event, bool& has_waited) {
  switch (event.kind) {
    case EventKind::contended:
      has_waited = true;
      print_error(holder_words(event, "waiting"));
      if (event.inspection) {
        print_error(event.inspection->explanation());
      }
      break;
    case EventKind::waiting:
      print_error(holder_words(event, "still waiting after " + format_age(event.duration)));
      break;
    case EventKind::acquired:
      if (std::exchange(has_waited, false)) {
        print_error(fmt::format("acquired after {}", format_age(event.duration)));
      }
      break;
    case EventKind::degraded:
      print_error(fmt::format("has to poll{}", event.error ? ": " + event.error->message() : ""));
      break;
    // The commands report these themselves, verbose or not.
    case EventKind::released:
    case EventKind::lost:
    case EventKind::overrun:
    case EventKind::release_failed:
      break;
  }
}

}  // namespace

void print_take_over(const SessionLock& acquired) {
  if (const auto& former = acquired.reclaimed_from()) {
    print_error("took over a stale lock. " + former->explanation());
  }
}

std::function<void(const Event&)> verbose_observer() {
  // Acquires follow each other here, and so do their events.
  return [has_waited = false](const Event& event) mutable { print_event(event, has_waited); };
}

}  // namespace sessionlock::cli
