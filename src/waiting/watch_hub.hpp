#pragma once

/// \file
/// Watches on inodes: they wake a sleeping thread when a lock file loses its name.
///
/// One inotify instance serves the whole process, because a user has few of them. One of the sleeping threads, the
/// *leader*, also waits for that instance and wakes the others; when it wakes for its own sake, another leads.
///
/// A change is never missed, whichever thread leads:
/// 1. A leads, and sleeps. 2. B begins to watch, and sleeps without the instance. 3. A is woken for its own sake, and
/// passes the lead on: B, if it is asleep already, is woken to poll on the instance; if it is not yet, it finds itself
/// the leader when it asks, which it does before each poll. What was changed meanwhile is still in the instance.

#include <cstdint>
#include <system_error>

#include "waiting/parker.hpp"

namespace sessionlock {

/// One watch on an inode, which wakes a slot when that loses or gains a name, or is moved or deleted.
/// Thread safety: for the slot's thread. Lifetime: the slot's, or longer once `stop_notifying` was called.
class InodeWatch {
 public:
  explicit InodeWatch(WaitSlot& slot) noexcept : slot_(slot) {}
  ~InodeWatch() { end(); }
  InodeWatch(const InodeWatch&) = delete;
  InodeWatch& operator=(const InodeWatch&) = delete;

  /// Watches an inode through a descriptor of it, and no more what was watched before.
  /// Errors: EMFILE, ENFILE (instances), ENOSPC (watches), ENOENT (no `/proc`), ENOMEM.
  [[nodiscard]] std::error_code begin(int fd);
  void end() noexcept;
  /// The slot is not woken any more; what `end` has to ask of the kernel can be done later.
  void stop_notifying() noexcept;
  [[nodiscard]] bool has_begun() const noexcept { return watch_ >= 0; }
  /// Whether the kernel still watches for it. If not, the program has closed descriptors that it did not open.
  [[nodiscard]] bool is_intact() const noexcept;

 private:
  friend struct Hub;
  void notify() const noexcept { slot_.wake(WakeCause::inode_changed); }
  WaitSlot& slot_;
  int watch_{-1};
  /// The instance of inotify that the watch is of.
  std::uint64_t instance_{0};
};

/// One sleep of a thread that polls: it may be the one that reads the instance. Thread safety: for that thread.
class HubSleep {
 public:
  explicit HubSleep(Parker& parker);
  /// Passes the lead on.
  ~HubSleep();
  HubSleep(const HubSleep&) = delete;
  HubSleep& operator=(const HubSleep&) = delete;

  /// The instance, if this thread is to poll on it, or -1. Asked before each poll.
  [[nodiscard]] int instance_to_read();
  /// Reads all events, and wakes the slots that they concern. False if the instance is not ours: nothing was read.
  [[nodiscard]] bool dispatch();

 private:
  Parker& parker_;
};

/// Whether something would wake the slot now, by what it watches.
[[nodiscard]] bool has_pending_event(WaitSlot& slot);

}  // namespace sessionlock
