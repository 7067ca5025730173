#pragma once

/// \file
/// What this process holds: one table for all managers, and the queue of its threads in front of each lock.
///
/// This file and `hold.hpp` need each other: the table has the holds, and a hold that ends takes itself off the table,
/// which gives the turn to the next thread in the queue.

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <sessionlock/options.hpp>

#include "hold/hold.hpp"
#include "hold/hold_key.hpp"
#include "protocol/session_location.hpp"
#include "record/witness.hpp"
#include "waiting/waiter.hpp"

namespace sessionlock {

/// The right of one thread to go for a lock's file while the other threads of the process wait. Passed on, in the order
/// of arrival, when it ends without a hold, or when the hold ends.
class Turn {
 public:
  Turn(Turn&& other) noexcept : key_(std::exchange(other.key_, std::nullopt)) {}
  Turn& operator=(Turn&& other) noexcept {
    end();
    key_ = std::exchange(other.key_, std::nullopt);
    return *this;
  }
  ~Turn() { end(); }
  /// The lock was acquired: the turn goes over to the hold, and ends with it.
  void hand_to(const std::shared_ptr<Hold>& hold);

 private:
  friend class Ticket;
  explicit Turn(HoldKey key) : key_(std::move(key)) {}
  void end() noexcept;
  std::optional<HoldKey> key_;
};

/// What the queue answers.
struct QueueResult {
  enum class Kind {
    turn,
    shared,         ///< A re-entrant acquisition: one more share of `hold`.
    busy,           ///< Another thread has it, and there is to be no waiting.
    self_deadlock,  ///< This very thread has it, and would wait for ever.
    queued          ///< No answer yet.
  };
  Kind kind{Kind::busy};
  std::optional<Turn> turn{};
  std::shared_ptr<Hold> hold{};
};

/// A place in the queue in front of one lock. It never waits: its slot is woken when it is answered.
/// Thread safety: for the slot's thread. Lifetime: shorter than that of its arguments.
class Ticket {
 public:
  Ticket(const AcquireOptions& options, ThreadToken thread, WaitSlot& slot) noexcept;
  /// Leaves. What it was given goes on to the next.
  ~Ticket();
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  /// Asks for a lock, or queues for it behind all that entered before. Once.
  [[nodiscard]] QueueResult enter(const HoldKeyView& key, const Deadline& deadline);
  /// The answer, which is given once; or `queued`.
  [[nodiscard]] QueueResult ask();
  /// Leaves the queue, unless there is an answer: then that. `queued`: there was none.
  [[nodiscard]] QueueResult leave();
  /// It stands in the queue of a parent, from which a fork has separated this process: it will never be answered.
  [[nodiscard]] bool is_inherited() const noexcept;

 private:
  friend struct QueueTable;
  /// What the table has answered and `take_answer` has not taken yet.
  [[nodiscard]] bool is_answered() const noexcept { return has_turn_ || share_ != nullptr; }
  [[nodiscard]] QueueResult take_answer();

  const AcquireOptions& options_;
  const ThreadToken thread_;
  WaitSlot& slot_;
  HoldKey key_{};
  /// What follows belongs to the table, and is guarded by its mutex.
  bool has_turn_{false};
  std::shared_ptr<Hold> share_{};
  /// Where it stands, or nowhere.
  std::optional<std::list<Ticket*>::iterator> place_{};
  std::uint64_t generation_{0};
};

/// Takes a hold that has ended off the table and passes the turn on.
void remove_hold(const Hold& hold);
/// A hold whose release failed and has no handle any more.
void keep_for_retry(std::shared_ptr<Hold> hold);
/// Tries again what `keep_for_retry` kept. Every call that acquires, waits, writes or releases begins with it; one that
/// only asks does not, because it must change nothing. Costs nothing where nothing failed.
void retry_failed_releases();

/// Whether this process holds exactly this inode. Thread safety: safe.
[[nodiscard]] bool is_held_here(const FileIdentity& file);
[[nodiscard]] std::vector<HeldLock> list_holds();

/// The holds made by managers with exactly these options, by address.
[[nodiscard]] std::vector<std::shared_ptr<Hold>> holds_of(const ManagerOptions& options);

}  // namespace sessionlock
