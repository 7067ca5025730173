#include "hold/hold.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>

#include "hold/events.hpp"
#include "hold/exit_cleanup.hpp"
#include "hold/lock_queue.hpp"
#include "hold/yielding.hpp"
#include "process/flock_holder.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/obstacle.hpp"
#include "system/cancellation.hpp"
#include "system/deadline.hpp"
#include "verdict/failure.hpp"
#include "waiting/process_counters.hpp"

namespace sessionlock {
namespace {

using Clock = std::chrono::steady_clock;

/// A signal handler cannot notify, so waiting threads look now and then.
constexpr std::chrono::milliseconds k_phase_recheck{50};
/// Whoever has the `flock` of a lock that is lost is judging it, and done in a moment.
constexpr std::chrono::milliseconds k_lost_patience{250};

}  // namespace

ThreadToken this_thread() noexcept {
  static std::atomic<ThreadToken> last{k_no_thread};
  thread_local const ThreadToken token = ++last;
  return token;
}

Hold::Hold(HoldParams&& params) : params_(std::move(params)) {
  core_.descriptor = &held_.file.fd;
  core_.generation = sys::process_generation();
  core_.release_at_exit = params_.options->release_at_exit && !params_.joined;
  core_.phase.store(HoldPhase::ended);
  register_for_cleanup(core_);
}

void Hold::begin(HeldFile&& held) noexcept {
  held_ = std::move(held);
  core_.place = held_.location.lock.view();
  core_.file = held_.file.file;
  core_.replaced = held_.file.replaced.get();
  since_ = Clock::now();
  core_.phase.store(HoldPhase::idle);  // last, because a signal handler may look at any moment
}

Hold::~Hold() {
  delete paths_.load();
  unregister_from_cleanup(core_);
}

bool Hold::announce() noexcept {
  const bool is_first = !is_announced_.exchange(true);
  if (is_first) {
    discard_replaced();
  }
  return is_first;
}

void Hold::discard_replaced() noexcept {
  if (held_.file.replaced) {
    held_.file.replaced->discard();
  }
}

bool Hold::has_ended() const noexcept {
  return core_.phase.load() == HoldPhase::ended;
}

bool Hold::is_abandoned() const noexcept {
  return core_.phase.load() == HoldPhase::idle && core_.look_at_descriptor().answer == Step::Answer::other;
}

bool Hold::is_inherited() const noexcept {
  return core_.generation != sys::process_generation();
}

bool Hold::is_shared_by(const AcquireOptions& options, ThreadToken thread) const {
  if (!options.reentrant || !params_.reentrant) {
    return false;
  }
  return options.owner.empty() && params_.owner.empty() ? thread_ == thread : options.owner == params_.owner;
}

int Hold::depth() const {
  return shares_.load();
}

std::chrono::milliseconds Hold::held_for() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - since_);
}

const Hold::Paths& Hold::paths() const {
  const Paths* made = paths_.load();
  if (made == nullptr) {
    auto fresh = std::make_unique<const Paths>(Paths{held_.location.session.path(), held_.location.lock.path()});
    if (paths_.compare_exchange_strong(made, fresh.get())) {
      made = fresh.release();
    }
  }
  return *made;
}

Error Hold::lost_error() const {
  return {Errc::lost, "use lock", lock_path(), std::nullopt,
          is_inherited() ? "it was acquired before a fork, and stays the parent's" : ""};
}

Result<void> Hold::claim(HoldPhase phase, Clock::time_point deadline) {
  HoldPhase expected = HoldPhase::idle;
  if (queued_.load() == 0 && core_.phase.compare_exchange_strong(expected, phase)) {
    return {};
  }
  return queue_for_idle(phase, deadline);
}

