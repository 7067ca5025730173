#include "system/system.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
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
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.hpp"
#include "script.hpp"
#include "system/per_process.hpp"

using namespace sessionlock;
using namespace std::string_view_literals;
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

void remember(int fd) {
  struct stat status {};
  REQUIRE(sys::fstat(fd, status).ok());
  sys::remember_inode(fd, status.st_dev, status.st_ino);
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
  remember(number);
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

TEST_CASE("a descriptor that is abandoned is not closed, and another of ours with its number stays registered") {
  const TemporaryDirectory directory;
  auto opened = open_new(directory, "a");
  const int number = opened.fd.get();
  const auto count = sys::open_descriptor_count();
  SUBCASE("it alone had the number") {
    opened.fd.abandon();
    CHECK(!opened.fd);
    CHECK(is_open(number));
    CHECK(sys::open_descriptor_count() == count - 1);
    ::close(number);
  }
  SUBCASE("another has the number by now") {
    ::close(number);
    const auto newer = open_new(directory, "b");
    REQUIRE(newer.fd.get() == number);
    opened.fd.abandon();
    CHECK(sys::open_descriptor_count() == count);
    opened.fd.abandon();  // it has none any more
    CHECK(sys::open_descriptor_count() == count);
  }
  SUBCASE("a child has another with the number") {
    CHECK(holds_in_child(k_fork_ways[0], [&] {
      const auto own = open_new(directory, "b");
      const bool same_number = own.fd.get() == number;
      opened.fd.abandon();
      return same_number && sys::open_descriptor_count() == 1;
    }));
  }
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

TEST_CASE("a number beyond what is kept track of is nobody's") {
  const auto count = sys::open_descriptor_count();
  for (const int number : {-1, 1 << 20, INT_MAX}) {
    sys::remember_inode(number, 1, 1);
  }
  CHECK(sys::open_descriptor_count() == count);
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

TEST_CASE("what is no file is not closed under a number that a file has by now") {
  const TemporaryDirectory directory;
  for (const auto& open : {+[] { return sys::eventfd(); }, +[] { return sys::inotify_init(); },
                           +[] { return sys::pidfd_open(::getpid()); }}) {
    auto opened = open();
    REQUIRE(opened.ok());
    const int number = opened.fd.get();
    ::close(number);
    const int own = ::open((directory / "own").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(own == number);
    opened.fd.reset();
    CHECK(is_open(own));
    ::close(own);
  }
}

TEST_CASE("a child made without fork handlers can fork, whatever the parent's other threads were doing") {
  // One of them is in the middle of an open, which the child would wait for without end.
  const TemporaryDirectory directory;
  const auto fifo = (directory / "fifo").string();
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  std::thread blocked([&] { (void)sys::open(AT_FDCWD, fifo.c_str(), O_RDONLY); });
  test::wait_until("the open blocks", [&] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::any_of(begin(tasks), end(tasks), [](const auto& task) {
      return test::read_text(task.path() / "stat").find(") S ") != std::string::npos;
    });
  });
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
  const int writer = ::open(fifo.c_str(), O_WRONLY | O_CLOEXEC);
  blocked.join();
  ::close(writer);
}

TEST_CASE("an inherited descriptor object closes nothing in a child, where its number may be in use again") {
  const TemporaryDirectory directory;
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    auto opened = open_new(directory, "ours");
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
  const auto remembered = open_new(directory, "remembered");
  remember(remembered.fd.get());
  for (const auto& way : k_fork_ways) {
    CAPTURE(way.name);
    CHECK(holds_in_child(way, [&] {
      (void)sys::process_generation();
      return !is_open(plain.fd.get()) && !is_open(remembered.fd.get()) && sys::open_descriptor_count() == 0;
    }));
    CHECK(is_open(plain.fd.get()));
    CHECK(is_open(remembered.fd.get()));
  }
  CHECK(holds_in_child(k_fork_ways[0], [&] { return !is_open(plain.fd.get()); }));  // without calling anything
}

TEST_CASE("a child that opens something drops what it inherited first") {
  const TemporaryDirectory directory;
  const auto inherited = open_new(directory, "inherited");
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
    remember(number);
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
  const auto opened = open_new(directory, "ours");
  remember(opened.fd.get());
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

TEST_CASE("an interceptor can make each call fail, and the call is not made") {
  const TemporaryDirectory directory;
  const auto opened = open_new(directory, "file");
  REQUIRE(opened.ok());
  const int fd = opened.fd.get();
  const std::string path = (directory / "file").string();
  const std::string second = (directory / "second").string();
  struct stat status {};
  sys::FileSystem file_system;
  sys::DirectoryIdentity identity;
  char buffer[8] = {};
  char name[] = "true";
  char* const argv[] = {name, nullptr};
  const std::vector<std::pair<sys::Call, std::function<int()>>> calls = {
      {sys::Call::openat, [&] { return sys::open(AT_FDCWD, second.c_str(), O_CREAT | O_RDWR, 0600).error; }},
      {sys::Call::fstat, [&] { return sys::fstat(fd, status).error; }},
      {sys::Call::fstatat, [&] { return sys::fstatat(AT_FDCWD, path.c_str(), status, 0).error; }},
      {sys::Call::getdents64, [&] { return sys::read_names(fd, [](std::string_view) {}).error; }},
      {sys::Call::faccessat, [&] { return sys::faccessat(AT_FDCWD, path.c_str(), R_OK).error; }},
      {sys::Call::statx, [&] { return sys::identify_directory(fd, identity).error; }},
      {sys::Call::fstatfs, [&] { return sys::fstatfs(fd, file_system).error; }},
      {sys::Call::linkat, [&] { return sys::linkat(AT_FDCWD, path.c_str(), AT_FDCWD, second.c_str(), 0).error; }},
      {sys::Call::unlinkat, [&] { return sys::unlinkat(AT_FDCWD, path.c_str()).error; }},
      {sys::Call::renameat, [&] { return sys::rename_over(AT_FDCWD, path.c_str(), second.c_str()).error; }},
      {sys::Call::renameat2, [&] { return sys::rename_no_replace(AT_FDCWD, path.c_str(), second.c_str()).error; }},
      {sys::Call::readlinkat, [&] { return sys::readlinkat(AT_FDCWD, "/proc/self", buffer, sizeof buffer).error; }},
      {sys::Call::pread, [&] { return sys::pread(fd, buffer, sizeof buffer, 0).error; }},
      {sys::Call::write, [&] { return sys::write(fd, "x", 1).error; }},
      {sys::Call::ftruncate, [&] { return sys::ftruncate(fd, 100).error; }},
      {sys::Call::fsync, [&] { return sys::fsync(fd).error; }},
      {sys::Call::futimens, [&] { return sys::touch(fd).error; }},
      {sys::Call::flock, [&] { return sys::flock(fd, LOCK_EX | LOCK_NB).error; }},
      {sys::Call::ofd_setlk, [&] { return sys::ofd_set_lock(fd, F_WRLCK, 5).error; }},
      {sys::Call::ofd_getlk, [&] { return sys::ofd_get_lock(fd, F_RDLCK, 5).error; }},
      {sys::Call::kill, [&] { return sys::kill(::getpid(), SIGKILL).error; }},
      {sys::Call::poll, [&] { return sys::poll(nullptr, 0, {}).error; }},
      {sys::Call::read, [&] { return sys::read(fd, buffer, sizeof buffer).error; }},
      {sys::Call::eventfd, [&] { return sys::eventfd().error; }},
      {sys::Call::inotify_init, [&] { return sys::inotify_init().error; }},
      {sys::Call::inotify_add_watch, [&] { return sys::inotify_add_watch(fd, path.c_str(), 0).error; }},
      {sys::Call::inotify_rm_watch, [&] { return sys::inotify_rm_watch(fd, 1).error; }},
      {sys::Call::pidfd_open, [&] { return sys::pidfd_open(::getpid()).error; }},
      {sys::Call::pidfd_send_signal, [&] { return sys::pidfd_send_signal(fd, SIGKILL).error; }},
      {sys::Call::pipe, [&] { return sys::capture_output("true", argv, environ, 1, {}).error; }},
      {sys::Call::posix_spawn, [&] { return sys::spawn_with_descriptor(fd, "true", argv, environ).error; }},
      {sys::Call::getrandom, [&] { return sys::getrandom(buffer, sizeof buffer).error; }},
  };
  std::set<std::string_view> names;
  for (const auto& entry : calls) {
    const sys::Call wanted = entry.first;
    CAPTURE(sys::to_string(wanted));
    names.insert(sys::to_string(wanted));
    int asked = 0;
    const Script script([&](const sys::CallInfo& info) {
      asked += info.call == wanted ? 1 : 0;
      return info.call == wanted ? EIO : 0;
    });
    CHECK(entry.second() == EIO);
    CHECK(asked == 1);
  }
  CHECK(calls.size() == static_cast<std::size_t>(sys::Call::getrandom) + 1);  // the last one
  CHECK(names.size() == calls.size());
  CHECK(names.count("?") == 0);
  CHECK(sys::to_string(static_cast<sys::Call>(calls.size())) == "?");
  CHECK(test::read_text(path).empty());
  CHECK(std::filesystem::exists(path));
  CHECK_FALSE(std::filesystem::exists(second));
}

TEST_CASE("an interceptor sees what a call is about and can shorten it") {
  const TemporaryDirectory directory;
  const auto opened = open_new(directory, "file");
  int seen_fd = -1;
  const Script script([&](const sys::CallInfo& info) {
    seen_fd = info.fd;
    if (info.length != nullptr) {
      *info.length = 3;
    }
    return 0;
  });
  const auto written = sys::write(opened.fd.get(), "abcdef", 6);
  CHECK(written.value == 3);
  CHECK(seen_fd == opened.fd.get());
  CHECK(test::read_text(directory / "file") == "abc");
}

TEST_CASE("a call that a signal interrupts is made again") {
  const TemporaryDirectory directory;
  const auto opened = open_new(directory, "file");
  int interruptions = 0;
  const Script script([&](const sys::CallInfo&) { return ++interruptions <= 5 ? EINTR : 0; });
  CHECK(sys::write(opened.fd.get(), "x", 1).value == 1);
  CHECK(interruptions == 6);
  CHECK(test::read_text(directory / "file") == "x");
}

TEST_CASE("endless interruptions end in EINTR") {
  const Script script([](const sys::CallInfo&) { return EINTR; });
  struct stat status {};
  CHECK(sys::fstat(0, status).error == EINTR);
}

TEST_CASE("a failed call tells its errno") {
  struct stat status {};
  const auto outcome = sys::fstatat(AT_FDCWD, "/nowhere/at/all", status, 0);
  CHECK_FALSE(outcome.ok());
  CHECK(outcome.error == ENOENT);
  CHECK(outcome.code() == std::errc::no_such_file_or_directory);
  const auto opened = sys::open(AT_FDCWD, "/nowhere/at/all", O_RDONLY);
  CHECK_FALSE(opened.ok());
  CHECK(opened.error == ENOENT);
  CHECK(sys::ofd_get_lock(-1, F_RDLCK, 0).error == EBADF);
}

TEST_CASE("a locked byte is seen through another open description, and only as what it is") {
  const TemporaryDirectory directory;
  const auto owner = open_new(directory, "file");
  const auto asker = open_new(directory, "file");
  const int fd = asker.fd.get();
  CHECK(sys::ofd_get_lock(fd, F_RDLCK, 7).value == F_UNLCK);
  REQUIRE(sys::ofd_set_lock(owner.fd.get(), F_WRLCK, 7).ok());
  CHECK(sys::ofd_get_lock(fd, F_RDLCK, 7).value == F_WRLCK);
  CHECK(sys::ofd_get_lock(fd, F_RDLCK, 8).value == F_UNLCK);
  const auto refused = sys::ofd_set_lock(fd, F_WRLCK, 7);
  const bool busy = refused.error == EAGAIN || refused.error == EACCES;
  CHECK(busy);
  REQUIRE(sys::ofd_set_lock(owner.fd.get(), F_RDLCK, 7).ok());
  CHECK(sys::ofd_get_lock(fd, F_RDLCK, 7).value == F_UNLCK);
  CHECK(sys::ofd_get_lock(fd, F_WRLCK, 7).value == F_RDLCK);
}

TEST_CASE("the file systems' numbers are told") {
  const TemporaryDirectory directory;
  const auto proc = sys::open(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY);
  const auto here = sys::open(AT_FDCWD, directory.path().c_str(), O_PATH | O_DIRECTORY);
  sys::FileSystem of_proc;
  sys::FileSystem of_directory;
  REQUIRE(sys::fstatfs(proc.fd.get(), of_proc).ok());
  REQUIRE(sys::fstatfs(here.fd.get(), of_directory).ok());
  CHECK(of_proc.type == 0x9fa0);
  CHECK(of_directory.type != of_proc.type);
  CHECK_FALSE(of_directory.read_only);
}

TEST_CASE("a poll whose time has come returns at once, and one with something to read says so") {
  const auto event = sys::eventfd();
  REQUIRE(event.ok());
  struct pollfd entry {
    event.fd.get(), POLLIN, 0
  };
  CHECK(sys::poll(&entry, 1, std::chrono::steady_clock::now() - std::chrono::hours{1}).value == 0);
  const std::uint64_t one = 1;
  REQUIRE(sys::write(event.fd.get(), &one, sizeof one).ok());
  CHECK(sys::poll(&entry, 1, std::chrono::steady_clock::time_point::max()).value == 1);
  std::uint64_t count = 0;
  CHECK(sys::read(event.fd.get(), &count, sizeof count).value == sizeof count);
  CHECK(count == 1);
  CHECK(sys::read(event.fd.get(), &count, sizeof count).error == EAGAIN);
}

TEST_CASE("a signal does not end a poll early") {
  static std::atomic<int> signals{0};
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { signals = signals + 1; };
  REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
  const auto event = sys::eventfd();
  const ::pthread_t waiting = ::pthread_self();
  std::thread other([&] {
    // The handler runs only in a thread that is there to be interrupted; three times, so that some find it in poll.
    for (int sent = 1; sent <= 3; ++sent) {
      ::pthread_kill(waiting, SIGUSR1);
      test::wait_until("the signal was handled", [sent] { return signals >= sent; });
      std::this_thread::sleep_for(std::chrono::milliseconds{2});
    }
    const std::uint64_t one = 1;
    (void)sys::write(event.fd.get(), &one, sizeof one);
  });
  struct pollfd entry {
    event.fd.get(), POLLIN, 0
  };
  const auto outcome = sys::poll(&entry, 1, std::chrono::steady_clock::now() + test::k_patience);
  CHECK(outcome.value == 1);
  CHECK(signals == 3);
  other.join();
  ::sigaction(SIGUSR1, &before, nullptr);
}

TEST_CASE("a pidfd tells the end of a process, and there is none of a process that is gone") {
  auto child = ChildProcess::run([](Channel& parent) {
    (void)parent.hear();
    return 0;
  });
  const auto handle = sys::pidfd_open(child.pid());
  REQUIRE(handle.ok());
  CHECK((::fcntl(handle.fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  struct pollfd entry {
    handle.fd.get(), POLLIN, 0
  };
  CHECK(sys::poll(&entry, 1, {}).value == 0);
  child.tell("end");
  CHECK(sys::poll(&entry, 1, std::chrono::steady_clock::now() + test::k_patience).value == 1);
  CHECK(child.wait().exited_with(0));
  CHECK(sys::pidfd_open(child.pid()).error == ESRCH);
}

TEST_CASE("a watched inode tells that it lost its name") {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  test::write_text(path, "");
  const auto watcher = sys::inotify_init();
  REQUIRE(watcher.ok());
  const auto watch = sys::inotify_add_watch(watcher.fd.get(), path.c_str(), IN_DELETE_SELF);
  REQUIRE(watch.ok());
  REQUIRE(sys::unlinkat(AT_FDCWD, path.c_str()).ok());
  struct pollfd entry {
    watcher.fd.get(), POLLIN, 0
  };
  CHECK(sys::poll(&entry, 1, std::chrono::steady_clock::now() + test::k_patience).value == 1);
  struct inotify_event event {};
  CHECK(sys::read(watcher.fd.get(), &event, sizeof event).ok());
  CHECK(event.wd == watch.value);
}

TEST_CASE("a program whose output is wanted inherits no blocked signal") {
  std::string name = "cat";
  std::string file = "/proc/self/status";
  char* const argv[] = {name.data(), file.data(), nullptr};
  sigset_t blocked;
  sigset_t before;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto captured =
      sys::capture_output("cat", argv, environ, 1U << 16U, std::chrono::steady_clock::now() + test::k_patience);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  REQUIRE(captured.ok());
  CHECK(captured.output.find("SigBlk:\t0000000000000000\n") != std::string::npos);
}

TEST_CASE("the output of a program that cannot be waited for or read tells why, and the program is gone") {
  std::array<std::string, 3> words{"sh", "-c", "echo word; exec sleep 1000"};
  char* const argv[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  const auto end = std::chrono::steady_clock::now() + test::k_patience;
  for (const auto& [call, error] : {std::pair{sys::Call::poll, ENOMEM}, std::pair{sys::Call::read, EIO}}) {
    const Script script(test::failing(call, error));
    CHECK(sys::capture_output("sh", argv, environ, 100, end).error == error);
    CHECK(::waitpid(-1, nullptr, WNOHANG) < 0);
    CHECK(errno == ECHILD);
  }
}

TEST_CASE("a pipe of which only one end can be had is none, and nothing of it stays") {
  auto child = ChildProcess::run([](Channel&) {
    char name[] = "true";
    char* const argv[] = {name, nullptr};
    // Ends that come to lie at 0 and 1 are moved up, where there is room for one of them only.
    ::close(0);
    ::close(1);
    const int room = ::fcntl(2, F_DUPFD_CLOEXEC, 3);
    ::close(room);
    const std::size_t count = sys::open_descriptor_count();
    const rlimit one_more{static_cast<rlim_t>(room) + 1, static_cast<rlim_t>(room) + 1};
    REQUIRE_IN_CHILD(::setrlimit(RLIMIT_NOFILE, &one_more) == 0);
    REQUIRE_IN_CHILD(sys::capture_output("true", argv, environ, 1, {}).error == EMFILE);
    REQUIRE_IN_CHILD(!is_open(0) && !is_open(1) && !is_open(room));
    REQUIRE_IN_CHILD(sys::open_descriptor_count() == count);
    const rlimit none{1, 1};
    REQUIRE_IN_CHILD(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    REQUIRE_IN_CHILD(sys::capture_output("true", argv, environ, 1, {}).error == EMFILE);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a signal of the file-size limit that was pending before a write is pending after it") {
  const TemporaryDirectory directory;
  for (const bool was_pending : {false, true}) {
    CAPTURE(was_pending);
    auto child = ChildProcess::run([&](Channel&) {
      const auto opened = open_new(directory, "file");
      const rlimit nothing{0, 0};
      sigset_t limit;
      ::sigemptyset(&limit);
      ::sigaddset(&limit, SIGXFSZ);
      REQUIRE_IN_CHILD(::pthread_sigmask(SIG_BLOCK, &limit, nullptr) == 0);
      REQUIRE_IN_CHILD(::setrlimit(RLIMIT_FSIZE, &nothing) == 0);
      if (was_pending) {
        ::raise(SIGXFSZ);
      }
      REQUIRE_IN_CHILD(sys::write_without_signal(opened.fd.get(), "x", 1).error == EFBIG);
      sigset_t pending;
      ::sigpending(&pending);
      REQUIRE_IN_CHILD((::sigismember(&pending, SIGXFSZ) == 1) == was_pending);
      return 0;
    });
    CHECK(child.wait().exited_with(0));
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
  remember(number);
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

TEST_CASE("a spawned program inherits exactly the descriptor it is given") {
  const TemporaryDirectory directory;
  const auto given = open_new(directory, "given");
  const auto kept = open_new(directory, "kept");
  const std::string script = "test -e /proc/self/fd/" + std::to_string(given.fd.get()) +
                             " && test ! -e /proc/self/fd/" + std::to_string(kept.fd.get());
  std::array<std::string, 3> words{"sh", "-c", script};
  char* const argv[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  const auto spawned = sys::spawn_with_descriptor(given.fd.get(), "sh", argv, environ);
  REQUIRE(spawned.ok());
  int status = -1;
  REQUIRE(::waitpid(static_cast<pid_t>(spawned.value), &status, 0) == spawned.value);
  CHECK(status == 0);
  CHECK((::fcntl(given.fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(sys::spawn_with_descriptor(given.fd.get(), "/nowhere/at/all", argv, environ).error == ENOENT);
  CHECK(sys::spawn_with_descriptor(-1, "sh", argv, environ).error == EBADF);
}
