// What a watch of a directory tells, of locks of real processes.

#include <sessionlock/lock_watch.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
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

bool is_event(const LockEvent& event, Kind kind, const Session& session, std::optional<pid_t> pid) {
  return event.kind == kind && event.lock.session_path == session.path && event.lock.lock_path == session.lock &&
         event.lock.record.pid == pid;
}

/// Watches in this thread until it has been told enough. What it was told.
std::vector<LockEvent> watch_until(const fs::path& directory, const std::function<bool(const LockEvent&)>& is_enough,
                                   LockWatchOptions options = {}) {
  std::stop_source stop;
  options.stop = stop.get_token();
  std::vector<LockEvent> events;
  const auto ended = watch_locks(directory, options, [&](const LockEvent& event) {
    events.push_back(event);
    if (is_enough(event)) {
      stop.request_stop();
    }
  });
  CHECK(ended.has_value());
  return events;
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
  const auto owner = idle_process();  // before the file is open, which it would keep so
  SlowWriter writer(session.lock);
  writer.finish(foreign_record(owner.pid()));
  check_event(watch.next(), Kind::acquired, session, owner.pid());
  fs::remove(session.lock);
  check_event(watch.next(), Kind::released, session, owner.pid());
}

TEST_CASE("a lock that is replaced is told of as one that went and one that came") {
  const auto first = idle_process();
  const auto second = idle_process();
  for (const bool has_owner : {true, false}) {
    CAPTURE(has_owner);
    const Session session;
    const auto owner = has_owner ? std::optional(first.pid()) : std::nullopt;
    plant(session.lock, has_owner ? foreign_record(first.pid()) : "");
    Watch watch(session.directory.path());
    check_event(watch.next(), Kind::held, session, owner);
    plant(session.directory / "other", foreign_record(second.pid()));
    fs::rename(session.directory / "other", session.lock);
    check_event(watch.next(), Kind::released, session, owner);
    check_event(watch.next(), Kind::acquired, session, second.pid());
  }
}

TEST_CASE("a lock file that is another owner's by now is told of as one that went and one that came") {
  // As one that got the inode's number of one that went would be found.
  const Session session;
  const auto first = idle_process();
  const auto second = idle_process();
  plant(session.lock, foreign_record(first.pid()));
  Watch watch(session.directory.path());
  check_event(watch.next(), Kind::held, session, first.pid());
  std::string text = foreign_record(second.pid(), "12345");
  text.resize(read_text(session.lock).size() + text.size(), ' ');
  const int fd = ::open(session.lock.c_str(), O_WRONLY | O_CLOEXEC);
  CHECK(::pwrite(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  ::close(fd);
  check_event(watch.next(), Kind::released, session, first.pid());
  check_event(watch.next(), Kind::acquired, session, second.pid());
}

TEST_CASE("a lock that came and went before it could be looked at is told of") {
  const Session session;
  plant(session.lock, foreign_record(::getpid(), start_of(::getpid())));
  const auto brief = session.directory / "brief.jsonl.lock";
  const auto last = session.directory / "last.jsonl.lock";
  const auto events = watch_until(session.directory.path(), [&](const LockEvent& event) {
    if (event.kind == Kind::held) {
      REQUIRE(try_lock(session.directory / "brief.jsonl")->release().has_value());
      plant(last, foreign_record(::getpid(), start_of(::getpid())));
    }
    return event.lock.lock_path == last;
  });
  REQUIRE(events.size() == 4);
  CHECK(events[1].kind == Kind::acquired);
  CHECK(events[1].lock.lock_path == brief);
  CHECK(events[1].lock.session_path == session.directory / "brief.jsonl");
  CHECK(events[2].kind == Kind::released);
  CHECK(events[2].lock.lock_path == brief);
}

TEST_CASE("a lock that was found before its event came is not told of again when that comes") {
  //   1. B releases: an event. 2. A, the watch, hears of that, and looks. 3. C acquires: another event. 4. A sees C's
  //   lock, and tells of it. 5. C releases, and ends: A is woken by the end. 6. A hears of C's coming, and finds
  //   nothing.
  const Session session;
  const auto last = session.directory / "t.jsonl.lock";
  auto b = holder_of(session.path);
  std::optional<ChildProcess> c;
  bool has_released = false;
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (has_released && !c && is_call_on(info, sys::Call::openat, "s.jsonl.lock")) {
      c.emplace(holder_of(session.path));
    } else if (info.call == sys::Call::poll && c && std::exchange(has_released, false)) {
      c->tell("release");
      c->expect("released");
      (void)c->kill();
    }
    return 0;
  }));
  const auto events = watch_until(session.directory.path(), [&](const LockEvent& event) {
    if (event.kind == Kind::held) {
      b.tell("release");
      b.expect("released");
      has_released = true;
    } else if (c && event.kind == Kind::released && event.lock.record.pid == c->pid()) {
      plant(last, foreign_record(::getpid(), start_of(::getpid())));
    }
    return event.lock.lock_path == last;
  });
  REQUIRE(c.has_value());
  REQUIRE(events.size() == 5);
  check_event(events[0], Kind::held, session, b.pid());
  check_event(events[1], Kind::released, session, b.pid());
  check_event(events[2], Kind::acquired, session, c->pid());
  check_event(events[3], Kind::released, session, c->pid());
}

