#include "protocol/reclaim.hpp"

#include <cerrno>

#include "protocol/obstacle.hpp"

namespace sessionlock {
namespace {

/// The last step, with the inode locked and found under its name.
Result<Reclaim> remove(const Place& place) {
  const auto unlinked = sys::unlinkat(place.directory->fd.get(), place.name.c_str());
  if (!unlinked.ok() && unlinked.error != ENOENT) {
    return failure(unlinked.code(), "unlinkat", place);
  }
  return Reclaim::done;
}

/// What happens with the inode locked.
template <class Pinned>
Result<Reclaim> reclaim_locked(const Place& place, Pinned& pinned, InodeGuard& guard, const Judge& judge_again,
                               Successor* successor) {
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
  if (successor != nullptr) {
    if (auto made = successor->make(); !made) {
      return tl::unexpected(std::move(made).error());
    }
  }
  // 1. A judges inode 7. 2. B judges it too, locks it, unlinks it and publishes inode 8. 3. A locks inode 7, sees that
  // the path names inode 8, and stops here.
  const Step same = names_inode(place.view(), pinned.file);
  if (same.answer == Step::Answer::failed) {
    return tl::unexpected(to_error(same, place.path()));
  }
  if (same.answer == Step::Answer::other) {
    return Reclaim::replaced;
  }
  auto done = successor != nullptr ? successor->take_place(pinned, guard) : remove(place);
  return done ? done : tl::unexpected(removal_failure(done.error().code, place, pinned.fd.get()));
}

template <class Pinned>
Result<Reclaim> reclaim_pinned(const Place& place, Pinned& pinned, const Judge& judge_again, Successor* successor) {
  InodeGuard guard = InodeGuard::lock(place.view(), pinned.fd.get());
  switch (guard.step().answer) {
    case Step::Answer::done:
      return reclaim_locked(place, pinned, guard, judge_again, successor);
    case Step::Answer::failed:
      return tl::unexpected(to_error(guard.step(), place.path()));
    default:
      return Reclaim::busy;
  }
}

}  // namespace

Result<Reclaim> reclaim(const Place& place, PinnedFile& pinned, const Judge& judge_again, Successor* successor) {
  return reclaim_pinned(place, pinned, judge_again, successor);
}

Result<Reclaim> reclaim(const Place& place, PinnedLock& pinned, const Judge& judge_again, Successor* successor) {
  return reclaim_pinned(place, pinned, judge_again, successor);
}

Result<Reclaim> reclaim(const Place& place, PinnedLock& pinned, Inspection& inspection,
                        const InspectionContext& context, Successor* successor) {
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
