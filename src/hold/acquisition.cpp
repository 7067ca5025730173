#include "hold/acquisition.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "hold/events.hpp"
#include "hold/record_draft.hpp"
#include "hold/yielding.hpp"
#include "protocol/take_over.hpp"
#include "verdict/failure.hpp"
#include "waiting/process_counters.hpp"

namespace sessionlock {
namespace {

using Clock = Deadline::Clock;

/// A session path that leads elsewhere every time is not going to stand still.
constexpr int k_relocations_max = 100;
/// Looks without a pause in between, where something moved; a lock that is replaced without end is waited for like
/// another.
constexpr int k_immediate_retries_max = 100;
/// How often a thread in the queue of its process looks whether the session is still the one that it queues for.
constexpr std::chrono::seconds k_queue_look_interval{1};
/// Between two tries to give a lock back that another process is just judging.
constexpr std::chrono::milliseconds k_give_back_pause{5};

}  // namespace

Acquisition::Acquisition(const std::shared_ptr<const ManagerOptions>& manager, const std::filesystem::path& session,
                         const AcquireOptions& options, LockNaming naming,
                         std::optional<std::chrono::milliseconds> stale_mtime)
    : request_{manager, session, options, naming, RemovalPolicy(options.stale, stale_mtime), Deadline(options.timeout)},
      waiter_(parker_, request_.deadline, options.stop) {}

Acquisition::~Acquisition() {
  if (has_waited_) {
    const auto waited = Clock::now() - request_.deadline.start();
    this_process_tally().wait_time_us +=
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(waited).count());
  }
}

Result<SessionLock> Acquisition::acquire() {
  run();
  return take();
}

Result<void> Acquisition::wait_until_free(const std::optional<std::string>& lock_id) {
  goal_ = Goal::see_it_free;
  lock_id_ = lock_id;
  run();
  return error_ ? tl::unexpected(std::move(*error_)) : Result<void>{};
}

Result<SessionLock> Acquisition::take() {
  return error_ ? tl::unexpected(std::move(*error_)) : Result<SessionLock>(std::move(lock_));
}

void Acquisition::run() {
  while (!advance()) {
    parker_.sleep(*rests_until_);
  }
}

bool Acquisition::advance() {
  rests_until_.reset();
  if (stage_ != Stage::wake) {       // which asks for the causes itself
    waiter_.slot().forget_causes();  // a wake from now on, even before the next rest, ends that
  }
  while (stage_ != Stage::ended && !rests_until_) {
    stage_ = run_stage();
  }
  return stage_ == Stage::ended;
}

Acquisition::Stage Acquisition::run_stage() {
  switch (stage_) {
    case Stage::locate:
      return locate_session();
    case Stage::queue:
      return queue();
    case Stage::yield:
      return yield();
    case Stage::publish:
      return publish_lock();
    case Stage::look:
      return look_at_lock();
    case Stage::rest:
      return rest();
    case Stage::wake:
      return wake();
    case Stage::give_back:
      return give_back();
    case Stage::ended:
      break;
  }
  return Stage::ended;
}

Acquisition::Stage Acquisition::rest_until(Clock::time_point until, Stage next) {
  rests_until_ = until;
  has_rested_ = true;
  return next;
}

Acquisition::Stage Acquisition::fail(Error error) {
  error_ = std::move(error);
  turn_.reset();
  return Stage::ended;
}

Acquisition::Stage Acquisition::relocate() {
  if (++relocations_ > k_relocations_max) {
    return fail({Errc::replaced_session,
                 "acquire",
                 request_.session,
                 {},
                 "the path led elsewhere each time the lock was held"});
  }
  ticket_.reset();
  turn_.reset();
  (void)waiter_.detach_watches();
  return Stage::locate;
}

// locate: where the session and its lock are, after all links

Result<void> Acquisition::check_arguments() const {
  if (request_.session.empty()) {
    return failure(Errc::invalid_argument, "acquire", request_.session, "the session path is empty");
  }
  if (request_.options.label.size() > k_label_bytes_max) {
    return failure(Errc::invalid_argument, "acquire", request_.session, "the label is longer than 1 KiB");
  }
  return check_mode(request_.manager->mode, "acquire", request_.session);
}

