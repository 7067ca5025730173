#pragma once

/// \file
/// What this process holds: one table for all managers, and the queue of its threads in front of each lock.
///
/// This file and `hold.hpp` need each other: the table has the holds, and a hold that ends takes itself off the table,
/// which gives the turn to the next thread in the queue.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
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
  Turn& operator=(Turn&&) = delete;
  ~Turn();
  /// The lock was acquired: the turn goes over to the hold, and ends with it.
  void hand_to(const std::shared_ptr<Hold>& hold);

 private:
  friend class HoldTable;
  explicit Turn(HoldKey key) : key_(std::move(key)) {}
  std::optional<HoldKey> key_;
};

/// What a thread gets that wants a lock.
struct Admission {
  enum class Kind {
    turn,
    shared,  ///< A re-entrant acquisition: one more share of `hold`.
    busy,    ///< Another thread has it, and there is to be no waiting.
    timed_out,
    cancelled,
    moved,              ///< The session leads elsewhere by now.
    would_block_itself  ///< This very thread has it, and would wait for ever.
  };
  Kind kind{Kind::busy};
  /// The thread had to wait for another of this process.
  bool has_queued{false};
  std::optional<Turn> turn{};
  std::shared_ptr<Hold> hold{};
};

/// What a thread that still stands in a queue finds when it looks up: whether it stands in the wrong one, and when to
/// look up again.
struct QueueLook {
  bool has_moved{false};
  Deadline::Clock::time_point again{};
};

/// Queues for a lock. `look_up` is called under no lock, now and then while the thread queues, and throws nothing.
/// Blocking: until the deadline. Thread safety: safe.
[[nodiscard]] Admission queue_for(const HoldKeyView& key, const AcquireOptions& options, const Deadline& deadline,
                                  const std::function<QueueLook()>& look_up);

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
