#include "protocol/lock_file.hpp"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/file.h>

#include "system/file_status.hpp"

namespace sessionlock {
namespace {

/// Reads at most one byte more than a record may have.
Result<void> read_content(PinnedFile& pinned, const Place& place, std::size_t expected_size) {
  std::string& text = pinned.text;
  text.resize(std::min(expected_size, k_lock_record_bytes_max) + 1);
  std::size_t size = 0;
  pinned.too_long = false;
  while (size <= k_lock_record_bytes_max) {
    if (size == text.size()) {
      text.resize(std::min(text.size() * 2, k_lock_record_bytes_max + 1));
    }
    const auto got = sys::pread(pinned.fd.get(), text.data() + size, text.size() - size, size);
    if (!got.ok()) {
      text.clear();
      if (sys::is_own_shortage(got.error)) {
        return failure(got.code(), "pread", place);
      }
      pinned.unreadable = got.code();
      return {};
    }
    size += static_cast<std::size_t>(got.value);
    // As much as the file was said to have, and less than there was room for: asking for its end would tell nothing
    // new.
    const bool is_whole = size == expected_size && size < text.size();
    if (got.value == 0 || is_whole) {
      text.resize(size);
      return {};
    }
  }
  text.resize(k_lock_record_bytes_max);
  pinned.too_long = true;
  return {};
}

/// Takes the record out of a lock file's content, where that could be read.
Result<void> parse_content(PinnedLock& pinned, const Place& place) {
  if (pinned.too_long) {
    return failure(Errc::not_a_lock_file, "read lock", place, "it is longer than any lock file");
  }
  if (!pinned.unreadable) {
    pinned.record = parse_lock_record(pinned.text);
  }
  return {};
}

std::string_view describe_kind(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFLNK:
      return "a symbolic link";
    case S_IFDIR:
      return "a directory";
    case S_IFIFO:
      return "a FIFO";
    case S_IFSOCK:
      return "a socket";
    case S_IFCHR:
    case S_IFBLK:
      return "a device";
    default:
      return "no regular file";
  }
}

tl::unexpected<Error> not_a_lock_file(const Place& place, mode_t mode) {
  return failure(Errc::not_a_lock_file, "open lock", place, "it is " + std::string(describe_kind(mode)));
}

/// What a lock path that cannot be opened means.
Result<std::optional<PinnedFile>> judge_open_failure(const Place& place, int error) {
  const std::error_code code{error, std::system_category()};
  if (error == ENOENT) {
    return std::nullopt;
  }
  if (sys::is_own_shortage(error)) {
    return failure(code, "openat", place);
  }
  struct stat status {};
  const auto found = sys::fstatat(place.directory->fd.get(), place.name.c_str(), status, AT_SYMLINK_NOFOLLOW);
  if (found.ok() && !S_ISREG(status.st_mode)) {
    return not_a_lock_file(place, status.st_mode);
  }
  if (!found.ok() && found.error == ENOENT) {
    return std::nullopt;
  }
  PinnedFile pinned;
  pinned.unreadable = code;
  return pinned;
}

/// The part of a removal that runs under the inode's `flock`.
Result<Removal> remove_locked(const Place& place, PinnedFile& pinned,
                              const std::function<Result<bool>()>& still_removable) {
  if (auto read = read_again(pinned, place); !read) {
    return tl::unexpected(std::move(read).error());
  }
  auto removable = still_removable();
  if (!removable) {
    return tl::unexpected(std::move(removable).error());
  }
  if (!*removable) {
    return Removal::spared;
  }
  // A judged inode 7 removable. B judged it too, locked it, unlinked it and published inode 8. A locks inode 7, sees
  // that the path names 8, and stops here.
  const Step same = names_inode(place.directory->fd.get(), place.name.c_str(), pinned.file);
  if (same.answer == Step::Answer::failed) {
    return tl::unexpected(to_error(same, place.path()));
  }
  if (same.answer == Step::Answer::other) {
    return Removal::replaced;
  }
  const auto unlinked = sys::unlinkat(place.directory->fd.get(), place.name.c_str());
  if (!unlinked.ok() && unlinked.error != ENOENT) {
    return failure(unlinked.code(), "unlinkat", place);
  }
  return Removal::removed;
}

}  // namespace

