#include "protocol/file_system_trials.hpp"

#include <cerrno>

#include <fcntl.h>
#include <sys/file.h>

#include "process/procfs.hpp"
#include "protocol/inode_guard.hpp"
#include "protocol/lock_file.hpp"

namespace sessionlock {
namespace {

/// Takes back all locks of a trial. Closing the descriptors would leave them with a child that is just being started.
class LocksDropped {
 public:
  LocksDropped(int first, int second) : first_(first), second_(second) {}
  ~LocksDropped() {
    for (const int fd : {first_, second_}) {
      (void)sys::flock(fd, LOCK_UN);
    }
    for (const auto offset : {k_witness_offset, k_mark_offset}) {
      (void)sys::ofd_set_lock(first_, F_UNLCK, offset);
    }
  }
  LocksDropped(const LocksDropped&) = delete;
  LocksDropped& operator=(const LocksDropped&) = delete;

 private:
  int first_;
  int second_;
};

sys::Outcome try_flock(int fd) {
  return sys::flock(fd, LOCK_EX | LOCK_NB);
}

/// Whether flock works at all.
Result<void> try_exclusion(int first, int second, const Place& place, LockTrial& trial) {
  const auto own = try_flock(first);
  const auto other = own.ok() ? try_flock(second) : own;
  trial.flock = own.ok() && is_locked_by_another(other.error, place.directory->traits->local);
  if (trial.flock || other.ok()) {
    return {};
  }
  // ENOLCK is what network file systems without a lock service say.
  if (!is_unsupported(other.error) && other.error != ENOLCK) {
    return failure(other.code(), "flock", place);
  }
  trial.flock_failure = other.code();
  return {};
}

/// Whether there are record locks, and none stands in the way of flock.
Result<void> try_record_locks(int first, int second, const Place& place, LockTrial& trial) {
  for (const auto& [type, offset] : {std::pair{F_WRLCK, k_witness_offset}, std::pair{F_RDLCK, k_mark_offset}}) {
    const auto locked = sys::ofd_set_lock(first, static_cast<short>(type), offset);
    if (locked.ok()) {
      continue;
    }
    // On a local file system ENOLCK is a shortage.
    if (is_unsupported(locked.error) || (locked.error == ENOLCK && !place.directory->traits->local)) {
      return {};
    }
    return failure(locked.code(), "fcntl(F_OFD_SETLK)", place);
  }
  const auto seen = sys::ofd_get_lock(second, F_RDLCK, k_witness_offset);
  trial.record_locks = seen.ok() && seen.value == F_WRLCK;
  trial.independent = trial.record_locks && try_flock(second).ok();
  return {};
}

}  // namespace

bool is_unsupported(int error) noexcept {
  return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == ENOTTY;
}

Result<LockTrial> try_locks(int first, int second, const Place& place) {
  const LocksDropped dropped(first, second);
  LockTrial trial;
  if (auto tried = try_exclusion(first, second, place, trial); !tried) {
    return tl::unexpected(std::move(tried).error());
  }
  (void)sys::flock(first, LOCK_UN);
  if (auto tried = try_record_locks(first, second, place, trial); !tried) {
    return tl::unexpected(std::move(tried).error());
  }
  return trial;
}

NamelessLink link_nameless(int fd, int directory, const char* name, Naming known) {
  if (known != Naming::descriptor_link) {
    const int error = sys::linkat(fd, "", directory, name, AT_EMPTY_PATH).error;
    if (error == 0 || error == EEXIST) {
      return {error, Naming::empty_path};
    }
    if (error != ENOENT && error != EPERM && error != EACCES) {
      return {error, known};
    }
  }
  const int error = sys::linkat(AT_FDCWD, descriptor_link(fd).data(), directory, name, AT_SYMLINK_FOLLOW).error;
  return {error, error == 0 || error == EEXIST ? Naming::descriptor_link : known};
}

}  // namespace sessionlock
