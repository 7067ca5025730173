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
/// other process can publish in between. The two exchange their names where the file system knows how to
/// (`sys::exchange_names`). If a program without this protocol has put another file in the judged one's place since the
/// comparison, that file gets its name back at once. Errors: those of `reclaim` and `publish_file`; after each of them
/// the judged file is still there.
[[nodiscard]] Result<TakeOver> take_over(const Place& place, PinnedFile& pinned, const Judge& judge_again,
                                         const Publication& publication);
/// The same for a lock that is judged by the table of verdicts: what is known of the former owner reaches the next one
/// and nobody else. So the judged lock is kept until that is certain (`PublishedFile::replaced`): under a temporary
/// name, with its inode locked; `pinned` gives its descriptor up. Without an exchange of names it gets a second name;
/// and where that is refused, a copy of it is kept, unless the file system is local, whose records declare a witness on
/// their own inode. `inspection` becomes the second judgement, if it comes to that.
[[nodiscard]] Result<TakeOver> take_over(const Place& place, PinnedLock& pinned, Inspection& inspection,
                                         const InspectionContext& context, const Publication& publication);

}  // namespace sessionlock
