#include "waiting/parker.hpp"

#include <algorithm>
#include <utility>

#include "system/deadline.hpp"
#include "waiting/watch_hub.hpp"

namespace sessionlock {
namespace {

using Clock = std::chrono::steady_clock;

/// Between two tries of a poll that the kernel refuses: programs can close what is not theirs, or allow themselves no
/// descriptors at all.
constexpr std::chrono::milliseconds k_refused_poll_pause{10};

}  // namespace

WaitSlot::WaitSlot(Parker& parker) noexcept : parker_(parker), next_(std::exchange(parker.slots_, this)) {}

WaitSlot::~WaitSlot() {
  WaitSlot** at = &parker_.slots_;
  while (*at != this) {
    at = &(*at)->next_;
  }
  *at = next_;
}

// A wake is never missed, and never signals a thread that is awake:
// A, the thread: 1. It says that it is asleep. 2. It asks its slots for causes, and sleeps if there are none.
// B, the waker: 1. It leaves the cause. 2. It asks whether A is asleep, and signals only then.
// Whatever the order of these four steps, A sees the cause or B sees A asleep.
void WaitSlot::wake(WakeCause cause) noexcept {
  causes_.fetch_or(bit(cause));
  parker_.unpark();
}

WakeCause WaitSlot::take_cause() noexcept {
  for (const WakeCause cause : {WakeCause::inode_changed, WakeCause::called, WakeCause::owner_ended}) {
    if (has(cause)) {
      forget(cause);
      return cause;
    }
  }
  return WakeCause::time;
}

void WaitSlot::watch_owner(sys::Fd&& process) noexcept {
  forget(WakeCause::owner_ended);
  owner_ = std::move(process);
}

sys::Fd WaitSlot::take_owner() noexcept {
  forget(WakeCause::owner_ended);
  return std::move(owner_);
}

std::error_code Parker::open_event() {
  const MutexLock lock(mutex_);
  polls_ = true;
  return event_.open();
}

WakeEvent Parker::take_event() noexcept {
  const MutexLock lock(mutex_);
  polls_ = false;
  return std::move(event_);
}

void Parker::unpark() noexcept {
  if (!is_asleep_.load()) {
    return;
  }
  const MutexLock lock(mutex_);
  if (is_asleep_.exchange(false)) {
    event_.signal();
    woken_.notify_one();
  }
}

void Parker::set_asleep(bool is_asleep) noexcept {
  const MutexLock lock(mutex_);
  is_asleep_ = is_asleep;
}

bool Parker::is_woken() const noexcept {
  for (const WaitSlot* slot = slots_; slot != nullptr; slot = slot->next_) {
    if (slot->causes_.load() != 0) {
      return true;
    }
  }
  return false;
}

void Parker::sleep(Clock::time_point until) {
  if (!polls_) {
    sleep_without_event(until);
    return;
  }
  HubSleep hub(*this);
  while (!poll_once(hub, until)) {
  }
}

void Parker::sleep_without_event(Clock::time_point until) {
  MutexLock lock(mutex_);
  is_asleep_ = true;
  while (is_asleep_ && !is_woken() && Clock::now() < until) {
    woken_.wait_until(lock, until);
  }
  is_asleep_ = false;
}

bool Parker::poll_once(HubSleep& hub, Clock::time_point until) {
  set_asleep(true);
  if (is_woken()) {
    set_asleep(false);
    return true;
  }
  const Ready ready = poll_for(hub.instance_to_read(), until);
  set_asleep(false);
  // What the event was signalled for is left with the slots. A number that is foreign says nothing, and may be ready
  // without end.
  bool is_misled = ready.refused || (ready.event && !event_.drain());
  is_misled = (ready.owners && !note_owners()) || is_misled;
  is_misled = (ready.inotify && !hub.dispatch()) || is_misled;
  if (is_misled) {
    sleep_until(std::min(until, Clock::now() + k_refused_poll_pause));
    return true;
  }
  return is_woken() || (!ready.event && !ready.inotify);
}

Parker::Ready Parker::poll_for(int inotify, Clock::time_point until) {
  // A negative descriptor is passed over (poll(2)).
  poll_set_.assign({{event_.fd(), POLLIN, 0}, {inotify, POLLIN, 0}});
  for (const WaitSlot* slot = slots_; slot != nullptr; slot = slot->next_) {
    poll_set_.push_back({slot->owner_.get(), POLLIN, 0});
  }
  const auto polled = sys::poll(poll_set_.data(), poll_set_.size(), until);
  const auto is_refused = [](const ::pollfd& descriptor) { return (descriptor.revents & (POLLNVAL | POLLERR)) != 0; };
  if (!polled.ok() || std::any_of(poll_set_.begin(), poll_set_.end(), is_refused)) {
    return {.refused = true};
  }
  const auto is_ready = [](const ::pollfd& descriptor) { return descriptor.revents != 0; };
  return {.event = is_ready(poll_set_[0]),
          .owners = std::any_of(poll_set_.begin() + 2, poll_set_.end(), is_ready),
          .inotify = is_ready(poll_set_[1])};
}

bool Parker::note_owners() noexcept {
  bool are_ours = true;
  std::size_t at = 2;
  for (WaitSlot* slot = slots_; slot != nullptr; slot = slot->next_, ++at) {
    if (poll_set_[at].revents == 0) {
      continue;
    }
    if (slot->owner_.is_usable()) {
      slot->owner_.reset();
      slot->wake(WakeCause::owner_ended);
    } else {
      are_ours = false;
    }
  }
  return are_ours;
}

}  // namespace sessionlock
