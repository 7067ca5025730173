#include "system/system.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <vector>

#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "system/cancellation.hpp"
#include "system/system_call.hpp"

namespace sessionlock::sys {
namespace {

constexpr const char* k_access_list = "system.posix_acl_access";  // <linux/xattr.h>, XATTR_NAME_POSIX_ACL_ACCESS
constexpr std::size_t k_names_bytes = std::size_t{64} * 1024;     // of one read of a directory

bool is_mount_point(const struct statx& status) {
  constexpr std::uint64_t k_mount_root = 0x2000;  // STATX_ATTR_MOUNT_ROOT of <linux/stat.h>, which may be older
  return (status.stx_attributes & status.stx_attributes_mask & k_mount_root) != 0;
}

}  // namespace

std::string_view to_string(Call call) {
  switch (call) {
    case Call::openat:
      return "openat";
    case Call::getdents64:
      return "getdents64";
    case Call::fstat:
      return "fstat";
    case Call::fstatat:
      return "fstatat";
    case Call::faccessat:
      return "faccessat";
    case Call::statx:
      return "statx";
    case Call::fstatfs:
      return "fstatfs";
    case Call::linkat:
      return "linkat";
    case Call::unlinkat:
      return "unlinkat";
    case Call::renameat:
      return "renameat";
    case Call::renameat2:
      return "renameat2";
    case Call::readlinkat:
      return "readlinkat";
    case Call::lseek:
      return "lseek";
    case Call::pread:
      return "pread";
    case Call::write:
      return "write";
    case Call::ftruncate:
      return "ftruncate";
    case Call::fsync:
      return "fsync";
    case Call::futimens:
      return "futimens";
    case Call::fchmod:
      return "fchmod";
    case Call::fchown:
      return "fchown";
    case Call::fgetxattr:
      return "fgetxattr";
    case Call::lgetxattr:
      return "lgetxattr";
    case Call::flock:
      return "flock";
    case Call::ofd_setlk:
      return "fcntl(F_OFD_SETLK)";
    case Call::ofd_getlk:
      return "fcntl(F_OFD_GETLK)";
    case Call::kill:
      return "kill";
    case Call::poll:
      return "poll";
    case Call::read:
      return "read";
    case Call::eventfd:
      return "eventfd";
    case Call::inotify_init:
      return "inotify_init1";
    case Call::inotify_add_watch:
      return "inotify_add_watch";
    case Call::inotify_rm_watch:
      return "inotify_rm_watch";
    case Call::fcntl:
      return "fcntl";
    case Call::pidfd_open:
      return "pidfd_open";
    case Call::pidfd_send_signal:
      return "pidfd_send_signal";
    case Call::pipe:
      return "pipe2";
    case Call::posix_spawn:
      return "posix_spawn";
    case Call::getrandom:
      return "getrandom";
  }
  return "?";
}

bool is_own_shortage(int error) noexcept {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

void set_interceptor(Interceptor* interceptor) noexcept {
  g_interceptor.store(interceptor, std::memory_order_release);
}

Opened open(int directory, const char* path, int flags, mode_t mode) {
  return open_with({Call::openat, directory, path}, [&] { return ::openat(directory, path, flags | O_CLOEXEC, mode); });
}

namespace {

/// One entry as getdents64(2) lays it out, which no header offers; `length` is that of the entry with its name.
struct KernelEntry {
  std::uint64_t inode;
  std::int64_t offset;
  std::uint16_t length;
  unsigned char type;
  char name[1];
};

}  // namespace

Outcome read_names(int fd, const std::function<void(std::string_view)>& tell) {
  std::vector<char> buffer(k_names_bytes);
  while (true) {
    std::size_t size = buffer.size();
    const auto got = invoke({Call::getdents64, fd, nullptr, &size},
                            [&]() -> std::int64_t { return ::syscall(SYS_getdents64, fd, buffer.data(), size); });
    if (got.value <= 0) {
      return got;
    }
    for (std::size_t at = 0; at < static_cast<std::size_t>(got.value);) {
      std::uint16_t length = 0;
      std::memcpy(&length, &buffer[at + offsetof(KernelEntry, length)], sizeof length);
      const std::string_view name(&buffer[at + offsetof(KernelEntry, name)]);
      if (name != "." && name != "..") {
        tell(name);
      }
      at += length;
    }
  }
}

Outcome fstat(int fd, struct stat& status) {
  return invoke({Call::fstat, fd}, [&]() -> std::int64_t { return ::fstat(fd, &status); });
}

Outcome fstatat(int directory, const char* path, struct stat& status, int flags) {
  return invoke({Call::fstatat, directory, path},
                [&]() -> std::int64_t { return ::fstatat(directory, path, &status, flags); });
}

Outcome status_of_name(int directory, const char* name, NamedFile& found) {
  return invoke({Call::statx, directory, name}, [&]() -> std::int64_t {
    struct statx status {};
    constexpr unsigned k_wanted = STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_GID;
    const int result = ::statx(directory, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, k_wanted, &status);
    found = {status.stx_mode, status.stx_gid, status.stx_nlink, is_mount_point(status)};
    return result;
  });
}

Outcome faccessat(int directory, const char* path, int mode) {
  return invoke({Call::faccessat, directory, path},
                [&]() -> std::int64_t { return ::faccessat(directory, path, mode, AT_EACCESS); });
}

Outcome identify_directory(int fd, DirectoryIdentity& identity) {
  constexpr unsigned k_unique_mount_id = 0x4000;  // STATX_MNT_ID_UNIQUE of <linux/stat.h>, which may be older
  return invoke({Call::statx, fd}, [&]() -> std::int64_t {
    struct statx status {};
    const int result = ::statx(fd, "", AT_EMPTY_PATH, STATX_INO | k_unique_mount_id, &status);
    identity = {static_cast<std::uint64_t>(makedev(status.stx_dev_major, status.stx_dev_minor)), status.stx_ino,
                (status.stx_mask & k_unique_mount_id) != 0 ? status.stx_mnt_id : 0,
                (status.stx_attributes & STATX_ATTR_APPEND) != 0};
    return result;
  });
}

Outcome attributes(int fd, Attributes& found) {
  return invoke({Call::statx, fd}, [&]() -> std::int64_t {
    struct statx status {};
    const int result = ::statx(fd, "", AT_EMPTY_PATH, STATX_INO, &status);
    found.immutable = (status.stx_attributes & STATX_ATTR_IMMUTABLE) != 0;
    found.append_only = (status.stx_attributes & STATX_ATTR_APPEND) != 0;
    return result;
  });
}

Outcome ask_server_about(int directory) {
  return invoke({Call::statx, directory}, [&]() -> std::int64_t {
    struct statx status {};
    return ::statx(directory, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_CTIME | STATX_MTIME, &status);
  });
}

Outcome act_as_owner(int fd) {
  return invoke({Call::fcntl, fd}, [&]() -> std::int64_t {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags < 0 ? flags : ::fcntl(fd, F_SETFL, flags | O_NOATIME);
  });
}

Outcome fstatfs(int fd, FileSystem& file_system) {
  return invoke({Call::fstatfs, fd}, [&]() -> std::int64_t {
    struct statfs status {};
    const int result = ::fstatfs(fd, &status);
    file_system.type = static_cast<std::uint64_t>(status.f_type);
    static_assert(sizeof status.f_fsid == sizeof file_system.id);
    std::copy_n(reinterpret_cast<const unsigned char*>(&status.f_fsid), sizeof file_system.id,
                reinterpret_cast<unsigned char*>(&file_system.id));
    file_system.read_only = (status.f_flags & ST_RDONLY) != 0;
    return result;
  });
}

Outcome linkat(int from_directory, const char* from, int to_directory, const char* to, int flags) {
  return invoke({Call::linkat, to_directory, to},
                [&]() -> std::int64_t { return ::linkat(from_directory, from, to_directory, to, flags); });
}

Outcome unlinkat(int directory, const char* path, int flags) {
  return invoke({Call::unlinkat, directory, path},
                [&]() -> std::int64_t { return ::unlinkat(directory, path, flags); });
}

Outcome rename_no_replace(int directory, const char* from, const char* to) {
  return invoke({Call::renameat2, directory, to}, [&]() -> std::int64_t {
    return ::syscall(SYS_renameat2, directory, from, directory, to, RENAME_NOREPLACE);
  });
}

Outcome exchange_names(int directory, const char* one, const char* other) {
  return invoke({Call::renameat2, directory, other}, [&]() -> std::int64_t {
    return ::syscall(SYS_renameat2, directory, one, directory, other, RENAME_EXCHANGE);
  });
}

Outcome rename_over(int directory, const char* from, const char* to) {
  return invoke({Call::renameat, directory, to},
                [&]() -> std::int64_t { return ::renameat(directory, from, directory, to); });
}

Outcome readlinkat(int directory, const char* path, char* buffer, std::size_t size) {
  return invoke({Call::readlinkat, directory, path},
                [&]() -> std::int64_t { return ::readlinkat(directory, path, buffer, size); });
}

Outcome seek_data(int fd, std::uint64_t offset) {
  return invoke({Call::lseek, fd},
                [&]() -> std::int64_t { return ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA); });
}

Outcome pread(int fd, void* buffer, std::size_t size, std::uint64_t offset) {
  return invoke({Call::pread, fd, nullptr, &size},
                [&]() -> std::int64_t { return ::pread(fd, buffer, size, static_cast<off_t>(offset)); });
}

Outcome write(int fd, const void* data, std::size_t size) {
  return invoke({Call::write, fd, nullptr, &size}, [&]() -> std::int64_t { return ::write(fd, data, size); });
}

Outcome write_without_signal(int fd, const void* data, std::size_t size) {
  struct rlimit sizes {};
  if (::getrlimit(RLIMIT_FSIZE, &sizes) == 0 && sizes.rlim_cur == RLIM_INFINITY) {
    return write(fd, data, size);  // only a limit raises the signal (mm/filemap.c, generic_write_check_limits)
  }
  const CancellationDisabled disabled;  // for sigtimedwait(2)
  sigset_t limit;
  sigset_t before;
  sigset_t pending;
  ::sigemptyset(&limit);
  ::sigaddset(&limit, SIGXFSZ);
  ::pthread_sigmask(SIG_BLOCK, &limit, &before);
  ::sigpending(&pending);
  const auto written = write(fd, data, size);
  if (written.error == EFBIG && ::sigismember(&pending, SIGXFSZ) == 0) {
    const struct timespec at_once {};
    ::sigtimedwait(&limit, nullptr, &at_once);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return written;
}

SignalsBlocked::SignalsBlocked() noexcept {
  sigset_t all;
  ::sigfillset(&all);
  for (const int fault : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP}) {
    ::sigdelset(&all, fault);
  }
  ::pthread_sigmask(SIG_SETMASK, &all, &before_);
}

SignalsBlocked::~SignalsBlocked() {
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Outcome ftruncate(int fd, std::uint64_t size) {
  return invoke({Call::ftruncate, fd}, [&]() -> std::int64_t { return ::ftruncate(fd, static_cast<off_t>(size)); });
}

Outcome fsync(int fd) {
  return invoke({Call::fsync, fd}, [&]() -> std::int64_t { return ::fsync(fd); });
}

Outcome touch(int fd) {
  return invoke({Call::futimens, fd}, [&]() -> std::int64_t { return ::futimens(fd, nullptr); });
}

Outcome set_modification_time(int fd, WallTime time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const std::chrono::nanoseconds rest = time - seconds;
  const struct timespec times[] = {{0, UTIME_OMIT}, {seconds.time_since_epoch().count(), rest.count()}};
  return invoke({Call::futimens, fd}, [&]() -> std::int64_t { return ::futimens(fd, times); });
}

Outcome fchmod(int fd, mode_t mode) {
  return invoke({Call::fchmod, fd}, [&]() -> std::int64_t { return ::fchmod(fd, mode); });
}

Outcome fchown(int fd, uid_t user, gid_t group) {
  return invoke({Call::fchown, fd}, [&]() -> std::int64_t { return ::fchown(fd, user, group); });
}

namespace {

/// What a query for the size of an access control list says.
std::int64_t as_presence(ssize_t size) {
  if (size >= 0) {
    return 1;
  }
  return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -1;
}

}  // namespace

Outcome has_access_list(int fd) {
  return invoke({Call::fgetxattr, fd}, [&] { return as_presence(::fgetxattr(fd, k_access_list, nullptr, 0)); });
}

Outcome has_access_list(const char* path) {
  return invoke({Call::lgetxattr, AT_FDCWD, path},
                [&] { return as_presence(::lgetxattr(path, k_access_list, nullptr, 0)); });
}

Outcome flock(int fd, int operation) {
  return invoke({Call::flock, fd}, [&]() -> std::int64_t { return ::flock(fd, operation); });
}

Outcome ofd_set_lock(int fd, short type, std::int64_t offset) {
  return invoke({Call::ofd_setlk, fd}, [&]() -> std::int64_t {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = offset;
    lock.l_len = 1;
    return ::fcntl(fd, F_OFD_SETLK, &lock);
  });
}

Outcome ofd_get_lock(int fd, short type, std::int64_t offset) {
  return invoke({Call::ofd_getlk, fd}, [&]() -> std::int64_t {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = offset;
    lock.l_len = 1;
    return ::fcntl(fd, F_OFD_GETLK, &lock) < 0 ? -1 : lock.l_type;
  });
}

Outcome kill(pid_t pid, int signal) {
  return invoke({Call::kill}, [&]() -> std::int64_t { return ::kill(pid, signal); });
}

Outcome poll(struct ::pollfd* descriptors, std::size_t count, std::chrono::steady_clock::time_point until) {
  using Clock = std::chrono::steady_clock;
  return invoke({Call::poll}, [&]() -> std::int64_t {
    if (until == Clock::time_point::max()) {
      return ::ppoll(descriptors, count, nullptr, nullptr);
    }
    const auto left = std::max(until - Clock::now(), Clock::duration{0});
    const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
    const timespec timeout{static_cast<time_t>(seconds.count()),
                           static_cast<long>(std::chrono::nanoseconds(left - seconds).count())};
    return ::ppoll(descriptors, count, &timeout, nullptr);
  });
}

Outcome read(int fd, void* buffer, std::size_t size) {
  return invoke({Call::read, fd, nullptr, &size}, [&]() -> std::int64_t { return ::read(fd, buffer, size); });
}

Opened eventfd() {
  return open_nameless({Call::eventfd}, [] { return ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); });
}

Opened inotify_init() {
  return open_nameless({Call::inotify_init}, [] { return ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC); });
}

Outcome inotify_add_watch(int fd, const char* path, std::uint32_t mask) {
  return invoke({Call::inotify_add_watch, fd, path},
                [&]() -> std::int64_t { return ::inotify_add_watch(fd, path, mask); });
}

Outcome inotify_rm_watch(int fd, int watch) {
  return invoke({Call::inotify_rm_watch, fd}, [&]() -> std::int64_t { return ::inotify_rm_watch(fd, watch); });
}

Opened pidfd_open(pid_t pid) {
  return open_nameless({Call::pidfd_open}, [pid] { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); });
}

Outcome pidfd_send_signal(int pidfd, int signal) {
  return invoke({Call::pidfd_send_signal, pidfd},
                [&]() -> std::int64_t { return ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0); });
}

Outcome getrandom(void* buffer, std::size_t size) {
  return invoke({Call::getrandom}, [&]() -> std::int64_t { return ::getrandom(buffer, size, 0); });
}

std::chrono::sys_time<std::chrono::milliseconds> wall_clock() noexcept {
  return std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
}

std::chrono::milliseconds time_since_boot() noexcept {
  struct timespec now {};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::seconds{now.tv_sec} +
                                                               std::chrono::nanoseconds{now.tv_nsec});
}

}  // namespace sessionlock::sys
