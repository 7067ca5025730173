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
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.hpp"
#include "script.hpp"

using namespace sessionlock;
using sessionlock::test::Channel;
using sessionlock::test::ChildProcess;
using sessionlock::test::Script;
using sessionlock::test::TemporaryDirectory;

namespace {

sys::Opened open_new(const TemporaryDirectory& directory, const char* name) {
  return sys::open(AT_FDCWD, (directory / name).c_str(), O_RDWR | O_CREAT, 0600);
}

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

}  // namespace

TEST_CASE("two files exchange their names, unless one of them is missing") {
  const test::TemporaryDirectory directory;
  const std::string one = (directory / "one").string();
  const std::string other = (directory / "other").string();
  test::write_text(one, "1");
  CHECK(sys::exchange_names(AT_FDCWD, one.c_str(), other.c_str()).error == ENOENT);
  CHECK(test::read_text(one) == "1");
  test::write_text(other, "2");
  CHECK(sys::exchange_names(AT_FDCWD, one.c_str(), other.c_str()).ok());
  CHECK(test::read_text(one) == "2");
  CHECK(test::read_text(other) == "1");
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
      {sys::Call::fcntl, [&] { return sys::act_as_owner(fd).error; }},
      {sys::Call::fstatfs, [&] { return sys::fstatfs(fd, file_system).error; }},
      {sys::Call::linkat, [&] { return sys::linkat(AT_FDCWD, path.c_str(), AT_FDCWD, second.c_str(), 0).error; }},
      {sys::Call::unlinkat, [&] { return sys::unlinkat(AT_FDCWD, path.c_str()).error; }},
      {sys::Call::renameat, [&] { return sys::rename_over(AT_FDCWD, path.c_str(), second.c_str()).error; }},
      {sys::Call::renameat2, [&] { return sys::rename_no_replace(AT_FDCWD, path.c_str(), second.c_str()).error; }},
      {sys::Call::readlinkat, [&] { return sys::readlinkat(AT_FDCWD, "/proc/self", buffer, sizeof buffer).error; }},
      {sys::Call::lseek, [&] { return sys::seek_data(fd, 0).error; }},
      {sys::Call::pread, [&] { return sys::pread(fd, buffer, sizeof buffer, 0).error; }},
      {sys::Call::write, [&] { return sys::write(fd, "x", 1).error; }},
      {sys::Call::ftruncate, [&] { return sys::ftruncate(fd, 100).error; }},
      {sys::Call::fsync, [&] { return sys::fsync(fd).error; }},
      {sys::Call::futimens, [&] { return sys::touch(fd).error; }},
      {sys::Call::fchmod, [&] { return sys::fchmod(fd, 0666).error; }},
      {sys::Call::fchown, [&] { return sys::fchown(fd, ::getuid(), ::getgid()).error; }},
      {sys::Call::fgetxattr, [&] { return sys::has_access_list(fd).error; }},
      {sys::Call::lgetxattr, [&] { return sys::has_access_list(path.c_str()).error; }},
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
