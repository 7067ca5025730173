#pragma once

/// \file
/// The system calls the library makes on files and locks, behind one seam. `errno` is read here, in the line after the
/// call, and nowhere else. A test can watch each call, make it fail, shorten it, or stop before it (`Interceptor`).
///
/// Every descriptor opened here is close-on-exec, numbered 3 or higher, and registered, so that a forked child drops
/// what it inherited. Thread safety: everything here is safe from any thread.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "record/witness.hpp"
#include "text/timestamp.hpp"

namespace sessionlock::sys {

/// The calls, by name: for tests that single one out, and for error messages.
enum class Call {
  openat,
  getdents64,
  fstat,
  fstatat,
  faccessat,
  statx,
  fstatfs,
  linkat,
  unlinkat,
  renameat,
  renameat2,
  readlinkat,
  lseek,
  pread,
  write,
  ftruncate,
  fsync,
  futimens,
  fchmod,
  fchown,
  fgetxattr,
  lgetxattr,
  flock,
  ofd_setlk,
  ofd_getlk,
  kill,
  poll,
  read,
  eventfd,
  inotify_init,
  inotify_add_watch,
  inotify_rm_watch,
  fcntl,
  pidfd_open,
  pidfd_send_signal,
  pipe,
  posix_spawn,
  getrandom
};
/// The call's name as in its manual page. Lifetime: static storage.
[[nodiscard]] std::string_view to_string(Call call);

/// What a call is about to do. `length` may be lowered, to make a read or write end short.
struct CallInfo {
  Call call{};
  int fd{-1};
  const char* path{nullptr};
  std::size_t* length{nullptr};
};

/// Seam for tests. `before` returns an errno to fail with instead of making the call, or 0 to make it; it may also
/// block, or do anything else, before it returns.
class Interceptor {
 public:
  virtual ~Interceptor() = default;
  virtual int before(const CallInfo& info) = 0;
};
/// Installs an interceptor for the whole process; null removes it. The caller keeps it alive while it is installed.
void set_interceptor(Interceptor* interceptor) noexcept;

/// The value of a successful call, or the errno of a failed one.
struct [[nodiscard]] Outcome {
  std::int64_t value{-1};
  int error{};
  [[nodiscard]] bool ok() const noexcept { return error == 0; }
  [[nodiscard]] std::error_code code() const noexcept { return {error, std::system_category()}; }
};

/// Whether a call failed because this process or machine is short of descriptors, memory or buffers: that passes, and
/// says nothing about what the call was made on.
[[nodiscard]] bool is_own_shortage(int error) noexcept;

/// Whose the number of a descriptor is.
enum class Ownership {
  ours,
  foreign,  ///< Closed, or open on something else: a program that becomes a daemon closes and reuses what it never
            ///< opened.
  unknown   ///< The file cannot be asked now (EIO, ESTALE, …); nothing says that it is foreign.
};

/// An open descriptor that closes itself, and is registered until then. Move-only.
///
/// The program around the library may close any number and open something else under it. So whoever keeps a descriptor
/// while the program runs, that is beyond the return of a call or during a sleep, says what it is open on (`expect`),
/// and asks whether it still is (`ownership`) before anything is locked, unlocked, read or written through it again.
/// `reset` and the children of a fork ask by themselves before they close; what was never said, `reset` closes and the
/// children of `_Fork` and clone leave open.
class Fd {
 public:
  Fd() = default;
  Fd(Fd&& other) noexcept
      : number_(std::exchange(other.number_, -1)), generation_(other.generation_), serial_(other.serial_) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      number_ = std::exchange(other.number_, -1);
      generation_ = other.generation_;
      serial_ = other.serial_;
    }
    return *this;
  }
  ~Fd() { reset(); }
  [[nodiscard]] int get() const noexcept { return number_; }
  [[nodiscard]] explicit operator bool() const noexcept { return number_ >= 0; }
  /// Closes, unless the number is foreign.
  void reset() noexcept;
  /// Says what the descriptor is open on, as seen just now. All zero, where that could not be seen, says nothing.
  void expect(const FileIdentity& file) noexcept;
  /// Whose the number is, by what was expected. Async-signal-safe. Foreign if there is none.
  [[nodiscard]] Ownership ownership() const noexcept;
  /// Whether the number may be used: it is not foreign. Async-signal-safe.
  [[nodiscard]] bool is_usable() const noexcept { return ownership() != Ownership::foreign; }
  /// Whether neither a fork nor another descriptor of the library has taken the number. Costs no system call.
  /// Async-signal-safe.
  [[nodiscard]] bool is_registered() const noexcept;

 private:
  friend struct OpenedAccess;
  Fd(int number, std::uint64_t generation, std::uint64_t serial) noexcept
      : number_(number), generation_(generation), serial_(serial) {}
  int number_{-1};
  std::uint64_t generation_{0};
  /// Of its registration: another descriptor of ours may have got the number since.
  std::uint64_t serial_{0};
};

