#include "hold/acquisition.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

#include <fmt/core.h>

#include "hold/events.hpp"
#include "hold/lock_share.hpp"
#include "hold/record_draft.hpp"
#include "hold/yielding.hpp"
#include "process/flock_holder.hpp"
#include "process/process_probe.hpp"
#include "process/this_process.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/take_over.hpp"
#include "text/duration_text.hpp"
#include "text/timestamp.hpp"
#include "verdict/explanation.hpp"
#include "verdict/failure.hpp"
#include "waiting/process_counters.hpp"

namespace sessionlock {
namespace {

/// A session path that leads elsewhere every time is not going to stand still.
constexpr int k_relocations_max = 100;
/// Looks without a pause in between, where something moved; a lock that is replaced without end is waited for like
/// another.
constexpr int k_quick_looks_max = 100;
/// How often a thread in the queue of its process looks whether the session is still the one that it queues for.
constexpr std::chrono::seconds k_queue_look_interval{1};

/// Takes back what was just published, where there is no memory for a hold of it.
void take_back(const PublishedFile& file, const Place& lock) noexcept {
  const int directory = lock.directory->fd.get();
  const InodeGuard guard = InodeGuard::enter(directory, lock.name.c_str(), file.fd.get(), file.file);
  if (guard.is_entered()) {
    (void)sys::unlinkat(directory, lock.name.c_str());
  }
}

}  // namespace

Acquisition::Acquisition(const std::shared_ptr<const ManagerOptions>& manager, const std::filesystem::path& session,
                         const AcquireOptions& options, LockNaming naming,
                         std::optional<std::chrono::milliseconds> stale_mtime)
    : manager_(manager),
      session_(session),
      options_(options),
      request_{manager, session, options, naming, RemovalPolicy(options.stale, stale_mtime), Deadline(options.timeout)},
      waiter_(parker_, deadline_, options.stop) {}

Acquisition::~Acquisition() {
  if (has_waited_) {
    const auto waited = Deadline::Clock::now() - deadline_.start();
    this_process_tally().wait_time_us +=
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(waited).count());
  }
}

Result<void> Acquisition::check_arguments() const {
  if (session_.empty()) {
    return failure(Errc::invalid_argument, "acquire", session_, "the session path is empty");
  }
  if (options_.label.size() > k_label_bytes_max) {
    return failure(Errc::invalid_argument, "acquire", session_, "the label is longer than 1 KiB");
  }
  return {};
}

Result<SessionLock> Acquisition::acquire() {
  if (auto valid = check_arguments(); !valid) {
    return tl::unexpected(std::move(valid).error());
  }
  for (int relocation = 0; relocation <= k_relocations_max; ++relocation) {
    auto lock = attempt();
    if (!lock) {
      return tl::unexpected(std::move(lock).error());
    }
    if (lock->has_value()) {
      return std::move(**lock);
    }
  }
  return failure(Errc::replaced_session, "acquire", session_, "the path led elsewhere each time the lock was held");
}

Result<std::optional<SessionLock>> Acquisition::attempt() {
  // What was taken over where the path led before was another session's, and was put back.
  taken_over_.reset();
  (void)waiter_.detach_watches();
  auto location = locate(session_, request_.locate_options(true));
  if (!location) {
    return tl::unexpected(std::move(location).error());
  }
  Ticket ticket(options_, this_thread(), waiter_.slot());
  auto answer = wait_in_queue(ticket, *location);
  if (!answer) {
    return tl::unexpected(std::move(answer).error());
  }
  if (!answer->has_value()) {
    return std::nullopt;
  }
  switch ((*answer)->kind) {
    case QueueResult::Kind::turn:
      return contend(*location, *(*answer)->turn);
    case QueueResult::Kind::shared:
      return share((*answer)->hold, *location);
    case QueueResult::Kind::self_deadlock:
      if (is_notifying(key_of(*location))) {
        return tl::unexpected(wait_inside_observer(location->lock.path()));
      }
      return failure(Errc::invalid_argument, "acquire", location->lock.path(),
                     "this thread has the lock already and would wait for itself without end; ask for a "
                     "re-entrant lock, or set a time limit");
    default:
      return tl::unexpected(give_up_in_queue(WaitResult::deadline, *location));
  }
}

Result<std::optional<QueueResult>> Acquisition::wait_in_queue(Ticket& ticket, const SessionLocation& location) {
  QueueResult answer = ticket.enter(key_of(location), deadline_);
  while (answer.kind == QueueResult::Kind::queued) {
    if (!std::exchange(has_waited_, true)) {
      ++this_process_tally().waits;
    }
    waiter_.wake_on_stop();
    const bool is_over = options_.stop.stop_requested() || deadline_.has_passed();
    const QueueLook look = is_over ? QueueLook{} : look_up_from_queue(location);
    if (is_over || look.has_moved) {
      answer = ticket.leave();
      if (answer.kind == QueueResult::Kind::queued) {
        const auto reason = options_.stop.stop_requested() ? WaitResult::cancelled : WaitResult::deadline;
        return look.has_moved ? Result<std::optional<QueueResult>>(std::nullopt)
                              : tl::unexpected(give_up_in_queue(reason, location));
      }
      break;
    }
    parker_.sleep(std::min(deadline_.end(), look.again));
    (void)waiter_.slot().take_cause();
    answer = ticket.ask();
  }
  return answer;
}

