// What moves between look and act. Each race is forced: a process is held up before one system call, at the seam or by
// SIGSTOP, while another goes on.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>

#include "events.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::string_view k_lock_name = "s.jsonl.lock";

bool opens_lock(const sys::CallInfo& info) {
  return is_call_on(info, sys::Call::openat, k_lock_name);
}
bool replaces_lock(const sys::CallInfo& info) {
  return is_call_on(info, sys::Call::renameat2, k_lock_name);
}
bool links_lock(const sys::CallInfo& info) {
  return is_call_on(info, sys::Call::linkat, k_lock_name);
}

/// The `flock` with which a reclaim begins: the first after the lock was opened and judged.
Moment locks_to_reclaim() {
  return [judged = false](const sys::CallInfo& info) mutable {
    judged = judged || opens_lock(info);
    return judged && info.call == sys::Call::flock;
  };
}

Result<SessionLock> lock_within(const Session& session, std::chrono::milliseconds timeout) {
  AcquireOptions options;
  options.timeout = timeout;
  return LockManager().acquire(session.path, options);
}

/// A child that acquires and is held up before a call: until it hears something, or by SIGSTOP. Says "held" once it has
/// the lock, or what went wrong, and then waits to hear something before it ends.
ChildProcess acquirer(const Session& session, std::chrono::milliseconds timeout, const Moment& moment,
                      bool by_signal = false) {
  auto child = ChildProcess::run([&](Channel& parent) {
    const Script script(once_before(moment, [&] {
      parent.tell("there");
      if (by_signal) {
        ::raise(SIGSTOP);
      } else {
        (void)parent.hear();
      }
    }));
    const auto lock = lock_within(session, timeout);
    parent.tell(lock ? "held" : lock.error().message());
    (void)parent.hear();
    return 0;
  });
  child.expect("there");
  return child;
}

bool contains(const std::optional<std::string>& text, std::string_view part) {
  return text && text->find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("of two that judge a lock stale, the second does not remove the first one's new lock") {
  // Protects: `names_inode` in `reclaim_locked` (trap 1; INVARIANT 1).
  //   1. A and B judge inode 7 removable.   2. B locks, compares, unlinks it and publishes inode 8.
  //   3. A locks inode 7, and must see that the path names inode 8.
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  auto a = acquirer(session, 0ms, locks_to_reclaim());
  auto b = try_lock(session.path);
  REQUIRE(b.has_value());
  const auto inode = inode_of(session.lock);
  a.tell("go on");
  CHECK(contains(a.hear(), "session file locked"));
  CHECK(inode_of(session.lock) == inode);
  CHECK(b->verify().has_value());
  CHECK(b->release().has_value());
}

TEST_CASE("of two that judge a lock stale, the second does not remove one whose owner let go and somebody else took") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  auto a = acquirer(session, 0ms, locks_to_reclaim());
  REQUIRE(try_lock(session.path)->release().has_value());
  const auto c = holder_of(session.path);
  const auto inode = inode_of(session.lock);
  a.tell("go on");
  CHECK(contains(a.hear(), "pid=" + std::to_string(c.pid())));
  CHECK(inode_of(session.lock) == inode);
}

TEST_CASE("while one reclaims, another does not touch the lock") {
  // Protects: the `flock` in `reclaim` (trap 3).
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  auto a = acquirer(session, k_patience, replaces_lock);
  const auto inode = inode_of(session.lock);
  const auto refused = try_lock(session.path);
  REQUIRE(!refused);
  CHECK(refused.error().code == Errc::locked);
  CHECK(refused.error().holder->removable);
  CHECK(inode_of(session.lock) == inode);
  a.tell("go on");
  a.expect("held");
  CHECK(try_lock(session.path).error().holder->record.pid == a.pid());
}