Acquisition::Stage Acquisition::locate_session() {
  if (auto valid = check_arguments(); !valid) {
    return fail(std::move(valid).error());
  }
  auto location = locate(request_.session, request_.locate_options(goal_ == Goal::acquire));
  if (location) {
    location_ = std::move(*location);
    return goal_ == Goal::acquire ? Stage::queue : Stage::look;
  }
  const bool is_missing = location.error().code == std::errc::no_such_file_or_directory;
  return goal_ == Goal::see_it_free && is_missing ? Stage::ended : fail(std::move(location).error());
}

// queue: behind the other threads of this process

Acquisition::Stage Acquisition::queue() {
  if (!ticket_) {
    ticket_.emplace(request_.options, this_thread(), waiter_.slot());
    QueueResult answer = ticket_->enter(key_of(*location_), request_.deadline);
    if (answer.kind != QueueResult::Kind::queued) {
      return admit(std::move(answer));
    }
    count_wait();
    waiter_.wake_on_stop();
  }
  QueueResult answer = ticket_->ask();
  if (answer.kind != QueueResult::Kind::queued) {
    return admit(std::move(answer));
  }
  const bool is_cancelled = request_.options.stop.stop_requested();
  const bool is_over = is_cancelled || request_.deadline.has_passed();
  const auto next_look = Clock::now() + k_queue_look_interval;
  if (!is_over && still_leads_here_from_queue()) {
    return rest_until(std::min(request_.deadline.end(), next_look), Stage::queue);
  }
  answer = ticket_->leave();
  if (answer.kind != QueueResult::Kind::queued) {
    return admit(std::move(answer));
  }
  return is_over ? give_up_in_queue(is_cancelled ? WaitResult::cancelled : WaitResult::deadline) : relocate();
}

bool Acquisition::still_leads_here_from_queue() noexcept {
  bool leads_here = true;
  try {
    retry_failed_releases();  // it may be one of those that this thread waits for
    if (blocking_.is_report_due()) {
      (void)blocking_.describe_holder(*location_);  // what cannot be described now is told when the wait is over
      (void)blocking_.report_waiting(*location_);
    }
    if (has_looked_from_queue_) {
      const auto current = is_current(*location_, request_.session, request_.locate_options(false));
      leads_here = !current || *current;  // what is wrong otherwise is told when it is this thread's turn
    }
  } catch (...) {  // no memory: the next look may have it
  }
  has_looked_from_queue_ = true;
  // An observer may fork here, and let the child go on in its place: it queues anew, in its own process.
  return leads_here && !ticket_->is_inherited();
}

Acquisition::Stage Acquisition::give_up_in_queue(WaitResult reason) {
  auto described = blocking_.describe_holder(*location_);
  return fail(described ? blocking_.give_up(reason) : std::move(described).error());
}

Acquisition::Stage Acquisition::admit(QueueResult&& answer) {
  const HoldKeyView key = key_of(*location_);
  switch (answer.kind) {
    case QueueResult::Kind::turn:
      turn_ = std::move(answer.turn);
      ticket_.reset();
      if (!request_.deadline.is_single_try()) {
        yield_end_ = take_pending_yield(key);
      }
      return Stage::yield;
    case QueueResult::Kind::shared:
      return share(answer.hold);
    case QueueResult::Kind::self_deadlock:
      return fail(is_notifying(key)
                      ? wait_inside_observer(location_->lock.path())
                      : Error{Errc::invalid_argument,
                              "acquire",
                              location_->lock.path(),
                              {},
                              "this thread has the lock already and would wait for itself without end; ask for a "
                              "re-entrant lock, or set a time limit"});
    default:
      return give_up_in_queue(WaitResult::deadline);
  }
}

