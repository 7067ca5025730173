#include "protocol/reclaim.hpp"

#include <cerrno>

#include "protocol/inode_guard.hpp"

namespace sessionlock {
namespace {

/// The last step, with the inode locked and found under its name.
Result<Reclaim> remove_or_replace(const Place& place, TemporaryName* successor) {
  const int directory = place.directory->fd.get();
  if (successor == nullptr) {
    const auto unlinked = sys::unlinkat(directory, place.name.c_str());
    if (!unlinked.ok() && unlinked.error != ENOENT) {
      return failure(unlinked.code(), "unlinkat", place);
    }
    return Reclaim::done;
  }
  const auto renamed = sys::rename_over(directory, successor->place().name.c_str(), place.name.c_str());
  if (!renamed.ok()) {
    return failure(renamed.code(), "renameat", place);
  }
  successor->forget();
  return Reclaim::done;
}

/// What happens with the inode locked.
template <class Pinned>
Result<Reclaim> reclaim_locked(const Place& place, Pinned& pinned, const Judge& judge_again, TemporaryName* successor) {
  if (auto read = read_again(pinned, place); !read) {
    return tl::unexpected(std::move(read).error());
  }
  auto goes = judge_again();
  if (!goes) {
    return tl::unexpected(std::move(goes).error());
  }
  if (!*goes) {
    return Reclaim::spared;
  }
  // 1. A judges inode 7. 2. B judges it too, locks it, unlinks it and publishes inode 8. 3. A locks inode 7, sees that
  // the path names inode 8, and stops here.
  const Step same = names_inode(place.directory->fd.get(), place.name.c_str(), pinned.file);
  if (same.answer == Step::Answer::failed) {
    return tl::unexpected(to_error(same, place.path()));
  }
  return same.answer == Step::Answer::done ? remove_or_replace(place, successor) : Reclaim::replaced;
}

template <class Pinned>
Result<Reclaim> reclaim_pinned(const Place& place, Pinned& pinned, const Judge& judge_again, TemporaryName* successor) {
  const InodeGuard guard = InodeGuard::lock(pinned.fd.get());
  switch (guard.step().answer) {
    case Step::Answer::done:
      return reclaim_locked(place, pinned, judge_again, successor);
    case Step::Answer::failed:
      return tl::unexpected(to_error(guard.step(), place.path()));
    default:
      return Reclaim::busy;
  }
}

}  // namespace

Result<Reclaim> reclaim(const Place& place, PinnedFile& pinned, const Judge& judge_again, TemporaryName* successor) {
  return reclaim_pinned(place, pinned, judge_again, successor);
}

Result<Reclaim> reclaim(const Place& place, PinnedLock& pinned, const Judge& judge_again, TemporaryName* successor) {
  return reclaim_pinned(place, pinned, judge_again, successor);
}

Result<Reclaim> reclaim(const Place& place, PinnedLock& pinned, Inspection& inspection,
                        const InspectionContext& context, TemporaryName* successor) {
  auto ended = reclaim(
      place, pinned,
      [&]() -> Result<bool> {
        auto session = std::move(inspection.session_path);
        inspection = judge(pinned, place, context);
        inspection.session_path = std::move(session);
        return inspection.removable;
      },
      successor);
  inspection.removed = ended && *ended == Reclaim::done;
  return ended;
}

}  // namespace sessionlock