TEST_CASE("a killed reclaimer leaves no guard behind") {
  // Protects: the guard is a kernel lock, which the kernel drops (trap 3).
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  auto a = acquirer(session, k_patience, replaces_lock);
  REQUIRE(!try_lock(session.path));
  (void)a.kill();
  CHECK(try_lock(session.path).has_value());
}

TEST_CASE("a stopped reclaimer delays others, and their time-out names it") {
  // Protects: `busy_` and `flock_holder` in `BlockingLock::give_up` (trap 3).
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  auto a = acquirer(session, k_patience, replaces_lock, true);
  const auto delayed = lock_within(session, 200ms);
  REQUIRE(!delayed);
  CHECK(delayed.error().code == Errc::timed_out);
  CHECK(delayed.error().detail.find("pid " + std::to_string(a.pid())) != std::string::npos);
  CHECK(delayed.error().message().find("pid " + std::to_string(a.pid())) != std::string::npos);
  a.resume();
  a.expect("held");
  a.tell("end");
  CHECK(a.wait().exited_with(0));
  CHECK(try_lock(session.path).has_value());
}

TEST_CASE("a publisher that is held up before it has a name holds nothing, and finds another's lock when it goes on") {
  // Protects: the exclusive link of a complete file (trap 4; INVARIANT 2).
  const Session session;
  auto a = acquirer(session, 0ms, links_lock);
  const auto b = try_lock(session.path);
  REQUIRE(b.has_value());
  a.tell("go on");
  CHECK(contains(a.hear(), "pid=" + std::to_string(::getpid())));
  CHECK(b->verify().has_value());
}

TEST_CASE("a lock that vanishes between look and act leads to another try at once") {
  // Protects: `Finding::free` and `look_again` in acquisition.cpp, which are no waits.
  const Session session;
  auto holder = holder_of(session.path);
  SUBCASE("before it is opened") {
    const Script script(once_before(opens_lock, [&] {
      holder.tell("release");
      holder.expect("released");
    }));
    CHECK(try_lock(session.path).has_value());
  }
  SUBCASE("before it is removed as stale") {
    (void)holder.kill();
    const Script script(once_before(locks_to_reclaim(), [&] { fs::remove(session.lock); }));
    const auto lock = try_lock(session.path);
    REQUIRE(lock.has_value());
    CHECK(!lock->reclaimed_from().has_value());
  }
}

TEST_CASE("a stale lock that is replaced by another between look and act is looked at anew") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  SUBCASE("by a stale one, which is taken in the same try") {
    const pid_t other = dead_pid();
    const Script script(once_before(locks_to_reclaim(), [&] {
      fs::remove(session.lock);
      plant(session.lock, foreign_record(other, "7"));
    }));
    const auto lock = try_lock(session.path);
    REQUIRE(lock.has_value());
    CHECK(lock->reclaimed_from()->record.starttime == 7);
  }
  SUBCASE("by a live one, which is not") {
    std::optional<ChildProcess> successor;
    const Script script(once_before(locks_to_reclaim(), [&] {
      fs::remove(session.lock);
      successor = holder_of(session.path);
    }));
    const auto lock = try_lock(session.path);
    REQUIRE(!lock);
    CHECK(lock.error().holder->record.pid == successor->pid());
  }
  SUBCASE("in the same file, by a live owner's record") {
    // Protects: the second reading and judgement under the `flock`.
    const auto owner = idle_process();
    const auto inode = inode_of(session.lock);
    const Script script(once_before(
        locks_to_reclaim(), [&] { write_text(session.lock, foreign_record(owner.pid(), start_of(owner.pid()))); }));
    const auto lock = try_lock(session.path);
    REQUIRE(!lock);
    CHECK(lock.error().holder->record.pid == owner.pid());
    CHECK(inode_of(session.lock) == inode);
  }
}