/// A new descriptor, or why there is none.
struct [[nodiscard]] Opened {
  Fd fd{};
  int error{};
  [[nodiscard]] bool ok() const noexcept { return error == 0; }
  [[nodiscard]] std::error_code code() const noexcept { return {error, std::system_category()}; }
};

/// openat(2) with `O_CLOEXEC`.
Opened open(int directory, const char* path, int flags, mode_t mode = 0);
/// Tells the names in an open directory, without `.` and `..`, from where its descriptor stands to the end
/// (getdents64(2)). Lifetime of a name: the call it is told in.
Outcome read_names(int fd, const std::function<void(std::string_view)>& tell);
Outcome fstat(int fd, struct stat& status);
Outcome fstatat(int directory, const char* path, struct stat& status, int flags);
/// What a name in a directory stands for; a symbolic link is not followed.
struct NamedFile {
  mode_t mode{};
  gid_t group{};
  std::uint64_t links{};
  /// Something is mounted on this very name (statx(2), `STATX_ATTR_MOUNT_ROOT`, Linux 5.8); false on older kernels.
  bool is_mount_point{};
};
/// statx(2), of what fstatat(2) with `AT_SYMLINK_NOFOLLOW` would tell, and of mounts.
Outcome status_of_name(int directory, const char* name, NamedFile& found);
/// faccessat(2) for the effective ids (`AT_EACCESS`).
Outcome faccessat(int directory, const char* path, int mode);
/// What identifies an open directory.
struct DirectoryIdentity {
  std::uint64_t device{};
  std::uint64_t inode{};
  /// The mount it was reached through, a number that is never given out again (statx(2), `STATX_MNT_ID_UNIQUE`,
  /// Linux 6.8); 0 where the kernel does not tell.
  std::uint64_t mount{};
  /// Its entries cannot be removed again (chattr(1), `a`).
  bool append_only{};
};
Outcome identify_directory(int fd, DirectoryIdentity& identity);
/// What chattr(1) has forbidden for an open file or directory (statx(2), `stx_attributes`). Nothing where the file
/// system does not say.
struct Attributes {
  bool immutable{};
  bool append_only{};
};
Outcome attributes(int fd, Attributes& found);
/// Makes the kernel ask the file server what a directory is like now, so that names that it remembers are looked up
/// again if the directory has changed since (statx(2), `AT_STATX_FORCE_SYNC`; fs/nfs/dir.c, nfs_lookup_revalidate,
/// which compares the directory's change attribute). Without that a client's kernel believes a name for up to a minute
/// (nfs(5), acdirmax). A local file system has nothing to ask. Async-signal-safe.
Outcome ask_server_about(int directory);
/// Whether this process may do what only a file's owner and `CAP_FOWNER` may: EPERM if not. The kernel is asked by
/// setting `O_NOATIME` on the descriptor, which it allows to the same processes, user namespaces included (fs/fcntl.c,
/// setfl).
Outcome act_as_owner(int fd);
/// The file system's magic number (statfs(2), `f_type`) as value, and an identity of this mount's file system.
struct FileSystem {
  std::uint64_t type{};
  std::uint64_t id{};
  bool read_only{};
};
Outcome fstatfs(int fd, FileSystem& file_system);
Outcome linkat(int from_directory, const char* from, int to_directory, const char* to, int flags);
Outcome unlinkat(int directory, const char* path, int flags = 0);
/// renameat2(2) with `RENAME_NOREPLACE` inside one directory.
Outcome rename_no_replace(int directory, const char* from, const char* to);
/// renameat2(2) with `RENAME_EXCHANGE` inside one directory: each of two files gets the other's name, in one step.
/// ENOENT if one of them is missing.
Outcome exchange_names(int directory, const char* one, const char* other);
/// renameat(2) inside one directory: takes the place of what has the name.
Outcome rename_over(int directory, const char* from, const char* to);
/// The length of the target; a value equal to `size` may have been cut.
Outcome readlinkat(int directory, const char* path, char* buffer, std::size_t size);
/// lseek(2) with `SEEK_DATA`: where the first byte at `offset` or behind it stands that is not in a hole. ENXIO: there
/// is none up to the end. A file system that keeps no holes answers `offset` itself.
Outcome seek_data(int fd, std::uint64_t offset);
Outcome pread(int fd, void* buffer, std::size_t size, std::uint64_t offset);
Outcome write(int fd, const void* data, std::size_t size);
/// As `write`, but a file-size limit (setrlimit(2), `RLIMIT_FSIZE`) only answers EFBIG: its SIGXFSZ, which would end
/// most programs, is taken away. For the library's own files, and for what must be tidied up after; the program's bytes
/// go by `write`, which lets the signal come.
Outcome write_without_signal(int fd, const void* data, std::size_t size);
Outcome ftruncate(int fd, std::uint64_t size);
Outcome fsync(int fd);
/// futimens(2) to now, by the file system's own clock.
Outcome touch(int fd);
/// futimens(2) of the modification time alone.
Outcome set_modification_time(int fd, WallTime time);
Outcome fchmod(int fd, mode_t mode);
/// fchown(2); an id of all ones changes nothing.
Outcome fchown(int fd, uid_t user, gid_t group);
/// Whether a file has an access control list (acl(5), `system.posix_acl_access`): 1 or 0 as value. 0 as well where the
/// file system has none. A path's last symbolic link is not followed.
Outcome has_access_list(int fd);
Outcome has_access_list(const char* path);
/// flock(2). `operation` is `LOCK_EX | LOCK_NB` or `LOCK_UN`; a lock that is busy is EWOULDBLOCK.
Outcome flock(int fd, int operation);
/// `F_OFD_SETLK` (fcntl(2), Linux 3.15) of one byte; `type` is `F_WRLCK`, `F_RDLCK` or `F_UNLCK`.
Outcome ofd_set_lock(int fd, short type, std::int64_t offset);
/// `F_OFD_GETLK` of one byte: as value the type of a lock that would conflict with `type`, `F_UNLCK` if none would.
Outcome ofd_get_lock(int fd, short type, std::int64_t offset);
Outcome kill(pid_t pid, int signal);
/// poll(2) until one is ready or the time has come; `time_point::max()` is no end. How many are ready as value. Does
/// not come back early for a signal.
Outcome poll(struct ::pollfd* descriptors, std::size_t count, std::chrono::steady_clock::time_point until);
Outcome read(int fd, void* buffer, std::size_t size);
/// A non-blocking eventfd(2).
Opened eventfd();
/// A non-blocking inotify(7) instance.
Opened inotify_init();
/// The watch descriptor as value.
Outcome inotify_add_watch(int fd, const char* path, std::uint32_t mask);
Outcome inotify_rm_watch(int fd, int watch);
/// pidfd_open(2), Linux 5.3: readable once the whole process has ended.
Opened pidfd_open(pid_t pid);
/// pidfd_send_signal(2), Linux 5.1: to the process that the descriptor refers to, or to none (ESRCH).
Outcome pidfd_send_signal(int pidfd, int signal);