Result<std::optional<SessionLock>> Acquisition::share(const std::shared_ptr<Hold>& hold,
                                                      const SessionLocation& location) {
  SessionLock lock = SessionLockAccess::make(make_share(hold));
  SessionLockAccess::share(lock)->nested = true;
  // A thread that shares a hold has a lock, and so checks the path again like every thread that has just got one:
  // 1. A has the turn and waits for another process; B queues behind A, to share. 2. The session becomes a link.
  // 3. The other process releases: A publishes, and B has its share. 4. A finds that the session leads elsewhere.
  auto current = is_current(location, session_, request_.locate_options(false));
  if (!current) {
    return tl::unexpected(std::move(current).error());
  }
  if (!*current) {
    return std::nullopt;
  }
  hold->announce();  // the thread that published it may not have come that far
  return lock;
}

Error Acquisition::give_up_in_queue(WaitResult reason, const SessionLocation& location) {
  auto described = blocking_.describe_holder(location);
  return described ? blocking_.give_up(reason) : std::move(described).error();
}

Result<std::optional<SessionLock>> Acquisition::contend(SessionLocation& location, Turn& turn) {
  if (!deadline_.is_single_try()) {
    yield_to_waiters(location, deadline_.end(), options_.stop);
  }
  // This thread may have waited for its turn.
  if (!has_usable_descriptors(location)) {
    return std::nullopt;
  }
  while (true) {
    if (taken_over_) {
      return settle(std::move(location), turn, std::move(taken_over_->file), std::move(taken_over_->record));
    }
    if (options_.stop.stop_requested()) {
      return tl::unexpected(blocking_.give_up(WaitResult::cancelled));
    }
    auto record = draft_record(options_, location, !manager_->lock_directory.empty());
    if (!record) {
      return tl::unexpected(std::move(record).error());
    }
    auto published = publish(location.lock, *record, manager_->mode);
    if (published && published->outcome == PublishOutcome::published) {
      return settle(std::move(location), turn, std::move(*published->file), std::move(*record));
    }
    if (!published) {
      return tl::unexpected(std::move(published).error());
    }
    if (published->outcome == PublishOutcome::directory_gone) {
      return std::nullopt;
    }
    blocking_.set_file_system_now(published->file_system_now);
    auto gone = wait_until_gone(location);
    if (!gone) {
      return tl::unexpected(std::move(gone).error());
    }
    if (!*gone) {
      return std::nullopt;
    }
  }
}

/// Looks at what is in the way, takes it away or waits for it, until there is a point in publishing again.
Result<bool> Acquisition::wait_until_gone(const SessionLocation& location) {
  while (true) {
    const auto finding = blocking_.look_and_take_over(location);
    if (!finding) {
      return tl::unexpected(finding.error());
    }
    if (*finding == LookResult::taken_over) {
      taken_over_ = blocking_.take_result();
      return true;
    }
    const auto woken = wait(*finding, location);
    if (!woken) {
      return tl::unexpected(woken.error());
    }
    if (!has_usable_descriptors(location)) {
      return false;
    }
    if (*finding == LookResult::free || *woken == WaitResult::name_went) {
      return true;
    }
    // A directory that was renamed and made anew, or a link that was turned elsewhere, raises no event.
    if (auto current = is_current(location, session_, request_.locate_options(false)); !current || !*current) {
      return current;
    }
    // Where a file's age decides, only a file made just now tells the time by that file system: make another.
    if (blocking_.depends_on_age()) {
      return true;
    }
    blocking_.set_file_system_now(std::nullopt);
  }
}

