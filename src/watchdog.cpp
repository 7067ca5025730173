#include "watchdog.hpp"

#include <utility>

#include "hold_table.hpp"

namespace sessionlock {

Watchdog::Watchdog(std::shared_ptr<const ManagerOptions> options)
    : options_(std::move(options)),
      generation_(sys::process_generation()),
      thread_(std::make_unique<std::jthread>([this](const std::stop_token& stop) { run(stop); })) {}

Watchdog::~Watchdog() {
  if (generation_ != sys::process_generation()) {
    (void)thread_.release();  // joining a thread that only the parent has would never end
  }
}

void Watchdog::run(const std::stop_token& stop) {
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

void Watchdog::look() {
  retry_failed_releases();
  std::erase_if(watched_, [](const auto& entry) { return entry.second.hold.expired(); });
  for (const auto& hold : holds_of(*options_)) {
    try {
      look_at(hold);
    } catch (...) {  // no memory for this one: the others are looked at all the same
    }
  }
}

void Watchdog::look_at(const std::shared_ptr<Hold>& hold) {
  const auto held_for = hold->held_for();
  if (held_for <= hold->setup().max_hold) {
    return;
  }
  auto& watched = watched_.try_emplace(hold.get(), Watched{hold, hold->setup().max_hold}).first->second;
  if (watched.hold.expired()) {
    watched = {hold, hold->setup().max_hold};  // another hold lay at this address before
  }
  if (held_for > watched.report_at) {
    watched.report_at = held_for * 2;
    notify(*options_,
           {EventKind::overrun, hold->session_path(), hold->lock_path(), held_for, std::nullopt, std::nullopt});
  }
  if (options_->overrun == OverrunAction::release) {
    (void)hold->try_release();
  }
}

}  // namespace sessionlock
