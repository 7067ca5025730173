#include "protocol/take_over.hpp"

#include <utility>

#include "protocol/candidate.hpp"
#include "protocol/per_name_locks.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

/// Makes the candidate that is to be renamed over a judged file, and another as often as it is swept away.
Result<TemporaryName*> make_successor(const Place& place, const Publication& publication,
                                      std::optional<Candidate>& candidate) {
  for (int attempt = 0; attempt < k_candidates_max; ++attempt) {
    candidate.emplace(place, publication);
    auto complete = complete_candidate(*candidate, place, publication);
    if (complete && !*complete) {
      continue;
    }
    const int error = complete ? candidate->name_temporarily() : 0;
    if (complete && error == 0) {
      return candidate->temporary();
    }
    auto failed = complete ? judge_naming_failure(place, error)
                           : judge_preparing_failure(place, *candidate, std::move(complete).error());
    if (!failed) {
      return tl::unexpected(std::move(failed).error());
    }
    if (failed->has_value()) {
      break;  // the directory is gone, and the judged file with it
    }
  }
  return removed_again_and_again(place);
}

/// A reclaim whose successor is a candidate.
template <class F>
Result<TakeOver> take_over_by(const Place& place, const Publication& publication, F&& reclaim_with) {
  std::optional<Candidate> candidate;
  Result<Reclaim> ended = reclaim_with([&] { return make_successor(place, publication, candidate); });
  if (!ended && ended.error().code == std::errc::no_such_file_or_directory) {
    // The candidate was swept away at the last moment; or a network file system renamed it and lost its reply.
    ended = candidate && candidate->has_its_name() ? Reclaim::done : Reclaim::replaced;
  }
  if (!ended) {
    return tl::unexpected(std::move(ended).error());
  }
  if (*ended != Reclaim::done) {
    return TakeOver{*ended, std::nullopt};
  }
  PublishedFile file = candidate->take();
  take_undeclared_witness(file, place, publication);
  if (auto checked = check_inode_once(place, file, candidate->content()); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  return TakeOver{Reclaim::done, std::move(file)};
}

}  // namespace

Result<TakeOver> take_over(const Place& place, PinnedFile& pinned, const Judge& judge_again,
                           const Publication& publication) {
  return take_over_by(place, publication,
                      [&](const MakeSuccessor& successor) { return reclaim(place, pinned, judge_again, successor); });
}

Result<TakeOver> take_over(const Place& place, PinnedLock& pinned, Inspection& inspection,
                           const InspectionContext& context, const Publication& publication) {
  auto taken = take_over_by(place, publication, [&](const MakeSuccessor& successor) {
    return reclaim(place, pinned, inspection, context, successor);
  });
  inspection.removed = taken && taken->outcome == Reclaim::done;
  return taken;
}

Result<void> put_back(const Place& place, PinnedInode replaced, const LockPermissions& permissions,
                      std::string_view id) {
  PinnedFile former{std::move(replaced), {}};
  if (auto read = read_again(former, place); !read) {
    return read;
  }
  if (!former.content) {
    return failure(former.content.error(), "read lock", place);
  }
  const Publication publication{k_private_mode, id, false, [&](const FileIdentity*) { return former.content->text; },
                                permissions};
  std::optional<Candidate> candidate;
  auto made = make_successor(place, publication, candidate);
  if (!made) {
    return tl::unexpected(std::move(made).error());
  }
  if (const auto set = sys::set_modification_time(candidate->fd().get(), former.modified); !set.ok()) {
    return failure(set.code(), "futimens", place);
  }
  return replace(place, **made);
}

}  // namespace sessionlock
