#include "hold/blocking_lock.hpp"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "hold/events.hpp"
#include "hold/lock_queue.hpp"
#include "hold/record_draft.hpp"
#include "process/flock_holder.hpp"
#include "process/this_process.hpp"
#include "text/duration_text.hpp"
#include "verdict/explanation.hpp"
#include "verdict/failure.hpp"
#include "waiting/process_counters.hpp"

namespace sessionlock {
namespace {

/// How often an observer is told that the wait goes on.
constexpr std::chrono::seconds k_report_interval_min{2};
constexpr std::chrono::seconds k_report_interval_max{10};

std::string timeout_words(std::chrono::milliseconds timeout) {
  return "timeout " + format_limit(std::max(timeout, std::chrono::milliseconds{0}));
}

}  // namespace

Result<LookResult> BlockingLock::look(const SessionLocation& location) {
  return look_at(location, false);
}

Result<LookResult> BlockingLock::look_and_take_over(const SessionLocation& location) {
  return look_at(location, true);
}

Result<LookResult> BlockingLock::look_at(const SessionLocation& location, bool may_take_over) {
  busy_.reset();
  pinned_.reset();
  auto pinned = pin(location.lock);
  if (!pinned) {
    return tl::unexpected(std::move(pinned).error());
  }
  if (!pinned->has_value()) {
    return LookResult::free;
  }
  owner_ = {};
  const InspectionContext context{request_.policy, is_held_here, file_system_now_, &unchanged_,
                                  [this](pid_t pid) { return owner_ = probe_process(pid); }};
  Inspection inspection = judge(**pinned, location.lock, context);
  inspection.session_path = location.session.path();
  if (inspection.basis == Basis::not_a_lock) {
    return failure(Errc::not_a_lock_file, "acquire", location.lock.path(), std::string(not_a_lock_words()));
  }
  if (inspection.owner == OwnerState::unknown) {
    ++this_process_tally().unknown_verdicts;
  }
  if (inspection.removable && !may_take_over) {
    return LookResult::free;
  }
  Result<LookResult> found = LookResult::held;
  if (inspection.removable) {
    found = take_over_stale(location, **pinned, std::move(inspection), context);
  } else {
    holder_ = std::move(inspection);
  }
  if (found && *found == LookResult::held) {
    pinned_ = std::move(**pinned);
  }
  return found;
}

Result<LookResult> BlockingLock::take_over_stale(const SessionLocation& location, PinnedLock& pinned,
                                                 Inspection&& inspection, const InspectionContext& context) {
  const ManagerOptions& manager = *request_.manager;
  auto record = draft_record(request_.options, location, !manager.lock_directory.empty());
  if (!record) {
    return tl::unexpected(std::move(record).error());
  }
  // Made before there is a lock to report it with.
  auto former = std::make_unique<std::optional<Inspection>>(std::move(inspection));
  auto taken = take_over(location.lock, pinned, **former, context,
                         lock_publication(location.lock, *record, lock_permissions(location, manager.mode)));
  if (!taken) {
    return tl::unexpected(std::move(taken).error());
  }
  switch (taken->outcome) {
    case Reclaim::done:
      if (!(*former)->reasons.empty()) {
        ++this_process_tally().reclaims[static_cast<std::size_t>((*former)->reasons.front())];
      }
      taken_over_ = TakenOver{std::move(*taken->file), std::move(*record), std::move(former)};
      return LookResult::taken_over;
    case Reclaim::busy:
      // Another reclaimer is at it. A stopped one delays us until it is continued or killed.
      busy_ = pinned.file;
      holder_ = std::move(*former);
      return LookResult::held;
    case Reclaim::spared:
      holder_ = std::move(*former);
      return LookResult::held;
    case Reclaim::replaced:
      break;
  }
  return LookResult::changed;
}

TakenOver BlockingLock::take_result() {
  return *std::exchange(taken_over_, std::nullopt);
}

Result<void> BlockingLock::describe_holder(const SessionLocation& location) {
  auto found = look(location);
  pinned_.reset();
  if (!found) {
    return tl::unexpected(std::move(found).error());
  }
  if (*found == LookResult::free) {
    holder_ = free_lock(location.lock);
    holder_->session_path = location.session.path();
    holder_->state = LockState::held;
    holder_->owner = OwnerState::alive;
    holder_->basis = Basis::held_here;
    holder_->record.pid = this_identity().pid;
    holder_->pid_alive = true;
  }
  return {};
}

bool BlockingLock::is_another_than(const std::string& lock_id) const {
  return holder_ && holder_->record.lock_id && holder_->record.lock_id != lock_id;
}

std::optional<WatchedFile> BlockingLock::take_watched(const SessionLocation& location) {
  if (!pinned_) {
    return std::nullopt;
  }
  WatchedFile watched{std::move(pinned_->fd), pinned_->file, location.lock.directory->traits->local};
  pinned_.reset();
  return watched;
}

WatchPlan BlockingLock::make_plan() const {
  WatchPlan plan;
  plan.poll_briefly = busy_.has_value();
  if (!holder_) {
    return plan;
  }
  const Inspection& holder = *holder_;
  // The pid of a dead owner whose heir has the witness may have been given to a stranger.
  const bool is_stranger =
      holder.record.starttime && owner_.start_time_ticks && *holder.record.starttime != *owner_.start_time_ticks;
  const bool owner_lives = holder.pid_alive && !is_stranger;
  if (owner_lives && holder.basis != Basis::held_here) {
    plan.owner = holder.record.pid;
  } else if (holder.basis == Basis::digits) {
    plan.owner = holder.digits_pid;
  }
  // No event reports the end of a dead owner's last heir, nor that of an owner that cannot be seen from here.
  plan.expect_no_event = holder.basis == Basis::unreadable || holder.basis == Basis::undecided ||
                         holder.basis == Basis::no_pid ||  // its writer is about to name it, without an event either
                         holder.basis == Basis::witness_inherited ||
                         (holder.basis == Basis::witness_held && !owner_lives);
  plan.due = time_until_removable(holder, request_.policy);
  return plan;
}

bool BlockingLock::is_report_due() const {
  return request_.manager->observer && (!next_report_ || Deadline::Clock::now() >= *next_report_);
}

std::optional<Deadline::Clock::time_point> BlockingLock::report_waiting(const SessionLocation& location) {
  if (!holder_ || !request_.manager->observer) {
    return std::nullopt;
  }
  if (is_report_due()) {
    const EventKind kind = next_report_ ? EventKind::waiting : EventKind::contended;
    const auto now = Deadline::Clock::now();
    const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(now - request_.deadline.start());
    report_interval_ = std::clamp(report_interval_ * 2, k_report_interval_min, k_report_interval_max);
    next_report_ = now + report_interval_;
    notify_midway(*request_.manager, key_of(location),
                  {kind, holder_->session_path, holder_->lock_path, waited, holder_, std::nullopt});
  }
  return next_report_;
}

void BlockingLock::report_degradation(const SessionLocation& location, std::error_code why) const {
  notify_midway(*request_.manager, key_of(location),
                {EventKind::degraded,
                 location.session.path(),
                 location.lock.path(),
                 {},
                 std::nullopt,
                 Error{why, "watch lock", location.lock.path(), std::nullopt, "the wait has to poll"}});
}

Error BlockingLock::give_up(WaitResult reason) const {
  Error error{Errc::timed_out, "acquire", request_.session, holder_, {}};
  if (holder_) {
    error.path = holder_->lock_path;
  }
  if (reason == WaitResult::cancelled) {
    error.code = Errc::cancelled;
    return error;
  }
  if (request_.deadline.is_single_try()) {
    error.code = Errc::locked;
  }
  error.detail = timeout_words(request_.deadline.timeout());
  if (const auto pid = busy_ ? flock_holder(*busy_) : std::nullopt) {
    error.detail += fmt::format("; pid {} has the lock file locked and may be stopped", *pid);
  }
  return error;
}

}  // namespace sessionlock
