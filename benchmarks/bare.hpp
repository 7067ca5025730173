#pragma once

/// \file
/// The floors: an acquire and release in bare system calls.

#include <cstdio>
#include <string>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.hpp"

namespace sessionlock::bench {

/// As long as a record of ours.
inline const std::string k_full_record(360, 'x');

/// A lock file without any protection: open(O_EXCL), write, unlink, close.
inline void naive_cycle(const std::string& path, const std::string& record) {
  const int fd = ::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  require(fd >= 0, "open");
  require(::write(fd, record.data(), record.size()) > 0, "write");
  require(::unlink(path.c_str()) == 0, "unlink");
  ::close(fd);
}

/// The system calls of this library's own protocol and nothing else.
class BareLock {
 public:
  BareLock(std::string folder, std::string name)
      : folder_(std::move(folder)), name_(std::move(name)), lock_name_(name_ + ".lock") {}

  void acquire() {
    open_directory();
    struct statx identity {};
    require(::statx(directory_, "", AT_EMPTY_PATH, STATX_BASIC_STATS | k_mount_id, &identity) == 0, "statx");
    struct stat status {};
    fd_ = ::openat(directory_, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    require(fd_ >= 0, "O_TMPFILE");
    ::fstat(fd_, &status);
    witness_.l_type = F_WRLCK;
    require(::fcntl(fd_, F_OFD_SETLK, &witness_) == 0, "F_OFD_SETLK");
    require(::write(fd_, k_full_record.data(), k_full_record.size()) > 0, "write");
    if (::linkat(fd_, "", directory_, lock_name_.c_str(), AT_EMPTY_PATH) != 0) {
      const std::string link = "/proc/self/fd/" + std::to_string(fd_);
      require(::linkat(AT_FDCWD, link.c_str(), directory_, lock_name_.c_str(), AT_SYMLINK_FOLLOW) == 0, "linkat");
    }
    // The path still leads here.
    ::stat(folder_.c_str(), &status);
    struct statx session {};
    (void)::statx(directory_, name_.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_NLINK, &session);
  }

  /// One of many that are held at once does without a descriptor of its own for their directory.
  void share_directory() {
    ::close(directory_);
    directory_ = -1;
  }

  void release() {
    if (directory_ < 0) {
      open_directory();
    }
    struct stat status {};
    ::fstat(fd_, &status);
    require(::flock(fd_, LOCK_EX | LOCK_NB) == 0, "flock");
    ::fstatat(directory_, lock_name_.c_str(), &status, AT_SYMLINK_NOFOLLOW);
    require(::unlinkat(directory_, lock_name_.c_str(), 0) == 0, "unlinkat");
    struct flock mark = witness_;
    ++mark.l_start;
    ::fcntl(fd_, F_OFD_GETLK, &mark);
    ::close(fd_);
    ::close(directory_);
  }

 private:
  void open_directory() {
    directory_ = ::open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    require(directory_ >= 0, "open directory");
  }

  static constexpr unsigned k_mount_id = 0x4000U;  // STATX_MNT_ID_UNIQUE, newer than many a header

  std::string folder_;
  std::string name_;
  std::string lock_name_;
  int directory_{-1};
  int fd_{-1};
  struct flock witness_ {
    F_WRLCK, SEEK_SET, off_t{1} << 40U, 1, 0
  };
};

}  // namespace sessionlock::bench