TEST_CASE("who sees under its guard that the owner lives after all is in nobody's way while it waits") {
  // Protects: the end of the `InodeGuard` in `reclaim`. With the `flock` of a waiter the owner could not release.
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  const auto owner = idle_process();
  int waits = 0;
  int guarded = 0;
  const Script script(outermost([&, moment = locks_to_reclaim(), is_stale = true](const sys::CallInfo& info) mutable {
    if (is_stale && moment(info)) {
      is_stale = false;
      write_text(session.lock, foreign_record(owner.pid(), start_of(owner.pid())));
    } else if (info.call == sys::Call::poll) {
      ++waits;
      guarded += is_unguarded(session.lock) ? 0 : 1;
    }
    return 0;
  }));
  const auto lock = lock_within(session, 50ms);
  CHECK(code_of(lock) == Errc::timed_out);
  CHECK(waits > 0);
  CHECK(guarded == 0);
}

TEST_CASE("a lock that is replaced again and again is given up after a bounded number of looks") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  int replaced = 0;
  const Script script(outermost([&, moment = locks_to_reclaim()](const sys::CallInfo& info) {
    if (moment(info)) {
      fs::remove(session.lock);
      plant(session.lock, foreign_record(dead_pid()));
      ++replaced;
    }
    return 0;
  }));
  const auto lock = try_lock(session.path);
  REQUIRE(!lock);
  CHECK(lock.error().code == Errc::locked);
  CHECK(replaced > 10);
  CHECK(replaced < 1000);
}

TEST_CASE("a lock that changes hands again and again is waited for inside one deadline") {
  // Protects: `deadline_` is the acquisition's, not the look's. Were it the look's, the acquire would outlast the
  // planter.
  const Session session;
  const auto owner = idle_process();
  const std::string record = foreign_record(owner.pid(), start_of(owner.pid()));
  plant(session.lock, record);
  std::atomic<bool> has_ended{false};
  std::thread planter([&] {
    const auto give_up = Clock::now() + k_patience;
    while (!has_ended && Clock::now() < give_up) {
      write_text(session.directory / "next", record);
      fs::rename(session.directory / "next", session.lock);
      std::this_thread::sleep_for(10ms);
    }
    if (!has_ended) {
      fs::remove(session.lock);
    }
  });
  const auto refused = lock_within(session, 300ms);
  has_ended = true;
  planter.join();
  CHECK(!refused);
  CHECK(refused.error().code == Errc::timed_out);
  CHECK(refused.error().holder->record.pid == owner.pid());
}

TEST_CASE("a time-out of 0 or less is one try") {
  const Session session;
  const auto holder = holder_of(session.path);
  for (const auto timeout : {0ms, -5ms, std::chrono::milliseconds::min()}) {
    int tries = 0;
    const Script script([&](const sys::CallInfo& info) {
      tries += links_lock(info) ? 1 : 0;
      return 0;
    });
    const auto lock = lock_within(session, timeout);
    REQUIRE(!lock);
    CHECK(lock.error().code == Errc::locked);
    CHECK(tries == 1);
  }
}

TEST_CASE("a stale lock found on the very last try is still taken") {
  // Protects: `Acquisition::look_at_lock`, which asks for the time only where a lock is held.
  const Session session;
  constexpr auto k_timeout = 250ms;
  auto holder = holder_of(session.path);
  const auto start = Clock::now();
  const Script script(
      once_before([=](const sys::CallInfo& info) { return opens_lock(info) && Clock::now() >= start + k_timeout; },
                  [&] { (void)holder.kill(); }));
  const auto lock = lock_within(session, k_timeout);
  CHECK(Clock::now() >= start + k_timeout);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(lock->reclaimed_from()->record.pid == holder.pid());
}

TEST_CASE("a session that leads elsewhere once the lock is held is located anew") {
  // Protects: `is_current` in `Acquisition::complete`.
  const Session session;
  write_text(session.directory / "one", "");
  write_text(session.directory / "two", "");
  fs::create_symlink("one", session.path);
  {
    const Script script(
        once_before([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::linkat, "one.lock"); },
                    [&] {
                      fs::remove(session.path);
                      fs::create_symlink("two", session.path);
                    }));
    const auto lock = try_lock(session.path);
    REQUIRE(lock.has_value());
    CHECK(lock->session_path() == session.directory / "two");
    CHECK(fs::exists(session.directory / "two.lock"));
    CHECK(!fs::exists(session.directory / "one.lock"));
  }
  CHECK(LockManager().held().empty());
}

