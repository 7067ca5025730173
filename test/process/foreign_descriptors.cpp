// Programs that close descriptors they never opened, as those do that become daemons, and open others under their
// numbers: the library touches none of these.

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/sessionlock.hpp>

#include "events.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "sanitizers.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

constexpr int k_numbers = 64;

/// What the program opens under the numbers that it freed.
enum class Kind { files, directories, counters, watches, pidfds, others };
constexpr std::array k_kinds{Kind::files, Kind::directories, Kind::counters, Kind::watches, Kind::pidfds, Kind::others};

/// Enough where each takes a moment: a thread that waits looks again after a second where nothing can wake it.
constexpr std::array k_kinds_that_mislead{Kind::counters, Kind::watches};

/// The program's own descriptors, in all numbers that it closed before, and whether they are as it left them.
class OwnDescriptors {
 public:
  /// As `closefrom`, but for the channel to the test.
  static void close_all() {
    for (int fd = 3; fd < k_numbers; ++fd) {
      struct stat status {};
      if (::fstat(fd, &status) == 0 && !S_ISSOCK(status.st_mode) && !S_ISFIFO(status.st_mode)) {
        ::close(fd);
      }
    }
  }

  OwnDescriptors(Kind kind, const fs::path& directory) : kind_(kind), directory_(directory) {
    while (fds_.empty() || fds_.back() < k_numbers) {
      fds_.push_back(open_one());
      REQUIRE_IN_CHILD(fds_.back() >= 0);
    }
    make_events();
  }

  /// Ends the process if one of them was closed, read, written or unlocked.
  void check() {
    for (const int fd : fds_) {
      REQUIRE_IN_CHILD(::fcntl(fd, F_GETFD) >= 0);
      check_one(fd);
    }
    make_events();
  }

 private:
  /// Lets there be something to read from each watch.
  void make_events() const {
    const auto made = directory_ / "made";
    ::close(::open(made.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    ::unlink(made.c_str());
  }

  int open_one() const {
    switch (kind_) {
      case Kind::files: {
        const auto name = directory_ / ("data" + std::to_string(fds_.size()));
        const int fd = ::open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        REQUIRE_IN_CHILD(::flock(fd, LOCK_EX | LOCK_NB) == 0);
        return fd;
      }
      case Kind::directories:
        return ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      case Kind::counters:
        return ::eventfd(7, EFD_NONBLOCK | EFD_CLOEXEC);
      case Kind::watches: {
        const int fd = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        REQUIRE_IN_CHILD(::inotify_add_watch(fd, directory_.c_str(), IN_CREATE) >= 0);
        return fd;
      }
      case Kind::pidfds:
        return static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0));
      case Kind::others:
        return fds_.size() % 2 == 0 ? ::epoll_create1(EPOLL_CLOEXEC)
                                    : ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    }
    return -1;
  }

  void check_one(int fd) const {
    struct stat status {};
    REQUIRE_IN_CHILD(::fstat(fd, &status) == 0);
    if (kind_ == Kind::files) {
      REQUIRE_IN_CHILD(status.st_size == 0);
      const auto link = "/proc/self/fd/" + std::to_string(fd);
      const int other = ::open(link.c_str(), O_RDWR | O_CLOEXEC);
      REQUIRE_IN_CHILD(::flock(other, LOCK_EX | LOCK_NB) != 0);
      ::close(other);
    } else if (kind_ == Kind::counters) {
      ::eventfd_t count = 0;
      REQUIRE_IN_CHILD(::eventfd_read(fd, &count) == 0 && count == 7);
      REQUIRE_IN_CHILD(::eventfd_write(fd, 7) == 0);
    } else if (kind_ == Kind::watches) {
      std::string events(4096, '\0');
      REQUIRE_IN_CHILD(::read(fd, events.data(), events.size()) > 0);
      REQUIRE_IN_CHILD(events.find("made") != std::string::npos);
    }
  }

  Kind kind_;
  fs::path directory_;
  std::vector<int> fds_{};
};

