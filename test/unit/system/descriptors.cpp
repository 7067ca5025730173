#include "system/descriptors.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.hpp"
#include "script.hpp"
#include "system/file_status.hpp"
#include "system/lasting.hpp"
#include "system/per_process.hpp"

using namespace sessionlock;
using sessionlock::sys::Ownership;
using sessionlock::test::Channel;
using sessionlock::test::ChildProcess;
using sessionlock::test::exit_code_in;
using sessionlock::test::ForkWay;
using sessionlock::test::k_fork_ways;
using sessionlock::test::Script;
using sessionlock::test::TemporaryDirectory;

namespace {

sys::Opened open_new(const TemporaryDirectory& directory, const char* name) {
  return sys::open(AT_FDCWD, (directory / name).c_str(), O_RDWR | O_CREAT, 0600);
}

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

/// As `open_new`, and says what it is open on, as every user of a file does that is kept.
sys::Opened open_kept(const TemporaryDirectory& directory, const char* name) {
  auto opened = open_new(directory, name);
  expect_as_it_is(opened.fd);
  return opened;
}

/// Runs `body` in a child made that way; whether it returned true.
bool holds_in_child(const ForkWay& way, const std::function<bool()>& body) {
  return exit_code_in(way, [&] { return body() ? 0 : 1; }) == 0;
}

/// Lets this process, and what it becomes, not have pages that are emptied in a child. False if it has them all the
/// same.
bool refuse_wiped_pages() {
  // The advice is the third argument, whose lower half comes first on the machines this is built for.
  constexpr unsigned k_advice = offsetof(seccomp_data, args) + 2 * sizeof(std::uint64_t);
  std::array<sock_filter, 6> program{
      {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
       BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, k_advice),
       BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_WIPEONFORK, 0, 1),
       BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
  sock_fprog filter{program.size(), program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    return false;
  }
  void* const page = ::mmap(nullptr, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page != MAP_FAILED && ::madvise(page, 1, MADV_WIPEONFORK) != 0 && errno == EINVAL;
}

}  // namespace

TEST_CASE("a descriptor is numbered 3 or higher, even where 0 to 2 are closed") {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel&) {
    for (const int fd : {0, 1, 2}) {
      ::close(fd);
    }
    const auto first = open_new(directory, "first");
    const auto second = open_new(directory, "second");
    REQUIRE_IN_CHILD(first.ok() && first.fd.get() >= 3);
    REQUIRE_IN_CHILD(second.ok() && second.fd.get() >= 3);
    REQUIRE_IN_CHILD(!is_open(0) && !is_open(1) && !is_open(2));
    REQUIRE_IN_CHILD((::fcntl(first.fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a descriptor is close-on-exec") {
  const TemporaryDirectory directory;
  const auto opened = open_new(directory, "file");
  REQUIRE(opened.ok());
  CHECK((::fcntl(opened.fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  const auto listed = test::run_command({"ls", "-l", "/proc/self/fd"});
  CHECK(listed.ended.exited_with(0));
  CHECK(listed.out.find("/file") == std::string::npos);
}

TEST_CASE("a descriptor closes itself, and moving it keeps one owner") {
  const TemporaryDirectory directory;
  const std::size_t before = sys::open_descriptor_count();
  int number = -1;
  {
    auto opened = open_new(directory, "file");
    number = opened.fd.get();
    sys::Fd moved = std::move(opened.fd);
    CHECK(moved.get() == number);
    CHECK(sys::open_descriptor_count() == before + 1);
    auto other = open_new(directory, "other");
    const int other_number = other.fd.get();
    other.fd = std::move(moved);
    CHECK(other.fd.get() == number);
    CHECK_FALSE(is_open(other_number));
    CHECK(is_open(number));
  }
  CHECK_FALSE(is_open(number));
  CHECK(sys::open_descriptor_count() == before);
}

TEST_CASE("a descriptor whose number was taken behind its back closes nothing, if its inode was remembered") {
  const TemporaryDirectory directory;
  const std::size_t before = sys::open_descriptor_count();
  auto opened = open_new(directory, "ours");
  const int number = opened.fd.get();
  expect_as_it_is(opened.fd);
  const int foreign = ::open((directory / "foreign").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(::dup2(foreign, number) == number);
  opened.fd.reset();
  CHECK_FALSE(static_cast<bool>(opened.fd));
  CHECK(sys::open_descriptor_count() == before);
  CHECK(is_open(number));
  ::close(number);
  ::close(foreign);
}

TEST_CASE("of two descriptors of ours that had one number the older closes nothing, and a child drops the newer") {
  const TemporaryDirectory directory;
  auto older = open_new(directory, "a");
  const int number = older.fd.get();
  ::close(number);  // as a program that becomes a daemon
  auto newer = open_new(directory, "b");
  REQUIRE(newer.fd.get() == number);
  const auto count = sys::open_descriptor_count();
  older.fd.reset();
  CHECK(is_open(number));
  CHECK(sys::open_descriptor_count() == count);
  CHECK(holds_in_child(k_fork_ways[0], [number] { return !is_open(number); }));
}

TEST_CASE("a descriptor that is moved to itself stays what it is") {
  const TemporaryDirectory directory;
  auto opened = open_new(directory, "a");
  const int number = opened.fd.get();
  sys::Fd& same = opened.fd;
  opened.fd = std::move(same);
  CHECK(opened.fd.get() == number);
  CHECK(is_open(number));
}

TEST_CASE("two threads that are first at the same moment get the same state, and what the slower one made goes") {
  static std::atomic<int> made{0};
  static std::atomic<int> gone{0};
  struct State {
    State() {
      ++made;
      test::wait_until("both threads are making one", [] { return made == 2; });
    }
    ~State() { ++gone; }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
  };
  static PerProcess<State> state;
  State* of_other = nullptr;
  std::thread other([&] { of_other = &state.get(); });
  State* const own = &state.get();
  other.join();
  CHECK(own == of_other);
  CHECK(own == &state.get());
  CHECK(made == 2);
  CHECK(gone == 1);
}

namespace {

std::atomic<bool> g_is_slow{false};
std::atomic<bool> g_is_making{false};

struct MadeSlowly {
  MadeSlowly() {
    g_is_making = g_is_slow.load();
    test::wait_until("it is made", [] { return !g_is_slow; });
  }
};

}  // namespace

TEST_CASE("a child waits for no thread of its parent's that makes a lasting object") {
  static constinit Lasting<MadeSlowly> made;
  g_is_slow = true;
  std::thread other([] { (void)made.get(); });
  test::wait_until("another thread makes it", [] { return g_is_making.load(); });
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [] {
      ::alarm(static_cast<unsigned>(test::k_patience.count()));
      g_is_slow = false;
      return &made.get() == &made.get();
    }));
  }
  g_is_slow = false;
  other.join();
}

namespace {

/// A thread that stands in an open(2) which goes on until the test lets it.
class BlockedOpen {
 public:
  BlockedOpen() {
    if (::mkfifo(fifo_.c_str(), 0600) != 0) {
      throw std::runtime_error("mkfifo");
    }
    thread_ = std::thread([this] { is_registered_ = sys::open(AT_FDCWD, fifo_.c_str(), O_RDONLY).fd.is_registered(); });
    test::wait_until("the open blocks", [&] {
      const std::filesystem::directory_iterator tasks("/proc/self/task");
      return std::any_of(begin(tasks), end(tasks), [](const auto& task) {
        return test::read_text(task.path() / "stat").find(") S ") != std::string::npos;
      });
    });
  }
  ~BlockedOpen() { (void)finish(); }
  BlockedOpen(const BlockedOpen&) = delete;
  BlockedOpen& operator=(const BlockedOpen&) = delete;
  /// Whether the thread got its descriptor.
  bool finish() {
    if (thread_.joinable()) {
      const int writer = ::open(fifo_.c_str(), O_WRONLY | O_CLOEXEC);
      thread_.join();
      ::close(writer);
    }
    return is_registered_;
  }

 private:
  TemporaryDirectory directory_{};
  std::string fifo_ = (directory_ / "fifo").string();
  bool is_registered_{false};
  std::thread thread_{};
};

}  // namespace

TEST_CASE("a fork does not wait for a file system that does not answer another thread") {
  auto child = ChildProcess::run([](Channel&) {
    BlockedOpen blocked;
    for (const auto& way : k_fork_ways) {
      REQUIRE_IN_CHILD(holds_in_child(way, [] {
        const TemporaryDirectory directory;
        const auto own = open_new(directory, "own");
        return own.ok() && sys::open_descriptor_count() == 1;
      }));
    }
    REQUIRE_IN_CHILD(blocked.finish());
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a child made without fork handlers can fork, whatever the parent's other threads were doing") {
  // One of them is in the middle of an open, which the child would wait for.
  const BlockedOpen blocked;
  for (const auto& way : {k_fork_ways[1], k_fork_ways[2]}) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [] {
      ::alarm(static_cast<unsigned>(test::k_patience.count()));
      const pid_t child = ::fork();
      if (child == 0) {
        ::_exit(0);
      }
      int status = 1;
      return ::waitpid(child, &status, 0) == child && status == 0;
    }));
  }
}

TEST_CASE("an inherited descriptor object closes nothing in a child, where its number may be in use again") {
  const TemporaryDirectory directory;
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    auto opened = open_kept(directory, "ours");
    const int number = opened.fd.get();
    CHECK(holds_in_child(way, [&] {
      (void)sys::process_generation();
      const int foreign = ::open((directory / "foreign").c_str(), O_RDWR | O_CREAT, 0600);
      const bool reused = !is_open(number) || foreign == number;
      const bool taken = foreign == number || ::dup2(foreign, number) == number;
      opened.fd.reset();
      return reused && taken && is_open(number);
    }));
    CHECK(is_open(number));
  }
}

TEST_CASE("a forked child drops what it inherited") {
  const TemporaryDirectory directory;
  const auto plain = open_new(directory, "plain");
  const auto remembered = open_kept(directory, "remembered");
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [&] {
      (void)sys::process_generation();
      return !is_open(remembered.fd.get()) && sys::open_descriptor_count() == 0;
    }));
    CHECK(is_open(plain.fd.get()));
    CHECK(is_open(remembered.fd.get()));
  }
  CHECK(holds_in_child(k_fork_ways[0], [&] { return !is_open(plain.fd.get()); }));  // without calling anything
}