TEST_CASE("of a lock on what the session was the observer hears nothing, and of the session's both ends") {
  const Session session;
  const Events events;
  {
    const Script script(once_before(links_lock, [&] { fs::create_symlink("target", session.path); }));
    REQUIRE(LockManager(events.options()).try_acquire(session.path).has_value());
  }
  CHECK(events.kinds() == std::vector{EventKind::acquired, EventKind::released});
  for (const Event& event : events.all()) {
    CHECK(event.lock_path == session.directory / "target.lock");
  }
}

TEST_CASE("a take-over of what the session was is undone, and the next turn of that is told of the dead owner") {
  // Protects: `ReplacedFile::put_back` in `HoldCore::try_unlink`.
  const Session session;
  const auto dead = dead_pid();
  plant(session.lock, foreign_record(dead));
  make_older(session.lock, 1h);
  if (::geteuid() == 0) {
    REQUIRE(::chown(session.lock.c_str(), 1234, 1234) == 0);
  }
  REQUIRE(::chmod(session.lock.c_str(), 0640) == 0);
  struct stat before {};
  REQUIRE(::stat(session.lock.c_str(), &before) == 0);
  {
    const Script script(once_before(replaces_lock, [&] { fs::create_symlink("target", session.path); }));
    const auto lock = try_lock(session.path);
    REQUIRE(lock.has_value());
    CHECK(lock->lock_path().filename() == "target.lock");
    CHECK(lock->verify().has_value());  // Protects: that nothing of the first take-over is used again.
    CHECK(!lock->reclaimed_from());
  }
  // The file itself is back, so that the next turn judges it as this one did.
  struct stat after {};
  REQUIRE(::stat(session.lock.c_str(), &after) == 0);
  CHECK(after.st_ino == before.st_ino);
  CHECK(after.st_mtime == before.st_mtime);
  CHECK(after.st_mode == before.st_mode);
  CHECK(after.st_uid == before.st_uid);
  fs::remove(session.path);
  const auto next = try_lock(session.path);
  REQUIRE(next.has_value());
  REQUIRE(next->reclaimed_from().has_value());
  CHECK(next->reclaimed_from()->record.pid == dead);
  CHECK(names_in(session.directory.path()).size() == 1);
}

TEST_CASE("a take-over whose rename was made although the file system denies it is one") {
  // Protects: `has_its_name` in `take_over_by`. A network file system may have lost its reply.
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  const Script script([&](const sys::CallInfo& info) {
    if (!replaces_lock(info)) {
      return 0;
    }
    for (const auto& name : names_in(session.directory.path())) {
      if (name.ends_with(".tmp")) {
        fs::rename(session.directory / name, session.lock);
      }
    }
    return ENOENT;
  });
  const auto lock = try_lock(session.path);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(lock->reclaimed_from().has_value());
  CHECK(lock->verify().has_value());
}

TEST_CASE("a take-over whose own file is swept away at the last moment is tried again") {
  // Protects: that ENOENT of the rename is no success.
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  const Script script(once_before(replaces_lock, [&] {
    for (const auto& name : names_in(session.directory.path())) {
      if (name.ends_with(".tmp")) {
        fs::remove(session.directory / name);
      }
    }
  }));
  const auto lock = try_lock(session.path);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(lock->reclaimed_from().has_value());
  CHECK(lock->verify().has_value());
}

