#include "hold/watchdog.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "hold/events.hpp"
#include "hold/hold.hpp"
#include "hold/lock_queue.hpp"
#include "system/cancellation.hpp"

namespace sessionlock {

/// What the thread works with. The thread owns it, because it may outlive the watchdog by the rest of one look.
class Watchdog::Watch {
 public:
  explicit Watch(std::shared_ptr<const ManagerOptions> options) : options_(std::move(options)) {}

  void run(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
      wake_.wait_for(lock, stop, options_->watchdog_interval, [] { return false; });
      if (stop.stop_requested()) {
        return;
      }
      lock.unlock();
      try {
        look();
      } catch (...) {  // no memory now: the next look may have it
      }
      lock.lock();
    }
  }

 private:
  struct Watched {
    std::weak_ptr<Hold> hold;
    std::chrono::milliseconds report_at;
  };
  void look();
  void look_at(const std::shared_ptr<Hold>& hold);

  const std::shared_ptr<const ManagerOptions> options_;
  std::unordered_map<const Hold*, Watched> watched_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
};

Watchdog::Watchdog(std::shared_ptr<const ManagerOptions> options) : generation_(sys::process_generation()) {
  const sys::SignalsBlocked blocked;
  thread_ = std::make_unique<std::jthread>(
      [watch = std::make_unique<Watch>(std::move(options))](const std::stop_token& stop) { watch->run(stop); });
}

Watchdog::~Watchdog() {
  if (generation_ != sys::process_generation()) {
    (void)thread_.release();  // joining a thread that only the parent has would never end
  } else if (thread_->get_id() == std::this_thread::get_id()) {
    thread_->request_stop();
    thread_->detach();
  } else {
    const sys::CancellationDisabled disabled;
    thread_.reset();
  }
}

void Watchdog::Watch::look() {
  retry_failed_releases();
  std::erase_if(watched_, [](const auto& entry) { return entry.second.hold.expired(); });
  for (const auto& hold : holds_of(*options_)) {
    try {
      look_at(hold);
    } catch (...) {  // no memory for this one: the others are looked at all the same
    }
  }
}

void Watchdog::Watch::look_at(const std::shared_ptr<Hold>& hold) {
  // Without the first condition: 1. A publishes the lock, and is not scheduled for longer than the limit. 2. The
  // watchdog reports the hold and releases it. 3. A reports that it has acquired the lock, and returns a lost one.
  const auto held_for = hold->held_for();
  if (!hold->is_announced() || held_for <= hold->params().max_hold) {
    return;
  }
  auto& watched = watched_.try_emplace(hold.get(), Watched{hold, hold->params().max_hold}).first->second;
  if (watched.hold.expired()) {
    watched = {hold, hold->params().max_hold};  // another hold lay at this address before
  }
  if (held_for > watched.report_at) {
    watched.report_at = held_for * 2;
    notify_midway(*options_, key_of(hold->location()),
                  {EventKind::overrun, hold->session_path(), hold->lock_path(), held_for, std::nullopt, std::nullopt});
  }
  if (options_->overrun == OverrunAction::release) {
    (void)hold->try_release();
  }
}

}  // namespace sessionlock