TEST_CASE("a child that opens something drops what it inherited first") {
  const TemporaryDirectory directory;
  const auto inherited = open_kept(directory, "inherited");
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [&] {
      const auto own = open_new(directory, "own");
      struct stat status {};
      return own.ok() && sys::fstat(own.fd.get(), status).ok() && sys::open_descriptor_count() == 1;
    }));
  }
}

TEST_CASE("a living child keeps no flock of its parent's") {
  const TemporaryDirectory directory;
  auto held = open_new(directory, "lock");
  REQUIRE(sys::flock(held.fd.get(), LOCK_EX | LOCK_NB).ok());
  auto child = ChildProcess::run([](Channel& parent) {
    parent.tell("here");
    parent.expect("end");
    return 0;
  });
  child.expect("here");
  auto other = open_new(directory, "lock");
  CHECK(sys::flock(other.fd.get(), LOCK_EX | LOCK_NB).error == EWOULDBLOCK);
  held.fd.reset();
  CHECK(sys::flock(other.fd.get(), LOCK_EX | LOCK_NB).ok());
  child.tell("end");
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("the generation differs on both sides of every fork") {
  const std::uint64_t own = sys::process_generation();
  CHECK(own == sys::process_generation());
  CHECK(own == sys::settled_generation());
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [own] {
      const std::uint64_t in_child = sys::process_generation();
      return in_child != own && in_child != 0 && in_child == sys::process_generation() &&
             in_child == sys::settled_generation() &&
             holds_in_child(k_fork_ways[1], [=] { return sys::process_generation() != in_child; });
    }));
    CHECK(sys::process_generation() == own);
  }
}

