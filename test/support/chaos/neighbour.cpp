#include "chaos/neighbour.hpp"

#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <optional>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <sessionlock/process_identity.hpp>

#include "chaos/bystanders.hpp"
#include "lock_tools.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/temporary_name.hpp"

namespace sessionlock::test::chaos {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr mode_t k_readable = 0644;
/// How old, or far ahead, a file looks.
constexpr std::chrono::seconds k_off{2h};
constexpr off_t k_huge = off_t{1} << 40;

/// A descriptor for a scope.
struct Descriptor {
  explicit Descriptor(int fd) : number(fd) {}
  ~Descriptor() { ::close(number); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int number;
};

void write_anew(int fd, const std::string& text) {
  (void)!::ftruncate(fd, 0);
  (void)!::pwrite(fd, text.data(), text.size(), 0);
}

/// Whether no rule of the library removes such a file.
bool is_obstacle(const struct stat& status) {
  return !S_ISREG(status.st_mode) || (status.st_mode & S_IROTH) == 0 || status.st_size == k_huge;
}

void take_back(const fs::path& path) {
  if (::unlink(path.c_str()) != 0) {
    ::rmdir(path.c_str());
  }
}

}  // namespace

void ShortLife::end_in_time() const {
  if (std::chrono::steady_clock::now() >= end_) {
    ::_exit(0);  // as if it were killed: the director starts another
  }
}

Innocent::Innocent(const Stage& stage) : Actor(stage) {
  slot().innocent.store(::getpid());
}

Innocent::~Innocent() {
  slot().innocent.store(0);
}

void Innocent::act() {
  pause(5ms);
  life_.end_in_time();
}

Neighbour::Neighbour(const Stage& stage) : Actor(stage) {
  ::signal(SIGIO, SIG_IGN);  // a lease of its own is broken: it does not care
  ::umask(0);
  clean_up(directory());
}

Neighbour::~Neighbour() {
  clean_up(directory());
}

void Neighbour::clean_up(const fs::path& directory) {
  for (const auto& name : names_in(directory)) {
    struct stat status {};
    const fs::path path = directory / name;
    if (::lstat(path.c_str(), &status) == 0 && status.st_uid == ::geteuid() && is_obstacle(status)) {
      take_back(path);
    }
  }
}

void Neighbour::act() {
  switch (any(12)) {
    case 0:
    case 1:
    case 2:
      lock_whole_file();
      break;
    case 3:
    case 4:
      lock_ranges();
      break;
    case 5:
    case 6:
    case 7:
      plant_record();
      break;
    case 8:
      plant_obstacle(in_one_of(4) ? directory() / (in_one_of(2) ? "daemon.pid" : "work.gate")
                                  : lock_of(any(k_sessions)));
      break;
    case 9:
      plant_obstacle(session(any(k_sessions)).native() + ".torn");
      break;
    case 10:
      plant_temporary();
      break;
    default:
      if (in_one_of(20)) {
        alias_session();
      }
  }
  ++figures().attacks;
  pause(8000us);
  life_.end_in_time();
}

fs::path Neighbour::some_file() {
  switch (any(8)) {
    case 0:
      return session(any(k_sessions));
    case 1:
      return directory() / "daemon.pid";
    case 2:
      return directory() / "work.gate";
    case 3:
      return directory();
    default:
      return lock_of(any(k_sessions));
  }
}

/// Now and then for longer than a writer waits for it.
void Neighbour::lock_whole_file() {
  const fs::path path = some_file();
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (::flock(file.number, (in_one_of(4) ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    return;
  }
  const bool is_lock = path.native().ends_with(".jsonl.lock");
  if (is_lock && in_one_of(200)) {
    std::this_thread::sleep_for(5500ms);
  } else {
    pause(in_one_of(5) ? 100ms : 2ms);
  }
}

/// Reading is allowed, and so are read locks: on the witness, on the waiters' marks, or on everything.
void Neighbour::lock_ranges() {
  const Descriptor file(::open(some_file().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct ::flock range {};
  range.l_type = F_RDLCK;
  range.l_whence = SEEK_SET;
  if (!in_one_of(3)) {
    range.l_start = in_one_of(2) ? k_witness_offset : k_mark_offset;
    range.l_len = 1;
  }
  (void)::fcntl(file.number, F_OFD_SETLK, &range);
  pause(20ms);
}

std::string Neighbour::innocent_record() {
  for (const Slot& slot : world().slots) {
    const pid_t pid = slot.innocent.load();
    const auto start = pid > 0 && in_one_of(2) ? process_start_time(pid) : std::nullopt;
    if (start) {
      return foreign_record(pid, std::to_string(*start));
    }
  }
  return foreign_record(::getpid(), start_of(::getpid()));
}

// A neighbour may be killed between any two changes, while its lock is kept under a temporary name by a process that
// takes it over and puts it back: nobody else would end a lie about a process that goes on.
std::string Neighbour::lie(bool is_old) {
  LockRecord record = own_record();
  switch (any(is_old ? 12 : 9)) {
    case 0:
      return "";
    case 1:
      return std::string(any(k_lock_record_bytes_max), in_one_of(2) ? '\0' : ' ');
    case 2:
      return "{\"pid\": 1";
    case 3:
      return foreign_record(1, "1");
    case 5:  // its pid was given out again
      record.starttime = *record.starttime - 1;
      return format_lock_record(record);
    case 6:
      return format_lock_record(record);
    case 9:
    case 10:
      return std::to_string(::getpid()) + "\n";
    case 11:  // aged, without a start time, and of a process that runs
      return foreign_record(::getpid(), {}, 2h);
    default:
      return innocent_record();
  }
}

/// What it says may change while others judge it.
void Neighbour::plant_record() {
  const fs::path path = lock_of(any(k_sessions));
  for (int attempt = 0; attempt < 100 && !world().is_over.load(); ++attempt) {
    const Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, k_readable));
    if (file.number < 0) {
      continue;
    }
    ++figures().lies;
    for (auto changes = any(5); changes > 0; --changes) {
      write_anew(file.number, lie(true));
      pause(300us);
    }
    // A bare number names whatever process has it, so it is dead at once only where the file is old; so is a record
    // that nothing but its age speaks against.
    const bool is_old = !in_one_of(3);
    write_anew(file.number, lie(is_old));
    if (in_one_of(3)) {
      (void)::link(path.c_str(), lock_of(any(k_sessions)).c_str());
    }
    if (is_old || in_one_of(4)) {
      const time_t when = world().began + (is_old ? -1 : 1) * k_off.count();
      const struct timespec times[2] = {{when, 0}, {when, 0}};
      (void)::futimens(file.number, times);
    }
    if (in_one_of(4)) {
      (void)::flock(file.number, LOCK_EX | LOCK_NB);
      pause(50ms);
    }
    return;
  }
}

fs::path Neighbour::link_target() {
  switch (any(5)) {
    case 0:
      return session(any(k_sessions));
    case 1:
      return lock_of(any(k_sessions));
    case 2:
      return "/dev/zero";
    case 3:
      return directory() / "nothing";
    default: {
      const Bystanders bystanders(directory(), world().began);
      return bystanders.path(any(bystanders.size()));
    }
  }
}

/// Unreadable, huge, or a lock of this process with a lease, which keeps others from opening it.
bool Neighbour::make_file(const fs::path& path) {
  const auto kind = any(3);
  const mode_t mode = kind == 0 ? 0 : kind == 1 ? k_readable : S_IRUSR | S_IWUSR | S_IRGRP;
  const Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (file.number < 0) {
    return false;
  }
  if (kind == 1) {
    (void)!::ftruncate(file.number, k_huge);
  } else if (kind == 2) {
    write_anew(file.number, foreign_record(::getpid(), start_of(::getpid())));
    (void)::fcntl(file.number, F_SETLEASE, F_WRLCK);
    pause(30ms);
  }
  return true;
}

bool Neighbour::make_obstacle(const fs::path& path) {
  switch (any(5)) {
    case 0:
      return ::mkfifo(path.c_str(), k_readable) == 0;
    case 1:
      return ::mkdir(path.c_str(), 0755) == 0;
    case 2: {
      const Descriptor listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      struct sockaddr_un address {};
      address.sun_family = AF_UNIX;
      std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
      return ::bind(listening.number, reinterpret_cast<const struct sockaddr*>(&address), sizeof address) == 0;
    }
    case 3:
      return make_file(path);
    default:
      return ::symlink(link_target().c_str(), path.c_str()) == 0;
  }
}

void Neighbour::plant_obstacle(const fs::path& path) {
  for (int attempt = 0; attempt < 100 && !world().is_over.load(); ++attempt) {
    if (make_obstacle(path)) {
      ++figures().obstacles;
      pause(20ms);
      take_back(path);
      return;
    }
  }
}

void Neighbour::plant_temporary() {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string id(32, '0');
  for (char& digit : id) {
    digit = digits[any(digits.size())];
  }
  const fs::path path = directory() / temporary_name(lock_of(any(k_sessions)).filename().native(), id);
  if (in_one_of(2)) {
    plant_obstacle(path);
    return;
  }
  plant(path, lie(true));
  ::chmod(path.c_str(), k_readable);
  make_older(path, 1h);
}

/// Gives a session a second name, which makes it one that cannot be locked until the director takes that name away.
void Neighbour::alias_session() {
  const fs::path alias = directory() / (std::string(k_alias_prefix) + std::to_string(token().slot));
  (void)::link(session(any(k_sessions)).c_str(), alias.c_str());
}

}  // namespace sessionlock::test::chaos
