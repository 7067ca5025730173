#pragma once

/// \file
/// Remembers what a manager's observer is told.

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

#include <sessionlock/lock_manager.hpp>

#include "process.hpp"

namespace sessionlock::test {

/// What an observer was told. Outlives the managers that were made with its options.
class Events {
 public:
  explicit Events(ManagerOptions options = {}) : options_(std::move(options)) {
    options_.observer = [this](const Event& event) {
      const std::lock_guard lock(mutex_);
      events_.push_back(event);
    };
  }
  /// The options it was given, and an observer.
  [[nodiscard]] const ManagerOptions& options() const { return options_; }
  [[nodiscard]] std::vector<Event> all() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  [[nodiscard]] std::vector<Event> of(EventKind kind) const {
    std::vector<Event> found;
    const auto events = all();
    std::copy_if(events.begin(), events.end(), std::back_inserter(found),
                 [kind](const Event& event) { return event.kind == kind; });
    return found;
  }
  [[nodiscard]] std::vector<EventKind> kinds() const {
    std::vector<EventKind> kinds;
    for (const auto& event : all()) {
      kinds.push_back(event.kind);
    }
    return kinds;
  }
  void wait_for(EventKind kind, std::size_t count = 1) const {
    wait_until(to_string(kind), [&] { return of(kind).size() >= count; });
  }

 private:
  ManagerOptions options_;
  mutable std::mutex mutex_;
  std::vector<Event> events_;
};

}  // namespace sessionlock::test