/// Runs `body` in a child for each kind; it is given how to become a daemon, after which the program's descriptors are
/// looked at whenever `body` wants, and at its end.
using Daemonise = std::function<OwnDescriptors&()>;
using Body = std::function<void(const Session&, const Daemonise&)>;
void for_each_kind(const Body& body, std::span<const Kind> kinds = k_kinds) {
  for (const Kind kind : kinds) {
    CAPTURE(static_cast<int>(kind));
    const Session session;
    const TemporaryDirectory own;
    auto child = ChildProcess::run([&](Channel&) {
      std::optional<OwnDescriptors> descriptors;
      body(session, [&]() -> OwnDescriptors& {
        OwnDescriptors::close_all();
        // Directories must be those of the library, to be mistaken for them.
        return descriptors.emplace(kind, kind == Kind::directories ? session.directory.path() : own.path());
      });
      descriptors->check();
      return 0;
    });
    CHECK(child.wait().exited_with(0));
  }
}

}  // namespace

TEST_CASE("what a wait left behind is not closed under numbers that the program uses") {
  for_each_kind([](const Session& session, const Daemonise& daemonise) {
    auto other = holder_of(session.path);
    std::jthread releases([&] {
      std::this_thread::sleep_for(20ms);
      other.tell("release");
    });
    auto lock = std::make_unique<SessionLock>(held(LockManager().acquire(session.path, {.timeout = k_patience})));
    releases.join();
    (void)other.kill();
    OwnDescriptors& own = daemonise();
    REQUIRE_IN_CHILD(code_of(lock->release()) == Errc::lost);
    own.check();
    lock.reset();
  });
}

TEST_CASE("a lock that is lost by a closed descriptor locks and closes nothing of the program's") {
  for_each_kind([](const Session& session, const Daemonise& daemonise) {
    auto lock = std::make_unique<SessionLock>(held(try_lock(session.path)));
    OwnDescriptors& own = daemonise();
    REQUIRE_IN_CHILD(code_of(lock->guarded([] {})) == Errc::lost);
    REQUIRE_IN_CHILD(code_of(lock->verify()) == Errc::lost);
    own.check();
    lock.reset();
  });
}

TEST_CASE("a hold whose descriptor was closed keeps this process neither from its session nor from another lock") {
  // Protects: `Hold::is_abandoned`. Its inode's number may be given to another lock, which nobody here holds.
  const TemporaryDirectory directory;
  const auto body = [&](Channel&) {
    LockManager manager;
    const auto first = held(manager.acquire(directory / "first"));
    OwnDescriptors::close_all();
    // As if an operator had removed it, and the next file had been given its number.
    fs::rename(directory / "first.lock", directory / "second.lock");
    write_text(directory / "second.lock", foreign_record(dead_pid()));
    AcquireOptions once;
    once.timeout = 0ms;
    const auto second = manager.acquire(directory / "second", once);
    REQUIRE_IN_CHILD(second && second->reclaimed_from());
    auto again = manager.acquire(directory / "first", once);
    REQUIRE_IN_CHILD(again.has_value());
    REQUIRE_IN_CHILD(code_of(first.guarded([] {})) == Errc::lost);
    REQUIRE_IN_CHILD(again->guarded([] {}).has_value());
    REQUIRE_IN_CHILD(again->release().has_value());
    REQUIRE_IN_CHILD(!fs::exists(directory / "first.lock"));
    return 0;
  };
  CHECK(ChildProcess::run(body).wait().exited_with(0));
}

TEST_CASE("a guarded write that closes all descriptors unlocks nothing of the program's") {
  for_each_kind([](const Session& session, const Daemonise& daemonise) {
    SessionLock lock = held(try_lock(session.path));
    OwnDescriptors* own = nullptr;
    REQUIRE_IN_CHILD(lock.guarded([&] { own = &daemonise(); }).has_value());
    own->check();
    REQUIRE_IN_CHILD(code_of(lock.verify()) == Errc::lost);
  });
}