TEST_CASE("a process that ends in its observer of an acquisition leaves the dead owner to the next turn") {
  // Protects: `ReplacedFile::put_back` in the clean-up of holds.
  const Session session;
  const auto dead = dead_pid();
  plant(session.lock, foreign_record(dead));
  const auto inode = inode_of(session.lock);
  const auto child = ChildProcess::run([&](Channel&) {
                       ManagerOptions options;
                       options.observer = [](const Event&) { std::exit(0); };
                       (void)LockManager(options).try_acquire(session.path);
                       return 1;
                     }).wait();
  CHECK(child.exited_with(0));
  CHECK(inode_of(session.lock) == inode);
  CHECK(names_in(session.directory.path()).size() == 1);
  const auto next = held(try_lock(session.path));
  REQUIRE(next.reclaimed_from().has_value());
  CHECK(next.reclaimed_from()->record.pid == dead);
}

TEST_CASE("a take-over that the disk has no room for leaves the dead owner's lock for the next turn") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  const auto inode = inode_of(session.lock);
  {
    // The first candidate finds the name taken; the second is the one that would take over.
    int writes = 0;
    const Script script(
        [&](const sys::CallInfo& info) { return info.call == sys::Call::write && ++writes == 2 ? ENOSPC : 0; });
    const auto refused = try_lock(session.path);
    REQUIRE(!refused);
    CHECK(refused.error().code == std::errc::no_space_on_device);
  }
  CHECK(inode_of(session.lock) == inode);
  CHECK(names_in(session.directory.path()).size() == 1);
  CHECK(try_lock(session.path)->reclaimed_from().has_value());
}

TEST_CASE("a reclaimer that is killed before it has the lock's name leaves the dead owner to the next turn") {
  const Session session;
  const auto dead = dead_pid();
  plant(session.lock, foreign_record(dead));
  auto a = acquirer(session, k_patience, replaces_lock);
  CHECK(names_in(session.directory.path()).size() == 2);  // its own file, complete, under a temporary name
  (void)a.kill();
  const auto b = try_lock(session.path);
  REQUIRE(b.has_value());
  REQUIRE(b->reclaimed_from().has_value());
  CHECK(b->reclaimed_from()->record.pid == dead);
}

TEST_CASE("a reclaimer that is killed as soon as it has the lock's name is itself what the next turn is told of") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  const auto next_after_it = [replaced = false](const sys::CallInfo& info) mutable {
    return std::exchange(replaced, replaced || replaces_lock(info));
  };
  auto a = acquirer(session, k_patience, next_after_it);
  const pid_t killed = a.pid();
  (void)a.kill();
  const auto b = try_lock(session.path);
  REQUIRE(b.has_value());
  REQUIRE(b->reclaimed_from().has_value());
  CHECK(b->reclaimed_from()->record.pid == killed);
  // The first one's report went with the killed process. Its lock is what a sweep removes.
  CHECK(names_in(session.directory.path()).size() == 2);
}

TEST_CASE(
    "a reclaimer that is killed while it undoes its take-over has put the dead owner's lock back, or is one itself") {
  for (const auto call : {sys::Call::renameat2, sys::Call::unlinkat}) {
    CAPTURE(sys::to_string(call));
    const Session session;
    const auto dead = dead_pid();
    plant(session.lock, foreign_record(dead));
    const auto moment = [&session, call, calls = 0](const sys::CallInfo& info) mutable {
      if (replaces_lock(info) && ++calls == 1) {
        fs::create_symlink("target", session.path);
      }
      return info.call == call && (call == sys::Call::unlinkat ? calls == 2 : calls == 2);
    };
    auto a = acquirer(session, k_patience, moment);
    const pid_t killed = a.pid();
    (void)a.kill();
    fs::remove(session.path);
    const auto b = held(try_lock(session.path));
    REQUIRE(b.reclaimed_from().has_value());
    CHECK(b.reclaimed_from()->record.pid == (call == sys::Call::renameat2 ? killed : dead));
  }
}