TEST_CASE("an owner's end is heard of, not found at a periodic look") {
  const Session session;
  auto owner = holder_of(session.path);
  int directory = -1;
  bool has_ended = false;
  bool was_looked_through = false;
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::openat, "s.jsonl.lock")) {
      directory = info.fd;
    } else if (info.call == sys::Call::poll && !std::exchange(has_ended, true)) {
      (void)owner.kill();
    } else if (has_ended && info.call == sys::Call::fstat && info.fd == directory) {
      was_looked_through = true;  // it begins with whether the directory is still there
    }
    return 0;
  }));
  const auto events =
      watch_until(session.directory.path(), [](const LockEvent& event) { return event.kind == Kind::owner_died; });
  CHECK(events.size() == 2);
  CHECK(directory >= 0);
  CHECK(!was_looked_through);
}

TEST_CASE("a lock that goes is told of with the age that it had then") {
  const Session session;
  Watch watch(session.directory.path());
  auto lock = try_lock(session.path);
  const LockEvent came = watch.next();
  std::this_thread::sleep_for(30ms);
  REQUIRE(lock->release().has_value());
  const LockEvent went = watch.next();
  REQUIRE(came.lock.age.has_value());
  REQUIRE(went.lock.age.has_value());
  CHECK(*went.lock.age >= *came.lock.age + 25ms);
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
  plant(session.directory / "0.backup", foreign_record(::getpid(), start_of(::getpid())));  // would be the first
  Watch watch(session.directory.path());
  write_text(session.directory / "s.jsonl", "1\n");
  write_text(session.directory / "Cargo.lock", "");
  fs::create_directory(session.directory / "d.jsonl.lock");
  REQUIRE(::mkfifo((session.directory / "p.jsonl.lock").c_str(), 0600) == 0);
  fs::create_symlink("/dev/null", session.directory / "l.jsonl.lock");
  const auto lock = try_lock(session.path);
  check_event(watch.next(), Kind::acquired, session, ::getpid());
}

