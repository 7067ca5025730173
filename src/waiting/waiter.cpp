#include "waiting/waiter.hpp"

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "waiting/process_counters.hpp"

namespace sessionlock {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr microseconds k_pause_min{1000};
/// While a lock changes hands, or somebody is in the middle of changing it.
constexpr microseconds k_pause_contended_max{10'000};
/// While nothing tells of the one thing waited for: the witness of a dead owner, an owner elsewhere.
constexpr microseconds k_pause_silent_min{10'000};
constexpr microseconds k_pause_silent_max{250'000};
/// While everything is watched: only against what nobody thought of.
constexpr microseconds k_pause_watched_min{1'000'000};
constexpr microseconds k_pause_watched_max{5'000'000};

}  // namespace

Waiter::Waiter(const Deadline& deadline, std::stop_token stop)
    : deadline_(deadline), stop_(std::move(stop)), pause_(k_pause_min), momentary_pause_(k_pause_min) {}

Waiter::Watching& Waiter::watching() {
  if (!watching_) {
    watching_ = std::make_shared<Watching>();
  }
  return *watching_;
}

/// The program may have closed, during the last sleep, what it did not open. Then the wait begins anew.
void Waiter::drop_what_is_foreign() {
  if (watching_ && (!is_intact(watching_->sleeper) || (watching_->pinned.fd && !watching_->pinned.fd.is_usable()))) {
    on_stop_.reset();
    watching_.reset();
  }
}

bool Waiter::watch(PinnedLock&& pinned, const FileSystemTraits& traits, const WatchPlan& plan) {
  drop_what_is_foreign();
  open_bell();
  if (!pinned.fd) {  // unreadable: there is nothing to watch
    plan_ = plan;
    return false;
  }
  Watching& at = watching();
  const bool same = at.pinned.fd && pinned.file == at.pinned.file;
  WatchPlan next = plan;
  if (same && at.owner_has_ended && plan.owner == at.owner) {
    next.owner.reset();     // its end is told already, and would be told again and again
    next.is_silent = true;  // nobody tells when what is left of it goes
  }
  // The same lock with the same owner is watched already.
  const bool watched = same && (next.owner == at.owner || !next.owner) && next.is_silent == plan_.is_silent;
  plan_ = next;
  if (watched) {
    return false;
  }
  if (!same) {
    saw_change_of_hands_ = static_cast<bool>(at.pinned.fd);
    count_end();
    unwatch_inode(at.sleeper);
    at.sleeper.owner.reset();
    at.owner.reset();
    at.owner_has_ended = false;
    at.pinned = std::move(pinned);
    at.pinned.fd.expect(at.pinned.file);
  }
  begin_watching(traits);
  return true;
}

void Waiter::open_bell() {
  Sleeper& sleeper = watching().sleeper;
  if (sleeper.bell.is_open()) {
    return;
  }
  random_.seed(static_cast<std::minstd_rand::result_type>(
      std::hash<std::thread::id>{}(std::this_thread::get_id()) ^
      static_cast<std::size_t>(Deadline::Clock::now().time_since_epoch().count())));
  if (const auto error = sleeper.bell.open()) {
    degrade(error);
  } else if (stop_.stop_possible()) {
    on_stop_.emplace(stop_, [&sleeper] { sleeper.call(); });
  }
}

void Waiter::begin_watching(const FileSystemTraits& traits) {
  Watching& at = watching();
  polls_ = !at.sleeper.bell.is_open();
  if (!traits.local) {
    degrade(std::make_error_code(std::errc::not_supported));  // another host's changes raise no event here
  } else if (at.sleeper.watch < 0) {
    if (const auto error = watch_inode(at.sleeper, at.pinned.fd.get())) {
      degrade(error);
    }
  }
  if (plan_.wants_lock) {
    mark_waiting(at.pinned, traits);
  }
  if (plan_.owner) {
    watch_owner(*plan_.owner);
  }
  pause_ = polls_ ? k_pause_min : plan_.is_silent ? k_pause_silent_min : k_pause_watched_min;
}

void Waiter::watch_owner(pid_t owner) {
  Watching& at = watching();
  at.owner = owner;
  auto opened = sys::pidfd_open(owner);
  at.owner_has_ended = opened.error == ESRCH;
  if (!opened.ok() && !at.owner_has_ended) {
    degrade(opened.code());
  }
  at.sleeper.owner = std::move(opened.fd);
}

void Waiter::count_end() {
  if (!last_wake_up_ || *last_wake_up_ == Awakened::called) {
    return;
  }
  // An event that came after the timer, but before the look, was not missed.
  Tally& tally = this_process_tally();
  const bool was_told = *last_wake_up_ != Awakened::time || has_news(watching().sleeper);
  ++(was_told ? tally.wake_ups_by_event : tally.wake_ups_by_timer);
  last_wake_up_.reset();
}

std::shared_ptr<void> Waiter::detach_watches() {
  on_stop_.reset();
  if (watching_) {
    stop_telling(watching_->sleeper);
  }
  return std::exchange(watching_, nullptr);
}

void Waiter::degrade(std::error_code why) {
  polls_ = true;
  if (!std::exchange(told_degraded_, true)) {
    degradation_ = why;
  }
}

std::optional<std::error_code> Waiter::take_degradation() {
  return std::exchange(degradation_, std::nullopt);
}

microseconds Waiter::next_pause() {
  microseconds most = k_pause_watched_max;
  const bool is_deaf = !watching().sleeper.bell.is_open() && stop_.stop_possible();  // to the stop request
  if (plan_.is_momentary || is_deaf || (polls_ && saw_change_of_hands_)) {
    most = k_pause_contended_max;
  } else if (polls_ || plan_.is_silent) {
    most = k_pause_silent_max;
  }
  // What is momentary begins anew with short pauses each time, and leaves the others as they were.
  microseconds& next = plan_.is_momentary ? momentary_pause_ : pause_;
  if (!plan_.is_momentary) {
    momentary_pause_ = k_pause_min;
  }
  const microseconds pause = std::min(next, most);
  next = std::min(pause * 2, most);
  // Half fixed, half at random: several waiters must not look at the same moment again and again.
  std::uniform_int_distribution<microseconds::rep> jitter(pause.count() / 2, pause.count());
  return microseconds{jitter(random_)};
}

WakeUp Waiter::wait(std::optional<Deadline::Clock::time_point> report) {
  if (stop_.stop_requested()) {
    return WakeUp::cancelled;
  }
  if (deadline_.is_single_try() || deadline_.has_passed()) {
    return WakeUp::deadline;
  }
  microseconds pause = next_pause();
  if (plan_.due && *plan_.due < std::chrono::ceil<milliseconds>(pause)) {  // compared so that no due time overflows
    pause = std::max(*plan_.due, milliseconds{1});
  }
  auto until = std::min(deadline_.end(), Deadline::Clock::now() + pause);
  if (report) {
    until = std::min(until, *report);
  }
  Watching& at = watching();
  last_wake_up_ = sleep_until(at.sleeper, until);
  at.owner_has_ended = at.owner_has_ended || *last_wake_up_ == Awakened::owner_ended;
  if (stop_.stop_requested()) {
    return WakeUp::cancelled;
  }
  return *last_wake_up_ == Awakened::inode_changed ? WakeUp::name_went : WakeUp::look_again;
}

}  // namespace sessionlock
