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

#include "hold/blocking_lock.hpp"
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
  /// What a thread that still stands in a queue finds: whether it stands in the wrong one, and when to look again.
  struct QueueLook {
    bool has_moved{false};
    Deadline::Clock::time_point again{};
  };

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
  /// Gives a lock on the wrong session back.
  [[nodiscard]] Result<void> give_back(SessionLock& handle, const SessionLocation& location);
  /// False: the session leads elsewhere by now.
  [[nodiscard]] Result<bool> wait_until_gone(const SessionLocation& location);
  /// Waits before the next look, or says why there is to be none.
  [[nodiscard]] Result<WaitResult> wait(LookResult finding, const SessionLocation& location);
  [[nodiscard]] QueueLook look_up_from_queue(const SessionLocation& location) noexcept;

  const std::shared_ptr<const ManagerOptions>& manager_;
  const std::filesystem::path& session_;
  const AcquireOptions& options_;
  const LockRequest request_;
  const Deadline& deadline_{request_.deadline};
  Parker parker_{};
  Waiter waiter_;
  BlockingLock blocking_{request_};
  std::optional<TakenOver> taken_over_{};
  bool wants_lock_{true};
  int quick_looks_{0};
  bool has_waited_{false};
  bool has_looked_up_{false};
};

}  // namespace sessionlock
