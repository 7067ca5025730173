#include "system.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <memory>
#include <new>
#include <vector>

#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sessionlock::sys {
namespace {

constexpr int k_lowest_descriptor = 3;
constexpr int k_interruptions_max = 1000;
constexpr std::size_t k_names_bytes = std::size_t{64} * 1024;  // of one read of a directory

std::atomic<Interceptor*> g_interceptor{nullptr};

/// Asks the interceptor, makes the call, retries it when a signal interrupted it, and saves errno.
template <class F>
Outcome invoke(CallInfo info, F&& call) {
  for (int attempt = 0;; ++attempt) {
    auto* const interceptor = g_interceptor.load(std::memory_order_acquire);
    Outcome outcome{-1, interceptor != nullptr ? interceptor->before(info) : 0};
    if (outcome.error == 0) {
      outcome.value = call();
      outcome.error = outcome.value < 0 ? errno : 0;
    }
    if (outcome.error != EINTR || attempt >= k_interruptions_max) {
      return outcome;
    }
  }
}

// --- the register of descriptors -------------------------------------------------------------------------------------
//
// Indexed by number, so that the child's side of a fork can walk it without a lock or an allocation.

struct Slot {
  std::atomic<std::uint64_t> serial{0};  // of the registration; 0: there is none
  std::atomic<std::uint64_t> device{0};
  std::atomic<std::uint64_t> inode{0};  // 0: not known
};
std::atomic<std::uint64_t> g_serials{0};
constexpr std::size_t k_slots_per_chunk = 256;
constexpr std::size_t k_chunks_max = 4096;
using Chunk = std::array<Slot, k_slots_per_chunk>;
std::array<std::atomic<Chunk*>, k_chunks_max> g_chunks{};

Slot* slot_of(int fd) noexcept {
  const auto index = static_cast<std::size_t>(fd);
  if (fd < 0 || index / k_slots_per_chunk >= k_chunks_max) {
    return nullptr;
  }
  auto& chunk = g_chunks[index / k_slots_per_chunk];
  Chunk* found = chunk.load(std::memory_order_acquire);
  if (found == nullptr) {
    auto fresh = std::unique_ptr<Chunk>(new (std::nothrow) Chunk);
    if (!fresh) {
      return nullptr;
    }
    if (chunk.compare_exchange_strong(found, fresh.get(), std::memory_order_acq_rel)) {
      found = fresh.release();
    }
  }
  return &(*found)[index % k_slots_per_chunk];
}

template <class F>
void for_each_registered(F&& visit) noexcept {
  for (std::size_t c = 0; c < k_chunks_max; ++c) {
    Chunk* chunk = g_chunks[c].load(std::memory_order_acquire);
    for (std::size_t i = 0; chunk != nullptr && i < k_slots_per_chunk; ++i) {
      if ((*chunk)[i].serial.load(std::memory_order_acquire) != 0) {
        visit(static_cast<int>(c * k_slots_per_chunk + i), (*chunk)[i]);
      }
    }
  }
}

void register_descriptor(int fd) noexcept {
  if (Slot* slot = slot_of(fd); slot != nullptr) {
    slot->inode.store(0, std::memory_order_relaxed);
    slot->serial.store(g_serials.fetch_add(1) + 1, std::memory_order_release);
  }
}

/// Closes a registered descriptor while its number still refers to the inode that was remembered for it.
void close_registered(int fd, Slot* slot) noexcept {
  std::uint64_t inode = 0;
  std::uint64_t device = 0;
  if (slot != nullptr) {
    inode = slot->inode.load(std::memory_order_relaxed);
    device = slot->device.load(std::memory_order_relaxed);
    slot->serial.store(0, std::memory_order_release);
  }
  struct stat status {};
  if (inode == 0 || (::fstat(fd, &status) == 0 && status.st_ino == inode && status.st_dev == device)) {
    ::close(fd);
  }
}

void close_inherited_descriptors() noexcept {
  for_each_registered([](int fd, Slot& slot) { close_registered(fd, &slot); });
}

// --- forks -----------------------------------------------------------------------------------------------------------
//
// A fork must not fall between opening a descriptor and registering it (the child would keep a lock that it cannot know
// of), nor between taking it off the register and closing it. Whoever does either stands in a section; `fork` waits
// until the sections are empty. Not a mutex, because the child would inherit it locked.

std::atomic<int> g_sections{0};
std::atomic<int> g_forks_waiting{0};
thread_local int t_sections = 0;

class Section {
 public:
  Section() noexcept {
    // A thread that is inside already must not wait for a fork that waits for it.
    while (true) {
      g_sections.fetch_add(1);
      if (t_sections > 0 || g_forks_waiting.load() == 0) {
        break;
      }
      g_sections.fetch_sub(1);
      ::sched_yield();
    }
    ++t_sections;
  }
  ~Section() {
    --t_sections;
    g_sections.fetch_sub(1);
  }
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;
};

void before_fork() noexcept {
  (void)process_generation();  // in a child of _Fork or clone: forgets the sections of threads that it does not have
  g_forks_waiting.fetch_add(1);
  while (g_sections.load() > t_sections) {
    ::sched_yield();
  }
}

void after_fork_in_parent() noexcept {
  g_forks_waiting.fetch_sub(1);
}

using detail::k_settling;
std::atomic<std::uint64_t> g_generations{0};
/// On its own page, which the kernel empties in a child.
std::atomic<std::uint64_t>* g_generation = nullptr;
/// Where pages cannot be wiped.
std::atomic<pid_t> g_generation_pid{0};
bool g_page_is_wiped = false;

void after_fork_in_child() noexcept {
  if (!g_page_is_wiped) {
    g_generation->store(0);
  }
  (void)process_generation();
}

std::atomic<std::uint64_t>* map_generation_page() noexcept {
  static std::atomic<std::uint64_t> fallback{0};
  const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* page = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return &fallback;
  }
  g_page_is_wiped = ::madvise(page, size, MADV_WIPEONFORK) == 0;
  return new (page) std::atomic<std::uint64_t>{0};
}

