#include "protocol/per_name_locks.hpp"

#include <cerrno>
#include <initializer_list>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>

#include "protocol/file_system_trials.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/reclaim.hpp"
#include "system/system.hpp"

namespace sessionlock {
namespace {

constexpr int k_links_max = 8;

Result<void> sync(const sys::Fd& fd, const Place& place) {
  const auto synced = sys::fsync(fd.get());
  return synced.ok() || is_unsupported(synced.error) ? Result<void>{} : failure(synced.code(), "fsync", place);
}

/// An errno, as `Candidate::give_name`. There is no rename instead: links were seen to work.
int link_by_name(const Place& place, const Candidate& candidate) {
  const int directory = place.directory->fd.get();
  const std::string& unfinished = candidate.temporary()->place().name;
  for (int attempt = 1;; ++attempt) {
    const int error = sys::linkat(directory, unfinished.c_str(), directory, place.name.c_str(), 0).error;
    // A network file system may have made the link and lost its reply.
    if (error == EEXIST && candidate.has_its_name()) {
      return 0;
    }
    // sshfs says EPERM when another host was faster.
    if (error != EPERM || attempt == k_links_max) {
      return error;
    }
    struct stat status {};
    if (sys::fstatat(directory, place.name.c_str(), status, AT_SYMLINK_NOFOLLOW).ok()) {
      return EEXIST;
    }
  }
}

/// The lock that was just linked, opened by its own name.
class NamedLock {
 public:
  NamedLock(const Place& place, Candidate& candidate) : place_(place), candidate_(candidate) {}

  /// None: another process took the file away already, as an operator may.
  Result<std::optional<PublishedFile>> open();

 private:
  Result<std::optional<PinnedFile>> pin() const;
  /// Whether this is what was written, all or a part: by its number where that can be told, because every record begins
  /// like another. While the temporary name is there no other file gets that number.
  [[nodiscard]] bool is_ours(const PinnedFile& named) const {
    return named.file == candidate_.file() || says(named, candidate_.content());
  }
  /// Removes what was published. What is not possible is told in the error.
  tl::unexpected<Error> take_back(Error why);