/// In the order of arrival: threads that write without a pause must not keep another from releasing.
Result<void> Hold::queue_for_idle(HoldPhase phase, Clock::time_point deadline) {
  MutexLock lock(queue_mutex_);
  const auto place = queue_.insert(queue_.end(), phase);
  ++queued_;
  bool is_claimed = false;
  bool is_lost = false;
  while (true) {
    HoldPhase expected = HoldPhase::idle;
    is_claimed = place == queue_.begin() && core_.phase.compare_exchange_strong(expected, phase);
    is_lost = !is_claimed && core_.phase.load() == HoldPhase::ended;
    if (is_claimed || is_lost || Clock::now() >= deadline) {
      break;
    }
    phase_changed_.wait_until(lock, std::min(deadline, Clock::now() + k_phase_recheck));
  }
  queue_.erase(place);
  --queued_;
  phase_changed_.notify_all();
  lock.unlock();
  // Words take memory, so they come when nobody is kept waiting any more.
  if (is_claimed) {
    return {};
  }
  return is_lost
             ? tl::unexpected(lost_error())
             : failure(Errc::timed_out, "use lock", lock_path(), "another thread of this process is writing under it");
}

void Hold::set_phase(HoldPhase phase) noexcept {
  core_.phase.store(phase);
  if (queued_.load() > 0) {
    const MutexLock lock(queue_mutex_);
    phase_changed_.notify_all();
  }
}

/// A phase that was claimed: idle again at the end of its scope, also where an exception ends that (the words of an
/// error take memory), because no other thread would give it back.
class Hold::ClaimedPhase {
 public:
  explicit ClaimedPhase(Hold& hold) noexcept : hold_(&hold) {}
  ~ClaimedPhase() {
    if (hold_ != nullptr) {
      hold_->set_phase(HoldPhase::idle);
    }
  }
  ClaimedPhase(const ClaimedPhase&) = delete;
  ClaimedPhase& operator=(const ClaimedPhase&) = delete;
  /// It stays as it is.
  void keep() noexcept { hold_ = nullptr; }
  /// It ends the hold.
  void end(bool lost) noexcept { std::exchange(hold_, nullptr)->end(lost); }

 private:
  Hold* hold_;
};

Error Hold::explain_failure(const Step& step) const {
  Error error = to_error(step, lock_path());
  if (step.call == sys::Call::unlinkat) {
    error.detail = removal_failure(error.code, held_.location.lock, core_.fd()).detail;
  }
  return error;
}

template <class F>
Result<void> Hold::persist(F&& step, Clock::time_point deadline) {
  Step last;
  const bool done = retry_until(deadline, [&] {
    last = step();
    return last.answer != Step::Answer::busy;
  });
  if (!done) {
    const auto pid = flock_holder(core_.file);
    return failure(Errc::timed_out, "flock", lock_path(),
                   pid ? "pid " + std::to_string(*pid) + " has the lock file locked" : "the lock file is locked");
  }
  switch (last.answer) {
    case Step::Answer::other:
      return tl::unexpected(lost_error());
    case Step::Answer::failed:
      return tl::unexpected(explain_failure(last));
    default:
      return {};
  }
}

Result<void> Hold::check_lock_id() const {
  const Place& place = held_.location.lock;
  auto found = pin(place);
  if (!found) {
    return tl::unexpected(std::move(found).error());
  }
  if (!found->has_value()) {
    return tl::unexpected(lost_error());
  }
  const PinnedLock& lock = **found;
  if (!lock.content) {
    return failure(lock.content.error(), "read lock", lock_path());
  }
  if (lock.file != core_.file || lock.content->record.lock_id != record().lock_id) {
    return tl::unexpected(lost_error());
  }
  return {};
}

// A lock in a directory of locks is named after the path of its session:
// 1. A holds L/<x/s>.lock. 2. The directory x is renamed to y. 3. B acquires y/s, which is L/<y/s>.lock: one session
// has two locks. 4. A looks before its next write, and writes nothing. Renaming L, or mounting over it, is alike. What
// is renamed while A writes is noticed before A's next write only.
Result<void> Hold::check_reach() const {
  auto reached = is_reached(held_.location);
  if (!reached) {
    return tl::unexpected(std::move(reached).error());
  }
  if (*reached) {
    return {};
  }
  Error error = lost_error();
  error.detail = "the session's directory or the directory of locks has been moved, or something is mounted over it";
  return tl::unexpected(std::move(error));
}

