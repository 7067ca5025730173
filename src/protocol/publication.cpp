#include "protocol/publication.hpp"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/file.h>

#include "process/procfs.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/reclaim.hpp"
#include "protocol/temporary_name.hpp"
#include "system/file_status.hpp"

namespace sessionlock {
namespace {

constexpr int k_candidates_max = 8;  // a sweep that keeps removing our temporary name is not going to let us in

tl::unexpected<Error> unsupported(const Place& place, std::string detail) {
  return failure(Errc::unsupported_file_system, "publish", place, std::move(detail));
}

bool is_not_supported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == ENOTTY;
}

/// A complete file that has no name yet, or a temporary one, which goes when this goes.
class Candidate {
 public:
  Candidate(const Place& place, const Publication& publication) : place_(place), publication_(publication) {}
  ~Candidate() {
    if (!temporary_name_.empty()) {
      (void)sys::unlinkat(directory(), temporary_name_.c_str());
    }
  }
  Candidate(const Candidate&) = delete;
  Candidate& operator=(const Candidate&) = delete;

  /// Completes the file, but for its name.
  Result<void> prepare();
  /// An errno: 0 named, EEXIST contended, others as they are.
  int give_name();
  Result<void> check_inode_identity();
  /// Goes over to a descriptor of the file's own name, where that of its temporary one is another file's to the kernel.
  /// False: somebody took the file away already, as an operator may.
  Result<bool> adopt_name();

  /// The time by this file system when it was made.
  [[nodiscard]] WallTime made() const { return made_; }
  /// It was made and cannot be found: a sweep took it for left over, or nothing leads to a nameless file here.
  [[nodiscard]] bool is_lost(const std::error_code& why) const {
    return fd_ && !may_be_nameless() && why == std::errc::no_such_file_or_directory;
  }
  PublishedFile take() { return {std::move(fd_), file_, has_witness_}; }

 private:
  [[nodiscard]] int directory() const { return place_.directory->fd.get(); }
  [[nodiscard]] FileSystemTraits& traits() const { return *place_.directory->traits; }
  [[nodiscard]] bool may_be_nameless() const {
    const Naming naming = traits().naming.load();
    return naming != Naming::temporary_link && naming != Naming::temporary_rename;
  }
  [[nodiscard]] bool has_its_name() const {
    return names_inode(directory(), place_.name.c_str(), file_).answer == Step::Answer::done;
  }
  Result<void> create();
  Result<void> take_witness();
  Result<void> try_locks();
  Result<void> try_names();
  sys::Outcome try_own_flock(sys::Fd other) const;
  Result<std::optional<PinnedFile>> pin_named() const;
  /// Whether this is what we wrote, all or a part: by its number where that can be told, because every record begins
  /// like another. While our temporary name is there no other file gets that number.
  [[nodiscard]] bool is_ours(const PinnedFile& named) const { return named.file == file_ || named.text == content_; }
  /// Takes what we published away again. What is not possible is told in the error.
  tl::unexpected<Error> take_back(Error why);
  Result<void> write();
  int link_nameless();
  int link_temporary();
  /// An errno, as `give_name`.
  int link_by_name();