TEST_CASE("a PID file whose descriptor was closed is lost, and nothing of the program's is locked or closed") {
  for_each_kind([](const Session& session, const Daemonise& daemonise) {
    auto claim = PidFile::claim(session.directory / "pid");
    REQUIRE_IN_CHILD(claim && claim->file);
    OwnDescriptors& own = daemonise();
    REQUIRE_IN_CHILD(code_of(claim->file->touch()) == Errc::lost);
    REQUIRE_IN_CHILD(code_of(claim->file->release()) == Errc::lost);
    own.check();
    claim->file.reset();
  });
}

TEST_CASE("a transcript whose descriptor was closed writes into nothing of the program's") {
  for_each_kind([](const Session& session, const Daemonise& daemonise) {
    SessionLock lock = held(try_lock(session.path));
    auto transcript = std::make_unique<Transcript>(std::move(*Transcript::open(lock)));
    REQUIRE_IN_CHILD(transcript->append("1").has_value());
    OwnDescriptors& own = daemonise();
    REQUIRE_IN_CHILD(code_of(transcript->append("2")) == Errc::lost);
    own.check();
    transcript.reset();
    lock = SessionLock();
  });
}

TEST_CASE("a transcript alone whose descriptor was closed says so, and the lock stays") {
  const Session session;
  auto child = ChildProcess::run([&](Channel&) {
    SessionLock lock = held(try_lock(session.path));
    const int number = ::dup(STDIN_FILENO);
    ::close(number);
    auto transcript = Transcript::open(lock);
    REQUIRE_IN_CHILD(transcript.has_value());
    REQUIRE_IN_CHILD(fs::equivalent("/proc/self/fd/" + std::to_string(number), session.path));
    ::close(number);
    REQUIRE_IN_CHILD(::open((session.directory / "own").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600) == number);
    const auto appended = transcript->append("1");
    REQUIRE_IN_CHILD(code_of(appended) == Errc::replaced_session);
    REQUIRE_IN_CHILD(fs::file_size(session.directory / "own") == 0);
    REQUIRE_IN_CHILD(Transcript::open(lock)->append("2").has_value());
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(read_text(session.path) == "2\n");
}

TEST_CASE(
    "a thread that waits while the program becomes a daemon gets its lock, and touches nothing of the program's") {
  for_each_kind(
      [](const Session& session, const Daemonise& daemonise) {
        auto other = holder_of(session.path);
        Events events;
        LockManager manager(events.options());
        std::optional<Result<SessionLock>> lock;
        std::stop_source stop;
        {
          const std::jthread waits(
              [&] { lock = manager.acquire(session.path, {.timeout = k_patience, .stop = stop.get_token()}); });
          events.wait_for(EventKind::contended);
          std::this_thread::sleep_for(20ms);
          OwnDescriptors& own = daemonise();
          own.check();
          other.tell("release");
        }
        REQUIRE_IN_CHILD(lock && lock->has_value());
        REQUIRE_IN_CHILD((*lock)->release().has_value());
      },
      k_kinds_that_mislead);
}

TEST_CASE("a wait that is cancelled after the program became a daemon ends, and rings nothing of the program's") {
  for_each_kind(
      [](const Session& session, const Daemonise& daemonise) {
        const auto other = holder_of(session.path);
        Events events;
        LockManager manager(events.options());
        std::stop_source stop;
        std::optional<Result<SessionLock>> lock;
        std::jthread waits(
            [&] { lock = manager.acquire(session.path, {.timeout = k_patience, .stop = stop.get_token()}); });
        events.wait_for(EventKind::contended);
        std::this_thread::sleep_for(20ms);
        (void)daemonise();
        stop.request_stop();
        waits.join();
        REQUIRE_IN_CHILD(code_of(*lock) == Errc::cancelled);
      },
      k_kinds_that_mislead);
}

TEST_CASE("a later wait takes none of the program's descriptors for the instance that all waits share") {
  for_each_kind([](const Session& session, const Daemonise& daemonise) {
    const auto wait_once = [&] {
      auto other = holder_of(session.path);
      std::jthread releases([&] {
        std::this_thread::sleep_for(20ms);
        other.tell("release");
      });
      REQUIRE_IN_CHILD(LockManager().acquire(session.path, {.timeout = k_patience}).has_value());
    };
    wait_once();
    (void)daemonise();
    wait_once();
  });
}

TEST_CASE("a joined lock whose descriptor was closed is lost, and nothing of the program's is locked or closed") {
  enum class Then { release, write, destroy, fork };
  for (const Then then : {Then::release, Then::write, Then::destroy, Then::fork}) {
    for_each_kind([then](const Session& session, const Daemonise& daemonise) {
      const auto owner = holder_of(session.path);
      const auto lock_id = value_or_throw(LockManager().inspect(session.path)).record.lock_id.value();
      std::optional<SessionLock> joined = value_or_throw(LockManager().join(session.path, lock_id));
      OwnDescriptors& own = daemonise();
      if (then == Then::release) {
        (void)joined->release();
      } else if (then == Then::write) {
        REQUIRE_IN_CHILD(code_of(joined->guarded([] {})) == Errc::lost);
      } else if (then == Then::fork) {
        for (const ForkWay& way : k_fork_ways) {
          REQUIRE_IN_CHILD(exit_code_in(way, [&] {
                             (void)joined->owns();  // a child's first call
                             own.check();
                             return 0;
                           }) == 0);
        }
      }
      joined.reset();
    });
  }
}

TEST_CASE("an observer that becomes a daemon keeps its descriptors, whatever the acquire still has open") {
  for (const EventKind kind : {EventKind::acquired, EventKind::contended}) {
    for_each_kind([kind](const Session& session, const Daemonise& daemonise) {
      auto other = holder_of(session.path);
      if (kind == EventKind::acquired) {
        (void)other.kill();  // what is taken over is kept open until the acquire returns
      }
      ManagerOptions options;
      options.observer = [&, has_called = false](const Event& event) mutable {
        if (event.kind == kind && !std::exchange(has_called, true)) {
          (void)daemonise();
          (void)other.kill();
        }
      };
      (void)LockManager(options).acquire(session.path, {.timeout = k_patience});
    });
  }
}

TEST_CASE("a callback of a watch that becomes a daemon keeps its descriptors") {
  for_each_kind([](const Session& session, const Daemonise& daemonise) {
    (void)holder_of(session.path).kill();
    std::stop_source stop;
    (void)watch_locks(session.directory.path(), {.stop = stop.get_token()}, [&](const LockEvent&) {
      if (!stop.stop_requested()) {
        (void)daemonise();
      }
      stop.request_stop();
    });
  });
}

// The thread sanitizer keeps a table of descriptors of its own, does not see close_range(2), and ends the program.
TEST_CASE("a watch of a directory ends when the program becomes a daemon, and reads nothing of the program's" *
          doctest::skip(SESSIONLOCK_THREAD_SANITIZER)) {
  for_each_kind(
      [](const Session& session, const Daemonise& daemonise) {
        std::stop_source stop;
        std::atomic<int> events{0};
        std::optional<Result<void>> ended;
        std::jthread watches([&] {
          ended =
              watch_locks(session.directory.path(), {.stop = stop.get_token()}, [&](const LockEvent&) { ++events; });
        });
        auto other = holder_of(session.path);
        wait_until("the watch has begun", [&] { return events.load() > 0; });
        (void)daemonise();
        other.tell("release");
        watches.join();
        REQUIRE_IN_CHILD(code_of(*ended) == std::errc::bad_file_descriptor);
      },
      k_kinds_that_mislead);
}

TEST_CASE("a child that shares its parent's descriptors leaves the parent its lock") {
  const Session session;
  const SessionLock lock = held(try_lock(session.path));
  const auto child =
      static_cast<pid_t>(::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (child == 0) {
    ::_exit(LockManager().held().empty() && code_of(lock.verify()) == Errc::lost ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(lock.guarded([] {}).has_value());
  auto other = ChildProcess::run([&](Channel&) {
    REQUIRE_IN_CHILD(code_of(try_lock(session.path)) == Errc::locked);
    return 0;
  });
  CHECK(other.wait().exited_with(0));
}