Result<detail::GuardScope> Hold::enter_guard(std::chrono::milliseconds wait) {
  if (is_inherited()) {
    return tl::unexpected(lost_error());
  }
  if (guarding_thread_.load() == this_thread()) {
    ++guard_depth_;
    return detail::GuardScope(shared_from_this());
  }
  const auto deadline = Clock::now() + wait;
  if (auto claimed = claim(HoldPhase::guarded, deadline); !claimed) {
    return tl::unexpected(std::move(claimed).error());
  }
  ClaimedPhase phase(*this);
  auto entered = persist([this] { return core_.try_enter(); }, deadline);
  if (entered) {
    InodeGuard guard = InodeGuard::of_locked(core_.fd());
    entered = check_reach();
    if (entered && params_.joined) {
      entered = check_lock_id();
    }
    if (entered) {
      guard.keep();
    }
  }
  if (!entered) {
    if (entered.error().code == Errc::lost) {
      phase.end(true);
    }
    return tl::unexpected(std::move(entered).error());
  }
  phase.keep();
  guarding_thread_.store(this_thread());
  guard_depth_ = 1;
  return detail::GuardScope(shared_from_this());
}

void Hold::leave_guard() noexcept {
  if (is_inherited()) {
    return;  // an unlock here would be the parent's, whose guarded write goes on
  }
  if (--guard_depth_ > 0) {
    return;
  }
  const bool release = std::exchange(release_after_guard_, false);
  guarding_thread_.store(k_no_thread);
  if (held_.file.fd.is_usable()) {  // else the program closed it while it wrote, and may have locked another file
    (void)sessionlock::leave_guard(core_.fd());
  }
  if (!release) {
    set_phase(HoldPhase::idle);
    return;
  }
  core_.phase.store(HoldPhase::ending);
  release_after_guard();
}

void Hold::release_after_guard() noexcept {
  try {
    if (auto released = release_now(Clock::now() + k_hold_wait); !released) {
      const Error& error = released.error();
      if (error.code != Errc::lost) {
        ++this_process_tally().release_failures;
        keep_for_retry(shared_from_this());
        notify(*params_.options,
               {EventKind::release_failed, session_path(), lock_path(), held_for(), std::nullopt, error});
      }
    }
  } catch (...) {  // no memory for words: the file stays, and goes at exit or with this process
  }
}

Result<void> Hold::verify() {
  if (is_inherited()) {
    return tl::unexpected(lost_error());
  }
  const bool inside = guarding_thread_.load() == this_thread();
  if (!inside) {
    if (auto claimed = claim(HoldPhase::guarded, Clock::now() + k_hold_wait); !claimed) {
      return claimed;
    }
  }
  const auto look = [this]() -> Result<void> {
    Step same = core_.look_at_descriptor();
    if (same.answer == Step::Answer::done) {
      same = names_inode(core_.place, core_.file);
    }
    if (same.answer == Step::Answer::other) {
      return tl::unexpected(lost_error());
    }
    if (same.answer == Step::Answer::failed) {
      return tl::unexpected(to_error(same, lock_path()));
    }
    auto reached = check_reach();
    return reached && params_.joined ? check_lock_id() : std::move(reached);
  };
  if (inside) {
    return look();
  }
  ClaimedPhase phase(*this);
  auto verified = look();
  if (!verified && verified.error().code == Errc::lost) {
    phase.end(true);
  }
  return verified;
}

Result<void> Hold::release(std::chrono::milliseconds wait) {
  if (is_inherited()) {
    return tl::unexpected(lost_error());
  }
  if (guarding_thread_.load() == this_thread()) {
    release_after_guard_ = true;
    return {};
  }
  const auto deadline = Clock::now() + wait;
  if (auto claimed = claim(HoldPhase::ending, deadline); !claimed) {
    return claimed;
  }
  return release_now(deadline);
}