TEST_CASE("the settled generation is 0 in a child until somebody asks") {
  REQUIRE(sys::process_generation() != 0);
  for (const auto& way : {k_fork_ways[1], k_fork_ways[2]}) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [] {
      return sys::settled_generation() == 0 && sys::process_generation() != 0 && sys::settled_generation() != 0;
    }));
  }
}

TEST_CASE("forks are told apart where the kernel cannot empty a page in a child") {
  // What this program says of forks, once more in a process whose kernel refuses that, as before Linux 4.14.
  auto child = ChildProcess::run([](Channel&) {
    REQUIRE_IN_CHILD(refuse_wiped_pages());
    const int nothing = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    ::dup2(nothing, STDOUT_FILENO);
    ::execl("/proc/self/exe", "system",
            "-tc=a forked child drops*,a child that opens*,an inherited descriptor*,the generation differs*,"
            "the settled generation*,a number that was closed*",
            nullptr);
    return 127;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a number that was closed behind our back and reused is not closed in a child") {
  const TemporaryDirectory directory;
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    auto opened = open_new(directory, "ours");
    const int number = opened.fd.get();
    expect_as_it_is(opened.fd);
    // As closefrom(3) and the next open of a program that becomes a daemon do.
    const int foreign = ::open((directory / "foreign").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::dup2(foreign, number) == number);
    CHECK(holds_in_child(way, [number] {
      (void)sys::process_generation();
      return is_open(number);
    }));
    opened.fd.reset();
    ::close(number);
    ::close(foreign);
  }
}

TEST_CASE("a number that a child closed and reused before its first call is not closed") {
  const TemporaryDirectory directory;
  auto opened = open_new(directory, "ours");
  expect_as_it_is(opened.fd);
  for (const auto& way : {k_fork_ways[1], k_fork_ways[2]}) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [&] {
      const int number = opened.fd.get();
      const int foreign = ::open((directory / "foreign").c_str(), O_RDWR | O_CREAT, 0600);
      ::close(number);
      const bool reused = ::dup2(foreign, number) == number;
      (void)sys::process_generation();
      return reused && is_open(number);
    }));
  }
}