Acquisition::Stage Acquisition::share(const std::shared_ptr<Hold>& hold) {
  auto made = make_share(hold);
  is_nested_ = true;
  lock_ = SessionLockAccess::make(std::move(made));
  // A thread that shares a hold has a lock, and so checks the path again like every thread that has just got one:
  // 1. A has the turn and waits for another process; B queues behind A, to share. 2. The session becomes a link.
  // 3. The other process releases: A publishes, and B has its share. 4. A finds that the session leads elsewhere.
  auto current = is_current(*location_, request_.session, request_.locate_options(false));
  if (!current || !*current) {
    return begin_give_back(std::move(current));
  }
  // The thread that published it may not have come that far, or fail on the way.
  SessionLockAccess::share(lock_)->is_told = hold->announce();
  return Stage::ended;
}

// yield: to other processes that waited for a lock that this one has released

Acquisition::Stage Acquisition::yield() {
  if (yield_end_) {
    const auto end = std::min(*yield_end_, request_.deadline.end());
    if (const auto next_look = continue_yield(*location_, end, request_.options.stop)) {
      return rest_until(*next_look, Stage::yield);
    }
    yield_end_.reset();
  }
  // A thread that waited for its turn may have lost descriptors meanwhile; what was just opened needs no second look.
  return !has_rested_ || has_usable_descriptors(*location_) ? Stage::publish : relocate();
}

// publish: a complete lock under a name that must not exist yet

Acquisition::Stage Acquisition::publish_lock() {
  const ManagerOptions& manager = *request_.manager;
  if (request_.options.stop.stop_requested()) {
    return fail(blocking_.give_up(WaitResult::cancelled));
  }
  reserve();
  auto record = draft_record(request_.options, *location_, !manager.lock_directory.empty());
  if (!record) {
    return fail(std::move(record).error());
  }
  auto published = publish(location_->lock, *record, lock_permissions(*location_, manager.mode));
  if (!published) {
    return fail(std::move(published).error());
  }
  switch (published->outcome) {
    case PublishOutcome::published:
      return complete(std::move(*published->file), std::move(*record));
    case PublishOutcome::directory_gone:
      return relocate();
    case PublishOutcome::contended:
      break;
  }
  blocking_.set_file_system_now(published->file_system_now);
  return Stage::look;
}

// look: what is in the way, and take it over if it is a dead owner's

Acquisition::Stage Acquisition::look_at_lock() {
  const auto found = goal_ == Goal::acquire ? blocking_.look_and_take_over(*location_) : blocking_.look(*location_);
  if (!found) {
    return fail(found.error());
  }
  found_ = *found;
  if (found_ == LookResult::taken_over) {
    TakenOver taken = blocking_.take_result();
    reclaimed_from_ = std::move(taken.former);
    return complete(std::move(taken.file), std::move(taken.record));
  }
  const bool is_another = lock_id_ && blocking_.is_another_than(*lock_id_);
  if (goal_ == Goal::see_it_free && (found_ == LookResult::free || is_another)) {
    waiter_.count_end();
    return Stage::ended;
  }
  // What is free, or has changed, is tried at once, even when the time is over: a stale lock found on the very last try
  // is still taken.
  return found_ == LookResult::held || ++immediate_retries_ >= k_immediate_retries_max ? Stage::rest
                                                                                       : retry(WaitResult::look_again);
}

Acquisition::Stage Acquisition::retry(WaitResult woken) {
  if (goal_ == Goal::see_it_free) {
    return Stage::locate;
  }
  if (!has_usable_descriptors(*location_)) {
    return relocate();
  }
  if (found_ == LookResult::free || woken == WaitResult::name_went) {
    return Stage::publish;
  }
  // A directory that was renamed and made anew, or a link that was turned elsewhere, raises no event.
  auto current = is_current(*location_, request_.session, request_.locate_options(false));
  if (!current) {
    return fail(std::move(current).error());
  }
  if (!*current) {
    return relocate();
  }
  if (blocking_.depends_on_age()) {
    return Stage::publish;  // the time by its file system is that of the file made for it
  }
  blocking_.set_file_system_now(std::nullopt);
  return Stage::look;
}

// rest: until the lock may have changed

