#pragma once

/// \file
/// What this process holds: one table for all managers, and the queue of its threads in front of each lock.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <sessionlock/event.hpp>
#include <sessionlock/options.hpp>

#include "hold/hold.hpp"
#include "record/witness.hpp"
#include "waiting/waiter.hpp"

namespace sessionlock {

/// What makes a lock the same lock, whatever path led to it.
struct HoldKey {
  FileIdentity directory;
  std::string name;
  friend bool operator==(const HoldKey&, const HoldKey&) = default;
};
/// A key to look for, without a name of its own: that would take memory, which the end of a hold must do without.
struct HoldKeyView {
  FileIdentity directory;
  std::string_view name;
  friend bool operator==(const HoldKeyView& view, const HoldKey& key) noexcept {
    return view.name == key.name && view.directory == key.directory;
  }
};
/// Lifetime: the location's.
[[nodiscard]] HoldKeyView key_of(const SessionLocation& location) noexcept;

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
/// Tries again what `keep_for_retry` kept. Every call of the library begins with it; costs nothing where nothing
/// failed.
void retry_failed_releases();

/// A process that released a lock which others wait for owes them a pause before it goes for that lock again: until
/// when, told once, and not once that is past. Thread safety: safe.
void owe_pause(const HoldKeyView& key);
[[nodiscard]] std::optional<std::chrono::steady_clock::time_point> take_owed_pause(const HoldKeyView& key);
/// Whether somebody used the pause. Who waits without ever coming (stopped, or hostile) gets only short ones.
void settle_pause(const HoldKeyView& key, bool was_used);

/// Whether this process holds exactly this inode. Thread safety: safe.
[[nodiscard]] bool is_held_here(const FileIdentity& file);
[[nodiscard]] std::vector<HeldLock> list_holds();

/// The holds made by managers with exactly these options, by address.
[[nodiscard]] std::vector<std::shared_ptr<Hold>> holds_of(const ManagerOptions& options);

/// Lets exit and signal handlers find a hold, from construction to destruction.
void register_for_cleanup(HoldCore& core);
void unregister_from_cleanup(HoldCore& core) noexcept;
/// Ends every registered hold that may be ended and is idle. Async-signal-safe.
void clean_up_holds() noexcept;

/// Calls an observer, and drops what it throws.
void notify(const ManagerOptions& options, const Event& event) noexcept;

}  // namespace sessionlock
