#pragma once

/// \file
/// The part of a hold that clean-up at exit and in a signal handler may touch.
///
/// RULE: what is here takes no lock, allocates nothing, throws nothing, and never waits. A signal handler runs it
/// between any two instructions of any thread, also of one that is in the middle of the same code.

#include <atomic>
#include <cstdint>

#include "protocol/directory.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/replaced_file.hpp"
#include "record/witness.hpp"
#include "system/system.hpp"

namespace sessionlock {

/// What a hold is doing. One atomic word, because `flock` on one open file description does not exclude the threads of
/// a process from each other, nor a thread from a signal handler.
///
///     idle ──► guarded ──► idle            a guarded write, by one thread
///     idle ──► ending ──► ended            released, or lost
///                   └───► idle             the release failed and can be tried again
///     guarded ──► ended                    found lost on the way in
enum class HoldPhase : int { idle, guarded, ending, ended };

/// What became of an attempt to end a hold without waiting.
enum class Ending {
  refused,   ///< Something is under way, or the file cannot be removed: it goes on.
  released,  ///< The file is gone.
  lost,      ///< It was gone, or another's.
  was_ended
};

/// Where clean-up finds a hold.
using CleanupSlot = std::atomic<std::uintptr_t>;

/// The part of a hold that clean-up at exit and in a signal handler may touch: no lock, no allocation.
struct HoldCore {
  std::atomic<HoldPhase> phase{HoldPhase::idle};
  /// That of the lock file. Lifetime: at least this object's.
  const sys::Fd* descriptor{nullptr};
  PlaceView place{};
  FileIdentity file{};
  /// What the lock file has replaced; null: nothing. Lifetime: at least this object's.
  ReplacedFile* replaced{nullptr};
  std::uint64_t generation{0};
  bool release_at_exit{true};
  CleanupSlot* slot{nullptr};

  [[nodiscard]] int fd() const noexcept { return descriptor->get(); }
  /// Ends the hold if nothing is under way, without waiting for anything or anybody; what is busy is left to the
  /// kernel, which drops the witness at death. Async-signal-safe.
  Ending try_end() noexcept;
  /// Locks the lock file's inode and checks that it still has its name. Async-signal-safe.
  [[nodiscard]] Step try_enter() const noexcept;
  /// Takes the lock file away, unless it is another's by now. What it has replaced gets its name back if the
  /// acquisition has not reached its caller yet. Does not touch the phase. Async-signal-safe.
  [[nodiscard]] Step try_unlink() const noexcept;
  /// Whether the descriptor's number still refers to the lock file (`done`) or to something else or nothing (`other`):
  /// programs that become daemons close numbers they never opened. Async-signal-safe.
  [[nodiscard]] Step look_at_descriptor() const noexcept;
  [[nodiscard]] bool owns_descriptor() const noexcept { return look_at_descriptor().answer == Step::Answer::done; }
};

}  // namespace sessionlock
