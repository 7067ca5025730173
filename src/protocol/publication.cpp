#include "protocol/publication.hpp"

#include <cerrno>

#include "protocol/candidate.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/obstacle.hpp"
#include "protocol/per_name_locks.hpp"

namespace sessionlock {
namespace {

/// One candidate. None: another is needed.
Result<std::optional<PublishAttempt>> publish_one(const Place& place, const Publication& publication) {
  const FileSystemTraits& traits = *place.directory->traits;
  if (traits.locks_are_per_name.load()) {
    return publish_by_name(place, publication);
  }
  Candidate candidate(place, publication);
  auto complete = complete_candidate(candidate, place, publication);
  if (!complete) {
    return judge_preparing_failure(place, candidate, std::move(complete).error());
  }
  if (!*complete) {
    return std::nullopt;
  }
  const int error = candidate.give_name();
  if (error == EEXIST) {
    return PublishAttempt{PublishOutcome::contended, std::nullopt, candidate.made()};
  }
  if (error != 0) {
    return judge_naming_failure(place, error);
  }
  candidate.reopen_by_its_name();
  PublishedFile published = candidate.take();
  if (auto checked = check_inode_once(place, published, candidate.content()); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  return PublishAttempt{PublishOutcome::published, std::move(published), candidate.made()};
}

}  // namespace

Result<PublishAttempt> publish_file(const Place& place, const Publication& publication) {
  if (auto obstacle = append_only_obstacle(place)) {
    return tl::unexpected(std::move(*obstacle));
  }
  for (int attempt = 0; attempt < k_candidates_max; ++attempt) {
    auto done = publish_one(place, publication);
    if (!done) {
      return tl::unexpected(std::move(done).error());
    }
    if (done->has_value()) {
      return std::move(**done);
    }
  }
  return removed_again_and_again(place);
}

void unpublish(const PublishedFile& file, const Place& place) noexcept {
  const InodeGuard guard = InodeGuard::enter(place.view(), file.fd.get(), file.file);
  if (guard.is_entered()) {
    (void)sys::unlinkat(place.directory->fd.get(), place.name.c_str());
  }
}

std::optional<std::string> declare_witness(const FileIdentity& file, const FileSystemTraits& traits) {
  switch (traits.locality) {
    case Locality::local:
      return format_witness({WitnessForm::ofd2, file});
    case Locality::overlay:
      return format_witness({WitnessForm::ofd, file});
    case Locality::unknown:
      break;
  }
  return std::nullopt;
}

Publication lock_publication(const Place& place, LockRecord& record, const LockPermissions& permissions) {
  return {k_private_mode, record.lock_id ? std::string_view(*record.lock_id) : std::string_view{}, true,
          [&place, &record](const FileIdentity* witness) {
            record.witness = witness != nullptr ? declare_witness(*witness, *place.directory->traits) : std::nullopt;
            return format_lock_record(record);
          },
          permissions};
}

Result<PublishAttempt> publish(const Place& place, LockRecord& record, const LockPermissions& permissions) {
  return publish_file(place, lock_publication(place, record, permissions));
}

}  // namespace sessionlock
