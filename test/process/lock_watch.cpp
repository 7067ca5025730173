// What a watch of a directory tells, of locks of real processes.

#include <sessionlock/lock_watch.hpp>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>

#include "check_in.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Kind = LockEventKind;

namespace {

/// A watch in a thread of its own, and what it told.
class Watch {
 public:
  /// Returns when it has begun.
  explicit Watch(const fs::path& directory, LockWatchOptions options = {}) {
    plant(directory / "0.jsonl.lock", foreign_record(::getpid(), start_of(::getpid())));
    options.stop = stop_.get_token();
    thread_ = std::thread([this, directory, options] {
      result_ = watch_locks(directory, options, [this](const LockEvent& event) {
        const std::lock_guard lock(mutex_);
        events_.push_back(event);
        changed_.notify_all();
      });
    });
    if (next().lock.lock_path.filename() != "0.jsonl.lock") {
      throw std::runtime_error("the watch began with another lock");
    }
  }
  ~Watch() { (void)end(); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// The next event that was not taken yet.
  LockEvent next() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, k_patience, [this] { return taken_ < events_.size(); })) {
      throw std::runtime_error("waited in vain for an event");
    }
    return events_[taken_++];
  }
  /// Whether everything that was told has been taken.
  bool is_quiet() {
    const std::lock_guard lock(mutex_);
    return taken_ == events_.size();
  }
  Result<void> end() {
    stop_.request_stop();
    return wait();
  }
  Result<void> wait() {
    if (thread_.joinable()) {
      thread_.join();
    }
    return result_;
  }

 private:
  std::stop_source stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<LockEvent> events_;
  std::size_t taken_{0};
  Result<void> result_;
  std::thread thread_;
};

/// The event is of this kind, of this session, and of this process.
void check_event(const LockEvent& event, Kind kind, const Session& session, std::optional<pid_t> pid) {
  CHECK(to_string(event.kind) == to_string(kind));
  CHECK(event.lock.session_path == session.path);
  CHECK(event.lock.lock_path == session.lock);
  CHECK(event.lock.record.pid == pid);
}

/// A lock that another program makes: created, then written, then closed.
class SlowWriter {
 public:
  explicit SlowWriter(const fs::path& path) : file_(std::fopen(path.c_str(), "wx")) {}
  void finish(const std::string& text) {
    std::fputs(text.c_str(), file_);
    std::fclose(file_);
  }

 private:
  std::FILE* file_;
};

}  // namespace

TEST_CASE("a watch tells what is held when it begins, and what is acquired and released after") {
  const Session session;
  auto first = holder_of(session.path);
  Watch watch(session.directory.path());
  check_event(watch.next(), Kind::held, session, first.pid());
  first.tell("release");
  first.expect("released");
  check_event(watch.next(), Kind::released, session, first.pid());
  const auto second = holder_of(session.path);
  check_event(watch.next(), Kind::acquired, session, second.pid());
  CHECK(watch.end().has_value());
  CHECK(watch.is_quiet());
}

TEST_CASE("an owner's death is told when it happens, and the taking over after it") {
  const Session session;
  Watch watch(session.directory.path());
  auto owner = holder_of(session.path);
  check_event(watch.next(), Kind::acquired, session, owner.pid());
  (void)owner.kill();
  const LockEvent died = watch.next();
  check_event(died, Kind::owner_died, session, owner.pid());
  CHECK(died.lock.removable);
  const auto heir = try_lock(session.path);
  REQUIRE(heir.has_value());
  check_event(watch.next(), Kind::reclaimed, session, owner.pid());
  check_event(watch.next(), Kind::acquired, session, ::getpid());
}

TEST_CASE("an owner's death is told without an event of its end, too") {
  const Session session;
  Watch watch(session.directory.path());
  const Script script(failing(sys::Call::pidfd_open, EMFILE));
  auto owner = holder_of(session.path);
  check_event(watch.next(), Kind::acquired, session, owner.pid());
  (void)owner.kill();
  check_event(watch.next(), Kind::owner_died, session, owner.pid());
}

TEST_CASE("the end of an owner whose program goes on is told, and that it goes on") {
  const Session session;
  Watch watch(session.directory.path());
  auto starter = ChildProcess::run([&](Channel& parent) {
    const auto lock = try_lock(session.path);
    std::string name = "sleep";
    std::string time = "1000";
    char* const arguments[] = {name.data(), time.data(), nullptr};
    const auto program = lock->spawn_with(name.c_str(), arguments, environ);
    parent.tell(std::to_string(program.value_or(0)));
    (void)parent.hear();
    return 0;
  });
  const pid_t program = static_cast<pid_t>(std::stoi(*starter.hear()));
  check_event(watch.next(), Kind::acquired, session, starter.pid());
  (void)starter.kill();
  const LockEvent died = watch.next();
  ::kill(program, SIGKILL);
  check_event(died, Kind::owner_died, session, starter.pid());
  CHECK(died.lock.basis == Basis::witness_inherited);
  CHECK(!died.lock.removable);
}

