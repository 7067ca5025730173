#pragma once

/// \file
/// The thread that watches for over-long holds.

#include <cstdint>
#include <memory>
#include <thread>

#include <sessionlock/options.hpp>

namespace sessionlock {

/// Looks at a manager's holds at every interval: reports those past their `max_hold` to the observer, again each time
/// the hold has doubled, and gives them up where the manager says so, at the first look that finds them idle; tries
/// failed releases again. Runs the observer under no lock.
class Watchdog {
 public:
  explicit Watchdog(std::shared_ptr<const ManagerOptions> options);
  /// Blocking: until the look that is under way is over, except for who is called by that look: an observer that
  /// destroys its manager. In a forked child, where the thread is not, it is only forgotten.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  class Watch;
  const std::uint64_t generation_;
  std::unique_ptr<std::jthread> thread_;
};

}  // namespace sessionlock