Result<void> Hold::release_now(Clock::time_point deadline) {
  ClaimedPhase phase(*this);
  Result<void> released;
  if (!params_.joined) {
    auto reached = check_reach();
    released = persist([this] { return core_.try_unlink(); }, deadline);
    if (released && !reached && reached.error().code == Errc::lost) {
      released = std::move(reached);
    }
    // Asked when those who wait know already: who is gone by now has had what it waited for.
    if (released && has_waiting_mark(core_.fd(), *held_.location.lock.directory->traits)) {
      try {
        schedule_yield(key_of(held_.location));
      } catch (...) {  // only politeness is lost
      }
    }
  }
  if (released || released.error().code == Errc::lost) {
    phase.end(!released);
  }
  return released;
}

bool Hold::try_release() noexcept {
  if (leaves_file_.load()) {
    return core_.try_unlink().answer != Step::Answer::busy;
  }
  const Ending ending = core_.try_end();
  if (ending == Ending::released || ending == Ending::lost) {
    end(ending == Ending::lost);
  }
  return ending != Ending::refused;
}

void Hold::end(bool lost) noexcept {
  if (lost && !params_.joined) {
    // Where it is the paths that moved, the lock file is there still, and would keep others away from what has the
    // session's path now.
    leaves_file_ = !retry_until(Clock::now() + k_lost_patience,
                                [this] { return core_.try_unlink().answer != Step::Answer::busy; });
    discard_replaced();
  }
  if (lost && core_.owns_descriptor()) {
    // Whoever took the file away may put it back: nobody holds it then.
    (void)sys::ofd_set_lock(core_.fd(), F_UNLCK, k_witness_offset);
  }
  set_phase(HoldPhase::ended);
  remove_hold(*this);
  if (leaves_file_.load()) {  // it would count as this living process's, should its session get its path back
    try {
      keep_for_retry(shared_from_this());
    } catch (...) {  // no memory: it stays until this process ends
    }
  }
  held_.deferred_close.reset();
  if (!lost) {
    held_.file.fd.reset();  // nobody uses that of a hold that has ended
  }
  if (!params_.options->observer || !is_announced_.load()) {
    return;
  }
  try {
    notify(*params_.options, {lost ? EventKind::lost : EventKind::released, session_path(), lock_path(), held_for(),
                              std::nullopt, std::nullopt});
  } catch (...) {  // no memory to tell anybody
  }
}

Result<pid_t> Hold::spawn(const char* file, char* const argv[], char* const envp[]) {
  if (is_inherited()) {
    return tl::unexpected(lost_error());
  }
  if (params_.joined) {
    return failure(Errc::invalid_argument, "spawn", lock_path(),
                   "the hold is another process's, and only its owner can give a program the lock's witness");
  }
  const bool inside = guarding_thread_.load() == this_thread();
  if (!inside) {
    if (auto claimed = claim(HoldPhase::guarded, Clock::now() + k_hold_wait); !claimed) {
      return tl::unexpected(std::move(claimed).error());
    }
  }
  const Step looked = core_.look_at_descriptor();
  auto spawned = looked.answer == Step::Answer::done
                     ? sys::spawn_with_descriptor(core_.fd(), file, argv, envp)
                     : sys::Outcome{-1, looked.answer == Step::Answer::failed ? looked.error : EBADF};
  if (spawned.ok()) {
    is_handed_over_ = true;  // before another thread's guarded write can begin
  }
  if (!inside) {
    set_phase(HoldPhase::idle);
  }
  if (!spawned.ok()) {
    return failure(spawned.code(), "posix_spawn", file);
  }
  return static_cast<pid_t>(spawned.value);
}

bool Hold::add_share() {
  int shares = shares_.load();
  while (shares > 0 && !shares_.compare_exchange_weak(shares, shares + 1)) {
  }
  return shares > 0;
}

Result<void> Hold::drop_share(std::chrono::milliseconds wait) {
  if (is_inherited()) {
    return tl::unexpected(lost_error());
  }
  const bool is_last = --shares_ <= 0;
  try {
    if (!is_last) {
      return has_ended() ? tl::unexpected(lost_error()) : Result<void>{};
    }
    auto released = release(wait);
    if (!released && released.error().code != Errc::lost) {
      ++shares_;
    }
    return released;
  } catch (...) {  // no memory for words
    ++shares_;
    throw;
  }
}

bool Hold::abandon_share() {
  return --shares_ == 0;
}

}  // namespace sessionlock