void install_fork_handling() noexcept {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  ::pthread_once(&once, [] {
    g_generation = map_generation_page();
    g_generation_pid.store(::getpid());
    g_generation->store(g_generations.fetch_add(1) + 1);
    ::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    if (g_page_is_wiped) {
      detail::g_wiped_generation.store(g_generation, std::memory_order_release);
    }
  });
}

}  // namespace

std::atomic<const std::atomic<std::uint64_t>*> detail::g_wiped_generation{nullptr};

struct OpenedAccess {
  static Fd adopt(int number) noexcept {
    const Slot* slot = slot_of(number);
    return {number, process_generation(), slot != nullptr ? slot->serial.load(std::memory_order_acquire) : 0};
  }
};

namespace {

/// Registers a new descriptor, out of the way of standard input, output and error: a program that starts with one of
/// those closed would otherwise write its messages into the lock file. Returns it, or -1 with errno set.
int adopt(int fd) noexcept {
  if (fd >= 0 && fd < k_lowest_descriptor) {
    const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, k_lowest_descriptor);
    const int error = errno;
    ::close(fd);
    errno = error;
    fd = moved;
  }
  if (fd >= 0) {
    register_descriptor(fd);
  }
  return fd;
}

/// Makes a call that returns a descriptor, and registers that.
template <class F>
Opened open_with(const CallInfo& info, F&& call) {
  (void)process_generation();  // a child drops what it inherited before it opens anything of its own
  const Outcome outcome = invoke(info, [&]() -> std::int64_t {
    const Section section;
    return adopt(call());
  });
  return outcome.ok() ? Opened{OpenedAccess::adopt(static_cast<int>(outcome.value)), 0} : Opened{{}, outcome.error};
}