Result<std::optional<PinnedFile>> pin_file(const Place& place) {
  // O_NONBLOCK: a FIFO must not hang us. Network file systems want a writable descriptor for an exclusive flock.
  const int access = place.directory->traits->local ? O_RDONLY : O_RDWR;
  auto opened = sys::open(place.directory->fd.get(), place.name.c_str(), access | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (!opened.ok() && access == O_RDWR && (opened.error == EACCES || opened.error == EPERM || opened.error == EROFS)) {
    opened = sys::open(place.directory->fd.get(), place.name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  }
  if (!opened.ok()) {
    return judge_open_failure(place, opened.error);
  }
  PinnedFile pinned;
  pinned.fd = std::move(opened.fd);
  if (auto read = read_again(pinned, place); !read) {
    return tl::unexpected(std::move(read).error());
  }
  return pinned;
}

Result<std::optional<PinnedLock>> pin(const Place& place) {
  auto found = pin_file(place);
  if (!found) {
    return tl::unexpected(std::move(found).error());
  }
  // An unlink tells its watchers before the name can no longer be found (fs/namei.c, vfs_unlink): who is woken by it
  // may open the inode that just lost its name, and would wait for an event that has been.
  if (!found->has_value() || ((*found)->links == 0 && place.directory->traits->local)) {
    return std::nullopt;
  }
  PinnedLock pinned{std::move(**found), {}};
  if (auto parsed = parse_content(pinned, place); !parsed) {
    return tl::unexpected(std::move(parsed).error());
  }
  return pinned;
}

Result<void> read_again(PinnedFile& pinned, const Place& place) {
  struct stat status {};
  if (const auto result = sys::fstat(pinned.fd.get(), status); !result.ok()) {
    if (sys::is_own_shortage(result.error)) {
      return failure(result.code(), "fstat", place);
    }
    pinned.unreadable = result.code();
    return {};
  }
  if (!S_ISREG(status.st_mode)) {
    return not_a_lock_file(place, status.st_mode);
  }
  pinned.file = identity_of(status);
  pinned.modified = modification_time(status);
  pinned.links = status.st_nlink;
  pinned.unreadable = {};
  return read_content(pinned, place, size_of(status));
}

WitnessAnswer query_witness(const PinnedLock& pinned) {
  if (!pinned.fd) {
    return {};
  }
  const auto found = sys::ofd_get_lock(pinned.fd.get(), F_RDLCK, k_witness_offset);
  if (!found.ok()) {
    return {WitnessQuery::failed, found.code()};
  }
  return {found.value == F_WRLCK ? WitnessQuery::write_locked : WitnessQuery::not_locked, {}};
}

Result<Removal> remove_verified(const Place& place, PinnedLock& pinned,
                                const std::function<Result<bool>()>& still_removable) {
  return remove_verified(place, static_cast<PinnedFile&>(pinned), [&]() -> Result<bool> {
    if (auto parsed = parse_content(pinned, place); !parsed) {
      return tl::unexpected(std::move(parsed).error());
    }
    return still_removable();
  });
}

Result<Removal> remove_verified(const Place& place, PinnedFile& pinned,
                                const std::function<Result<bool>()>& still_removable) {
  const auto locked = sys::flock(pinned.fd.get(), LOCK_EX | LOCK_NB);
  if (!locked.ok()) {
    return locked.error == EWOULDBLOCK ? Result<Removal>(Removal::busy) : failure(locked.code(), "flock", place);
  }
  auto removal = remove_locked(place, pinned, still_removable);
  (void)leave_guard(pinned.fd.get());
  return removal;
}

Step try_enter_guard(int directory, const char* name, int fd, const FileIdentity& file) noexcept {
  if (const auto locked = sys::flock(fd, LOCK_EX | LOCK_NB); !locked.ok()) {
    return locked.error == EWOULDBLOCK ? Step{Step::Answer::busy}
                                       : Step{Step::Answer::failed, sys::Call::flock, locked.error};
  }
  const Step same = names_inode(directory, name, file);
  if (same.answer != Step::Answer::done) {
    (void)leave_guard(fd);
  }
  return same;
}

Step leave_guard(int fd) noexcept {
  const auto unlocked = sys::flock(fd, LOCK_UN);
  return unlocked.ok() ? Step{} : Step{Step::Answer::failed, sys::Call::flock, unlocked.error};
}

Step names_inode(int directory, const char* name, const FileIdentity& file) noexcept {
  struct stat status {};
  const auto found = sys::fstatat(directory, name, status, AT_SYMLINK_NOFOLLOW);
  if (found.ok()) {
    return {identity_of(status) == file ? Step::Answer::done : Step::Answer::other};
  }
  return found.error == ENOENT ? Step{Step::Answer::other}
                               : Step{Step::Answer::failed, sys::Call::fstatat, found.error};
}

Error to_error(const Step& step, const std::filesystem::path& path) {
  return {{step.error, std::system_category()}, std::string(sys::to_string(step.call)), path, std::nullopt, {}};
}

void mark_waiting(const PinnedLock& pinned, const FileSystemTraits& traits) {
  if (pinned.fd && traits.record_locks.load()) {
    (void)sys::ofd_set_lock(pinned.fd.get(), F_RDLCK, k_mark_offset);  // without it we are only less polite to others
  }
}

bool has_waiting_mark(int fd, const FileSystemTraits& traits) {
  if (!traits.record_locks.load()) {
    return false;
  }
  const auto found = sys::ofd_get_lock(fd, F_WRLCK, k_mark_offset);
  return found.ok() && found.value == F_RDLCK;
}

}  // namespace sessionlock