/// posix_spawnp(3) of a program that inherits one descriptor under its own number: `adddup2(fd, fd)` clears its
/// close-on-exec mark in the child alone. Runs no fork handlers. The child's pid as value.
Outcome spawn_with_descriptor(int fd, const char* file, char* const argv[], char* const envp[]);
/// What a program wrote to its standard output, or why that is not known.
struct [[nodiscard]] Captured {
  std::string output{};
  int error{};
  [[nodiscard]] bool ok() const noexcept { return error == 0; }
};
/// Runs a program (posix_spawnp(3)) to its end, its standard input and standard error at `/dev/null`. ETIMEDOUT if it
/// has not ended by `until`: it is killed then. EFBIG if it wrote more than `bytes_max`.
Captured capture_output(const char* file, char* const argv[], char* const envp[], std::size_t bytes_max,
                        std::chrono::steady_clock::time_point until);
/// While it lives, no signal but for a fault is delivered to this thread, nor ever to one that it starts meanwhile: a
/// program's are for its own threads (pthread_sigmask(3)). A blocked fault would end it past its handler (signal(7)).
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept;
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};
/// Fills the buffer with random bytes (getrandom(2)).
Outcome getrandom(void* buffer, std::size_t size);
/// The wall clock.
[[nodiscard]] std::chrono::sys_time<std::chrono::milliseconds> wall_clock() noexcept;
/// How long this kernel has run, in this process's time namespace: CLOCK_BOOTTIME (clock_gettime(2)).
[[nodiscard]] std::chrono::milliseconds time_since_boot() noexcept;