TEST_CASE("while a lock is taken over there is no moment at which its name is free") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  bool was_free = false;
  const auto lock = [&] {
    const Script script([&](const sys::CallInfo&) {
      was_free = was_free || !fs::exists(session.lock);
      return 0;
    });
    return try_lock(session.path);
  }();
  CHECK(lock->reclaimed_from().has_value());
  CHECK(!was_free);
}

TEST_CASE("a session that becomes aliased while it is locked is refused and let go") {
  const Session session;
  write_text(session.path, "");
  const Script script(
      once_before(links_lock, [&] { fs::create_hard_link(session.path, session.directory / "alias"); }));
  CHECK(try_lock(session.path).error().code == Errc::aliased_session);
  CHECK(!fs::exists(session.lock));
  CHECK(LockManager().held().empty());
}

TEST_CASE("a lock on what a session was does not block an acquire of what it is") {
  const Session session;
  plant(session.lock, foreign_record(::getppid()));
  fs::create_symlink("target", session.path);
  const auto lock = try_lock(session.path);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(lock->lock_path() == session.directory / "target.lock");
  CHECK(fs::exists(session.lock));
}

TEST_CASE("a directory that cannot be written to does not block a session that leads out of it") {
  const Session session;
  fs::create_symlink("target", session.path);
  const Script script([](const sys::CallInfo& info) { return links_lock(info) ? EACCES : 0; });
  const auto lock = try_lock(session.path);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(lock->lock_path() == session.directory / "target.lock");
}

TEST_CASE("a hold of what a session was is not shared by an acquire of what it is") {
  const Session session;
  AcquireOptions options;
  options.timeout = 0ms;
  options.reentrant = true;
  LockManager manager;
  const auto before = manager.acquire(session.path, options);
  REQUIRE(before.has_value());
  fs::create_symlink("target", session.path);
  {
    const auto now = manager.acquire(session.path, options);
    REQUIRE_MESSAGE(now.has_value(), (now ? "" : now.error().message()));
    CHECK(now->lock_path() == session.directory / "target.lock");
  }
  CHECK(before->verify().has_value());
  const auto held = manager.held();
  REQUIRE(held.size() == 1);
  CHECK(held.front().depth == 1);
}

TEST_CASE("an acquire does not wait for this process's lock of what the session was, nor report it") {
  const Session session;
  const auto before = try_lock(session.path);
  REQUIRE(before.has_value());
  fs::create_symlink("target", session.path);
  std::vector<EventKind> events;
  ManagerOptions options;
  options.observer = [&](const Event& event) { events.push_back(event.kind); };
  AcquireOptions patient;
  patient.timeout = k_patience;
  const auto now = LockManager(options).acquire(session.path, patient);
  REQUIRE_MESSAGE(now.has_value(), (now ? "" : now.error().message()));
  CHECK(now->lock_path() == session.directory / "target.lock");
  CHECK(events == std::vector<EventKind>{EventKind::acquired});
}

/// For threads that are to share one hold.
AcquireOptions for_both() {
  AcquireOptions options;
  options.timeout = k_patience;
  options.reentrant = true;
  options.owner = "both";
  return options;
}