TEST_CASE("a number of which nothing was said yet stays open in a child that may have reused it, and is forgotten") {
  const TemporaryDirectory directory;
  const auto opened = open_new(directory, "ours");  // as by a thread of the parent that has come no further
  const int number = opened.fd.get();
  for (const auto& way : {k_fork_ways[1], k_fork_ways[2]}) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [&] {
      const int foreign = ::open((directory / "foreign").c_str(), O_RDWR | O_CREAT, 0600);
      const bool reused = ::dup2(foreign, number) == number;
      return reused && sys::process_generation() != 0 && is_open(number) && sys::open_descriptor_count() == 0;
    }));
  }
}

TEST_CASE("no fork falls between opening and registering, nor between unregistering and closing") {
  const TemporaryDirectory directory;
  const std::string path = (directory / "file").string();
  test::write_text(path, "text");
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        (void)sys::open(AT_FDCWD, path.c_str(), O_RDONLY);
      }
    });
  }
  struct stat file {};
  REQUIRE(::stat(path.c_str(), &file) == 0);
  for (int i = 0; i < 300; ++i) {
    const bool clean = holds_in_child(k_fork_ways[0], [&file] {
      for (int fd = 0; fd < 64; ++fd) {
        struct stat status {};
        if (::fstat(fd, &status) == 0 && status.st_ino == file.st_ino && status.st_dev == file.st_dev) {
          return false;
        }
      }
      return true;
    });
    CHECK(clean);
  }
  stop = true;
  for (auto& thread : threads) {
    thread.join();
  }
}

