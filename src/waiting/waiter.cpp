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
/// While a lock changes hands, or another process is in the middle of changing it.
constexpr microseconds k_pause_contended_max{10'000};
/// While the one thing waited for raises no event: the witness of a dead owner, an owner elsewhere.
constexpr microseconds k_pause_silent_min{10'000};
constexpr microseconds k_pause_silent_max{250'000};
/// While everything is watched: only against what nobody thought of.
constexpr microseconds k_pause_watched_min{1'000'000};
constexpr microseconds k_pause_watched_max{5'000'000};

}  // namespace

Waiter::Waiter(Parker& parker, const Deadline& deadline, std::stop_token stop)
    : parker_(parker),
      slot_(parker),
      deadline_(deadline),
      stop_(std::move(stop)),
      pause_(k_pause_min),
      momentary_pause_(k_pause_min) {}

/// The program may have closed, during the last sleep, what it did not open. Then the wait begins anew.
void Waiter::drop_what_is_foreign() {
  const auto is_lost = [](const sys::Fd& fd) { return fd && !fd.is_usable(); };
  if (watching_ && (!parker_.has_usable_event() || is_lost(slot_.owner()) || is_lost(watching_->watched) ||
                    !watching_->watch.is_intact())) {
    (void)detach_watches();
  }
}

bool Waiter::watch(WatchedFile&& file, const WatchPlan& plan) {
  drop_what_is_foreign();
  if (!watching_) {
    watching_ = std::make_unique<EndedWait>(slot_);
  }
  open_event();
  if (!file.fd) {  // unreadable: there is nothing to watch
    plan_ = plan;
    return false;
  }
  const bool same = watching_->watched && file.file == file_;
  WatchPlan next = plan;
  if (same && owner_has_ended_ && plan.owner == owner_) {
    next.owner.reset();           // its end is told already, and would be told again and again
    next.expect_no_event = true;  // none is raised when what is left of it goes
  }
  // The same lock with the same owner is watched already.
  const bool is_watched =
      same && (next.owner == owner_ || !next.owner) && next.expect_no_event == plan_.expect_no_event;
  plan_ = next;
  if (is_watched) {
    return false;
  }
  if (!same) {
    saw_change_of_hands_ = static_cast<bool>(watching_->watched);
    count_end();
    watching_->watch.end();
    slot_.watch_owner({});
    owner_.reset();
    owner_has_ended_ = false;
    watching_->watched = std::move(file.fd);
    watching_->watched.expect(file.file);
    file_ = file.file;
  }
  begin_watching(file.is_local);
  return true;
}

void Waiter::open_event() {
  if (parker_.has_event()) {
    return;
  }
  random_.seed(static_cast<std::minstd_rand::result_type>(
      std::hash<std::thread::id>{}(std::this_thread::get_id()) ^
      static_cast<std::size_t>(Deadline::Clock::now().time_since_epoch().count())));
  if (const auto error = parker_.open_event()) {
    degrade(error);
  }
}

void Waiter::wake_on_stop() {
  if (!on_stop_ && stop_.stop_possible()) {
    on_stop_.emplace(stop_, WakeOnStop{slot_});
  }
}

void Waiter::begin_watching(bool is_local) {
  polls_ = !parker_.has_event();
  if (!is_local) {
    degrade(std::make_error_code(std::errc::not_supported));
  } else if (!watching_->watch.has_begun()) {
    if (const auto error = watching_->watch.begin(watching_->watched.get())) {
      degrade(error);
    }
  }
  if (plan_.owner) {
    watch_owner(*plan_.owner);
  }
  pause_ = polls_ ? k_pause_min : plan_.expect_no_event ? k_pause_silent_min : k_pause_watched_min;
}

void Waiter::watch_owner(pid_t owner) {
  owner_ = owner;
  auto opened = sys::pidfd_open(owner);
  owner_has_ended_ = opened.error == ESRCH;
  if (!opened.ok() && !owner_has_ended_) {
    degrade(opened.code());
  }
  slot_.watch_owner(std::move(opened.fd));
}

void Waiter::count_end() {
  if (!last_cause_ || *last_cause_ == WakeCause::called) {
    return;
  }
  // An event that came after the timer, but before the look, was not missed.
  Tally& tally = this_process_tally();
  const bool was_told = *last_cause_ != WakeCause::time || has_pending_event(slot_);
  ++(was_told ? tally.wake_ups_by_event : tally.wake_ups_by_timer);
  last_cause_.reset();
}

std::unique_ptr<EndedWait> Waiter::detach_watches() noexcept {
  if (watching_) {
    watching_->watch.stop_notifying();
    watching_->owner = slot_.take_owner();
    watching_->event = parker_.take_event();
    slot_.forget_causes();
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
  const bool is_deaf = !parker_.has_event() && stop_.stop_possible();  // to the stop request
  if (plan_.poll_briefly || is_deaf || (polls_ && saw_change_of_hands_)) {
    most = k_pause_contended_max;
  } else if (polls_ || plan_.expect_no_event) {
    most = k_pause_silent_max;
  }
  // What is polled briefly begins anew with short pauses each time, and leaves the others as they were.
  microseconds& next = plan_.poll_briefly ? momentary_pause_ : pause_;
  if (!plan_.poll_briefly) {
    momentary_pause_ = k_pause_min;
  }
  const microseconds pause = std::min(next, most);
  next = std::min(pause * 2, most);
  // Half fixed, half at random: several waiters must not look at the same moment again and again.
  std::uniform_int_distribution<microseconds::rep> jitter(pause.count() / 2, pause.count());
  return microseconds{jitter(random_)};
}

tl::expected<Deadline::Clock::time_point, WaitResult> Waiter::begin_rest(
    std::optional<Deadline::Clock::time_point> report) {
  if (stop_.stop_requested()) {
    return tl::unexpected(WaitResult::cancelled);
  }
  if (deadline_.is_single_try() || deadline_.has_passed()) {
    return tl::unexpected(WaitResult::deadline);
  }
  wake_on_stop();
  microseconds pause = next_pause();
  if (plan_.due && *plan_.due < std::chrono::ceil<milliseconds>(pause)) {  // compared so that no due time overflows
    pause = std::max(*plan_.due, milliseconds{1});
  }
  const auto until = std::min(deadline_.end(), Deadline::Clock::now() + pause);
  return report ? std::min(until, *report) : until;
}

WaitResult Waiter::end_rest() {
  last_cause_ = slot_.take_cause();
  owner_has_ended_ = owner_has_ended_ || *last_cause_ == WakeCause::owner_ended;
  if (stop_.stop_requested()) {
    return WaitResult::cancelled;
  }
  return *last_cause_ == WakeCause::inode_changed ? WaitResult::name_went : WaitResult::look_again;
}

}  // namespace sessionlock