  const Place& place_;
  const Publication& publication_;
  sys::Fd fd_;
  std::string temporary_name_;
  FileIdentity file_;
  WallTime made_{};
  std::string content_;
  bool has_witness_{false};
  /// It has its name besides the temporary one.
  bool is_linked_{false};
};

Result<void> Candidate::create() {
  sys::Opened opened;
  if (may_be_nameless()) {
    opened = sys::open(directory(), ".", O_TMPFILE | O_RDWR, publication_.mode);
    // EISDIR and EINVAL: open(2), O_TMPFILE, where the file system or an old kernel does not know it.
    if (!opened.ok() && (is_not_supported(opened.error) || opened.error == EISDIR)) {
      traits().naming.store(Naming::temporary_link);
    }
  }
  if (!may_be_nameless()) {
    temporary_name_ = temporary_name(place_.name, publication_.id);
    opened = sys::open(directory(), temporary_name_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, publication_.mode);
    if (!opened.ok()) {
      temporary_name_.clear();
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
  sys::remember_inode(fd_.get(), status.st_dev, status.st_ino);
  return {};
}

/// The witness comes before the record that declares it.
Result<void> Candidate::take_witness() {
  if (publication_.with_witness && traits().record_locks.load()) {
    const auto locked = sys::ofd_set_lock(fd_.get(), F_WRLCK, k_witness_offset);
    // ENOLCK is what network file systems without a lock service say; on a local one it is a shortage.
    if (!locked.ok() && !is_not_supported(locked.error) && (locked.error != ENOLCK || traits().local)) {
      return failure(locked.code(), "fcntl(F_OFD_SETLK)", place_);
    }
    has_witness_ = locked.ok();
    if (!locked.ok() && locked.error != ENOLCK) {
      traits().record_locks.store(false);
    }
  }
  if (!traits().locks_tried.load()) {
    if (auto tried = try_locks(); !tried) {
      return tried;
    }
  }
  if (!temporary_name_.empty() && !traits().names_tried.load()) {
    if (auto tried = try_names(); !tried) {
      return tried;
    }
  }
  if (traits().names_apart.load()) {
    has_witness_ = false;  // nobody finds it by the lock's own name; `adopt_name` takes one that is not declared
  }
  return {};
}

/// Whether our own descriptor gets the `flock` that another one has: EWOULDBLOCK is as it should be.
sys::Outcome Candidate::try_own_flock(sys::Fd other) const {
  const auto own = sys::flock(fd_.get(), LOCK_EX | LOCK_NB);
  for (const int fd : {fd_.get(), other.get()}) {
    (void)sys::flock(fd, LOCK_UN);  // closing would leave it with a child that is just being started
  }
  return own;
}

/// Once for a file system: a lock that could not be released must not be published, and witness and marks must not
/// stand in the way of `flock` (NFS turns `flock` into a record lock on the whole file).
Result<void> Candidate::try_locks() {
  const std::string name = temporary_name_.empty() ? descriptor_link(fd_.get()).data() : temporary_name_;
  auto second = sys::open(directory(), name.c_str(), O_RDWR);
  if (!second.ok() && temporary_name_.empty() && second.error == ENOENT) {
    traits().naming.store(Naming::temporary_link);  // no path to a nameless file here: start again with a named one
  }
  if (!second.ok()) {
    return failure(second.code(), "openat", place_);
  }
  if (has_witness_ && !sys::ofd_set_lock(fd_.get(), F_RDLCK, k_mark_offset).ok()) {
    traits().record_locks.store(false);
  }
  auto locked = sys::flock(second.fd.get(), LOCK_EX | LOCK_NB);
  if (!locked.ok() && locked.error == EWOULDBLOCK && has_witness_) {
    traits().record_locks.store(false);
    has_witness_ = false;
    (void)sys::ofd_set_lock(fd_.get(), F_UNLCK, k_witness_offset);
    (void)sys::ofd_set_lock(fd_.get(), F_UNLCK, k_mark_offset);
    locked = sys::flock(second.fd.get(), LOCK_EX | LOCK_NB);
  }
  if (!locked.ok()) {
    if (is_not_supported(locked.error) || locked.error == ENOLCK) {
      return unsupported(place_, "flock does not work there (" + locked.code().message() + ")");
    }
    return failure(locked.code(), "flock", place_);
  }
  const auto own = try_own_flock(std::move(second.fd));
  (void)sys::ofd_set_lock(fd_.get(), F_UNLCK, k_mark_offset);
  if (own.error != EWOULDBLOCK) {
    return own.ok() ? unsupported(place_, "flock does not keep others out there")
                    : failure(own.code(), "flock", place_);
  }
  traits().locks_tried.store(true);
  return {};
}

/// Once for a file system where a file has a temporary name first: whether who opens the file by one name is kept out
/// by a lock on what was opened by the other.
Result<void> Candidate::try_names() {
  std::string id(publication_.id);
  if (!id.empty()) {
    id.front() = id.front() == '0' ? '1' : '0';
  }
  const std::string other_name = temporary_name(place_.name, id);
  const auto linked = sys::linkat(directory(), temporary_name_.c_str(), directory(), other_name.c_str(), 0);
  if (linked.error == EPERM || linked.error == EMLINK || is_not_supported(linked.error)) {
    traits().names_tried.store(true);
    return {};  // it will have to be renamed, and then stays the file it is
  }
  if (!linked.ok()) {
    return failure(linked.code(), "linkat", place_);
  }
  auto other = sys::open(directory(), other_name.c_str(), O_RDWR | O_NOFOLLOW);
  const char* const call = other.ok() ? "flock" : "openat";
  const auto locked = other.ok() ? sys::flock(other.fd.get(), LOCK_EX | LOCK_NB) : sys::Outcome{-1, other.error};
  // Closed before its name goes, which such file systems keep under another as long as it is open.
  const auto own = locked.ok() ? try_own_flock(std::move(other.fd)) : locked;
  (void)sys::unlinkat(directory(), other_name.c_str());
  if (!locked.ok() || (!own.ok() && own.error != EWOULDBLOCK)) {
    return failure(own.code(), call, place_);
  }
  traits().names_apart.store(own.ok());
  traits().names_tried.store(true);
  return {};
}

Result<void> Candidate::write() {
  content_ = publication_.content(has_witness_ ? &file_ : nullptr);
  for (std::size_t done = 0; done < content_.size();) {
    const auto written = sys::write(fd_.get(), content_.data() + done, content_.size() - done);
    if (!written.ok()) {
      return failure(written.code(), "write", place_);
    }
    if (written.value == 0) {
      return failure(std::make_error_code(std::errc::io_error), "write", place_, "the file system takes no bytes");
    }
    done += static_cast<std::size_t>(written.value);
  }
  // To the kernel, or a server, that will be another file's content soon: sshfs with several connections links before
  // it writes.
  if (traits().names_apart.load()) {
    if (const auto synced = sys::fsync(fd_.get()); !synced.ok() && !is_not_supported(synced.error)) {
      return failure(synced.code(), "fsync", place_);
    }
  }
  return {};
}

Result<void> Candidate::prepare() {
  if (auto created = create(); !created) {
    return created;
  }
  if (auto taken = take_witness(); !taken) {
    return taken;
  }
  return write();
}

/// Tries the ways in order until one works, and remembers it. ENOENT does not say whether a way is missing (no
/// capability, no /proc) or the directory is; only success of a later way shows that.
int Candidate::link_nameless() {
  const Naming naming = traits().naming.load();
  int error = ENOENT;
  if (naming != Naming::descriptor_link) {
    error = sys::linkat(fd_.get(), "", directory(), place_.name.c_str(), AT_EMPTY_PATH).error;
    if (error == 0 || error == EEXIST) {
      traits().naming.store(Naming::empty_path);
      return error;
    }
    if (error != ENOENT && error != EPERM && error != EACCES) {
      return error;
    }
  }
  error = sys::linkat(AT_FDCWD, descriptor_link(fd_.get()).data(), directory(), place_.name.c_str(), AT_SYMLINK_FOLLOW)
              .error;
  if (error == 0 || error == EEXIST) {
    traits().naming.store(Naming::descriptor_link);
  }
  return error;
}

int Candidate::link_temporary() {
  if (traits().naming.load() == Naming::temporary_link) {
    const int error = link_by_name();
    is_linked_ = error == 0;
    if (traits().names_apart.load() || (error != EPERM && error != EMLINK && !is_not_supported(error))) {
      return error;
    }
    traits().naming.store(Naming::temporary_rename);
  }
  const int error = sys::rename_no_replace(directory(), temporary_name_.c_str(), place_.name.c_str()).error;
  const bool reply_lost = (error == ENOENT || error == EEXIST) && has_its_name();
  if (error == 0 || reply_lost) {
    temporary_name_.clear();
    return 0;
  }
  return error;
}

int Candidate::link_by_name() {
  for (int attempt = 1;; ++attempt) {
    const int error = sys::linkat(directory(), temporary_name_.c_str(), directory(), place_.name.c_str(), 0).error;
    // A network file system may have made the link and lost its reply.
    if (error == EEXIST && has_its_name()) {
      return 0;
    }
    // sshfs says the same when another host was faster; where links were seen to work it can mean nothing else.
    if (error != EPERM || !traits().names_apart.load() || attempt == k_candidates_max) {
      return error;
    }
    struct stat status {};
    if (sys::fstatat(directory(), place_.name.c_str(), status, AT_SYMLINK_NOFOLLOW).ok()) {
      return EEXIST;
    }
  }
}

int Candidate::give_name() {
  return temporary_name_.empty() ? link_nameless() : link_temporary();
}

Result<std::optional<PinnedFile>> Candidate::pin_named() const {
  auto pinned = pin_file(place_);
  return pinned && *pinned && (*pinned)->unreadable ? failure((*pinned)->unreadable, "read lock", place_)
                                                    : std::move(pinned);
}

tl::unexpected<Error> Candidate::take_back(Error why) {
  fd_.reset();  // its number may be what is wanting
  auto pinned = pin_named();
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

Result<bool> Candidate::adopt_name() {
  if (!is_linked_ || !traits().names_apart.load()) {
    return true;
  }
  auto pinned = pin_named();
  if (!pinned) {
    return take_back(std::move(pinned).error());
  }
  if (!*pinned || !is_ours(**pinned)) {
    return false;
  }
  if ((*pinned)->text != content_) {
    return take_back(
        {std::make_error_code(std::errc::io_error), "publish", place_.path(), std::nullopt,
         "the file system does not show the whole record that was written to it; keep the locks on another "
         "(--lock-directory)"});
  }
  fd_ = std::move((*pinned)->fd);
  file_ = (*pinned)->file;
  sys::remember_inode(fd_.get(), file_.device, file_.inode);
  // It comes after the record here, which therefore does not declare it: that it is held proves that somebody lives,
  // and that it is not proves nothing.
  if (publication_.with_witness && traits().record_locks.load()) {
    (void)sys::ofd_set_lock(fd_.get(), F_WRLCK, k_witness_offset);
  }
  return true;
}

/// Once for a file system: where the inode of an open file is not that of its name, nothing here can be verified.
Result<void> Candidate::check_inode_identity() {
  if (traits().inodes_trusted.load()) {
    return {};
  }
  const Step same = names_inode(directory(), place_.name.c_str(), file_);
  if (same.answer == Step::Answer::done) {
    traits().inodes_trusted.store(true);
    return {};
  }
  // Nobody who keeps to the protocol has taken the name: whoever looks finds our running process as its owner. But a
  // cleaner may have removed our file, and another lock may stand there; then our hold is lost, as it can be later.
  if (const auto found = pin_file(place_); found && (!*found || (*found)->text != content_)) {
    return {};
  }
  // It is our own content, under another inode number. So it may go by its name.
  if (sys::flock(fd_.get(), LOCK_EX | LOCK_NB).ok()) {
    (void)sys::unlinkat(directory(), place_.name.c_str());
    (void)sys::flock(fd_.get(), LOCK_UN);
  }
  if (same.answer == Step::Answer::failed) {
    return tl::unexpected(to_error(same, place_.path()));
  }
  return unsupported(place_, "the inode number of an open file there is not that of its name");
}

PublishAttempt directory_gone() {
  return {PublishOutcome::directory_gone, std::nullopt, std::nullopt};
}

/// ENOENT, or on ext4 EPERM, is also what a removed directory says.
bool may_mean_removed(const std::error_code& code) {
  return code == std::errc::no_such_file_or_directory || code == std::errc::operation_not_permitted;
}

/// What it means that a candidate could not be given its name. None: try another.
Result<std::optional<PublishAttempt>> judge_naming_failure(const Place& place, int error) {
  auto& naming = place.directory->traits->naming;
  const std::error_code code{error, std::system_category()};
  if (may_mean_removed(code) && place.directory->is_removed()) {
    return directory_gone();
  }
  if (naming.load() == Naming::untried && (error == ENOENT || error == EPERM || is_not_supported(error))) {
    naming.store(Naming::temporary_link);  // no capability and no /proc; or links of nameless files are refused
    return std::nullopt;
  }
  if (error == ENOENT && (naming.load() == Naming::temporary_link || naming.load() == Naming::temporary_rename)) {
    return std::nullopt;  // a sweep took it for left over
  }
  if (is_not_supported(error) && naming.load() == Naming::temporary_rename) {
    return unsupported(place, "it has neither nameless files, nor hard links, nor an exclusive rename");
  }
  return failure(code, "linkat", place);
}

/// One candidate. None: it was swept away before it had its name, and another is needed.
Result<std::optional<PublishAttempt>> publish_one(const Place& place, const Publication& publication) {
  Candidate candidate(place, publication);
  if (auto prepared = candidate.prepare(); !prepared) {
    if (may_mean_removed(prepared.error().code) && place.directory->is_removed()) {
      return directory_gone();
    }
    if (candidate.is_lost(prepared.error().code)) {
      return std::nullopt;
    }
    return tl::unexpected(std::move(prepared).error());
  }
  const int error = candidate.give_name();
  if (error == EEXIST) {
    return PublishAttempt{PublishOutcome::contended, std::nullopt, candidate.made()};
  }
  if (error != 0) {
    return judge_naming_failure(place, error);
  }
  auto adopted = candidate.adopt_name();
  if (!adopted) {
    return tl::unexpected(std::move(adopted).error());
  }
  if (!*adopted) {
    return PublishAttempt{PublishOutcome::contended, std::nullopt, candidate.made()};
  }
  if (auto checked = candidate.check_inode_identity(); !checked) {
    return tl::unexpected(std::move(checked).error());
  }
  const auto now = candidate.made();
  return PublishAttempt{PublishOutcome::published, candidate.take(), now};
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

Result<PublishAttempt> publish(const Place& place, const LockRecordView& record, mode_t mode) {
  const Publication publication{
      mode, record.lock_id.value_or(std::string_view{}), true, [&record](const FileIdentity* witness) {
        LockRecordView complete = record;
        const auto text = witness != nullptr ? std::optional<WitnessText>(*witness) : std::nullopt;
        complete.witness = text ? std::optional(text->view()) : std::nullopt;
        return format_lock_record_view(complete);
      }};
  return publish_file(place, publication);
}

}  // namespace sessionlock
