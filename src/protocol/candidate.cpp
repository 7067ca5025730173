#include "protocol/candidate.hpp"

#include <cerrno>

#include <fcntl.h>

#include "process/procfs.hpp"
#include "protocol/file_system_trials.hpp"
#include "protocol/inode_guard.hpp"
#include "system/file_status.hpp"

namespace sessionlock {

Result<void> Candidate::create() {
  sys::Opened opened;
  if (may_be_nameless()) {
    opened = sys::open(directory(), ".", O_TMPFILE | O_RDWR, publication_.mode);
    // EISDIR and EINVAL: open(2), O_TMPFILE, where the file system or an old kernel does not know it.
    if (!opened.ok() && (is_unsupported(opened.error) || opened.error == EISDIR)) {
      traits().naming.store(Naming::temporary_link);
    }
  }
  if (!may_be_nameless()) {
    Place unfinished{place_.directory, temporary_name(place_.name, publication_.id)};
    opened = sys::open(directory(), unfinished.name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, publication_.mode);
    if (opened.ok()) {
      temporary_.emplace(std::move(unfinished));
    }
  }
  if (!opened.ok()) {
    return failure(opened.code(), "openat", place_);
  }
  fd_ = std::move(opened.fd);
  struct stat status {};
  if (const auto result = sys::fstat(fd_.get(), status); !result.ok()) {
    return failure(result.code(), "fstat", place_);
  }
  file_ = identity_of(status);
  made_ = modification_time(status);
  fd_.expect(file_);
  return publication_.permissions ? set_permissions(fd_, status, *publication_.permissions, place_) : Result<void>{};
}

Result<void> Candidate::try_locks_once() {
  if (traits().locks_tried.load()) {
    return {};
  }
  const std::string name = temporary_ ? temporary_->place().name : descriptor_link(fd_.get()).data();
  auto second = sys::open(directory(), name.c_str(), O_RDWR);
  if (!second.ok()) {
    if (!temporary_ && second.error == ENOENT) {
      traits().naming.store(Naming::temporary_link);  // no path to a nameless file here: start again with a named one
    }
    return failure(second.code(), "openat", place_);
  }
  second.fd.expect(file_);
  const auto trial = try_locks(fd_.get(), second.fd.get(), place_);
  if (!trial) {
    return tl::unexpected(trial.error());
  }
  if (!trial->flock) {
    // A lock that could not be released must not be published.
    return unsupported_file_system(place_, trial->flock_failure
                                               ? "flock does not work there (" + trial->flock_failure.message() + ")"
                                               : "flock does not keep others out there");
  }
  if (!trial->carries_witness()) {
    traits().record_locks.store(false);
  }
  traits().locks_tried.store(true);
  return {};
}

Result<void> Candidate::take_witness() {
  if (!publication_.with_witness || !traits().record_locks.load()) {
    return {};
  }
  const auto locked = sys::ofd_set_lock(fd_.get(), F_WRLCK, k_witness_offset);
  has_witness_ = locked.ok();
  if (locked.ok()) {
    return {};
  }
  if (is_unsupported(locked.error)) {
    traits().record_locks.store(false);
    return {};
  }
  // A network file system may have lost its lock service; on a local one ENOLCK is a shortage.
  return locked.error == ENOLCK && !traits().local ? Result<void>{}
                                                   : failure(locked.code(), "fcntl(F_OFD_SETLK)", place_);
}

Result<void> Candidate::write() {
  content_ = publication_.content(has_witness_ ? &file_ : nullptr);
  for (std::size_t done = 0; done < content_.size();) {
    const auto written = sys::write_without_signal(fd_.get(), content_.data() + done, content_.size() - done);
    if (!written.ok()) {
      return failure(written.code(), "write", place_);
    }
    if (written.value == 0) {
      return failure(std::make_error_code(std::errc::io_error), "write", place_, "the file system takes no bytes");
    }
    done += static_cast<std::size_t>(written.value);
  }
  return {};
}

bool Candidate::has_its_name() const {
  return names_inode(place_.view(), file_).answer == Step::Answer::done;
}

int Candidate::link_temporary() {
  const std::string& unfinished = temporary_->place().name;
  if (traits().naming.load() == Naming::temporary_link) {
    const int error = sys::linkat(directory(), unfinished.c_str(), directory(), place_.name.c_str(), 0).error;
    // A network file system may have made the link and lost its reply.
    if (error == EEXIST && has_its_name()) {
      return 0;
    }
    if (error != EPERM && error != EMLINK && !is_unsupported(error)) {
      return error;
    }
    traits().naming.store(Naming::temporary_rename);
  }
  const int error = sys::rename_no_replace(directory(), unfinished.c_str(), place_.name.c_str()).error;
  const bool reply_lost = (error == ENOENT || error == EEXIST) && has_its_name();
  if (error == 0 || reply_lost) {
    temporary_->forget();
    return 0;
  }
  return error;
}

int Candidate::give_name() {
  if (temporary_) {
    return link_temporary();
  }
  return link_nameless_to(place_.name);
}

void Candidate::reopen_by_its_name() {
  if (traits().local || !temporary_ || temporary_->is_renamed() || has_witness_) {
    return;
  }
  auto named = sys::open(directory(), place_.name.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  struct stat status {};
  if (!named.ok() || !sys::fstat(named.fd.get(), status).ok() || identity_of(status) != file_) {
    return;
  }
  named.fd.expect(file_);
  fd_ = std::move(named.fd);
}

int Candidate::name_temporarily() {
  if (temporary_) {
    return 0;
  }
  Place unfinished{place_.directory, temporary_name(place_.name, publication_.id)};
  const int error = link_nameless_to(unfinished.name);
  if (error == 0) {
    temporary_.emplace(std::move(unfinished));
  }
  return error;
}

int Candidate::link_nameless_to(const std::string& name) {
  const auto linked = link_nameless(fd_.get(), directory(), name.c_str(), traits().naming.load());
  if (linked.error == 0 || linked.error == EEXIST) {
    traits().naming.store(linked.way);
  }
  return linked.error;
}

Result<void> check_inode_once(const Place& place, const PublishedFile& published, const std::string& content) {
  FileSystemTraits& traits = *place.directory->traits;
  if (traits.inodes_trusted.load()) {
    return {};
  }
  const int directory = place.directory->fd.get();
  const Step same = names_inode(place.view(), published.file);
  if (same.answer == Step::Answer::done) {
    traits.inodes_trusted.store(true);
    return {};
  }
  // Nobody who keeps to the protocol has taken the name: whoever looks finds our running process as its owner. But a
  // cleaner may have removed our file, and another lock may stand there; then our hold is lost, as it can be later.
  if (const auto found = pin_file(place); found && (!*found || !says(**found, content))) {
    return {};
  }
  // It is our own content, under another inode number. So it may go by its name.
  {
    const InodeGuard guard = InodeGuard::lock(place.view(), published.fd.get());
    if (guard.is_entered()) {
      (void)sys::unlinkat(directory, place.name.c_str());
    }
  }
  if (same.answer == Step::Answer::failed) {
    return tl::unexpected(to_error(same, place.path()));
  }
  return unsupported_file_system(place, "the inode number of an open file there is not that of its name");
}

namespace {

/// ENOENT, or on ext4 EPERM, is also what a removed directory says.
bool is_directory_gone(const Place& place, const std::error_code& code) {
  return (code == std::errc::no_such_file_or_directory || code == std::errc::operation_not_permitted) &&
         place.directory->is_removed();
}

PublishAttempt directory_gone() {
  return {PublishOutcome::directory_gone, std::nullopt, std::nullopt};
}

}  // namespace

Result<std::optional<PublishAttempt>> judge_preparing_failure(const Place& place, const Candidate& candidate,
                                                              Error error) {
  if (is_directory_gone(place, error.code)) {
    return directory_gone();
  }
  if (candidate.is_lost(error.code)) {
    return std::nullopt;
  }
  return tl::unexpected(std::move(error));
}

Result<std::optional<PublishAttempt>> judge_naming_failure(const Place& place, int error) {
  auto& naming = place.directory->traits->naming;
  const std::error_code code{error, std::system_category()};
  if (is_directory_gone(place, code)) {
    return directory_gone();
  }
  if (naming.load() == Naming::untried && (error == ENOENT || error == EPERM || is_unsupported(error))) {
    naming.store(Naming::temporary_link);  // no capability and no /proc; or links of nameless files are refused
    return std::nullopt;
  }
  if (error == ENOENT && (naming.load() == Naming::temporary_link || naming.load() == Naming::temporary_rename)) {
    return std::nullopt;  // a sweep took it for left over
  }
  if (is_unsupported(error) && naming.load() == Naming::temporary_rename) {
    return unsupported_file_system(place, "it has neither nameless files, nor hard links, nor an exclusive rename");
  }
  return failure(code, "linkat", place);
}

tl::unexpected<Error> removed_again_and_again(const Place& place) {
  return failure(std::make_error_code(std::errc::no_such_file_or_directory), "publish", place,
                 "the unfinished file was removed again and again");
}

tl::unexpected<Error> unsupported_file_system(const Place& place, std::string detail) {
  return failure(Errc::unsupported_file_system, "publish", place, std::move(detail));
}

}  // namespace sessionlock