TEST_CASE("another program's lock is told of when it names its owner, not before") {
  const Session session;
  Watch watch(session.directory.path());
  SlowWriter writer(session.lock);
  const auto owner = idle_process();
  writer.finish(foreign_record(owner.pid()));
  check_event(watch.next(), Kind::acquired, session, owner.pid());
  fs::remove(session.lock);
  check_event(watch.next(), Kind::released, session, owner.pid());
  SUBCASE("one that never names anybody is told of all the same") {
    plant(session.lock, "");
    check_event(watch.next(), Kind::acquired, session, std::nullopt);
  }
}

TEST_CASE("a lock that is replaced is told of as one that went and one that came") {
  const Session session;
  const auto first = idle_process();
  const auto second = idle_process();
  plant(session.lock, foreign_record(first.pid()));
  Watch watch(session.directory.path());
  check_event(watch.next(), Kind::held, session, first.pid());
  plant(session.directory / "other", foreign_record(second.pid()));
  fs::rename(session.directory / "other", session.lock);
  check_event(watch.next(), Kind::released, session, first.pid());
  check_event(watch.next(), Kind::acquired, session, second.pid());
}

TEST_CASE("locks that come and go in quick succession are told of in pairs") {
  const Session session;
  Watch watch(session.directory.path());
  constexpr int k_rounds = 300;
  for (int round = 0; round < k_rounds; ++round) {
    REQUIRE(try_lock(session.path)->release().has_value());
  }
  const auto last = try_lock(session.directory / "t.jsonl");
  REQUIRE(last.has_value());
  int acquired = 0;
  int released = 0;
  for (LockEvent event = watch.next(); event.lock.lock_path == session.lock; event = watch.next()) {
    acquired += event.kind == Kind::acquired ? 1 : 0;
    released += event.kind == Kind::released ? 1 : 0;
    CHECK(acquired - released == (event.kind == Kind::acquired ? 1 : 0));
  }
  CHECK(acquired == released);
  CHECK(acquired > 0);
  CHECK(acquired <= k_rounds);
}

TEST_CASE("what is no lock, or has another name, is not told of") {
  const Session session;
  Watch watch(session.directory.path());
  write_text(session.directory / "s.jsonl", "1\n");
  write_text(session.directory / "Cargo.lock", "");
  fs::create_directory(session.directory / "d.jsonl.lock");
  REQUIRE(::mkfifo((session.directory / "p.jsonl.lock").c_str(), 0600) == 0);
  fs::create_symlink("/dev/null", session.directory / "l.jsonl.lock");
  const auto lock = try_lock(session.path);
  check_event(watch.next(), Kind::acquired, session, ::getpid());
}

TEST_CASE("without events the directory is looked through, and that is told once") {
  const Session session;
  std::vector<Error> told;
  LockWatchOptions options;
  options.degraded = [&](const Error& error) { told.push_back(error); };
  {
    const Script script(failing(sys::Call::inotify_init, EMFILE));
    Watch watch(session.directory.path(), options);
    auto lock = try_lock(session.path);
    check_event(watch.next(), Kind::acquired, session, ::getpid());
    REQUIRE(lock->release().has_value());
    check_event(watch.next(), Kind::released, session, ::getpid());
  }
  REQUIRE(told.size() == 1);
  CHECK(told.front().code == std::errc::too_many_files_open);
}

TEST_CASE("a watch of what is missing, or goes, or cannot be meant, is an error") {
  const auto nothing = [](const LockEvent&) {};
  CHECK(watch_locks("/nonexistent", {}, nothing).error().code == std::errc::no_such_file_or_directory);
  CHECK(watch_locks("", {}, nothing).error().code == Errc::invalid_argument);
  LockWatchOptions every;
  every.suffix.clear();
  CHECK(watch_locks("/", every, nothing).error().code == Errc::invalid_argument);
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  Watch watch(directory / "d");
  const auto lock = try_lock(directory / "d/s.jsonl");
  CHECK(watch.next().kind != Kind::released);
  fs::remove_all(directory / "d");
  const auto ended = watch.wait();
  REQUIRE(!ended);
  CHECK(ended.error().code == std::errc::no_such_file_or_directory);
}

