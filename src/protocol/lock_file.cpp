#include "protocol/lock_file.hpp"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <fmt/core.h>

#include "system/file_status.hpp"

namespace sessionlock {
namespace {

/// A file that is gone each time that it has been opened is unreadable.
constexpr int k_opens_max = 10;

/// Reads at most one byte more than a record may have. Errors: our own shortages.
Result<Readable<FileContent>> read_content(int fd, const Place& place, std::size_t expected_size) {
  FileContent content;
  std::string& text = content.text;
  text.resize(std::min(expected_size, k_lock_record_bytes_max) + 1);
  std::size_t size = 0;
  while (size <= k_lock_record_bytes_max) {
    if (size == text.size()) {
      text.resize(std::min(text.size() * 2, k_lock_record_bytes_max + 1));
    }
    const auto got = sys::pread(fd, text.data() + size, text.size() - size, size);
    if (!got.ok()) {
      if (sys::is_own_shortage(got.error)) {
        return failure(got.code(), "pread", place);
      }
      return Readable<FileContent>(tl::unexpect, got.code());
    }
    size += static_cast<std::size_t>(got.value);
    // As much as the file was said to have, and less than there was room for: asking for its end would tell nothing
    // new.
    const bool is_whole = size == expected_size && size < text.size();
    if (got.value == 0 || is_whole) {
      text.resize(size);
      return content;
    }
  }
  text.resize(k_lock_record_bytes_max);
  content.too_long = true;
  return content;
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
  const std::string_view advice = S_ISLNK(mode) ? "which is not followed: name the file itself, or move the link away"
                                                : "which is left alone: move it away, or use another name";
  return failure(Errc::not_a_lock_file, "open", place, fmt::format("it is {}, {}", describe_kind(mode), advice));
}

/// What a lock path that cannot be opened means.
Result<std::optional<PinnedFile>> judge_open_failure(const Place& place, int error) {
  const std::error_code code{error, std::system_category()};
  if (error == ENOENT) {
    return std::nullopt;
  }
  // There is no file whose name is too long; counting it as held would make an acquire wait for nothing.
  if (sys::is_own_shortage(error) || error == ENAMETOOLONG) {
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
  pinned.content = tl::unexpected(code);
  if (found.ok() && error == EACCES) {
    pinned.denied_by = FileAccess{status.st_uid, status.st_gid, status.st_mode & ~static_cast<mode_t>(S_IFMT)};
  }
  return pinned;
}

/// Looks at a pinned inode and reads it. Errors: `Errc::not_a_lock_file`; our own shortages.
Result<Readable<FileContent>> read_inode(PinnedInode& pinned, const Place& place) {
  struct stat status {};
  if (const auto result = sys::fstat(pinned.fd.get(), status); !result.ok()) {
    if (sys::is_own_shortage(result.error)) {
      return failure(result.code(), "fstat", place);
    }
    return Readable<FileContent>(tl::unexpect, result.code());
  }
  if (!S_ISREG(status.st_mode)) {
    return not_a_lock_file(place, status.st_mode);
  }
  pinned.file = identity_of(status);
  pinned.modified = modification_time(status);
  pinned.links = status.st_nlink;
  return read_content(pinned.fd.get(), place, size_of(status));
}

/// Understands what a file at a lock path says.
Result<Readable<LockText>> understand(const Readable<FileContent>& content, const Place& place) {
  if (!content) {
    return Readable<LockText>(tl::unexpect, content.error());
  }
  if (content->too_long) {
    return failure(Errc::not_a_lock_file, "read lock file", place, "it is longer than any lock file");
  }
  return read_lock_text(content->text);
}

}  // namespace

namespace {

Result<std::optional<PinnedFile>> pin_file_once(const Place& place) {
  // The kernel may remember that there is nothing. Where the server cannot be asked, opening says why.
  (void)ask_about_names(place.view());
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
  pinned.fd.expect(pinned.file);  // at once, because it may stay open while an observer or the program runs
  return pinned;
}

}  // namespace

Result<std::optional<PinnedFile>> pin_file(const Place& place) {
  auto pinned = pin_file_once(place);
  // An NFS server knows no open files: 1. A opens the lock file. 2. B, on another host, removes it. 3. A reads, and is
  // refused with ESTALE. What has the name now is another file, or nothing.
  const auto is_stale = [&] {
    return pinned && *pinned && !(*pinned)->content && (*pinned)->content.error().value() == ESTALE;
  };
  for (int attempt = 1; attempt < k_opens_max && !place.directory->traits->local && is_stale(); ++attempt) {
    pinned = pin_file_once(place);
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
  auto content = understand((*found)->content, place);
  if (!content) {
    return tl::unexpected(std::move(content).error());
  }
  return PinnedLock{static_cast<PinnedInode&&>(**found), std::move(*content)};
}

bool says(const PinnedFile& pinned, std::string_view text) {
  return pinned.content && !pinned.content->too_long && pinned.content->text == text;
}

Result<void> read_again(PinnedFile& pinned, const Place& place) {
  auto content = read_inode(pinned, place);
  if (!content) {
    return tl::unexpected(std::move(content).error());
  }
  pinned.content = std::move(*content);
  return {};
}

Result<void> read_again(PinnedLock& pinned, const Place& place) {
  const auto read = read_inode(pinned, place);
  if (!read) {
    return tl::unexpected(read.error());
  }
  auto content = understand(*read, place);
  if (!content) {
    return tl::unexpected(std::move(content).error());
  }
  pinned.content = std::move(*content);
  return {};
}

Locality locality_of_file(const PinnedInode& pinned) {
  sys::FileSystem file_system;
  return sys::fstatfs(pinned.fd.get(), file_system).ok() ? locality_of(file_system.type) : Locality::unknown;
}

WitnessAnswer query_witness(const PinnedInode& pinned) {
  if (!pinned.fd) {
    return {};
  }
  const auto found = sys::ofd_get_lock(pinned.fd.get(), F_RDLCK, k_witness_offset);
  if (!found.ok()) {
    return {WitnessQuery::failed, found.code()};
  }
  return {found.value == F_WRLCK ? WitnessQuery::write_locked : WitnessQuery::not_locked, {}};
}

void mark_waiting(int fd, const FileSystemTraits& traits) {
  if (traits.record_locks.load()) {
    (void)sys::ofd_set_lock(fd, F_RDLCK, k_mark_offset);  // without it we are only less polite to others
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