TEST_CASE("a number that another device's file of the same inode has by now is not closed") {
  const auto one = test::TmpfsMount::mount("size=64k");
  std::string why_not;
  const auto other = test::TmpfsMount::mount("size=64k", &why_not);
  if (!one || !other) {
    test::skip_aloud("mounting is not allowed here: " + why_not);
    return;
  }
  auto ours = sys::open(AT_FDCWD, (*one / "file").c_str(), O_RDWR | O_CREAT, 0600);
  const int number = ours.fd.get();
  expect_as_it_is(ours.fd);
  const int foreign = ::open((*other / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct stat our_status {};
  struct stat foreign_status {};
  REQUIRE(::fstat(number, &our_status) == 0);
  REQUIRE(::fstat(foreign, &foreign_status) == 0);
  REQUIRE(our_status.st_ino == foreign_status.st_ino);  // each tmpfs counts from the same number on
  REQUIRE(::dup2(foreign, number) == number);
  ours.fd.reset();
  CHECK(is_open(number));
  ::close(number);
  ::close(foreign);
}

// --- whose a number is -----------------------------------------------------------------------------------------------

namespace {

/// A descriptor of ours that is kept, and one that a program may open instead: of the same inode, where the kernel has
/// only one or the program can find it.
struct Lookalike {
  const char* name;
  sys::Fd (*ours)(const TemporaryDirectory&);
  int (*of_the_program)(const TemporaryDirectory&);
};
constexpr auto k_pidfd = [](pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); };
const std::array<Lookalike, 5> k_lookalikes{{
    {"eventfd", [](const TemporaryDirectory&) { return std::move(sys::eventfd().fd); },
     [](const TemporaryDirectory&) { return ::eventfd(7, EFD_CLOEXEC | EFD_NONBLOCK); }},
    {"inotify", [](const TemporaryDirectory&) { return std::move(sys::inotify_init().fd); },
     [](const TemporaryDirectory&) { return ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK); }},
    {"pidfd", [](const TemporaryDirectory&) { return std::move(sys::pidfd_open(::getppid()).fd); },
     [](const TemporaryDirectory&) { return k_pidfd(::getppid()); }},
    {"epoll for an eventfd", [](const TemporaryDirectory&) { return std::move(sys::eventfd().fd); },
     [](const TemporaryDirectory&) { return ::epoll_create1(EPOLL_CLOEXEC); }},
    {"directory",
     [](const TemporaryDirectory& directory) {
       auto opened = sys::open(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY);
       expect_as_it_is(opened.fd);
       return std::move(opened.fd);
     },
     [](const TemporaryDirectory& directory) {
       return ::open(directory.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
     }},
}};

/// Lets a system call of this process, and of what it becomes, fail from now on.
bool let_fail(long call, int error) {
  std::array<sock_filter, 4> program{{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1),
                                      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
                                      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)}};
  sock_fprog filter{program.size(), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/// A child that shares this process's descriptors, but not its memory, runs `body`; whether it returned true.
bool holds_where_descriptors_are_shared(const std::function<bool()>& body) {
  const auto child =
      static_cast<pid_t>(::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (child == 0) {
    ::_exit(body() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_CASE("a number under which the program opened the like of what was ours is foreign, and is not closed") {
  const TemporaryDirectory directory;
  for (const Lookalike& kind : k_lookalikes) {
    CAPTURE(kind.name);
    sys::Fd ours = kind.ours(directory);
    REQUIRE(ours);
    CHECK(ours.ownership() == Ownership::ours);
    const int number = ours.get();
    ::close(number);
    CHECK(ours.ownership() == Ownership::foreign);
    REQUIRE(kind.of_the_program(directory) == number);
    CHECK(ours.ownership() == Ownership::foreign);
    CHECK_FALSE(ours.is_usable());
    for (const ForkWay& way : k_fork_ways) {
      CHECK(holds_in_child(way, [number] {
        (void)sys::process_generation();
        return is_open(number);
      }));
    }
    ours.reset();
    CHECK(is_open(number));
    ::close(number);
  }
}

TEST_CASE("what is open on what it was opened on is ours, and is closed") {
  const TemporaryDirectory directory;
  for (const Lookalike& kind : k_lookalikes) {
    CAPTURE(kind.name);
    sys::Fd ours = kind.ours(directory);
    const int number = ours.get();
    CHECK(ours.is_usable());
    ours.reset();
    CHECK_FALSE(is_open(number));
    CHECK(ours.ownership() == Ownership::foreign);  // there is none
  }
}

TEST_CASE("a descriptor of which nothing could be seen is ours, and is closed") {
  const TemporaryDirectory directory;
  auto opened = open_new(directory, "a");
  opened.fd.expect({});
  CHECK(opened.fd.ownership() == Ownership::ours);
  const int number = opened.fd.get();
  opened.fd.reset();
  CHECK_FALSE(is_open(number));
}

TEST_CASE("a number that another descriptor of the library has is foreign to the one that had it before") {
  const TemporaryDirectory directory;
  auto older = open_new(directory, "a");
  const int number = older.fd.get();
  ::close(number);
  const auto newer = open_new(directory, "a");
  REQUIRE(newer.fd.get() == number);
  CHECK_FALSE(older.fd.is_registered());
  CHECK(older.fd.ownership() == Ownership::foreign);
  CHECK(newer.fd.ownership() == Ownership::ours);
}

TEST_CASE("a descriptor of a parent is foreign in its child") {
  const TemporaryDirectory directory;
  const auto opened = open_new(directory, "a");
  CHECK(opened.fd.is_registered());
  for (const ForkWay& way : k_fork_ways) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [&] { return !opened.fd.is_registered() && !opened.fd.is_usable(); }));
  }
}

TEST_CASE("a file that cannot be asked for is not taken for foreign, and is closed") {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel& parent) {
    auto opened = open_new(directory, "a");
    struct stat status {};
    REQUIRE_IN_CHILD(sys::fstat(opened.fd.get(), status).ok());
    opened.fd.expect(identity_of(status));
    if (!let_fail(SYS_newfstatat, ESTALE) || !let_fail(SYS_fstat, ESTALE)) {
      parent.tell("no filter");
      return 0;
    }
    REQUIRE_IN_CHILD(::fstat(opened.fd.get(), &status) != 0);
    REQUIRE_IN_CHILD(opened.fd.ownership() == Ownership::unknown);
    REQUIRE_IN_CHILD(opened.fd.is_usable());
    const int number = opened.fd.get();
    opened.fd.reset();
    REQUIRE_IN_CHILD(!is_open(number));
    return 0;
  });
  if (child.hear().has_value()) {
    test::skip_aloud("system calls cannot be filtered here");
  }
  CHECK(child.wait().exited_with(0));
}

// --- descriptors that a child shares ---------------------------------------------------------------------------------

TEST_CASE("a child that shares its parent's descriptors closes them for itself alone") {
  const TemporaryDirectory directory;
  const auto opened = open_kept(directory, "a");
  const int number = opened.fd.get();
  CHECK(holds_where_descriptors_are_shared([number] {
    (void)sys::process_generation();
    return !is_open(number);
  }));
  CHECK(is_open(number));
  CHECK(opened.fd.is_usable());
}

TEST_CASE("what such a child opens does not stay open in its parent") {
  const TemporaryDirectory directory;
  int next = ::dup(0);
  ::close(next);
  CHECK(holds_where_descriptors_are_shared([&] {
    const auto opened = open_new(directory, "a");
    ::_exit(opened.ok() ? 0 : 1);  // as if it was killed
    return false;
  }));
  CHECK_FALSE(is_open(next));
}

TEST_CASE("such a child with several threads closes nothing, since only one of them could get descriptors of its own") {
  const TemporaryDirectory directory;
  const auto opened = open_new(directory, "a");
  const int number = opened.fd.get();
  CHECK(holds_where_descriptors_are_shared([&] {
    std::atomic<bool> is_over{false};
    std::thread other([&is_over] { test::wait_until("the test is over", [&is_over] { return is_over.load(); }); });
    const bool is_left_alone = sys::open_descriptor_count() == 1 && sys::process_generation() != 0 &&
                               sys::open_descriptor_count() == 0 && is_open(number);
    is_over = true;
    other.join();
    return is_left_alone;
  }));
  CHECK(is_open(number));
  CHECK(opened.fd.is_usable());
}

TEST_CASE("the threads of a child that was made without fork handlers go on sharing their descriptors") {
  const TemporaryDirectory directory;
  const auto inherited = open_new(directory, "a");
  for (const auto& way : {k_fork_ways[1], k_fork_ways[2]}) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [&] {
      sys::Opened opened;
      std::thread other([&] { opened = open_new(directory, "b"); });  // the child's first call
      other.join();
      return opened.ok() && is_open(opened.fd.get());
    }));
    CHECK(holds_in_child(way, [&] {
      std::atomic<int> number{-1};
      bool is_seen = false;
      std::thread looks([&] {
        test::wait_until("the other thread has opened it", [&number] { return number.load() >= 0; });
        struct stat by_number {};
        struct stat by_name {};
        is_seen = ::fstat(number.load(), &by_number) == 0 && ::stat((directory / "b").c_str(), &by_name) == 0 &&
                  by_number.st_ino == by_name.st_ino;
      });
      const auto opened = open_new(directory, "b");  // the child's first call
      number = opened.fd.get();
      looks.join();
      return is_seen;
    }));
  }
}