/// Number of this process incarnation: another one on each side of every fork, also of `_Fork` and raw `clone`. A page
/// with `MADV_WIPEONFORK` (madvise(2), Linux 4.14) reads as empty in a child; where the kernel cannot do that, the pid
/// decides. Only ever compared with values that this process made or inherited. The first call in a child closes the
/// descriptors of the library it inherited, so that it keeps no lock of its parent's.
[[nodiscard]] inline std::uint64_t process_generation() noexcept;
/// Async-signal-safe form: 0 in a child in which nobody has called `process_generation` yet.
[[nodiscard]] std::uint64_t settled_generation() noexcept;
/// False in a child that runs in its parent's memory: one of vfork(2) or clone(2) with `CLONE_VM`, before its exec.
/// What it finds there is the parent's, and `process_generation` cannot tell. Also before the first
/// `process_generation` of a process. Async-signal-safe; costs a system call.
[[nodiscard]] bool is_own_memory() noexcept;

namespace detail {
inline constexpr std::uint64_t k_settling = ~std::uint64_t{0};
/// The number, where the kernel empties it in a child; null before the first use, and where it cannot. 0 or
/// `k_settling` in it: not known yet.
extern std::atomic<const std::atomic<std::uint64_t>*> g_wiped_generation;
[[nodiscard]] std::uint64_t settle_generation() noexcept;
}  // namespace detail

// Here, because everything that is done once for a process asks for it first.
inline std::uint64_t process_generation() noexcept {
  const auto* page = detail::g_wiped_generation.load(std::memory_order_acquire);
  const std::uint64_t generation = page != nullptr ? page->load(std::memory_order_acquire) : 0;
  return generation != 0 && generation != detail::k_settling ? generation : detail::settle_generation();
}

/// The descriptors that are open now through this seam: for tests that look for leaks.
[[nodiscard]] std::size_t open_descriptor_count() noexcept;

}  // namespace sessionlock::sys
