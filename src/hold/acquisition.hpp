#pragma once

/// \file
/// One acquire from call to answer: locate, queue, publish, inspect, reclaim, wait.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include <sessionlock/options.hpp>
#include <sessionlock/session_lock.hpp>

#include "hold/lock_queue.hpp"
#include "protocol/inspector.hpp"
#include "protocol/session_location.hpp"
#include "protocol/take_over.hpp"
#include "waiting/waiter.hpp"

namespace sessionlock {

/// What a wait for a lock needs, whatever it wants in the end: to have it, or only to see it free.
class Acquisition {
 public:
  /// `stale_mtime` is for gates: `RemovalPolicy`. Lifetime: refers to its arguments until it is gone.
  Acquisition(const std::shared_ptr<const ManagerOptions>& manager, const std::filesystem::path& session,
              const AcquireOptions& options, LockNaming naming = LockNaming::beside_session,
              std::optional<std::chrono::milliseconds> stale_mtime = {});
  ~Acquisition();
  Acquisition(const Acquisition&) = delete;
  Acquisition& operator=(const Acquisition&) = delete;

  [[nodiscard]] Result<SessionLock> acquire();
  /// With an id: until it is not that acquisition any more.
  [[nodiscard]] Result<void> wait_until_free(const std::optional<std::string>& lock_id = {});

 private:
  /// What was found at the lock path, and dealt with.
  enum class Finding {
    free,        ///< Nothing is there (any more): publish.
    look_again,  ///< Something moved between look and act.
    taken_over,  ///< A dead owner's lock was there, and now `taken_over_` is.
    held
  };

  /// What a thread that still stands in a queue finds: whether it stands in the wrong one, and when to look again.
  struct QueueLook {
    bool has_moved{false};
    Deadline::Clock::time_point again{};
  };

  [[nodiscard]] LocateOptions locate_options(bool create) const;
  /// Until the ticket is answered. None: the session has moved.
  [[nodiscard]] Result<std::optional<QueueResult>> wait_in_queue(Ticket& ticket, const SessionLocation& location);
  /// A share of another thread's hold. None: it is on what the session was.
  [[nodiscard]] Result<std::optional<SessionLock>> share(const std::shared_ptr<Hold>& hold,
                                                         const SessionLocation& location);
  [[nodiscard]] Error give_up_in_queue(WaitResult reason, const SessionLocation& location);
  [[nodiscard]] Result<void> check_arguments() const;
  /// None: the session has moved; begin again.
  [[nodiscard]] Result<std::optional<SessionLock>> attempt();
  /// Takes the location over once the lock is held.
  [[nodiscard]] Result<std::optional<SessionLock>> contend(SessionLocation& location, Turn& turn);
  [[nodiscard]] Result<std::optional<SessionLock>> settle(SessionLocation&& location, Turn& turn, PublishedFile&& file,
                                                          LockRecord&& record);
  [[nodiscard]] Result<Finding> look(const SessionLocation& location, bool may_take_over);
  [[nodiscard]] Result<Finding> take_over_stale(const SessionLocation& location, PinnedLock& pinned,
                                                const Inspection& inspection, const InspectionContext& context);
  /// Gives a lock on the wrong session back.
  [[nodiscard]] Result<void> give_back(SessionLock& handle, const SessionLocation& location);
  /// False: the session leads elsewhere by now.
  [[nodiscard]] Result<bool> wait_until_gone(const SessionLocation& location);
  /// Waits before the next look, or says why there is to be none.
  [[nodiscard]] Result<WaitResult> wait(Finding finding, const SessionLocation& location);
  [[nodiscard]] WatchPlan make_plan() const;
  /// Tells the observer what the wait is for; says when to tell it again.
  [[nodiscard]] std::optional<Deadline::Clock::time_point> report_waiting(const SessionLocation& location);
  [[nodiscard]] QueueLook look_up_from_queue(const SessionLocation& location) noexcept;
  [[nodiscard]] Error give_up(WaitResult reason);
  [[nodiscard]] Result<void> describe_holder(const SessionLocation& location);

  const std::shared_ptr<const ManagerOptions>& manager_;
  const std::filesystem::path& session_;
  const AcquireOptions& options_;
  const LockNaming naming_;
  const RemovalPolicy policy_;
  const Deadline deadline_;
  Parker parker_{};
  Waiter waiter_;
  std::optional<WallTime> file_system_now_{};
  UnchangedTime unchanged_{};
  /// The last one seen in the way.
  std::optional<Inspection> holder_{};
  /// The process that has the pid of the last one seen.
  ProcessProbe owner_{};
  /// The lock it is about, until the waiter takes it to watch.
  std::optional<PinnedLock> in_the_way_{};
  /// Whose `flock` was found taken.
  std::optional<FileIdentity> busy_{};
  /// What has replaced a stale lock, with the record that is in it.
  struct TakenOver {
    PublishedFile file;
    LockRecord record;
    PinnedInode replaced;
  };
  std::optional<TakenOver> taken_over_{};
  std::optional<Inspection> reclaimed_from_{};
  bool wants_lock_{true};
  int quick_looks_{0};
  bool has_waited_{false};
  bool has_looked_up_{false};
  std::optional<Deadline::Clock::time_point> next_report_{};
  std::chrono::seconds report_interval_{0};
};

}  // namespace sessionlock