TEST_CASE("a watch that cannot go on ends with an error that says why") {
  struct Fault {
    sys::Call call;
    int error;
    bool at_once;
  };
  constexpr Fault k_faults[] = {{sys::Call::eventfd, EMFILE, true},
                                {sys::Call::getdents64, EIO, true},
                                {sys::Call::poll, ENOMEM, false},
                                {sys::Call::read, EIO, false}};
  for (const Fault& fault : k_faults) {
    CAPTURE(sys::to_string(fault.call));
    const Session session;
    plant(session.lock, "");
    int told = 0;
    const Script script([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::poll) {
        plant(session.directory / (std::to_string(++told) + ".jsonl.lock"), "");  // something to be read about
      }
      return info.call == fault.call ? fault.error : 0;
    });
    bool began = false;
    const auto ended = watch_locks(session.directory.path(), {}, [&](const LockEvent&) { began = true; });
    REQUIRE(!ended);
    CHECK(ended.error().code == std::error_code(fault.error, std::system_category()));
    CHECK(ended.error().path == session.directory.path());
    CHECK(began != fault.at_once);
  }
}

TEST_CASE("an interruption while events are read costs none of them") {
  const Session session;
  Watch watch(session.directory.path());
  std::atomic<int> left{3};
  const Script script(
      [&](const sys::CallInfo& info) { return info.call == sys::Call::read && left-- > 0 ? EAGAIN : 0; });
  const auto lock = try_lock(session.path);
  check_event(watch.next(), Kind::acquired, session, ::getpid());
}

TEST_CASE("without events, and with nobody to be told so, the directory is looked through all the same") {
  const Session session;
  const Script script(failing(sys::Call::inotify_add_watch, ENOSPC));
  Watch watch(session.directory.path());
  write_text(session.directory / "notes.txt", "");
  const auto lock = try_lock(session.path);
  check_event(watch.next(), Kind::acquired, session, ::getpid());
}

TEST_CASE("where other hosts' doings raise no event the directory is looked through") {
  const TemporaryDirectory mounted;
  check_in({CLONE_NEWNS}, [&](Channel&) {
    REQUIRE_IN_CHILD(::mount("ramfs", mounted.path().c_str(), "ramfs", 0, nullptr) == 0);  // not known to be local
    const auto lock = mounted / "s.jsonl.lock";
    const auto owner = idle_process();
    std::stop_source stop;
    LockWatchOptions options;
    options.stop = stop.get_token();
    const Script silent(failing(sys::Call::read, EAGAIN));
    plant(mounted / "0.jsonl.lock", foreign_record(::getpid(), start_of(::getpid())));
    const auto ended = watch_locks(mounted.path(), options, [&](const LockEvent& event) {
      if (event.kind == Kind::held) {
        plant(lock, foreign_record(owner.pid()));
      } else if (event.kind == Kind::acquired && event.lock.lock_path == lock) {
        stop.request_stop();
      }
    });
    REQUIRE_IN_CHILD(ended.has_value());
    return 0;
  });
}

TEST_CASE("after more events than the kernel keeps the directory is looked through") {
  const Session session;
  int queued_max = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> queued_max;
  REQUIRE(queued_max > 0);
  std::stop_source stop;
  LockWatchOptions options;
  options.stop = stop.get_token();
  plant(session.directory / "0.jsonl.lock", foreign_record(::getpid(), start_of(::getpid())));
  std::optional<SessionLock> lock;
  const auto ended = watch_locks(session.directory.path(), options, [&](const LockEvent& event) {
    if (event.kind == Kind::held) {
      const auto noise = (session.directory / "noise").string();
      for (int i = 0; i <= queued_max / 2; ++i) {  // two events at least of each, and no two in a row are the same
        const int fd = ::open(noise.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        ::close(fd);
        ::unlink(noise.c_str());
      }
      lock = value_or_throw(try_lock(session.path));  // the event of this one is lost
    } else {
      check_event(event, Kind::acquired, session, ::getpid());
      stop.request_stop();
    }
  });
  CHECK(ended.has_value());
}

TEST_CASE("a lock that is released while it is looked at is not taken for a dead owner's") {
  //   1. A, the watch, reads the record.  2. B, its owner, releases it, and ends.  3. A asks about B, who is dead.
  const Session session;
  auto owner = holder_of(session.path);
  std::stop_source stop;
  LockWatchOptions options;
  options.stop = stop.get_token();
  bool has_ended = false;
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::kill && !std::exchange(has_ended, true)) {
      owner.tell("release");
      owner.expect("released");
      (void)owner.kill();
    }
    return 0;
  }));
  std::vector<LockEvent> events;
  const auto ended = watch_locks(session.directory.path(), options, [&](const LockEvent& event) {
    events.push_back(event);
    if (event.kind == Kind::released) {
      stop.request_stop();
    }
  });
  CHECK(ended.has_value());
  CHECK(has_ended);
  REQUIRE(events.size() == 2);
  check_event(events[0], Kind::acquired, session, owner.pid());
  check_event(events[1], Kind::released, session, owner.pid());
}