TEST_CASE("who waits to share a hold gets no share of one on what the session was") {
  // Protects: `is_current` in `Acquisition::share`.
  //   1. A has the turn, and is about to publish.   2. B looks at the session, and queues behind A, to share.
  //   3. The session becomes a link.   4. A publishes; B is given its share; A sees the link, and lets go.
  const Session session;
  const AcquireOptions options = for_both();
  std::atomic<bool> is_queued{false};
  ManagerOptions watched;
  watched.observer = [&](const Event& event) { is_queued = is_queued || event.kind == EventKind::contended; };
  LockManager manager(watched);
  Result<SessionLock> a;
  Result<SessionLock> b;
  std::thread thread;
  const Script script(once_before(links_lock, [&] {
    thread = std::thread([&] { b = manager.acquire(session.path, options); });
    wait_until("B waits", [&] { return is_queued.load(); });
    fs::create_symlink("target", session.path);
  }));
  a = manager.acquire(session.path, options);
  thread.join();
  REQUIRE_MESSAGE(a.has_value(), (a ? "" : a.error().message()));
  REQUIRE_MESSAGE(b.has_value(), (b ? "" : b.error().message()));
  CHECK(a->lock_path() == session.directory / "target.lock");
  CHECK(b->lock_path() == session.directory / "target.lock");
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a thread that shares what another took over keeps it, and is told, when that one's path leads elsewhere") {
  // Protects: that only the last share is released, and the order of `announce`.
  //   1. A takes over the lock of what its link leads to; B queues behind A by the session's own name, to share.
  //   2. B has its share. 3. A's link is turned.   4. A lets go; B's lock stays, and B's is the turn after the death.
  const Session session;
  const fs::path link = session.directory / "link";
  write_text(session.path, "");
  fs::create_symlink("s.jsonl", link);
  const auto dead = dead_pid();
  plant(session.lock, foreign_record(dead));
  const AcquireOptions options = for_both();
  LockManager manager;
  Result<SessionLock> a;
  Result<SessionLock> b;
  std::thread thread;
  std::atomic<bool> b_waits{false};
  const auto a_thread = std::this_thread::get_id();
  bool is_shared = false;
  bool has_begun = false;
  {
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (std::this_thread::get_id() != a_thread) {
        b_waits = b_waits || is_call_on(info, sys::Call::statx, "s.jsonl");
        return 0;
      }
      if (!has_begun && replaces_lock(info)) {
        has_begun = true;
        thread = std::thread([&] { b = manager.acquire(session.path, options); });
        wait_until("B waits", [&] { return b_waits.load(); });
        std::this_thread::sleep_for(50ms);  // B may come later and share all the same
      } else if (has_begun && !is_shared && is_call_on(info, sys::Call::statx, "link")) {
        is_shared = true;
        thread.join();
        fs::remove(link);
        fs::create_symlink("other", link);
      }
      return 0;
    }));
    a = manager.acquire(link, options);
  }
  REQUIRE(is_shared);
  REQUIRE_MESSAGE(a.has_value(), (a ? "" : a.error().message()));
  REQUIRE_MESSAGE(b.has_value(), (b ? "" : b.error().message()));
  CHECK(a->lock_path().filename() == "other.lock");
  CHECK(!a->reclaimed_from());
  CHECK(b->guarded([] {}).has_value());
  REQUIRE(b->reclaimed_from().has_value());
  CHECK(b->reclaimed_from()->record.pid == dead);
  CHECK(names_in(session.directory.path()).size() == 4);  // a session, a link, two locks, and nothing kept
}

TEST_CASE("the end of a hold is told although who published it failed on the way, and another shares it") {
  // Protects: `announce` in `Acquisition::share`.
  //   1. A is about to publish; B queues behind A, to share.   2. A publishes, and B is given its share.
  //   3. A cannot look at the session once more.   4. B has the lock, and loses it.
  const Session session;
  const AcquireOptions options = for_both();
  const Events events;
  LockManager manager(events.options());
  Result<SessionLock> b;
  std::thread thread;
  const auto a_thread = std::this_thread::get_id();
  bool is_linked = false;
  {
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (std::this_thread::get_id() != a_thread) {
        return 0;
      }
      if (!is_linked && links_lock(info)) {
        is_linked = true;
        thread = std::thread([&] { b = manager.acquire(session.path, options); });
        events.wait_for(EventKind::contended);
      } else if (is_linked && is_call_on(info, sys::Call::statx, "s.jsonl")) {
        return EMFILE;
      }
      return 0;
    }));
    CHECK(code_of(manager.acquire(session.path, options)) == std::errc::too_many_files_open);
    thread.join();
  }
  REQUIRE_MESSAGE(b.has_value(), (b ? "" : b.error().message()));
  fs::remove(session.lock);
  CHECK(code_of(b->verify()) == Errc::lost);
  CHECK(events.of(EventKind::lost).size() == 1);
}