  const Place& place_;
  Candidate& candidate_;
};

Result<std::optional<PinnedFile>> NamedLock::pin() const {
  auto pinned = pin_file(place_);
  return pinned && *pinned && !(*pinned)->content ? failure((*pinned)->content.error(), "read lock", place_)
                                                  : std::move(pinned);
}

tl::unexpected<Error> NamedLock::take_back(Error why) {
  candidate_.close();
  auto pinned = pin();
  bool has_gone = pinned && !*pinned;
  if (pinned && *pinned) {
    const auto ended = reclaim(place_, **pinned, [&]() -> Result<bool> { return is_ours(**pinned); });
    has_gone = ended && *ended != Reclaim::busy;
  }
  if (!has_gone) {
    why.detail += why.detail.empty() ? "" : "; ";
    why.detail += "the lock file was made already and cannot be taken back: it stays until this process has ended";
  }
  return tl::unexpected(std::move(why));
}

Result<std::optional<PublishedFile>> NamedLock::open() {
  auto pinned = pin();
  if (!pinned) {
    return take_back(std::move(pinned).error());
  }
  if (!*pinned || !is_ours(**pinned)) {
    return std::nullopt;
  }
  if (!says(**pinned, candidate_.content())) {
    return take_back(
        {std::make_error_code(std::errc::io_error), "publish", place_.path(), std::nullopt,
         "the file system does not show the whole record that was written to it; keep the locks on another "
         "(--lock-directory)"});
  }
  return PublishedFile{std::move((*pinned)->fd), (*pinned)->file, false};
}

Result<void> take(Candidate& candidate, std::initializer_list<Result<void> (Candidate::*)()> steps) {
  for (const auto step : steps) {
    if (auto done = (candidate.*step)(); !done) {
      return done;
    }
  }
  return {};
}

Result<void> prepare(Candidate& candidate, const Place& place) {
  if (auto done = take(candidate, {&Candidate::create, &Candidate::try_locks_once, &Candidate::write}); !done) {
    return done;
  }
  // To the kernel, or a server, this will be another file's content soon: sshfs with several connections links before
  // it writes.
  return sync(candidate.fd(), place);
}

}  // namespace

Result<void> try_names_once(const Place& place, const Candidate& candidate, std::string_view id) {
  FileSystemTraits& traits = *place.directory->traits;
  const TemporaryName* const unfinished = candidate.temporary();
  if (unfinished == nullptr || traits.names_tried.load()) {
    return {};
  }
  const int directory = place.directory->fd.get();
  const Place other_place{place.directory, temporary_name(place.name, other_id(id))};
  const auto linked = sys::linkat(directory, unfinished->place().name.c_str(), directory, other_place.name.c_str(), 0);
  if (linked.error == EPERM || linked.error == EMLINK || is_unsupported(linked.error)) {
    traits.names_tried.store(true);
    return {};  // the candidate will have to be renamed, and then stays the file that it is
  }
  if (!linked.ok()) {
    return failure(linked.code(), "linkat", place);
  }
  const TemporaryName second_name(other_place);
  auto other = sys::open(directory, other_place.name.c_str(), O_RDWR | O_NOFOLLOW);
  if (other.error == EINVAL) {
    // An SMB client's lease belongs to the file's first name, and its server grants none to a second one (nobrl): what
    // cannot be opened by its name is no lock. So the name is given by a rename.
    traits.naming.store(Naming::temporary_rename);
    traits.names_tried.store(true);
    return {};
  }
  if (!other.ok()) {
    return failure(other.code(), "openat", place);
  }
  const auto locked = sys::flock(other.fd.get(), LOCK_EX | LOCK_NB);
  const auto own = locked.ok() ? sys::flock(candidate.fd().get(), LOCK_EX | LOCK_NB) : locked;
  for (const int fd : {candidate.fd().get(), other.fd.get()}) {
    (void)sys::flock(fd, LOCK_UN);  // closing would leave it with a child that is just being started
  }
  if (!locked.ok() || (!own.ok() && !is_locked_by_another(own.error, traits.local))) {
    return failure(own.code(), "flock", place);
  }
  traits.locks_are_per_name.store(own.ok());
  traits.names_tried.store(true);
  return {};  // `other` is closed before its name goes, which such file systems keep under another while it is open
}

Result<bool> complete_candidate(Candidate& candidate, const Place& place, const Publication& publication) {
  const FileSystemTraits& traits = *place.directory->traits;
  Result<void> done;
  if (traits.locks_are_per_name.load()) {
    done = prepare(candidate, place);
  } else {
    done = take(candidate, {&Candidate::create, &Candidate::try_locks_once});
    if (done) {
      done = try_names_once(place, candidate, publication.id);
    }
    if (done && traits.locks_are_per_name.load()) {
      return false;
    }
    if (done) {
      done = take(candidate, {&Candidate::take_witness, &Candidate::write});
    }
  }
  return done ? Result<bool>(true) : tl::unexpected(std::move(done).error());
}

void take_undeclared_witness(const PublishedFile& file, const Place& place, const Publication& publication) {
  const FileSystemTraits& traits = *place.directory->traits;
  if (traits.locks_are_per_name.load() && publication.with_witness && traits.record_locks.load()) {
    (void)sys::ofd_set_lock(file.fd.get(), F_WRLCK, k_witness_offset);
  }
}

Result<std::optional<PublishAttempt>> publish_by_name(const Place& place, const Publication& publication) {
  Candidate candidate(place, publication);
  if (auto prepared = prepare(candidate, place); !prepared) {
    return judge_preparing_failure(place, candidate, std::move(prepared).error());
  }
  const int error = link_by_name(place, candidate);
  if (error == EEXIST) {
    return PublishAttempt{PublishOutcome::contended, std::nullopt, candidate.made()};
  }
  if (error != 0) {
    return judge_naming_failure(place, error);
  }
  auto published = NamedLock(place, candidate).open();
  if (!published) {
    return tl::unexpected(std::move(published).error());
  }
  if (!*published) {
    return PublishAttempt{PublishOutcome::contended, std::nullopt, candidate.made()};
  }
  take_undeclared_witness(**published, place, publication);
  if (auto checked = check_inode_once(place, **published, candidate.content()); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  return PublishAttempt{PublishOutcome::published, std::move(*published), candidate.made()};
}

}  // namespace sessionlock
