#pragma once

/// \file
/// The thread that watches for over-long holds. Room `lock_manager`.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include <sessionlock/lock_manager.hpp>

#include "hold.hpp"

namespace sessionlock {

/// Looks at a manager's holds at every interval: reports those past their `max_hold` to the observer, again each time
/// the hold has doubled, and gives them up where the manager says so, at the first look that finds them idle; tries
/// failed releases again. Runs the observer under no lock.
class Watchdog {
 public:
  explicit Watchdog(std::shared_ptr<const ManagerOptions> options);
  /// Blocking: until the look that is under way is over. In a forked child, where the thread is not, it is only
  /// forgotten.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  struct Watched {
    std::weak_ptr<Hold> hold;
    std::chrono::milliseconds report_at;
  };
  void run(const std::stop_token& stop);
  void look();
  void look_at(const std::shared_ptr<Hold>& hold);

  const std::shared_ptr<const ManagerOptions> options_;
  const std::uint64_t generation_;
  std::unordered_map<const Hold*, Watched> watched_;  // of the thread alone
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::unique_ptr<std::jthread> thread_;
};

}  // namespace sessionlock
