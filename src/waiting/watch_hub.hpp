#pragma once

/// \file
/// Where the threads of a process sleep until a lock's inode loses its name, its owner ends, or somebody rings. Room
/// `waiter`.
///
/// One inotify instance serves the whole process, because a user has few of them. One of the sleeping threads, the
/// *leader*, also waits for that instance and rings the others' bells; when it wakes for its own sake, another leads.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <system_error>

#include "system/system.hpp"

namespace sessionlock {

/// Something to ring from any thread that wakes a sleeper.
class Bell {
 public:
  /// Errors: EMFILE and the like; the bell is mute then.
  [[nodiscard]] std::error_code open();
  [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(event_); }
  /// Whether its number is still its own (see `sys::Fd`).
  [[nodiscard]] bool is_usable() const noexcept { return event_.is_usable(); }
  [[nodiscard]] int fd() const noexcept { return event_.get(); }
  /// Does nothing under a number that is foreign.
  void ring() const noexcept;
  /// False if the number is foreign: nothing was read.
  [[nodiscard]] bool silence() const noexcept;

 private:
  sys::Fd event_;
};

/// One sleeping thread. Lives on its stack, and is known to the hub only while it sleeps or watches.
struct Sleeper {
  Bell bell;
  /// The owner's process; closed once it has fired, because it stays readable.
  sys::Fd owner;
  /// Guarded by the hub: the watch, and the instance of inotify that it is of.
  int watch{-1};
  std::uint64_t instance{0};
  /// Guarded by the hub: the watched inode changed.
  bool changed{false};
  /// Somebody wants it to wake; its bell alone may also mean that it is to lead.
  std::atomic<bool> called{false};

  /// Wakes it. Thread safety: from any thread, while it exists.
  void call() noexcept;
};

enum class Awakened { inode_changed, owner_ended, called, time };

/// Watches an inode through a descriptor of it: told when it loses or gains a name, or is moved or deleted.
/// Errors: EMFILE, ENFILE (instances), ENOSPC (watches), ENOENT (no `/proc`), ENOMEM.
[[nodiscard]] std::error_code watch_inode(Sleeper& sleeper, int fd);
void unwatch_inode(Sleeper& sleeper) noexcept;
/// Whether all that the sleeper waits by is still its own, and the kernel still watches for it. If not, the program has
/// closed descriptors that it did not open: wait by new ones.
[[nodiscard]] bool is_intact(const Sleeper& sleeper) noexcept;
/// Is told no more; what `unwatch_inode` has to ask of the kernel can be done later.
void stop_telling(Sleeper& sleeper) noexcept;
/// Whether something would wake the sleeper now.
[[nodiscard]] bool has_news(Sleeper& sleeper);
/// Sleeps. A sleeper with an open bell needs no periodic look for what it watches.
[[nodiscard]] Awakened sleep_until(Sleeper& sleeper, std::chrono::steady_clock::time_point until);

}  // namespace sessionlock