TEST_CASE("a directory that is removed before the lock has its name is made again") {
  const Session session;
  const Script script(
      once_before([](const sys::CallInfo& info) { return is_call_on(info, sys::Call::linkat, "x.lock"); },
                  [&] { fs::remove_all(session.directory / "d"); }));
  const auto lock = try_lock(session.directory / "d/x");
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  CHECK(fs::exists(session.directory / "d/x.lock"));
  CHECK(lock->verify().has_value());
}

TEST_CASE("an error that ends an acquire leaves no hold, no lock and nobody waiting") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  const auto fails = [&](const Moment& moment, int error) {
    const Script script([&, moment = moment](const sys::CallInfo& info) mutable { return moment(info) ? error : 0; });
    const auto lock = try_lock(session.path);
    REQUIRE(!lock);
    return lock.error().code == std::error_code(error, std::system_category());
  };
  CHECK(fails(replaces_lock, EROFS));
  CHECK(fails(replaces_lock, EIO));
  CHECK(fails(locks_to_reclaim(), ENOLCK));
  CHECK(fails([](const sys::CallInfo& info) { return info.call == sys::Call::write; }, ENOSPC));
  // Random bytes are asked for once, which a fresh child has not done.
  const auto child = ChildProcess::run([&](Channel&) {
                       const auto asks = [](const sys::CallInfo& info) { return info.call == sys::Call::getrandom; };
                       REQUIRE_IN_CHILD(fails(asks, ENOSYS));
                       return 0;
                     }).wait();
  CHECK(child.exited_with(0));
  CHECK(LockManager().held().empty());
  CHECK(fs::exists(session.lock));
  CHECK(try_lock(session.path).has_value());
}

TEST_CASE("where files cannot be nameless a file's age is still told by the file system's clock, at every look") {
  // Protects: publishing anew where an age decides, in `Acquisition::retry`.
  const auto child = ChildProcess::run([](Channel&) {
                       const Session session;
                       plant(session.lock, "");
                       int looks = 0;
                       const Script script(outermost([&](const sys::CallInfo& info) {
                         if (opens_lock(info)) {
                           // The owner that is about to write is slow, but this machine's clock is no reason to say so.
                           make_older(session.lock, 0s);
                           ++looks;
                         }
                         const bool nameless = info.call == sys::Call::openat && std::string_view(info.path) == ".";
                         REQUIRE_IN_CHILD(!nameless || looks == 0);  // found out once, then never asked again
                         return nameless ? EOPNOTSUPP : 0;
                       }));
                       const auto lock = lock_within(session, 100ms);
                       REQUIRE_IN_CHILD(!lock && lock.error().holder->state == LockState::pending);
                       REQUIRE_IN_CHILD(looks > 1);
                       REQUIRE_IN_CHILD(names_in(session.directory.path()) == std::vector<std::string>{"s.jsonl.lock"});
                       return 0;
                     }).wait();
  CHECK(child.exited_with(0));
}

TEST_CASE("a waiting thread of the process does not share what another thread acquires") {
  // Protects: the asking thread's id in `Hold::is_shared_by`.
  const Session session;
  auto holder = holder_of(session.path);
  std::atomic<int> inside{0};
  std::atomic<int> acquired{0};
  std::atomic<bool> overlapped{false};
  const auto contend = [&] {
    AcquireOptions options;
    options.reentrant = true;
    auto lock = LockManager().acquire(session.path, options);
    if (lock) {
      ++acquired;
      overlapped = overlapped || ++inside > 1;
      std::this_thread::sleep_for(50ms);
      --inside;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back(contend);
  }
  std::this_thread::sleep_for(100ms);  // lets them queue; nothing depends on it
  holder.tell("release");
  holder.expect("released");
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(acquired == 4);
  CHECK(!overlapped);
}