/// The lock file is ours; now the session path must still lead to it.
Result<std::optional<SessionLock>> Acquisition::settle(SessionLocation&& location, Turn& turn, PublishedFile&& file,
                                                       LockRecord&& record) {
  waiter_.count_end();
  HoldParams params{.location = std::move(location),
                    .file = std::move(file),
                    .record = std::move(record),
                    .options = manager_,
                    .reentrant = options_.reentrant,
                    .max_hold = options_.max_hold,
                    .deferred_close = waiter_.detach_watches()};
  std::shared_ptr<LockShare> share;
  try {
    share = std::make_shared<LockShare>();
    params.owner = options_.owner;
    if (taken_over_) {
      params.reclaimed_from = std::make_unique<const std::optional<Inspection>>(taken_over_->former);
    }
    share->hold = std::make_shared<Hold>(std::move(params));
  } catch (...) {
    if (params.file.fd) {
      take_back(params.file, params.location.lock);
    }
    throw;
  }
  const std::shared_ptr<Hold> hold = share->hold;
  turn.hand_to(hold);
  SessionLock handle = SessionLockAccess::make(std::move(share));
  auto current = is_current(hold->location(), session_, request_.locate_options(false));
  if (!current || !*current) {
    // Between looking and locking, the path was made to lead elsewhere: this lock is on the wrong session.
    if (auto given_back = give_back(handle, hold->location()); !given_back) {
      return tl::unexpected(std::move(given_back).error());
    }
    return current ? Result<std::optional<SessionLock>>(std::nullopt) : tl::unexpected(std::move(current).error());
  }
  const auto waited = Deadline::Clock::now() - deadline_.start();
  ++this_process_tally().acquisitions;
  if (manager_->observer) {
    notify_midway(*manager_, key_of(hold->location()),
                  {EventKind::acquired, hold->session_path(), hold->lock_path(),
                   std::chrono::duration_cast<std::chrono::milliseconds>(waited),
                   taken_over_ ? std::optional(taken_over_->former) : std::nullopt, std::nullopt});
  }
  hold->announce();
  return handle;
}

Result<void> Acquisition::give_back(SessionLock& handle, const SessionLocation& location) {
  if (taken_over_) {
    // The owner that died was the other session's, whose next turn has to be told of it. Where a copy cannot be made,
    // for want of room, the lock is released all the same.
    (void)handle.guarded([&] {
      return put_back(location.lock, std::move(taken_over_->replaced), manager_->mode, *handle.record().lock_id);
    });
  }
  auto released = handle.release();
  return !released && released.error().code != Errc::lost ? released : Result<void>{};
}

/// For a thread that another of this process keeps from even trying.
Acquisition::QueueLook Acquisition::look_up_from_queue(const SessionLocation& location) noexcept {
  const auto now = Deadline::Clock::now();
  QueueLook look{.again = now + k_queue_look_interval};
  try {
    retry_failed_releases();  // it may be one of those that this thread waits for
    if (blocking_.is_report_due()) {
      (void)blocking_.describe_holder(location);  // what cannot be described now is told when the wait is over
      (void)blocking_.report_waiting(location);
    }
    if (has_looked_up_) {
      const auto current = is_current(location, session_, request_.locate_options(false));
      look.has_moved = current && !*current;  // what is wrong otherwise is told when it is this thread's turn
    }
  } catch (...) {  // no memory: the next look may have it
  }
  has_looked_up_ = true;
  return look;
}

Result<WaitResult> Acquisition::wait(LookResult finding, const SessionLocation& location) {
  // What is free, or moved, is tried at once, even when the time is over: a stale lock found on the very last try is
  // still taken.
  if (finding != LookResult::held && ++quick_looks_ < k_quick_looks_max) {
    return WaitResult::look_again;
  }
  std::optional<Deadline::Clock::time_point> report;
  if (!deadline_.is_single_try()) {
    if (is_notifying(key_of(location))) {
      return tl::unexpected(wait_inside_observer(location.lock.path()));
    }
    if (!std::exchange(has_waited_, true)) {
      ++this_process_tally().waits;
    }
    const FileSystemTraits& traits = *location.lock.directory->traits;
    if (auto watched = blocking_.take_watched(location);
        watched && waiter_.watch(std::move(*watched), blocking_.make_plan())) {
      if (wants_lock_) {
        mark_waiting(waiter_.watched_fd(), traits);
      }
      return WaitResult::look_again;
    }
    if (const auto why = waiter_.take_degradation()) {
      blocking_.report_degradation(location, *why);
    }
    report = blocking_.report_waiting(location);
  }
  const auto until = waiter_.begin_rest(report);
  if (!until) {
    return tl::unexpected(blocking_.give_up(until.error()));
  }
  parker_.sleep(*until);
  const WaitResult woken = waiter_.end_rest();
  if (woken == WaitResult::cancelled) {
    return tl::unexpected(blocking_.give_up(woken));
  }
  return woken;
}

Result<void> Acquisition::wait_until_free(const std::optional<std::string>& lock_id) {
  wants_lock_ = false;
  if (auto valid = check_arguments(); !valid) {
    return valid;
  }
  while (true) {
    auto location = locate(session_, request_.locate_options(false));
    if (!location) {
      if (location.error().code == std::errc::no_such_file_or_directory) {
        return {};
      }
      return tl::unexpected(std::move(location).error());
    }
    auto found = blocking_.look(*location);
    if (!found) {
      return tl::unexpected(std::move(found).error());
    }
    const bool is_another = lock_id && blocking_.is_another_than(*lock_id);
    if (*found == LookResult::free || is_another) {
      waiter_.count_end();
      return {};
    }
    if (const auto woken = wait(*found, *location); !woken) {
      return tl::unexpected(woken.error());
    }
  }
}

}  // namespace sessionlock
