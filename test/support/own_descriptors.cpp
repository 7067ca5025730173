#include "own_descriptors.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lock_tools.hpp"
#include "process.hpp"

namespace sessionlock::test {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t k_kinds = 10;
/// Above all numbers that are given out otherwise, below the usual limit of 1024.
constexpr int k_lowest_backup = 600;
constexpr std::string_view k_content = "what the program itself has written\n";
constexpr std::string_view k_bytes = "unread";

int checked(int result, const char* what) {
  if (result < 0) {
    throw std::system_error(errno, std::system_category(), what);
  }
  return result;
}

bool is_same_open_file(int a, int b) {
  return ::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILE, a, b) == 0;
}

/// What the kernel says about an open file: position, flags, locks, counters, watches (proc_pid_fdinfo(5)).
std::string info_of(int fd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
  std::string text;
  for (std::string line; std::getline(info, line);) {
    text += line + ", ";
  }
  std::replace(text.begin(), text.end(), '\t', ' ');
  return text;
}

int unread_bytes(int fd) {
  int count = 0;
  return ::ioctl(fd, FIONREAD, &count) == 0 ? count : -1;
}

/// What lies in a directory.
std::string content_of(const fs::path& directory) {
  std::string text;
  for (const auto& name : names_in(directory)) {
    text += name + '=' + read_text(directory / name) + ';';
  }
  return text;
}

/// Everything about an open file that must stay as it is.
std::string state_of(int fd) {
  struct stat status {};
  checked(::fstat(fd, &status), "fstat");
  std::string state = "fd flags " + std::to_string(::fcntl(fd, F_GETFD)) + ", inode " + std::to_string(status.st_ino) +
                      ", " + info_of(fd);
  if (S_ISDIR(status.st_mode)) {
    state += content_of("/proc/self/fd/" + std::to_string(fd));
  } else if (S_ISREG(status.st_mode)) {
    state += read_text("/proc/self/fd/" + std::to_string(fd));
  } else {
    state += "unread " + std::to_string(unread_bytes(fd));
  }
  return state;
}

/// A whole-file lock of each kind, and one on the bytes that the library locks in its own files.
void lock_in_every_way(int fd) {
  checked(::flock(fd, LOCK_EX | LOCK_NB), "flock");
  struct ::flock range {};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  checked(::fcntl(fd, F_OFD_SETLK, &range), "F_OFD_SETLK");
}

}  // namespace

OwnDescriptors::OwnDescriptors(fs::path directory, std::size_t count, std::uint64_t seed,
                               std::vector<std::string> decoys)
    : directory_(std::move(directory)), decoys_(std::move(decoys)), first_backup_(k_lowest_backup) {
  std::mt19937_64 random(seed);
  while (entries_.size() < count) {
    open_one(random() % k_kinds);
  }
  for (Entry& entry : entries_) {
    entry.state = state_of(entry.number);
  }
}

OwnDescriptors::~OwnDescriptors() {
  for (const Entry& entry : entries_) {
    if (is_same_open_file(entry.number, entry.backup)) {
      ::close(entry.number);
    }
    ::close(entry.backup);
  }
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
  fs::create_directory(directory_, ignored);
}

void OwnDescriptors::add(int number, std::string kind) {
  checked(number, kind.c_str());
  const int backup = checked(::fcntl(number, F_DUPFD_CLOEXEC, first_backup_), "F_DUPFD_CLOEXEC");
  first_backup_ = backup + 1;
  entries_.push_back({number, backup, std::move(kind), {}});
}

fs::path OwnDescriptors::new_path(const char* what) {
  return directory_ / (what + std::to_string(++paths_));
}

void OwnDescriptors::open_one(std::size_t kind) {
  switch (kind) {
    case 0:
    case 1:
      return open_file(true);
    case 2:
      return open_file(false);
    case 3:
      return open_directory();
    case 4:
      return open_pipe();
    case 5:
      return open_sockets();
    case 6:
      return open_inotify();
    case 7:
      return open_epoll();
    case 8:
      add(::eventfd(7, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
      return add(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), "timer");
    default:
      return add(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)), "pidfd");
  }
}

void OwnDescriptors::open_file(bool locked) {
  const fs::path path = new_path("file");
  write_text(path, k_content);
  add(::open(path.c_str(), (locked ? O_RDWR : O_RDONLY) | O_CLOEXEC), locked ? "locked file" : "file");
  const int fd = entries_.back().number;
  if (locked) {
    lock_in_every_way(fd);
  }
  checked(static_cast<int>(::lseek(fd, 5, SEEK_SET)), "lseek");
}

void OwnDescriptors::open_directory() {
  const fs::path path = new_path("directory");
  fs::create_directory(path);
  for (const auto& name : decoys_) {
    write_text(path / name, k_content);
  }
  add(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), "directory");
}

void OwnDescriptors::open_pipe() {
  std::array<int, 2> ends{};
  checked(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), "pipe");
  checked(static_cast<int>(::write(ends[1], k_bytes.data(), k_bytes.size())), "write");
  add(ends[0], "pipe to read from");
  add(ends[1], "pipe to write to");
}

void OwnDescriptors::open_sockets() {
  std::array<int, 2> ends{};
  checked(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()), "socketpair");
  for (const int end : ends) {
    checked(static_cast<int>(::write(end, k_bytes.data(), k_bytes.size())), "write");
    add(end, "socket");
  }
}

void OwnDescriptors::open_inotify() {
  const fs::path path = new_path("watched");
  fs::create_directory(path);
  const int fd = checked(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init1");
  checked(::inotify_add_watch(fd, path.c_str(), IN_CREATE), "inotify_add_watch");
  write_text(path / "event", "");
  add(fd, "inotify instance");
}

void OwnDescriptors::open_epoll() {
  const int fd = checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  const int event = checked(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
  struct epoll_event interest {};
  interest.events = EPOLLIN;
  checked(::epoll_ctl(fd, EPOLL_CTL_ADD, event, &interest), "epoll_ctl");
  add(fd, "epoll");
  add(event, "eventfd");
}

std::string OwnDescriptors::change_of(const Entry& entry) const {
  const std::string name = "descriptor " + std::to_string(entry.number) + " (" + entry.kind + ")";
  if (::fcntl(entry.number, F_GETFD) < 0) {
    return name + " was closed";
  }
  if (!is_same_open_file(entry.number, entry.backup)) {
    return name + " is another open file now";
  }
  const std::string state = state_of(entry.number);
  return state == entry.state ? "" : name + " was [" + entry.state + "] and is [" + state + "]";
}

std::vector<std::string> OwnDescriptors::changes() const {
  std::vector<std::string> found;
  for (const Entry& entry : entries_) {
    if (auto change = change_of(entry); !change.empty()) {
      found.push_back(std::move(change));
    }
  }
  return found;
}

}  // namespace sessionlock::test