Acquisition::Stage Acquisition::rest() {
  std::optional<Clock::time_point> report;
  if (!request_.deadline.is_single_try()) {
    if (is_notifying(key_of(*location_))) {
      return fail(wait_inside_observer(location_->lock.path()));
    }
    count_wait();
    if (watch_and_mark()) {
      return retry(WaitResult::look_again);
    }
    if (const auto why = waiter_.take_degradation()) {
      blocking_.report_degradation(*location_, *why);
    }
    report = blocking_.report_waiting(*location_);
  }
  const auto until = waiter_.begin_rest(report);
  return until ? rest_until(*until, Stage::wake) : fail(blocking_.give_up(until.error()));
}

bool Acquisition::watch_and_mark() {
  auto watched = blocking_.take_watched(*location_);
  if (!watched || !waiter_.watch(std::move(*watched), blocking_.make_plan())) {
    return false;
  }
  if (goal_ == Goal::acquire) {
    mark_waiting(waiter_.watched_fd(), *location_->lock.directory->traits);
  }
  return true;
}

void Acquisition::count_wait() {
  if (!std::exchange(has_waited_, true)) {
    ++this_process_tally().waits;
  }
}

Acquisition::Stage Acquisition::wake() {
  const WaitResult woken = waiter_.end_rest();
  return woken == WaitResult::cancelled ? fail(blocking_.give_up(woken)) : retry(woken);
}

// the lock is held

void Acquisition::reserve() {
  if (!reserved_) {
    const AcquireOptions& options = request_.options;
    auto share = std::make_shared<LockShare>();
    share->hold = std::make_shared<Hold>(HoldParams{.options = request_.manager,
                                                    .owner = options.owner,
                                                    .reentrant = options.reentrant,
                                                    .max_hold = options.max_hold});
    reserved_ = std::move(share);
  }
}

Acquisition::Stage Acquisition::complete(PublishedFile&& file, LockRecord&& record) {
  waiter_.count_end();
  const std::shared_ptr<Hold> hold = reserved_->hold;
  hold->begin({.location = std::move(*location_),
               .file = std::move(file),
               .record = std::move(record),
               .reclaimed_from = std::move(reclaimed_from_),
               .deferred_close = waiter_.detach_watches()});
  lock_ = SessionLockAccess::make(std::move(reserved_));
  is_nested_ = false;
  turn_->hand_to(hold);
  turn_.reset();
  auto current = is_current(hold->location(), request_.session, request_.locate_options(false));
  if (!current || !*current) {
    return begin_give_back(std::move(current));
  }
  ++this_process_tally().acquisitions;
  report_acquired(*hold);
  // Last, because it discards what was taken over, which nothing can put back then.
  SessionLockAccess::share(lock_)->is_told = hold->announce();
  return Stage::ended;
}

void Acquisition::report_acquired(const Hold& hold) const {
  if (!request_.manager->observer) {
    return;
  }
  const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - request_.deadline.start());
  const std::optional<Inspection>* reclaimed = hold.reclaimed_from();
  notify_midway(*request_.manager, key_of(hold.location()),
                {EventKind::acquired, hold.session_path(), hold.lock_path(), waited,
                 reclaimed != nullptr ? *reclaimed : std::optional<Inspection>(), std::nullopt});
}

// give_back: between looking and locking, the path was made to lead elsewhere, and this lock is on the wrong session

Acquisition::Stage Acquisition::begin_give_back(Result<bool>&& current) {
  if (!current) {
    error_ = std::move(current).error();
  }
  give_back_end_ = Clock::now() + k_hold_wait;
  return Stage::give_back;
}

Acquisition::Stage Acquisition::give_back() {
  constexpr std::chrono::milliseconds k_no_wait{0};
  LockShare& share = *SessionLockAccess::share(lock_);
  const bool may_retry = Clock::now() < give_back_end_;
  auto released = share.release(k_no_wait);
  if (!released && released.error().code == Errc::timed_out && may_retry) {
    return rest_until(Clock::now() + k_give_back_pause, Stage::give_back);
  }
  if (!released && released.error().code != Errc::lost) {
    abandon(share, released.error());
    if (!is_nested_) {
      error_ = std::move(released).error();
    }
  }
  lock_ = {};
  return error_ ? fail(std::move(*error_)) : relocate();
}

}  // namespace sessionlock
