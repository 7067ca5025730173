#pragma once

/// \file
/// One acquire, or one wait until a lock is free, as a machine that never sleeps: its thread does, whenever it rests.
///
///     locate ──► queue ──► yield ──► publish ──────────────► ended
///       ▲          │                  ▲  │                    ▲
///       │          │ shared           │  ▼      taken over    │
///       │          │                  │ look ─────────────────┤
///       │ moved    │                  │  ▲ │ held             │
///       │          │                  │  │ ▼                  │
///       │          │                 wake ◄── rest            │
///       │          └──────────────────────────────────────────┤
///       └── give_back ◄── the path leads elsewhere by then ───┘

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <sessionlock/options.hpp>
#include <sessionlock/session_lock.hpp>

#include "hold/blocking_lock.hpp"
#include "hold/lock_queue.hpp"
#include "hold/lock_share.hpp"
#include "protocol/session_location.hpp"
#include "waiting/waiter.hpp"

namespace sessionlock {

/// See the file comment. Each stage is one function, which does what can be done at once and says which stage comes
/// next. Thread safety: for one thread, but for `slot().wake()`.
class Acquisition {
 public:
  enum class Stage { locate, queue, yield, publish, look, rest, wake, give_back, ended };

  /// `stale_mtime` is for gates: `RemovalPolicy`. Lifetime: refers to its arguments until it is gone.
  Acquisition(const std::shared_ptr<const ManagerOptions>& manager, const std::filesystem::path& session,
              const AcquireOptions& options, LockNaming naming = LockNaming::beside_session,
              std::optional<std::chrono::milliseconds> stale_mtime = {});
  ~Acquisition();
  Acquisition(const Acquisition&) = delete;
  Acquisition& operator=(const Acquisition&) = delete;

  /// Goes through the machine to its end on the calling thread. Once. Blocking: until the deadline.
  [[nodiscard]] Result<SessionLock> acquire();
  /// The same for a wait that acquires nothing. With an id: until the lock is not that acquisition's any more.
  [[nodiscard]] Result<void> wait_until_free(const std::optional<std::string>& lock_id = {});

  /// Goes on until it has ended (true), or has to rest: until `slot` is woken, or `rests_until`.
  [[nodiscard]] bool advance();
  [[nodiscard]] Stage stage() const noexcept { return stage_; }
  /// Precondition: `advance` has just said that it has to rest.
  [[nodiscard]] Deadline::Clock::time_point rests_until() const { return *rests_until_; }
  [[nodiscard]] WaitSlot& slot() noexcept { return waiter_.slot(); }
  /// The answer of an acquire that has ended; once.
  [[nodiscard]] Result<SessionLock> take();

 private:
  enum class Goal { acquire, see_it_free };

  [[nodiscard]] Stage run_stage();
  [[nodiscard]] Stage locate_session();
  [[nodiscard]] Stage queue();
  [[nodiscard]] Stage yield();
  [[nodiscard]] Stage publish_lock();
  [[nodiscard]] Stage look_at_lock();
  [[nodiscard]] Stage rest();
  [[nodiscard]] Stage wake();
  [[nodiscard]] Stage give_back();

  /// What a stage ends with, besides naming the next one.
  [[nodiscard]] Stage rest_until(Deadline::Clock::time_point until, Stage next);
  [[nodiscard]] Stage fail(Error error);
  /// The session leads elsewhere now: begins anew.
  [[nodiscard]] Stage relocate();

  [[nodiscard]] Result<void> check_arguments() const;
  /// Goes on with the queue's answer.
  [[nodiscard]] Stage admit(QueueResult&& answer);
  /// Goes on with a share of another thread's hold.
  [[nodiscard]] Stage share(const std::shared_ptr<Hold>& hold);
  /// Whether the session still leads to where its lock was waited for, seen from the queue now and then. Tells the
  /// observer too, since this thread is kept from even trying.
  [[nodiscard]] bool still_leads_here_from_queue() noexcept;
  [[nodiscard]] Stage give_up_in_queue(WaitResult reason);
  /// Watches what was found, and marks it. True if that is new.
  [[nodiscard]] bool watch_and_mark();
  /// Goes on when the lock in the way may have changed.
  [[nodiscard]] Stage retry(WaitResult woken);
  /// Makes what a lock needs once it is held, so that no file is published for which there is no memory.
  void reserve();
  /// The lock file is ours; now the session's path must still lead to it.
  [[nodiscard]] Stage complete(PublishedFile&& file, LockRecord&& record);
  void report_acquired(const Hold& hold) const;
  /// Goes on with a lock that is held already, and turned out to be on what the session was.
  [[nodiscard]] Stage begin_give_back(Result<bool>&& current);
  void count_wait();
  void run();

  const LockRequest request_;
  Goal goal_{Goal::acquire};
  /// Of the acquisition that is waited for, where there is one.
  std::optional<std::string> lock_id_{};
  Parker parker_{};
  Waiter waiter_;
  BlockingLock blocking_{request_};

  Stage stage_{Stage::locate};
  std::optional<Deadline::Clock::time_point> rests_until_{};
  std::optional<SessionLocation> location_{};
  std::optional<Ticket> ticket_{};
  std::optional<Turn> turn_{};
  /// Until when other processes' waiters go first.
  std::optional<Deadline::Clock::time_point> yield_end_{};
  LookResult found_{LookResult::free};
  /// What was known of the dead owner whose lock was taken over, if one was.
  std::unique_ptr<const std::optional<Inspection>> reclaimed_from_{};
  /// Of a hold that has not begun.
  std::shared_ptr<LockShare> reserved_{};
  SessionLock lock_{};
  /// The lock is a share of another thread's hold.
  bool is_nested_{false};
  std::optional<Error> error_{};
  /// Until when a lock that cannot be given back is tried again.
  Deadline::Clock::time_point give_back_end_{};

  /// Since it began; a program may close descriptors that are not its own while an acquire rests.
  bool has_rested_{false};
  int relocations_{0};
  int immediate_retries_{0};
  bool has_waited_{false};
  bool has_looked_from_queue_{false};
};

}  // namespace sessionlock
