#pragma once

/// \file
/// How a process becomes the owner of a file that was judged and has to go: in one step (docs/protocol.md, "Taking
/// over, and removing").

#include <optional>
#include <string>
#include <string_view>

#include <sessionlock/error.hpp>
#include <sessionlock/staleness.hpp>

#include "protocol/publication.hpp"
#include "protocol/reclaim.hpp"

namespace sessionlock {

/// What became of an attempt to take over.
struct TakeOver {
  Reclaim outcome{};
  /// Where done: the file that stands in the place of the judged one.
  std::optional<PublishedFile> file{};
};
/// Takes over a file that was judged and has to go: a complete file of the caller's replaces it in one step, so that no
/// other process can publish in between. Errors: those of `reclaim` and `publish_file`; after each of them the judged
/// file is still there.
[[nodiscard]] Result<TakeOver> take_over(const Place& place, PinnedFile& pinned, const Judge& judge_again,
                                         const Publication& publication);
/// The same for a lock that is judged by the table of verdicts: what is known of the former owner reaches the next one
/// and nobody else. `inspection` becomes the second judgement, if it comes to that.
[[nodiscard]] Result<TakeOver> take_over(const Place& place, PinnedLock& pinned, Inspection& inspection,
                                         const InspectionContext& context, const Publication& publication);

/// Undoes a take-over that reaches no caller: a copy of what it replaced, unwitnessed, of the same age and with the
/// permissions of a lock of its session, replaces the lock in its turn, for the next acquire to find. Precondition: the
/// caller has the `flock` of its own lock file, and has compared it with the place (`Hold::enter_guard`). Errors: as
/// `take_over`; the caller's lock is still there then.
[[nodiscard]] Result<void> put_back(const Place& place, PinnedInode replaced, const LockPermissions& permissions,
                                    std::string_view id);

}  // namespace sessionlock
