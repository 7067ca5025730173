#include "waiter.hpp"

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "tally.hpp"

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

constexpr microseconds k_brief_pause_min{50};
constexpr microseconds k_brief_pause_max{5000};
constexpr int k_brief_doublings_max = 7;

void count_wake_up(Awakened reason) noexcept {
  Tally& tally = this_process_tally();
  switch (reason) {
    case Awakened::inode_changed:
    case Awakened::owner_ended:
      ++tally.wake_ups_by_event;
      break;
    case Awakened::time:
      ++tally.wake_ups_by_timer;
      break;
    case Awakened::called:
      break;
  }
}

}  // namespace

Deadline::Deadline(milliseconds timeout) : timeout_(timeout), start_(Clock::now()), end_(Clock::time_point::max()) {
  if (timeout < std::chrono::floor<milliseconds>(Clock::time_point::max() - start_)) {
    end_ = start_ + std::max(timeout, milliseconds{0});
  }
}

Waiter::Waiter(const Deadline& deadline, std::stop_token stop)
    : deadline_(deadline), stop_(std::move(stop)), pause_(k_pause_min) {}

Waiter::~Waiter() {
  on_stop_.reset();  // before the bell that it rings
  unwatch_inode(sleeper_);
}

bool Waiter::watch(PinnedLock&& pinned, const FileSystemTraits& traits, const WatchPlan& plan) {
  open_bell();
  if (!pinned.fd) {  // unreadable: there is nothing to watch
    plan_ = plan;
    return false;
  }
  const bool same = pinned_.fd && pinned.file == pinned_.file;
  // The same lock with the same owner is watched already, and an owner that has ended is not watched twice.
  const bool watched = same && (plan.owner == watched_owner_ || !plan.owner) && plan.is_silent == plan_.is_silent;
  plan_ = plan;
  if (watched) {
    return false;
  }
  if (!same) {
    saw_change_of_hands_ = static_cast<bool>(pinned_.fd);
    unwatch_inode(sleeper_);
    sleeper_.owner.reset();
    watched_owner_.reset();
    pinned_ = std::move(pinned);
  }
  begin_watching(traits, plan);
  return true;
}

void Waiter::open_bell() {
  if (sleeper_.bell.is_open()) {
    return;
  }
  random_.seed(static_cast<std::minstd_rand::result_type>(
      std::hash<std::thread::id>{}(std::this_thread::get_id()) ^
      static_cast<std::size_t>(Deadline::Clock::now().time_since_epoch().count())));
  if (const auto error = sleeper_.bell.open()) {
    degrade(error);
  } else if (stop_.stop_possible()) {
    on_stop_.emplace(stop_, [this] { sleeper_.call(); });
  }
}

void Waiter::begin_watching(const FileSystemTraits& traits, const WatchPlan& plan) {
  polls_ = !sleeper_.bell.is_open();
  if (!traits.local) {
    degrade(std::make_error_code(std::errc::not_supported));  // another host's changes raise no event here
  } else if (sleeper_.watch < 0) {
    if (const auto error = watch_inode(sleeper_, pinned_.fd.get())) {
      degrade(error);
    }
  }
  if (plan.wants_lock) {
    mark_waiting(pinned_, traits);
  }
  if (plan.owner) {
    watch_owner(*plan.owner);
  }
  pause_ = polls_ ? k_pause_min : plan.is_silent ? k_pause_silent_min : k_pause_watched_min;
}

void Waiter::watch_owner(pid_t owner) {
  watched_owner_ = owner;
  auto opened = sys::pidfd_open(owner);
  // ESRCH: it has just ended; the look that follows will see that.
  if (!opened.ok() && opened.error != ESRCH) {
    degrade(opened.code());
  }
  sleeper_.owner = std::move(opened.fd);
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
  if (plan_.is_momentary || (polls_ && saw_change_of_hands_)) {
    most = k_pause_contended_max;
  } else if (polls_ || plan_.is_silent) {
    most = k_pause_silent_max;
  }
  const microseconds least = plan_.is_momentary ? k_pause_min : pause_;
  const microseconds pause = std::min(least, most);
  pause_ = std::min(std::max(pause_, k_pause_min) * 2, most);
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
  auto until = std::min(deadline_.end(), Deadline::Clock::now() + next_pause());
  if (plan_.due) {
    until = std::min(until, Deadline::Clock::now() + std::max(*plan_.due, milliseconds{1}));
  }
  if (report) {
    until = std::min(until, *report);
  }
  count_wake_up(sleep_until(sleeper_, until));
  return stop_.stop_requested() ? WakeUp::cancelled : WakeUp::look_again;
}

void pause_briefly(int attempt, std::chrono::steady_clock::time_point end) {
  const auto pause = std::min(k_brief_pause_min * (1 << std::min(attempt, k_brief_doublings_max)), k_brief_pause_max);
  std::this_thread::sleep_until(std::min(end, std::chrono::steady_clock::now() + pause));
}

}  // namespace sessionlock
