#pragma once

/// \file
/// The one way in which a file is taken from its path by a process that is not its owner.
///
/// INVARIANT 1: a lock path is only ever unlinked or replaced by a process that holds `flock` on the inode it names,
/// and has compared the two under that `flock`.

#include <functional>

#include <sessionlock/error.hpp>
#include <sessionlock/staleness.hpp>

#include "protocol/inode_guard.hpp"
#include "protocol/inspector.hpp"
#include "protocol/lock_file.hpp"

namespace sessionlock {

/// How a reclaim ended.
enum class Reclaim {
  done,     ///< The path names nothing, or the successor.
  busy,     ///< Another process has the inode's `flock`: it reclaims the file itself, or is inside a guarded write.
  spared,   ///< Judged again under the `flock`, the file has to stay.
  replaced  ///< The path names another file, or nothing, without this process's doing.
};

/// Decides by what a pinned file says now whether it has to go. An error ends the reclaim and is its error.
using Judge = std::function<Result<bool>()>;

/// What is to take the place of a judged file.
class Successor {
 public:
  Successor() = default;
  virtual ~Successor() = default;
  Successor(const Successor&) = delete;
  Successor& operator=(const Successor&) = delete;
  /// Makes a complete file under a temporary name in the same directory. Called with the judged inode locked, so that
  /// only a process that may take over makes one.
  [[nodiscard]] virtual Result<void> make() = 0;
  /// Gives the made file the judged one's name, which has just been compared: `done`, or `replaced`. May keep the
  /// judged file, and then its lock (`InodeGuard::keep`). After an error the path names what it named before.
  [[nodiscard]] virtual Result<Reclaim> take_place(PinnedInode& judged, InodeGuard& guard) = 0;
};

/// Takes away a file that was judged and has to go:
///   1. locks the pinned inode, 2. reads it and lets `judge_again` decide, 3. has the successor made, if there is to be
///   one, 4. compares the inode with what the path names, 5. removes the path, or lets the successor take its place,
///   6. unlocks, unless the successor keeps the file.
/// Blocking: no. Errors: those of the calls, under their own names; those of `judge_again` and `successor`.
[[nodiscard]] Result<Reclaim> reclaim(const Place& place, PinnedFile& pinned, const Judge& judge_again,
                                      Successor* successor = nullptr);

/// The same for a lock, whose record is parsed anew before `judge_again` is asked.
[[nodiscard]] Result<Reclaim> reclaim(const Place& place, PinnedLock& pinned, const Judge& judge_again,
                                      Successor* successor = nullptr);

/// The same for a lock that is judged by the table of verdicts: it goes if it is removable. `inspection` becomes the
/// second judgement, if it comes to that, and says whether the lock was removed.
[[nodiscard]] Result<Reclaim> reclaim(const Place& place, PinnedLock& pinned, Inspection& inspection,
                                      const InspectionContext& context, Successor* successor = nullptr);

}  // namespace sessionlock