/// As `open_with`, for what is no file. The kernel gives all of those one inode, which still tells them from the files,
/// pipes and sockets that a program may have under the number later.
template <class F>
Opened open_nameless(const CallInfo& info, F&& call) {
  Opened opened = open_with(info, std::forward<F>(call));
  if (opened.ok()) {
    struct stat status {};  // with the inode 0, which is none, if it could not be asked
    (void)::fstat(opened.fd.get(), &status);
    remember_inode(opened.fd.get(), status.st_dev, status.st_ino);
  }
  return opened;
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
    case Call::pread:
      return "pread";
    case Call::write:
      return "write";
    case Call::pwrite:
      return "pwrite";
    case Call::ftruncate:
      return "ftruncate";
    case Call::fsync:
      return "fsync";
    case Call::futimens:
      return "futimens";
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

void set_interceptor(Interceptor* interceptor) noexcept {
  g_interceptor.store(interceptor, std::memory_order_release);
}

void Fd::reset() noexcept {
  const int number = std::exchange(number_, -1);
  if (number < 0 || generation_ != process_generation()) {
    return;
  }
  const Section section;
  Slot* slot = slot_of(number);
  if (slot == nullptr || slot->serial.load(std::memory_order_acquire) == serial_) {
    close_registered(number, slot);
  }
}

void Fd::abandon() noexcept {
  const int number = std::exchange(number_, -1);
  if (number < 0 || generation_ != process_generation()) {
    return;
  }
  if (Slot* slot = slot_of(number); slot != nullptr) {
    std::uint64_t expected = serial_;
    slot->serial.compare_exchange_strong(expected, 0);
  }
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
                (status.stx_mask & k_unique_mount_id) != 0 ? status.stx_mnt_id : 0};
    return result;
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

Outcome rename_over(int directory, const char* from, const char* to) {
  return invoke({Call::renameat, directory, to},
                [&]() -> std::int64_t { return ::renameat(directory, from, directory, to); });
}

Outcome readlinkat(int directory, const char* path, char* buffer, std::size_t size) {
  return invoke({Call::readlinkat, directory, path},
                [&]() -> std::int64_t { return ::readlinkat(directory, path, buffer, size); });
}

Outcome pread(int fd, void* buffer, std::size_t size, std::uint64_t offset) {
  return invoke({Call::pread, fd, nullptr, &size},
                [&]() -> std::int64_t { return ::pread(fd, buffer, size, static_cast<off_t>(offset)); });
}

Outcome write(int fd, const void* data, std::size_t size) {
  return invoke({Call::write, fd, nullptr, &size}, [&]() -> std::int64_t { return ::write(fd, data, size); });
}

Outcome write_without_signal(int fd, const void* data, std::size_t size) {
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
  ::pthread_sigmask(SIG_SETMASK, &all, &before_);
}

SignalsBlocked::~SignalsBlocked() {
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Outcome pwrite(int fd, const void* data, std::size_t size, std::uint64_t offset) {
  return invoke({Call::pwrite, fd, nullptr, &size},
                [&]() -> std::int64_t { return ::pwrite(fd, data, size, static_cast<off_t>(offset)); });
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

Outcome spawn_with_descriptor(int fd, const char* file, char* const argv[], char* const envp[]) {
  return invoke({Call::posix_spawn, fd, file}, [&]() -> std::int64_t {
    posix_spawn_file_actions_t actions;
    pid_t child = -1;
    int error = ::posix_spawn_file_actions_init(&actions);
    if (error == 0) {
      error = ::posix_spawn_file_actions_adddup2(&actions, fd, fd);
      if (error == 0) {
        error = ::posix_spawnp(&child, file, &actions, nullptr, argv, envp);
      }
      ::posix_spawn_file_actions_destroy(&actions);
    }
    errno = error;
    return error == 0 ? child : -1;
  });
}

namespace {

struct Pipe {
  Opened read;
  Opened write;
};

Pipe open_pipe() {
  const Section section;  // over both ends: a forked child with the writing one would keep the reader waiting
  std::array<int, 2> ends{-1, -1};
  Pipe pipe;
  pipe.read = open_with({Call::pipe}, [&] { return ::pipe2(ends.data(), O_CLOEXEC) == 0 ? ends[0] : -1; });
  if (pipe.read.ok()) {
    const int end = adopt(ends[1]);
    pipe.write = end >= 0 ? Opened{OpenedAccess::adopt(end), 0} : Opened{{}, errno};
  }
  return pipe;
}

/// Starts a program with its standard output at `output` and nothing else; the child's pid as value. The caller's
/// blocked signals are not inherited.
Outcome spawn_writer(int output, const char* file, char* const argv[], char* const envp[]) {
  return invoke({Call::posix_spawn, output, file}, [&]() -> std::int64_t {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    ::sigemptyset(&none);
    pid_t child = -1;
    int error = ::posix_spawn_file_actions_init(&actions);
    if (error == 0) {
      ::posix_spawnattr_init(&attributes);
      ::posix_spawnattr_setsigmask(&attributes, &none);
      ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
      ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
      ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
      error = ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
      if (error == 0) {
        error = ::posix_spawnp(&child, file, &actions, &attributes, argv, envp);
      }
      ::posix_spawnattr_destroy(&attributes);
      ::posix_spawn_file_actions_destroy(&actions);
    }
    errno = error;
    return error == 0 ? child : -1;
  });
}

/// Reads to the end of a pipe. Returns an errno.
int read_to_end(int fd, std::string& output, std::size_t bytes_max, std::chrono::steady_clock::time_point until) {
  while (true) {
    struct ::pollfd readable {
      fd, POLLIN, 0
    };
    if (const auto ready = poll(&readable, 1, until); !ready.ok() || ready.value == 0) {
      return ready.ok() ? ETIMEDOUT : ready.error;
    }
    std::array<char, 4096> buffer{};
    const auto got = read(fd, buffer.data(), buffer.size());
    if (!got.ok() || got.value == 0) {
      return got.error;
    }
    output.append(buffer.data(), static_cast<std::size_t>(got.value));
    if (output.size() > bytes_max) {
      return EFBIG;
    }
  }
}

/// Reaps a child, which gets until then to end by itself. Somebody else may reap it first: a program that ignores
/// SIGCHLD, say. Returns an errno.
int reap(pid_t child, std::chrono::steady_clock::time_point until) {
  int error = 0;
  while (true) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) != 0) {  // without waiting it is not interrupted either
      return error;
    }
    if (error == 0 && std::chrono::steady_clock::now() >= until) {
      ::kill(child, SIGKILL);  // ours and not reaped, so the pid is still its own
      error = ETIMEDOUT;
    }
    const struct timespec pause { 0, 1'000'000 };
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace

Captured capture_output(const char* file, char* const argv[], char* const envp[], std::size_t bytes_max,
                        std::chrono::steady_clock::time_point until) {
  Pipe pipe = open_pipe();
  if (!pipe.read.ok() || !pipe.write.ok()) {
    return {{}, pipe.read.ok() ? pipe.write.error : pipe.read.error};
  }
  const auto child = spawn_writer(pipe.write.fd.get(), file, argv, envp);
  if (!child.ok()) {
    return {{}, child.error};
  }
  pipe.write.fd.reset();
  Captured captured;
  captured.error = read_to_end(pipe.read.fd.get(), captured.output, bytes_max, until);
  pipe.read.fd.reset();
  const auto end = captured.ok() ? until : std::chrono::steady_clock::time_point::min();
  const int error = reap(static_cast<pid_t>(child.value), end);
  captured.error = captured.ok() ? error : captured.error;
  return captured;
}

Outcome getrandom(void* buffer, std::size_t size) {
  return invoke({Call::getrandom}, [&]() -> std::int64_t { return ::getrandom(buffer, size, 0); });
}

std::chrono::sys_time<std::chrono::milliseconds> wall_clock() noexcept {
  return std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
}

std::uint64_t detail::settle_generation() noexcept {
  install_fork_handling();
  if (!g_page_is_wiped && g_generation_pid.load() != ::getpid()) {
    g_generation->store(0);
    g_generation_pid.store(::getpid());
  }
  std::uint64_t generation = g_generation->load(std::memory_order_acquire);
  if (generation != 0 && generation != k_settling) [[likely]] {
    return generation;
  }
  // A child's first call. One thread settles it; others of a child made by raw clone wait for that.
  if (generation == 0 && g_generation->compare_exchange_strong(generation, k_settling)) {
    // Nobody enters a section before this, so what is counted there are threads that only the parent has.
    g_sections.store(t_sections);
    g_forks_waiting.store(0);
    close_inherited_descriptors();
    const std::uint64_t fresh = g_generations.fetch_add(1) + 1;
    g_generation->store(fresh, std::memory_order_release);
    return fresh;
  }
  while ((generation = g_generation->load(std::memory_order_acquire)) == k_settling) {
    ::sched_yield();
  }
  return generation;
}

std::uint64_t settled_generation() noexcept {
  if (g_generation == nullptr || (!g_page_is_wiped && g_generation_pid.load() != ::getpid())) {
    return 0;
  }
  const std::uint64_t generation = g_generation->load(std::memory_order_acquire);
  return generation == k_settling ? 0 : generation;
}

void remember_inode(int fd, dev_t device, ino_t inode) noexcept {
  if (Slot* slot = slot_of(fd); slot != nullptr) {
    slot->device.store(device, std::memory_order_relaxed);
    slot->inode.store(inode, std::memory_order_release);
  }
}

std::size_t open_descriptor_count() noexcept {
  std::size_t count = 0;
  for_each_registered([&count](int, Slot&) { ++count; });
  return count;
}

}  // namespace sessionlock::sys
