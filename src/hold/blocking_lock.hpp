#pragma once

/// \file
/// What is in the way of an acquire: looks at the lock, takes a dead owner's over, and says what its waiters need to
/// know. Never waits, and does not know what an acquire does next.

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include <sessionlock/options.hpp>

#include "protocol/inspector.hpp"
#include "protocol/session_location.hpp"
#include "protocol/take_over.hpp"
#include "waiting/waiter.hpp"

namespace sessionlock {

/// What a caller wants. Lifetime: refers to the arguments of the call.
struct LockRequest {
  const std::shared_ptr<const ManagerOptions>& manager;
  const std::filesystem::path& session;
  const AcquireOptions& options;
  LockNaming naming{LockNaming::beside_session};
  RemovalPolicy policy;
  Deadline deadline;

  [[nodiscard]] LocateOptions locate_options(bool create_directories) const {
    return {manager->lock_directory, create_directories, options.allow_hard_links, naming};
  }
};

/// A lock of the caller's that has replaced a dead owner's.
struct TakenOver {
  PublishedFile file;
  /// As in the file.
  LockRecord record;
  /// What was known of the dead owner's; never null, and never none.
  std::unique_ptr<std::optional<Inspection>> former;
};

/// What a look at the lock path has found, and dealt with.
enum class LookResult {
  free,        ///< Nothing is there (any more), or a stale lock that was only looked at.
  changed,     ///< It changed between look and act: look again.
  taken_over,  ///< A dead owner's lock was there; `take_result` has what replaced it.
  held
};

/// The lock in the way of one acquire, or of one wait until it is free, across all looks at it.
/// Thread safety: for one thread. Lifetime: shorter than the request's.
class BlockingLock {
 public:
  explicit BlockingLock(const LockRequest& request) noexcept : request_(request) {}

  /// Errors: `not_a_lock_file`, and those of `pin`.
  [[nodiscard]] Result<LookResult> look(const SessionLocation& location);
  /// The same, and takes a stale lock over. Errors: those of `take_over`, too.
  [[nodiscard]] Result<LookResult> look_and_take_over(const SessionLocation& location);
  /// Where `taken_over` was found.
  [[nodiscard]] TakenOver take_result();
  /// For a caller that another thread of this process keeps from the lock: that thread's lock, or, where it has no file
  /// yet or its file is just going, what is known of it without one. Errors: those of `look`.
  [[nodiscard]] Result<void> describe_holder(const SessionLocation& location);

  /// The time by the lock's file system, where a file was made just now.
  void set_file_system_now(std::optional<WallTime> now) noexcept { file_system_now_ = now; }
  /// Whether the file's age decided. The time by its file system is only known of a file made just now.
  [[nodiscard]] bool depends_on_age() const { return holder_ && holder_->file_age; }
  /// Whether the lock that was seen last is another acquisition's.
  [[nodiscard]] bool is_another_than(const std::string& lock_id) const;

  /// The lock that was found held at the last look; once. None: none was.
  [[nodiscard]] std::optional<WatchedFile> take_watched(const SessionLocation& location);
  /// What can be known of its end.
  [[nodiscard]] WatchPlan make_plan() const;
  /// Tells the observer what the wait is for, if that is due; returns when to tell it again.
  [[nodiscard]] std::optional<Deadline::Clock::time_point> report_waiting(const SessionLocation& location);
  /// Whether `report_waiting` would tell an observer now.
  [[nodiscard]] bool is_report_due() const;
  /// Tells the observer that the wait has to poll.
  void report_degradation(const SessionLocation& location, std::error_code why) const;
  /// The answer to a caller that gives up, for `deadline` or `cancelled`.
  [[nodiscard]] Error give_up(WaitResult reason) const;

 private:
  [[nodiscard]] Result<LookResult> look_at(const SessionLocation& location, bool may_take_over);
  [[nodiscard]] Result<LookResult> take_over_stale(const SessionLocation& location, PinnedLock& pinned,
                                                   Inspection&& inspection, const InspectionContext& context);

  const LockRequest& request_;
  std::optional<WallTime> file_system_now_{};
  UnchangedTime unchanged_{};
  /// The last one seen in the way.
  std::optional<Inspection> holder_{};
  /// The process that has the pid of the last one seen.
  ProcessProbe owner_{};
  /// The lock that was found held, until a waiter takes it to watch.
  std::optional<PinnedLock> pinned_{};
  /// Whose `flock` was found taken.
  std::optional<FileIdentity> busy_{};
  std::optional<TakenOver> taken_over_{};
  std::optional<Deadline::Clock::time_point> next_report_{};
  std::chrono::seconds report_interval_{0};
};

}  // namespace sessionlock