TEST_CASE("where unshare(2) is forbidden a child still closes its parent's descriptors for itself alone") {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel& parent) {
    const auto opened = open_kept(directory, "a");
    const int number = opened.fd.get();
    __libc_single_threaded = 1;  // as it is in a program that never had threads
    if (!let_fail(SYS_unshare, EPERM)) {
      parent.tell("no filter");
      return 0;
    }
    REQUIRE_IN_CHILD(::unshare(CLONE_FILES) != 0);
    const auto sharing =
        static_cast<pid_t>(::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
    if (sharing == 0) {
      (void)sys::process_generation();
      ::_exit(is_open(number) ? 1 : 0);
    }
    int status = 0;
    REQUIRE_IN_CHILD(::waitpid(sharing, &status, 0) == sharing);
    REQUIRE_IN_CHILD(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    REQUIRE_IN_CHILD(is_open(number));
    return 0;
  });
  if (child.hear().has_value()) {
    test::skip_aloud("system calls cannot be filtered here");
  }
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("where neither sharing can be stopped nor asked about a child closes nothing of what may be its parent's") {
  const TemporaryDirectory directory;
  for (const int sharing : {0, CLONE_FILES}) {
    CAPTURE(sharing);
    auto child = ChildProcess::run([&](Channel& parent) {
      const auto opened = open_kept(directory, "a");
      const int number = opened.fd.get();
      if (!let_fail(SYS_unshare, EPERM) || !let_fail(SYS_close_range, EPERM) || !let_fail(SYS_kcmp, EPERM)) {
        parent.tell("no filter");
        return 0;
      }
      const auto clone =
          static_cast<pid_t>(::syscall(SYS_clone, sharing | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
      if (clone == 0) {
        (void)sys::process_generation();
        ::_exit(is_open(number) && sys::open_descriptor_count() == 0 ? 0 : 1);
      }
      int status = 0;
      REQUIRE_IN_CHILD(::waitpid(clone, &status, 0) == clone);
      REQUIRE_IN_CHILD(WIFEXITED(status) && WEXITSTATUS(status) == 0);
      REQUIRE_IN_CHILD(is_open(number) && opened.fd.is_usable());
      return 0;
    });
    if (child.hear().has_value()) {
      test::skip_aloud("system calls cannot be filtered here");
    }
    CHECK(child.wait().exited_with(0));
  }
}
