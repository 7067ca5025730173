#include "protocol/publication.hpp"

#include <cerrno>

#include "protocol/candidate.hpp"
#include "protocol/per_name_locks.hpp"

namespace sessionlock {
namespace {

constexpr int k_candidates_max = 8;  // a sweep that keeps removing our temporary name is not going to let us in

/// All but the name. Locks that turn out to be per name end it, since such a candidate is made in another way.
Result<void> prepare(Candidate& candidate, const Place& place, const Publication& publication) {
  for (const auto step : {&Candidate::create, &Candidate::try_locks_once}) {
    if (auto done = (candidate.*step)(); !done) {
      return done;
    }
  }
  if (auto tried = try_names_once(place, candidate, publication.id);
      !tried || place.directory->traits->locks_are_per_name.load()) {
    return tried;
  }
  for (const auto step : {&Candidate::take_witness, &Candidate::write}) {
    if (auto done = (candidate.*step)(); !done) {
      return done;
    }
  }
  return {};
}

/// One candidate. None: another is needed.
Result<std::optional<PublishAttempt>> publish_one(const Place& place, const Publication& publication) {
  const FileSystemTraits& traits = *place.directory->traits;
  if (traits.locks_are_per_name.load()) {
    return publish_by_name(place, publication);
  }
  Candidate candidate(place, publication);
  if (auto prepared = prepare(candidate, place, publication); !prepared) {
    return judge_preparing_failure(place, candidate, std::move(prepared).error());
  }
  if (traits.locks_are_per_name.load()) {
    return std::nullopt;
  }
  const int error = candidate.give_name();
  if (error == EEXIST) {
    return PublishAttempt{PublishOutcome::contended, std::nullopt, candidate.made()};
  }
  if (error != 0) {
    return judge_naming_failure(place, error);
  }
  PublishedFile published = candidate.take();
  if (auto checked = check_inode_once(place, published, candidate.content()); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  return PublishAttempt{PublishOutcome::published, std::move(published), candidate.made()};
}

}  // namespace

Result<PublishAttempt> publish_file(const Place& place, const Publication& publication) {
  for (int attempt = 0; attempt < k_candidates_max; ++attempt) {
    auto done = publish_one(place, publication);
    if (!done) {
      return tl::unexpected(std::move(done).error());
    }
    if (done->has_value()) {
      return std::move(**done);
    }
  }
  return failure(std::make_error_code(std::errc::no_such_file_or_directory), "publish", place,
                 "the unfinished file was removed again and again");
}

Result<PublishAttempt> publish(const Place& place, LockRecord& record, mode_t mode) {
  const Publication publication{mode, record.lock_id ? std::string_view(*record.lock_id) : std::string_view{}, true,
                                [&record](const FileIdentity* witness) {
                                  record.witness =
                                      witness != nullptr ? std::optional(format_witness(*witness)) : std::nullopt;
                                  return format_lock_record(record);
                                }};
  return publish_file(place, publication);
}

}  // namespace sessionlock