TEST_CASE("a lock in a lock directory is told of with its session") {
  const TemporaryDirectory locks;
  const Session session;
  ManagerOptions options;
  options.lock_directory = locks.path();
  LockManager manager(options);
  Watch watch(locks.path());
  auto lock = manager.try_acquire(session.path);
  REQUIRE(lock.has_value());
  const LockEvent event = watch.next();
  CHECK(event.kind == Kind::acquired);
  CHECK(event.lock.lock_path == lock->lock_path());
  CHECK(event.lock.session_path == session.path);
}

TEST_CASE("a lock whose name is the suffix alone belongs to no session") {
  const TemporaryDirectory directory;
  LockWatchOptions options;
  options.suffix = ".lock";
  Watch watch(directory.path(), options);
  const auto owner = idle_process();
  plant(directory / ".lock", foreign_record(owner.pid()));
  const LockEvent event = watch.next();
  CHECK(event.kind == Kind::acquired);
  CHECK(event.lock.lock_path == directory / ".lock");
  CHECK(event.lock.session_path.empty());
}

TEST_CASE("what is there when a watch begins is held, also by nobody, and a death that shows then is not told again") {
  const Session session;
  const auto dead = session.directory / "dead.jsonl.lock";
  plant(dead, foreign_record(dead_pid()));
  plant(session.directory / "empty.jsonl.lock", "");
  std::vector<LockEvent> events;
  std::stop_source stop;
  LockWatchOptions options;
  options.stop = stop.get_token();
  std::optional<SessionLock> lock;
  const auto ended = watch_locks(session.directory.path(), options, [&](const LockEvent& event) {
    events.push_back(event);
    if (events.size() == 2) {
      std::ofstream(dead, std::ios::app) << "\n";  // is looked at once more
      lock = value_or_throw(try_lock(session.path));
    } else if (events.size() > 2) {
      stop.request_stop();
    }
  });
  CHECK(ended.has_value());
  REQUIRE(events.size() == 3);
  CHECK(events[0].kind == Kind::held);
  CHECK(events[0].lock.lock_path == dead);
  CHECK(events[0].lock.removable);
  CHECK(events[1].kind == Kind::held);
  CHECK(events[1].lock.state == LockState::pending);
  check_event(events[2], Kind::acquired, session, ::getpid());
}

TEST_CASE("a lock that tells no time is told of without an age, to its end") {
  const Session session;
  Watch watch(session.directory.path());
  const auto owner = idle_process();
  plant(session.lock, R"({"pid": )" + std::to_string(owner.pid()) + "}");
  check_event(watch.next(), Kind::acquired, session, owner.pid());
  fs::remove(session.lock);
  const LockEvent event = watch.next();
  check_event(event, Kind::released, session, owner.pid());
  CHECK_FALSE(event.lock.age.has_value());
}

TEST_CASE("owners beyond those that can be watched at a time are looked at in turn") {
  constexpr int k_locks = 300;
  const TemporaryDirectory directory;
  auto owner = idle_process();
  for (int i = 0; i < k_locks; ++i) {
    plant(directory / (std::to_string(i) + ".jsonl.lock"), foreign_record(owner.pid(), start_of(owner.pid())));
  }
  std::stop_source stop;
  LockWatchOptions options;
  options.stop = stop.get_token();
  int held = 0;
  int died = 0;
  const auto ended = watch_locks(directory.path(), options, [&](const LockEvent& event) {
    held += event.kind == Kind::held ? 1 : 0;
    died += event.kind == Kind::owner_died ? 1 : 0;
    if (held == k_locks && died == 0 && event.kind == Kind::held) {
      (void)owner.kill();
    }
    if (died == k_locks) {
      stop.request_stop();
    }
  });
  CHECK(ended.has_value());
  CHECK(held == k_locks);
  CHECK(died == k_locks);
}

TEST_CASE("each kind of event has a word") {
  CHECK(to_string(Kind::held) == "held");
  CHECK(to_string(Kind::acquired) == "acquired");
  CHECK(to_string(Kind::released) == "released");
  CHECK(to_string(Kind::reclaimed) == "reclaimed");
  CHECK(to_string(Kind::owner_died) == "owner-died");
  CHECK(to_string(static_cast<Kind>(77)) == "unknown");
}

TEST_CASE("a watch keeps no descriptor, whatever it saw") {
  const Session session;
  const auto owner = holder_of(session.path);
  const std::size_t before = sys::open_descriptor_count();
  {
    Watch watch(session.directory.path());
    (void)watch.next();
    CHECK(sys::open_descriptor_count() > before);
  }
  CHECK(sys::open_descriptor_count() == before);
}