TEST_CASE("a watch of what is missing, or cannot be meant, is an error") {
  const auto nothing = [](const LockEvent&) {};
  CHECK(watch_locks("/nonexistent", {}, nothing).error().code == std::errc::no_such_file_or_directory);
  CHECK(watch_locks("", {}, nothing).error().code == Errc::invalid_argument);
  LockWatchOptions every;
  every.suffix.clear();
  CHECK(watch_locks("/", every, nothing).error().code == Errc::invalid_argument);
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

// --- what only a periodic look finds ---------------------------------------------------------------------------------
//
// Such a look comes once a second. So that they wait for it at the same time, all of these begin when the first of them
// is asked for, each in a process of its own.

namespace {

int death_without_event(Channel&) {
  const Session session;
  Watch watch(session.directory.path());
  const Script script(failing(sys::Call::pidfd_open, EMFILE));
  auto owner = holder_of(session.path);
  REQUIRE_IN_CHILD(is_event(watch.next(), Kind::acquired, session, owner.pid()));
  (void)owner.kill();
  REQUIRE_IN_CHILD(is_event(watch.next(), Kind::owner_died, session, owner.pid()));
  return 0;
}

int lock_of_nobody(Channel&) {
  const Session session;
  Watch watch(session.directory.path());
  plant(session.lock, "");
  REQUIRE_IN_CHILD(is_event(watch.next(), Kind::acquired, session, std::nullopt));
  return 0;
}

int no_instance(Channel&) {
  const Session session;
  std::vector<Error> told;
  LockWatchOptions options;
  options.degraded = [&](const Error& error) { told.push_back(error); };
  {
    const Script script(failing(sys::Call::inotify_init, EMFILE));
    Watch watch(session.directory.path(), options);
    auto lock = try_lock(session.path);
    REQUIRE_IN_CHILD(is_event(watch.next(), Kind::acquired, session, ::getpid()));
    REQUIRE_IN_CHILD(lock->release().has_value());
    REQUIRE_IN_CHILD(is_event(watch.next(), Kind::released, session, ::getpid()));
  }
  REQUIRE_IN_CHILD(told.size() == 1);
  REQUIRE_IN_CHILD(told.front().code == std::errc::too_many_files_open);
  return 0;
}

int no_watch(Channel&) {
  const Session session;
  const Script script(failing(sys::Call::inotify_add_watch, ENOSPC));
  Watch watch(session.directory.path());
  write_text(session.directory / "notes.txt", "");
  const auto lock = try_lock(session.path);
  REQUIRE_IN_CHILD(is_event(watch.next(), Kind::acquired, session, ::getpid()));
  return 0;
}

int directory_that_goes(Channel&) {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "d");
  Watch watch(directory / "d");
  const auto lock = try_lock(directory / "d/s.jsonl");
  REQUIRE_IN_CHILD(watch.next().kind != Kind::released);
  fs::remove_all(directory / "d");
  const auto ended = watch.wait();
  REQUIRE_IN_CHILD(!ended);
  REQUIRE_IN_CHILD(ended.error().code == std::errc::no_such_file_or_directory);
  return 0;
}

int other_hosts(Channel& parent) {
  const TemporaryDirectory mounted;
  const auto run = run_in_namespaces({CLONE_NEWNS}, [&](Channel&) {
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
  if (!run.why_not.empty()) {
    parent.tell("new namespaces are not allowed here: " + run.why_not);
    return 0;
  }
  return run.ended.exited_with(0) ? 0 : 1;
}

int many_owners(Channel&) {
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
  REQUIRE_IN_CHILD(ended.has_value());
  REQUIRE_IN_CHILD(held == k_locks);
  REQUIRE_IN_CHILD(died == k_locks);
  return 0;
}

using Waiting = int (*)(Channel&);
constexpr std::array<Waiting, 7> k_waiting = {lock_of_nobody,      death_without_event, many_owners, other_hosts,
                                              directory_that_goes, no_instance,         no_watch};

/// Waits for one of them. What it could not do, if anything, is told aloud.
void check_waiting(Waiting which) {
  static std::map<Waiting, ChildProcess> children = [] {
    std::map<Waiting, ChildProcess> begun;
    for (const Waiting each : k_waiting) {
      begun.emplace(each, ChildProcess::run(each));
    }
    return begun;
  }();
  ChildProcess& child = children.at(which);
  if (const auto why_not = child.hear()) {
    skip_aloud(*why_not);
  }
  CHECK(child.wait().exited_with(0));
}

}  // namespace

TEST_CASE("an owner's death is told without an event of its end, too") {
  check_waiting(death_without_event);
}

TEST_CASE("a lock that never names anybody is told of all the same") {
  check_waiting(lock_of_nobody);
}

TEST_CASE("without events the directory is looked through, and that is told once") {
  check_waiting(no_instance);
}

TEST_CASE("without events, and with nobody to be told so, the directory is looked through all the same") {
  check_waiting(no_watch);
}

TEST_CASE("a watch of a directory that goes ends with an error") {
  check_waiting(directory_that_goes);
}

TEST_CASE("where other hosts' doings raise no event the directory is looked through") {
  check_waiting(other_hosts);
}

TEST_CASE("owners beyond those that can be watched at a time are looked at in turn") {
  check_waiting(many_owners);
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
