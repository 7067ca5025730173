// What a holder can do, and what can be done to it: release, guarded writes, sharing, forks, the end of the process.

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/sweep.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/session_location.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

AcquireOptions reentrant(std::string owner = {}) {
  AcquireOptions options;
  options.timeout = 0ms;
  options.reentrant = true;
  options.owner = std::move(owner);
  return options;
}

}  // namespace

// --- release ---------------------------------------------------------------------------------------------------------

TEST_CASE("a release removes the lock, and the session can be acquired again") {
  const Session session;
  auto lock = held(try_lock(session.path));
  CHECK(lock.owns());
  REQUIRE(lock.release().has_value());
  CHECK(!lock.owns());
  CHECK(!fs::exists(session.lock));
  CHECK(try_lock(session.path).has_value());
  CHECK(!fs::exists(session.lock));  // the destructor releases too
}

TEST_CASE("a double release is harmless, also to whoever has the lock by then") {
  const Session session;
  auto first = held(try_lock(session.path));
  REQUIRE(first.release().has_value());
  const auto second = held(try_lock(session.path));
  CHECK(first.release().has_value());
  CHECK(second.verify().has_value());
  CHECK(code_of(first.verify()) == Errc::lost);
}

TEST_CASE("a handle that has no lock, or none any more, says so and shows nothing") {
  const Session session;
  auto released = held(try_lock(session.path));
  REQUIRE(released.release().has_value());
  SessionLock none;
  char* const arguments[] = {nullptr};
  for (SessionLock* const lock : {&none, &released}) {
    CHECK(!lock->owns());
    CHECK(lock->release().has_value());
    CHECK(code_of(lock->verify()) == Errc::lost);
    CHECK(code_of(lock->guarded([] {})) == Errc::lost);
    CHECK(code_of(lock->spawn_with("true", arguments, environ)) == Errc::lost);
    CHECK(!lock->reclaimed_from().has_value());
  }
  CHECK(none.session_path().empty());
  CHECK(none.lock_path().empty());
  CHECK(none.record() == LockRecord{});
  CHECK(released.session_path() == session.path);
}

TEST_CASE("a handle that is moved to itself keeps its lock") {
  const Session session;
  auto lock = held(try_lock(session.path));
  SessionLock& same = lock;
  lock = std::move(same);
  CHECK(lock.owns());
  CHECK(lock.verify().has_value());
}

TEST_CASE("a release never deletes a successor's lock") {
  // Protects: `names_inode` in `try_enter_guard`, under the `flock` (trap 6).
  const Session session;
  auto lock = held(try_lock(session.path));
  fs::remove(session.lock);
  const auto successor = holder_of(session.path);
  const auto inode = inode_of(session.lock);
  SUBCASE("by a call") {
    CHECK(code_of(lock.release()) == Errc::lost);
    CHECK(lock.release().has_value());  // that was final
  }
  SUBCASE("by destruction") {
    const auto gone = std::move(lock);
  }
  SUBCASE("by assignment") {
    lock = SessionLock();
  }
  SUBCASE("at exit") {
    auto child = ChildProcess::run_to_exit([&](Channel& parent) {
      static SessionLock* leaked = nullptr;
      leaked = new SessionLock(held(try_lock(session.directory / "t")));
      fs::rename(session.directory / "t.lock", session.directory / "aside");
      parent.tell(leaked->owns() ? "held" : "not");
      (void)parent.hear();
      return 0;
    });
    child.expect("held");
    plant(session.directory / "t.lock", "a successor's");
    child.tell("exit");
    CHECK(child.wait().exited_with(0));
    CHECK(read_text(session.directory / "t.lock") == "a successor's");
  }
  CHECK(inode_of(session.lock) == inode);
}

TEST_CASE("a successor that comes between the comparison and the unlink cannot exist") {
  // Protects: the comparison happens under the `flock` that every remover needs.
  const Session session;
  auto lock = held(try_lock(session.path));
  bool guarded = false;
  {
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (is_call_on(info, sys::Call::unlinkat, "s.jsonl.lock")) {
        guarded = !is_unguarded(session.lock);
      }
      return 0;
    }));
    CHECK(lock.release().has_value());
  }
  CHECK(guarded);
}

TEST_CASE("a lock that a cleaner deletes while it is held is lost") {
  const Session session;
  auto lock = held(try_lock(session.path));
  fs::remove(session.lock);
  bool ran = false;
  SUBCASE("as a guarded write finds") {
    CHECK(code_of(lock.guarded([&] { ran = true; })) == Errc::lost);
  }
  SUBCASE("as a verification finds") {
    CHECK(code_of(lock.verify()) == Errc::lost);
  }
  CHECK(!ran);
  CHECK(!lock.owns());
  CHECK(LockManager().held().empty());
  CHECK(code_of(lock.guarded([&] { ran = true; })) == Errc::lost);
  CHECK(!ran);
  CHECK(try_lock(session.path).has_value());
}

TEST_CASE("a lock that is lost while it is moved aside is free where it is put back") {
  // Protects: `leave_guard` in `try_enter_guard`, and the end of a lost lock's witness.
  const Session session;
  const auto aside = session.directory / "aside";
  const auto lock = held(try_lock(session.path));
  fs::rename(session.lock, aside);
  CHECK(code_of(lock.guarded([] {})) == Errc::lost);
  CHECK(is_unguarded(aside));
  fs::rename(aside, session.lock);
  auto other = ChildProcess::run([&](Channel&) { return try_lock(session.path).has_value() ? 0 : 1; });
  CHECK(other.wait().exited_with(1));  // the process named in it lives, and it does not age
  CHECK(held(try_lock(session.path)).reclaimed_from().has_value());
}

TEST_CASE("a directory that is renamed during the hold loses nothing") {
  const Session session;
  fs::create_directory(session.directory / "d");
  auto lock = held(try_lock(session.directory / "d/s"));
  fs::rename(session.directory / "d", session.directory / "e");
  fs::create_directory(session.directory / "d");
  CHECK(lock.verify().has_value());
  bool ran = false;
  CHECK(lock.guarded([&] { ran = true; }).has_value());
  CHECK(ran);
  CHECK(code_of(try_lock(session.directory / "e/s")) == Errc::locked);
  const auto other = held(try_lock(session.directory / "d/s"));  // another session
  CHECK(lock.release().has_value());
  CHECK(!fs::exists(session.directory / "e/s.lock"));
  CHECK(other.verify().has_value());
}

TEST_CASE("a lock whose directory is removed is lost") {
  const Session session;
  auto lock = held(try_lock(session.directory / "d/s"));
  fs::remove_all(session.directory / "d");
  CHECK(code_of(lock.verify()) == Errc::lost);
  CHECK(try_lock(session.directory / "d/s").has_value());
}

TEST_CASE("a release that fails is reported, and can be tried again") {
  const Session session;
  auto lock = held(try_lock(session.path));
  for (const auto call : {sys::Call::unlinkat, sys::Call::fstatat, sys::Call::flock}) {
    const Script script(failing(call, EIO));
    const auto released = lock.release();
    REQUIRE(!released);
    CHECK(released.error().code == std::error_code(EIO, std::system_category()));
    CHECK(released.error().operation == sys::to_string(call));
    CHECK(lock.owns());
    CHECK(is_unguarded(session.lock));
  }
  CHECK(LockManager().held().size() == 1);
  CHECK(lock.guarded([] {}).has_value());
  CHECK(lock.release().has_value());
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a release that fails in a destructor is told, listed, shared with nobody, and tried again later") {
  // Protects: `keep_for_retry`, `retry_failed_releases` and `Hold::abandon_share`.
  const Session session;
  std::vector<Event> events;
  ManagerOptions options;
  options.observer = [&](const Event& event) { events.push_back(event); };
  LockManager manager(options);
  {
    const Script script(failing(sys::Call::unlinkat, EIO));
    { const auto lock = held(manager.acquire(session.path, reentrant())); }
    REQUIRE(!events.empty());
    CHECK(events.back().kind == EventKind::release_failed);
    CHECK(events.back().lock_path == session.lock);
    CHECK(events.back().error->code == std::error_code(EIO, std::system_category()));
    const auto list = manager.held();
    REQUIRE(list.size() == 1);
    CHECK(list.front().lock_path == session.lock);
    CHECK(list.front().depth == 0);
    CHECK(code_of(manager.acquire(session.path, reentrant())) == Errc::locked);
    CHECK(fs::exists(session.lock));
  }
  SUBCASE("when another session is acquired") {
    CHECK(try_lock(session.directory / "other").has_value());
  }
  SUBCASE("when the same session is acquired") {
    CHECK(manager.acquire(session.path, reentrant()).has_value());
  }
  SUBCASE("when the process waits until it is free") {
    CHECK(manager.wait_until_free(session.path).has_value());
  }
  SUBCASE("at exit") {
    CHECK(ChildProcess::run_to_exit([&](Channel&) {
            const Script script(failing(sys::Call::unlinkat, EIO));
            { const auto lock = try_lock(session.directory / "t"); }
            return fs::exists(session.directory / "t.lock") ? 0 : 1;
          })
              .wait()
              .exited_with(0));
    CHECK(!fs::exists(session.directory / "t.lock"));
    CHECK(manager.wait_until_free(session.path).has_value());
  }
  CHECK(!fs::exists(session.lock));
}

// --- sharing ---------------------------------------------------------------------------------------------------------

TEST_CASE("a question changes nothing: what could not be released is left for the next acquire") {
  const Session session;
  const auto other = held(try_lock(session.directory / "other.jsonl"));
  {
    const Script script(failing(sys::Call::unlinkat, EIO));
    { const auto lock = held(try_lock(session.path)); }
  }
  LockManager manager;
  CHECK(manager.held().size() == 2);
  CHECK(manager.inspect(session.path)->state == LockState::held);
  CHECK(manager.inspect(session.directory / "other.jsonl")->state == LockState::held);
  CHECK(other.verify().has_value());
  SweepOptions only_look;
  only_look.remove = false;
  CHECK(sweep(session.directory.path(), only_look)->locks.size() == 2);
  CHECK(fs::exists(session.lock));
  CHECK(manager.try_acquire(session.path).has_value());
}

TEST_CASE("a second acquire in the process waits like anybody else's") {
  const Session session;
  LockManager manager;
  const auto lock = held(manager.try_acquire(session.path));
  const auto refused = manager.try_acquire(session.path, reentrant());
  CHECK(code_of(refused) == Errc::locked);
  CHECK(refused.error().holder->basis == Basis::held_here);
  CHECK(refused.error().holder->record.pid == ::getpid());
  AcquireOptions options;
  options.timeout = 20ms;
  CHECK(code_of(LockManager().acquire(session.path, options)) == Errc::timed_out);
  SUBCASE("and fails at once where its own thread would wait for itself without end") {
    options.timeout = std::chrono::milliseconds::max();
    CHECK(code_of(manager.acquire(session.path, options)) == Errc::invalid_argument);
  }
}

TEST_CASE("a lock is exclusive in its process by default, also through a link") {
  // Protects: `key_of`, which names a hold by its directory's inode and the canonical name.
  const Session session;
  fs::create_symlink("s.jsonl", session.directory / "link");
  fs::create_directory_symlink(".", session.directory / "here");
  LockManager manager;
  const auto lock = held(manager.try_acquire(session.path));
  for (const fs::path& path : {session.path, session.directory / "link", session.directory / "here/s.jsonl",
                               session.directory / "here/link", fs::path(session.directory.path()) / "./s.jsonl"}) {
    CAPTURE(path);
    CHECK(code_of(manager.try_acquire(path)) == Errc::locked);
    CHECK(code_of(LockManager().try_acquire(path, reentrant())) == Errc::locked);
  }
  CHECK(names_in(session.directory.path()) == std::vector<std::string>{"here", "link", "s.jsonl.lock"});
}

TEST_CASE("a re-entrant lock outlives all but the last release") {
  const Session session;
  fs::create_symlink("s.jsonl", session.directory / "link");
  fs::create_directory_symlink(".", session.directory / "here");
  LockManager manager;
  auto outer = held(manager.acquire(session.path, reentrant()));
  auto inner = held(manager.acquire(session.directory / "link", reentrant()));
  auto innermost = held(LockManager().acquire(session.directory / "here/link", reentrant()));
  REQUIRE(manager.held().size() == 1);
  CHECK(manager.held().front().depth == 3);
  CHECK(inner.record() == outer.record());
  CHECK(outer.release().has_value());
  CHECK(outer.release().has_value());  // counts once
  CHECK(fs::exists(session.lock));
  CHECK(innermost.release().has_value());
  CHECK(fs::exists(session.lock));
  CHECK(inner.verify().has_value());
  CHECK(code_of(outer.verify()) == Errc::lost);
  CHECK(inner.release().has_value());
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a share that is given up tells that the lock was lost, though others still share it") {
  const Session session;
  LockManager manager;
  auto outer = held(manager.acquire(session.path, reentrant()));
  auto inner = held(manager.acquire(session.path, reentrant()));
  fs::remove(session.lock);
  CHECK(code_of(outer.verify()) == Errc::lost);
  CHECK(code_of(inner.release()) == Errc::lost);
  CHECK(code_of(outer.release()) == Errc::lost);
  CHECK(!outer.owns());
}

TEST_CASE("threads with one token share the lock that the first of them waits for") {
  const Session session;
  auto holder = holder_of(session.path);
  AcquireOptions options = reentrant("token");
  options.timeout = std::chrono::milliseconds::max();
  std::atomic<int> contending{0};
  ManagerOptions observed;
  observed.observer = [&](const Event& event) { contending += event.kind == EventKind::contended ? 1 : 0; };
  LockManager manager(observed);
  std::vector<SessionLock> locks(2);
  std::vector<std::thread> threads;
  for (auto& lock : locks) {
    threads.emplace_back([&] { lock = value_or_throw(manager.acquire(session.path, options)); });
  }
  wait_until("both wait", [&] { return contending == 2; });
  CHECK(manager.held().empty());  // nobody has it yet
  holder.tell("release");
  for (auto& thread : threads) {
    thread.join();
  }
  REQUIRE(manager.held().size() == 1);
  CHECK(manager.held().front().depth == 2);
  CHECK(locks[0].record() == locks[1].record());
  CHECK(locks[0].release().has_value());
  CHECK(locks[1].verify().has_value());
}

TEST_CASE("only the thread that acquired, or an equal token, shares a re-entrant lock") {
  const Session session;
  const auto in_another_thread = [&](const AcquireOptions& options) {
    std::error_code code;
    std::thread([&] { code = code_of(LockManager().acquire(session.path, options)); }).join();
    return code;
  };
  SUBCASE("without a token the thread decides") {
    const auto lock = held(LockManager().acquire(session.path, reentrant()));
    CHECK(in_another_thread(reentrant()) == Errc::locked);
    CHECK(in_another_thread(reentrant("a")) == Errc::locked);
    CHECK(code_of(LockManager().acquire(session.path, reentrant("a"))) == Errc::locked);
    CHECK(code_of(LockManager().acquire(session.path, reentrant())) == std::error_code());
  }
  SUBCASE("with one the token does") {
    const auto lock = held(LockManager().acquire(session.path, reentrant("a")));
    CHECK(in_another_thread(reentrant("a")) == std::error_code());
    CHECK(in_another_thread(reentrant("b")) == Errc::locked);
    CHECK(in_another_thread(reentrant()) == Errc::locked);
    CHECK(code_of(LockManager().acquire(session.path, reentrant())) == Errc::locked);
    CHECK(fs::exists(session.lock));
  }
}

TEST_CASE("only the outermost acquisition took something over") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  const auto outer = held(LockManager().acquire(session.path, reentrant()));
  const auto inner = held(LockManager().acquire(session.path, reentrant()));
  CHECK(outer.reclaimed_from().has_value());
  CHECK(!inner.reclaimed_from().has_value());
}

TEST_CASE("who joins a hold writes under it, and releases nothing") {
  // Protects: `HoldParams::joined`, and the comparison of lock ids in `LockManager::join`.
  const Session session;
  LockManager manager;
  auto lock = held(manager.try_acquire(session.path));
  const std::string id = lock.record().lock_id.value();
  auto child = ChildProcess::run([&](Channel& parent) {
    LockManager other;
    REQUIRE_IN_CHILD(code_of(other.join(session.path, std::string(32, '0'))) == Errc::lost);
    REQUIRE_IN_CHILD(code_of(other.join(session.path, "")) == Errc::lost);
    REQUIRE_IN_CHILD(code_of(other.join(session.directory / "other.jsonl", id)) == Errc::lost);
    auto joined = held(other.join(session.path, id));
    REQUIRE_IN_CHILD(joined.record().lock_id == id);
    REQUIRE_IN_CHILD(joined.guarded([&] { write_text(session.path, "joined"); }).has_value());
    REQUIRE_IN_CHILD(joined.release().has_value());
    REQUIRE_IN_CHILD(fs::exists(session.lock));
    const auto again = held(other.join(session.path, id));
    parent.tell("joined");
    REQUIRE_IN_CHILD(parent.hear() == "released");
    REQUIRE_IN_CHILD(code_of(again.guarded([&] { write_text(session.path, "too late"); })) == Errc::lost);
    REQUIRE_IN_CHILD(code_of(other.join(session.path, id)) == Errc::lost);
    return 0;
  });
  child.expect("joined");
  CHECK(lock.verify().has_value());
  CHECK(lock.release().has_value());
  child.tell("released");
  CHECK(child.wait().exited_with(0));
  CHECK(read_text(session.path) == "joined");
}

TEST_CASE(
    "what a hold says of itself is what its lock file says, in the process that joined it and after a fork, too") {
  const Session session;
  for (const bool beside : {true, false}) {
    ManagerOptions manager_options;
    if (!beside) {
      manager_options.lock_directory = session.directory / "locks";
    }
    LockManager manager(manager_options);
    AcquireOptions options;
    options.label = "nightly \"build\"";
    options.max_hold = 90s;
    const auto lock = held(manager.acquire(session.path, options));
    const LockRecord written = parse_lock_record(read_text(lock.lock_path()));
    REQUIRE(written.pid == ::getpid());
    CHECK(written.max_hold_ms == 90'000);
    CHECK(written.session.has_value() != beside);
    const auto listed = manager.held();
    REQUIRE(listed.size() == 1);
    CHECK(listed.front().record == written);  // before anybody asked the hold
    CHECK(lock.record() == written);
    CHECK(&lock.record() == &lock.record());
    auto child = ChildProcess::run([&](Channel&) {
      REQUIRE_IN_CHILD(lock.record() == written);
      LockManager other(manager_options);
      const auto joined = held(other.join(session.path, *written.lock_id));
      REQUIRE_IN_CHILD(joined.record() == written);
      return 0;
    });
    CHECK(child.wait().exited_with(0));
  }
}

TEST_CASE("who joined a hold is told when the same file is another's by now, and trouble in reading is not that") {
  const Session session;
  LockManager manager;
  const auto lock = held(manager.try_acquire(session.path));
  const auto joined = held(LockManager().join(session.path, lock.record().lock_id.value()));
  const std::string text = read_text(session.lock);
  {
    const Script script(failing(sys::Call::pread, EIO));
    CHECK(code_of(joined.guarded([] {})) == std::errc::io_error);
    CHECK(code_of(joined.verify()) == std::errc::io_error);
  }
  CHECK(is_unguarded(session.lock));
  CHECK(joined.verify().has_value());
  LockRecord successor = lock.record();
  successor.lock_id = std::string(32, 'f');
  write_text(session.lock, format_lock_record(successor));
  bool ran = false;
  CHECK(code_of(joined.guarded([&] { ran = true; })) == Errc::lost);
  CHECK(!ran);
  CHECK(is_unguarded(session.lock));
  write_text(session.lock, text);
  CHECK(code_of(joined.verify()) == Errc::lost);  // lost is final
}

TEST_CASE("a hold that has no lock id cannot be joined") {
  const Session session;
  plant(session.lock, foreign_record(::getpid(), start_of(::getpid())));
  CHECK(code_of(LockManager().join(session.path, "")) == Errc::lost);
  CHECK(code_of(LockManager().join(session.path, std::to_string(::getpid()))) == Errc::lost);
}

TEST_CASE("a child that drops what it inherited of a joined hold ends nothing") {
  const Session session;
  LockManager manager;
  const auto lock = held(manager.try_acquire(session.path));
  std::optional<SessionLock> joined = held(LockManager().join(session.path, lock.record().lock_id.value()));
  CHECK(joined
            ->guarded([&] {
              auto child = ChildProcess::run([&](Channel&) {
                joined.reset();
                return is_unguarded(session.lock) ? 1 : 0;
              });
              CHECK(child.wait().exited_with(0));
            })
            .has_value());
  CHECK(joined->verify().has_value());
  CHECK(is_unguarded(session.lock));
  auto child = ChildProcess::run([&](Channel&) {
    std::vector<int> own;  // the numbers that the handle had are the child's own now
    for (int i = 0; i < 16; ++i) {
      own.push_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    }
    joined.reset();
    return std::all_of(own.begin(), own.end(), [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; }) ? 0 : 1;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(joined->verify().has_value());
}

TEST_CASE("links and their targets are one session between processes") {
  const Session session;
  fs::create_directory(session.directory / "real");
  fs::create_directory_symlink("real", session.directory / "link");
  fs::create_symlink("real/missing", session.directory / "dangling");
  {
    const auto holder = holder_of(session.directory / "real/s");
    CHECK(code_of(try_lock(session.directory / "link/s")) == Errc::locked);
  }
  const auto holder = holder_of(session.directory / "dangling");
  CHECK(fs::exists(session.directory / "real/missing.lock"));
  CHECK(code_of(try_lock(session.directory / "link/missing")) == Errc::locked);
}

TEST_CASE("a hard-linked session is refused unless that is accepted") {
  const Session session;
  write_text(session.path, "");
  fs::create_hard_link(session.path, session.directory / "alias");
  const auto refused = try_lock(session.path);
  CHECK(code_of(refused) == Errc::aliased_session);
  CHECK(refused.error().message().find("--allow-hard-links") != std::string::npos);
  CHECK(!fs::exists(session.lock));
  AcquireOptions options;
  options.allow_hard_links = true;
  CHECK(LockManager().acquire(session.path, options).has_value());
  CHECK(LockManager().inspect(session.path).has_value());
}

TEST_CASE("locks in a directory of their own name their session") {
  const Session session;
  ManagerOptions options;
  options.lock_directory = session.directory / "locks";
  options.mode = 0644;
  LockManager manager(options);
  auto lock = held(manager.try_acquire(session.path));
  CHECK(lock.lock_path() == session.directory / "locks" / lock_name_in_directory(session.path));
  CHECK(lock.record().session == session.path.string());
  CHECK((fs::status(lock.lock_path()).permissions() & fs::perms::others_read) == fs::perms::others_read);
  CHECK(code_of(manager.try_acquire(session.path)) == Errc::locked);
  CHECK(manager.inspect(session.path)->state == LockState::held);
  CHECK(lock.release().has_value());
  CHECK(names_in(options.lock_directory).empty());
}

namespace {

/// A session `x/y/s` whose lock lies in `locks`, held.
struct LockElsewhere {
  explicit LockElsewhere(const fs::path& given = "locks") {
    fs::create_directories(root / "x/y");
    fs::create_directory(root / "locks");
    options.lock_directory = root / given;
  }
  [[nodiscard]] SessionLock acquire() const { return held(LockManager(options).try_acquire(root / "x/y/s")); }

  TemporaryDirectory root{};
  ManagerOptions options{};
};

/// Nothing is written under a lock that is not reached any more, and its file is gone.
void check_lost(const SessionLock& lock, const fs::path& file) {
  bool ran = false;
  const auto written = lock.guarded([&] { ran = true; });
  REQUIRE(code_of(written) == Errc::lost);
  CHECK(written.error().message().find("has been moved") != std::string::npos);
  CHECK(!ran);
  CHECK(!lock.owns());
  CHECK(!fs::exists(file));
  CHECK(code_of(lock.verify()) == Errc::lost);
}

}  // namespace

TEST_CASE("a session whose directory is renamed has one writer, although its locks lie elsewhere") {
  // Protects: `Hold::check_reach` in a guarded write, and the name of the lock in `is_reached`.
  const LockElsewhere at;
  auto lock = at.acquire();
  const auto file = at.root / "locks" / lock.lock_path().filename();
  fs::path now;
  SUBCASE("itself") {
    fs::rename(at.root / "x/y", at.root / "x/z");
    now = at.root / "x/z/s";
  }
  SUBCASE("itself, with a link in its old place") {
    fs::rename(at.root / "x/y", at.root / "x/z");
    fs::create_directory_symlink("z", at.root / "x/y");
    now = at.root / "x/y/s";
  }
  SUBCASE("with one above it") {
    fs::rename(at.root / "x", at.root / "w");
    now = at.root / "w/y/s";
  }
  const auto other = held(LockManager(at.options).try_acquire(now));
  CHECK(other.guarded([] {}).has_value());
  check_lost(lock, file);
  CHECK(other.verify().has_value());
  CHECK(names_in(at.root / "locks").size() == 1);
}

TEST_CASE("a lock is lost when its directory of locks is not where others look for it") {
  // Protects: both paths to the directory of locks in `is_reached`.
  SUBCASE("because it was renamed") {
    const LockElsewhere at;
    const auto lock = at.acquire();
    fs::rename(at.root / "locks", at.root / "old");
    const auto other = at.acquire();
    check_lost(lock, at.root / "old" / lock.lock_path().filename());
    CHECK(other.guarded([] {}).has_value());
  }
  SUBCASE("because the link to it was turned to another") {
    const LockElsewhere at("link");
    fs::create_directory_symlink("locks", at.root / "link");
    const auto lock = at.acquire();
    fs::remove(at.root / "link");
    fs::create_directory(at.root / "others");
    fs::create_directory_symlink("others", at.root / "link");
    const auto other = at.acquire();
    check_lost(lock, at.root / "locks" / lock.lock_path().filename());
    CHECK(other.guarded([] {}).has_value());
  }
  SUBCASE("because it was renamed, though the link to it was turned after it") {
    const LockElsewhere at("link");
    fs::create_directory_symlink("locks", at.root / "link");
    const auto lock = at.acquire();
    fs::rename(at.root / "locks", at.root / "others");
    fs::remove(at.root / "link");
    fs::create_directory_symlink("others", at.root / "link");
    check_lost(lock, at.root / "others" / lock.lock_path().filename());
  }
}

TEST_CASE("a lock is lost when something is mounted over its session's directory or its directory of locks") {
  const LockElsewhere at;
  const auto covered = [&](const std::string& directory) {
    return run_in_namespaces({CLONE_NEWNS}, [&](Channel&) {
      const auto lock = at.acquire();
      REQUIRE_IN_CHILD(lock.verify().has_value());
      REQUIRE_IN_CHILD(::mount("tmpfs", (at.root / directory).c_str(), "tmpfs", 0, nullptr) == 0);
      bool ran = false;
      REQUIRE_IN_CHILD(code_of(lock.guarded([&] { ran = true; })) == Errc::lost);
      REQUIRE_IN_CHILD(!ran);
      return 0;
    });
  };
  for (const std::string directory : {"x/y", "x", "locks"}) {
    CAPTURE(directory);
    const auto run = covered(directory);
    if (!run.why_not.empty()) {
      skip_aloud(run.why_not);
      return;
    }
    CHECK(run.ended.exited_with(0));
    CHECK(names_in(at.root / "locks").empty());
  }
}

TEST_CASE("a lock is kept when its directory of locks is moved and can be reached as before") {
  const LockElsewhere at;
  auto lock = at.acquire();
  fs::rename(at.root / "locks", at.root / "new");
  fs::create_directory_symlink("new", at.root / "locks");
  CHECK(lock.verify().has_value());
  CHECK(lock.guarded([] {}).has_value());
  CHECK(code_of(LockManager(at.options).try_acquire(at.root / "x/y/s")) == Errc::locked);
  CHECK(lock.release().has_value());
  CHECK(names_in(at.root / "new").empty());
}

TEST_CASE("a verification and a release say that a session was moved away from its lock, and remove that") {
  // Protects: `check_reach` in `Hold::verify` and in `Hold::release_now`.
  const LockElsewhere at;
  auto lock = at.acquire();
  SUBCASE("verification") {
    fs::rename(at.root / "x", at.root / "w");
    CHECK(code_of(lock.verify()) == Errc::lost);
  }
  SUBCASE("verification inside a guarded write, which keeps the lock file until that ends") {
    CHECK(lock.guarded([&] {
                fs::rename(at.root / "x", at.root / "w");
                CHECK(code_of(lock.verify()) == Errc::lost);
                CHECK(names_in(at.root / "locks").size() == 1);
              })
              .has_value());
    CHECK(code_of(lock.guarded([] {})) == Errc::lost);
  }
  SUBCASE("release") {
    fs::rename(at.root / "x", at.root / "w");
    CHECK(code_of(lock.release()) == Errc::lost);
  }
  CHECK(!lock.owns());
  CHECK(names_in(at.root / "locks").empty());
}

TEST_CASE("a lock that is lost while another process has its file is removed as soon as that is done with it") {
  // Protects: `leaves_file_` in `Hold::end`. The session gets its path back, and nobody holds it.
  const LockElsewhere at;
  auto lock = at.acquire();
  auto writer = ChildProcess::run([&](Channel& parent) {
    LockManager other(at.options);
    const auto joined = held(other.join(at.root / "x/y/s", lock.record().lock_id.value()));
    REQUIRE_IN_CHILD(joined
                         .guarded([&] {
                           parent.tell("writing");
                           (void)parent.hear();
                         })
                         .has_value());
    return 0;
  });
  writer.expect("writing");
  fs::rename(at.root / "x", at.root / "w");
  CHECK(code_of(lock.verify()) == Errc::lost);
  REQUIRE(names_in(at.root / "locks").size() == 1);
  writer.tell("done");
  REQUIRE(writer.wait().exited_with(0));
  fs::rename(at.root / "w", at.root / "x");
  retry_releases();
  CHECK(names_in(at.root / "locks").empty());
  auto next = ChildProcess::run([&](Channel&) {
    AcquireOptions once;
    once.timeout = 0ms;
    return LockManager(at.options).acquire(at.root / "x/y/s", once) ? 0 : 1;
  });
  CHECK(next.wait().exited_with(0));
}

TEST_CASE("a joined handle whose session was moved writes nothing, and leaves the lock file to its owner") {
  const LockElsewhere at;
  auto lock = at.acquire();
  const auto joined = held(LockManager(at.options).join(at.root / "x/y/s", *lock.record().lock_id));
  CHECK(joined.guarded([] {}).has_value());
  fs::rename(at.root / "x", at.root / "w");
  CHECK(code_of(joined.guarded([] {})) == Errc::lost);
  CHECK(names_in(at.root / "locks").size() == 1);
  CHECK(code_of(lock.release()) == Errc::lost);
  CHECK(names_in(at.root / "locks").empty());
}

TEST_CASE("a relative directory of locks is the one where the manager was constructed") {
  // Protects: the absolute path in `LockManager`'s constructor.
  const LockElsewhere at;
  const WorkingDirectory before(at.root.path());
  ManagerOptions relative;
  relative.lock_directory = "locks";
  LockManager manager(relative);
  const auto lock = held(manager.try_acquire(at.root / "x/y/s"));
  const WorkingDirectory now("/");
  CHECK(lock.verify().has_value());
  CHECK(code_of(manager.try_acquire(at.root / "x/y/s")) == Errc::locked);
}

TEST_CASE("trouble in looking for a session's directory or a directory of locks is not a lost lock") {
  // Protects: the errors of `is_reached`.
  const LockElsewhere at;
  auto lock = at.acquire();
  for (const std::string path : {"/locks", "/x/y"}) {
    CAPTURE(path);
    {
      const Script script(
          [&](const sys::CallInfo& info) { return is_call_on(info, sys::Call::fstatat, path) ? EIO : 0; });
      bool ran = false;
      CHECK(code_of(lock.guarded([&] { ran = true; })) == std::errc::io_error);
      CHECK(!ran);
      CHECK(code_of(lock.verify()) == std::errc::io_error);
    }
    CHECK(is_unguarded(lock.lock_path()));
    CHECK(lock.verify().has_value());
  }
  const Script script(
      [&](const sys::CallInfo& info) { return is_call_on(info, sys::Call::fstatat, "/locks") ? EIO : 0; });
  CHECK(lock.release().has_value());  // the file goes, and that is what counts
  CHECK(names_in(at.root / "locks").empty());
}

// --- guarded writes --------------------------------------------------------------------------------------------------

TEST_CASE("a guarded write gives back what the function does") {
  const Session session;
  const auto lock = held(try_lock(session.path));
  CHECK(lock.guarded([] {}).has_value());
  CHECK(*lock.guarded([] { return 7; }) == 7);
  CHECK(*lock.guarded([]() -> Result<int> { return 8; }) == 8);
  CHECK(code_of(lock.guarded([]() -> Result<int> { return tl::unexpected(Error{Errc::invalid_record}); })) ==
        Errc::invalid_record);
  CHECK(code_of(SessionLock().guarded([] {})) == Errc::lost);
}

TEST_CASE("a guarded write has the lock file's flock until the outermost ends") {
  const Session session;
  const auto lock = held(try_lock(session.path));
  CHECK(is_unguarded(session.lock));
  CHECK(lock.guarded([&] {
              CHECK(!is_unguarded(session.lock));
              CHECK(lock.guarded([&] { CHECK(!is_unguarded(session.lock)); }).has_value());
              CHECK(!is_unguarded(session.lock));
              CHECK(lock.verify().has_value());
            })
            .has_value());
  CHECK(is_unguarded(session.lock));
}

TEST_CASE("an exception ends a guarded write and propagates") {
  const Session session;
  const auto lock = held(try_lock(session.path));
  CHECK_THROWS_AS((void)lock.guarded([&] { (void)lock.guarded([] { throw std::runtime_error("inside"); }); }),
                  std::runtime_error);
  CHECK(is_unguarded(session.lock));
  CHECK(lock.guarded([] {}).has_value());
}

TEST_CASE("giving up a lock inside its own guarded write takes effect when that ends") {
  const Session session;
  std::optional<SessionLock> lock = held(try_lock(session.path));
  SUBCASE("by release") {
    CHECK(lock->guarded([&] {
                CHECK(lock->release().has_value());
                CHECK(fs::exists(session.lock));
                CHECK(!is_unguarded(session.lock));
              })
              .has_value());
  }
  SUBCASE("by destruction") {
    CHECK(lock->guarded([&] {
                lock.reset();
                CHECK(fs::exists(session.lock));
              })
              .has_value());
  }
  SUBCASE("by assignment") {
    CHECK(lock->guarded([&] {
                *lock = SessionLock();
                CHECK(fs::exists(session.lock));
              })
              .has_value());
  }
  SUBCASE("by release in a nested one that throws") {
    try {
      (void)lock->guarded([&] {
        (void)lock->guarded([&] {
          CHECK(lock->release().has_value());
          throw 1;
        });
      });
    } catch (int) {
      CHECK(!fs::exists(session.lock));
    }
  }
  CHECK(!fs::exists(session.lock));
  CHECK(LockManager().held().empty());
  CHECK(try_lock(session.path).has_value());
}

TEST_CASE("giving up a lock inside its own guarded write is tried again when it fails at the end of that") {
  // Protects: `keep_for_retry` in `Hold::release_after_guard`.
  const Session session;
  const auto other = session.directory / "other.jsonl";
  auto lock = held(try_lock(session.path));
  {
    const Script script(failing(sys::Call::unlinkat, EIO));
    CHECK(lock.guarded([&] { CHECK(lock.release().has_value()); }).has_value());
  }
  CHECK(fs::exists(session.lock));
  CHECK(!lock.owns());
  CHECK(held(try_lock(other)).owns());
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a release that waits for a write comes before the next one") {
  // Protects: `queued_` in `Hold::claim`. A busy machine may need more than one try.
  bool came_first = false;
  for (int tries = 0; tries < 8 && !came_first; ++tries) {
    const Session session;
    auto lock = held(try_lock(session.path));
    Result<void> released;
    std::thread releaser;
    CHECK(lock.guarded([&] {
                releaser = std::thread([&] { released = lock.release(); });
                std::this_thread::sleep_for(10ms * (1 << tries));  // lets it queue
              })
              .has_value());
    came_first = code_of(lock.guarded([] {})) == Errc::lost;
    releaser.join();
    CHECK(released.has_value());
  }
  CHECK(came_first);
}

TEST_CASE("threads of one process write one at a time, and a release waits for them") {
  // Protects: `Hold::claim`; a `flock` on one open file description excludes no threads of one process.
  const Session session;
  auto lock = held(try_lock(session.path));
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
  std::atomic<bool> started{false};
  std::atomic<bool> stop{false};
  const auto write = [&] {
    overlapped = overlapped || ++inside > 1;
    started = true;
    std::this_thread::yield();
    --inside;
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      while (!stop && lock.guarded(write)) {
      }
    });
  }
  while (!started) {
    std::this_thread::yield();
  }
  std::this_thread::sleep_for(20ms);
  bool idle_at_unlink = true;
  {
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (is_call_on(info, sys::Call::unlinkat, "s.jsonl.lock")) {
        idle_at_unlink = inside == 0;
      }
      return 0;
    }));
    auto released = lock.release();
    if (!released) {  // on a busy machine it can find no moment between the others' writes
      CHECK(code_of(released) == Errc::timed_out);
      stop = true;
      released = lock.release();
    }
    stop = true;
    for (auto& thread : threads) {
      thread.join();
    }
    CHECK(released.has_value());
  }
  CHECK(idle_at_unlink);
  CHECK(!overlapped);
}

TEST_CASE("who cannot write, or release, for a while is told who is in the way, and can try again") {
  const Session session;
  auto lock = held(try_lock(session.path));
  auto stranger = ChildProcess::run([&](Channel& parent) {
    const int fd = ::open(session.lock.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE_IN_CHILD(::flock(fd, LOCK_EX) == 0);
    parent.tell("locked");
    (void)parent.hear();
    return 0;
  });
  stranger.expect("locked");
  // At the same time, because both take as long: what another thread of this process writes is waited for no longer.
  const Session other_session;
  auto other_lock = held(try_lock(other_session.path));
  std::promise<void> writing;
  std::promise<void> refused_meanwhile;
  std::thread writer([&] {
    CHECK(other_lock
              .guarded([&] {
                writing.set_value();
                refused_meanwhile.get_future().wait();
              })
              .has_value());
  });
  std::thread releaser([&] {
    writing.get_future().wait();
    const auto released = other_lock.release();
    CHECK(code_of(released) == Errc::timed_out);
    CHECK(released.error().message().find("another thread of this process") != std::string::npos);
    refused_meanwhile.set_value();
  });
  const auto refused = lock.guarded([] {});
  releaser.join();
  writer.join();
  CHECK(other_lock.release().has_value());
  CHECK(code_of(refused) == Errc::timed_out);
  CHECK(refused.error().message().find("pid " + std::to_string(stranger.pid())) != std::string::npos);
  (void)stranger.kill();
  CHECK(lock.guarded([] {}).has_value());
  CHECK(lock.release().has_value());
}

TEST_CASE("trouble in checking is not a lost lock") {
  const Session session;
  const auto lock = held(try_lock(session.path));
  {
    const Script script(failing(sys::Call::fstatat, EIO));
    bool ran = false;
    CHECK(code_of(lock.guarded([&] { ran = true; })) == std::error_code(EIO, std::system_category()));
    CHECK(!ran);
    CHECK(code_of(lock.verify()) == std::error_code(EIO, std::system_category()));
  }
  CHECK(is_unguarded(session.lock));
  CHECK(lock.verify().has_value());
}

// --- taken away by an operator ---------------------------------------------------------------------------------------

TEST_CASE("a lock that was forced away is lost before a byte is written") {
  const Session session;
  auto holder = ChildProcess::run([&](Channel& parent) {
    const auto lock = held(try_lock(session.path));
    parent.tell(*lock.record().lock_id);
    (void)parent.hear();
    bool ran = false;
    const auto code = code_of(lock.guarded([&] { ran = true; }));
    return code == Errc::lost && !ran ? 0 : 1;
  });
  const std::string id = *holder.hear();
  LockManager manager;
  CHECK(code_of(manager.force_release(session.path, id)) == Errc::locked);
  CHECK(code_of(manager.force_release(session.path, std::string(32, '0'), true)) == Errc::lost);
  CHECK(fs::exists(session.lock));
  const auto removed = manager.force_release(session.path, id, true);
  REQUIRE(removed.has_value());
  CHECK(removed->removed);
  CHECK(removed->record.pid == holder.pid());
  CHECK(!fs::exists(session.lock));
  CHECK(code_of(manager.force_release(session.path, id, true)) == Errc::lost);
  const auto successor = held(try_lock(session.path));
  holder.tell("go on");
  CHECK(holder.wait().exited_with(0));
  CHECK(successor.verify().has_value());
}

TEST_CASE("a lock inside a guarded write cannot be forced away, and the pid to kill is named") {
  const Session session;
  auto holder = ChildProcess::run([&](Channel& parent) {
    const auto lock = held(try_lock(session.path));
    return lock.guarded([&] {
                 parent.tell(*lock.record().lock_id);
                 (void)parent.hear();
               }).has_value()
               ? 0
               : 1;
  });
  const std::string id = *holder.hear();
  const auto refused = LockManager().force_release(session.path, id, true);
  CHECK(code_of(refused) == Errc::locked);
  CHECK(refused.error().detail.find("pid " + std::to_string(holder.pid())) != std::string::npos);
  holder.tell("go on");
  CHECK(holder.wait().exited_with(0));
}

TEST_CASE("a lock whose flock nobody here can be seen to have is busy all the same") {
  const Session session;
  const auto owner = idle_process();
  plant(session.lock, foreign_record(owner.pid()));
  const Script script(failing(sys::Call::flock, EWOULDBLOCK));
  const auto refused = LockManager().force_release(session.path, std::to_string(owner.pid()), true);
  CHECK(code_of(refused) == Errc::locked);
  CHECK(refused.error().detail == "a guarded write is under way");
}

TEST_CASE("a lock that names nobody cannot be named to be forced away") {
  const Session session;
  plant(session.lock, "{}");
  const auto refused = LockManager().force_release(session.path, "1", true);
  CHECK(code_of(refused) == Errc::lost);
  CHECK(refused.error().detail == "the lock names neither an acquisition nor a pid");
  CHECK(fs::exists(session.lock));
}

TEST_CASE("a lock that cannot be read is neither joined nor forced away, and nothing else is said of it") {
  const Session session;
  auto holder = holder_of(session.path);
  const std::string id = *value_or_throw(LockManager().inspect(session.path)).record.lock_id;
  const Script script(failing(sys::Call::pread, EIO));
  CHECK(code_of(LockManager().force_release(session.path, id, true)) == std::errc::io_error);
  CHECK(code_of(LockManager().join(session.path, id)) == std::errc::io_error);
  CHECK(fs::exists(session.lock));
}

TEST_CASE("who may not take a lock away by force does not even lock it") {
  const Session session;
  const auto holder = holder_of(session.path);
  int locked = 0;
  const Script script([&](const sys::CallInfo& info) {
    locked += info.call == sys::Call::flock ? 1 : 0;
    return 0;
  });
  CHECK(code_of(LockManager().force_release(session.path, std::to_string(holder.pid()), true)) == Errc::lost);
  const std::string id = *value_or_throw(LockManager().inspect(session.path)).record.lock_id;
  CHECK(code_of(LockManager().force_release(session.path, id)) == Errc::locked);
  CHECK(locked == 0);
}

TEST_CASE("without force, age alone does not take a lock whose owner may be alive") {
  // Protects: the policy in `ForcedRelease::judge_and_check`.
  const Session session;
  const auto owner = idle_process();
  const std::string pid = std::to_string(owner.pid());
  plant(session.lock, foreign_record(owner.pid(), "", 24h));
  make_older(session.lock, 24h);
  CHECK(LockManager().inspect(session.path)->removable);  // an acquire's policy would
  CHECK(code_of(LockManager().force_release(session.path, pid)) == Errc::locked);
  CHECK(fs::exists(session.lock));
  CHECK(LockManager().force_release(session.path, pid, true).has_value());
  plant(session.lock, foreign_record(dead_pid(), "7"));
  const auto record = parse_lock_record(read_text(session.lock));
  CHECK(LockManager().force_release(session.path, std::to_string(*record.pid)).has_value());
}

// --- forks -----------------------------------------------------------------------------------------------------------

TEST_CASE("a child that was forked inside a guarded write does not end it") {
  // Protects: `is_inherited` in `Hold::leave_guard`: an unlock there would be the parent's (trap 12).
  const Session session;
  const auto lock = held(try_lock(session.path));
  for (const ForkWay& way : k_fork_ways) {
    CAPTURE(way.name);
    pid_t child = -1;
    const auto written = lock.guarded([&] {
      child = way.fork();
      if (child > 0) {
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status));
        CHECK(!is_unguarded(session.lock));
      }
    });
    if (child == 0) {
      ::_exit(0);
    }
    CHECK(written.has_value());
    CHECK(is_unguarded(session.lock));
    CHECK(lock.verify().has_value());
  }
}

TEST_CASE("a program that was given the lock keeps it when its starter is killed, until it ends") {
  const Session session;
  auto starter = ChildProcess::run([&](Channel& parent) {
    const auto lock = held(try_lock(session.path));
    std::string name = "sleep";
    std::string time = "1000";
    char* const arguments[] = {name.data(), time.data(), nullptr};
    const auto program = lock.spawn_with(name.c_str(), arguments, environ);
    REQUIRE_IN_CHILD(program.has_value());
    parent.tell(std::to_string(*program));
    (void)parent.hear();
    return 0;
  });
  const pid_t program = static_cast<pid_t>(std::stoi(*starter.hear()));
  (void)starter.kill();
  const auto refused = try_lock(session.path);
  ::kill(program, SIGKILL);
  CHECK(code_of(refused) == Errc::locked);
  CHECK(refused.error().holder->basis == Basis::witness_inherited);
  CHECK(refused.error().message().find("ended, a program it gave the lock to runs on") != std::string::npos);
  AcquireOptions options;
  CHECK(LockManager().acquire(session.path, options).has_value());
}

TEST_CASE("only the owner can give a program the lock: a handle that joined it has no witness to pass on") {
  const Session session;
  const auto lock = held(LockManager().acquire(session.path));
  auto child = ChildProcess::run([&](Channel&) {
    LockManager other;
    const auto joined = held(other.join(session.path, lock.record().lock_id.value()));
    std::string name = "true";
    char* const arguments[] = {name.data(), nullptr};
    const auto spawned = joined.spawn_with("true", arguments, environ);
    REQUIRE_IN_CHILD(code_of(spawned) == Errc::invalid_argument);
    REQUIRE_IN_CHILD(spawned.error().message().find("owner") != std::string::npos);
    REQUIRE_IN_CHILD(joined.guarded([] {}).has_value());
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(lock.verify().has_value());
}

TEST_CASE("a program can be given the lock inside a guarded write") {
  const Session session;
  const auto lock = held(try_lock(session.path));
  char name[] = "true";
  char* const arguments[] = {name, nullptr};
  Result<pid_t> program = 0;
  CHECK(lock.guarded([&] { program = lock.spawn_with("true", arguments, environ); }).has_value());
  REQUIRE(program.has_value());
  int status = -1;
  CHECK(::waitpid(*program, &status, 0) == *program);
  CHECK(status == 0);
  CHECK(is_unguarded(session.lock));
}

TEST_CASE("no program is started under a lock whose descriptor is not the lock's any more, or cannot be asked") {
  const Session session;
  const auto ran = session.directory / "ran";
  std::string words[] = {"touch", ran.string()};
  char* const arguments[] = {words[0].data(), words[1].data(), nullptr};
  auto child = ChildProcess::run([&](Channel&) {
    const auto lock = held(try_lock(session.path));
    {
      const Script script(failing(sys::Call::fstat, EIO));
      REQUIRE_IN_CHILD(code_of(lock.spawn_with("touch", arguments, environ)) == std::errc::io_error);
    }
    for (int fd = 3; fd < 256; ++fd) {  // as a program that becomes a daemon
      ::close(fd);
    }
    REQUIRE_IN_CHILD(code_of(lock.spawn_with("touch", arguments, environ)) == std::errc::bad_file_descriptor);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(!fs::exists(ran));
}

// --- the end of the process ------------------------------------------------------------------------------------------

namespace {

/// A child that leaks a handle and then runs a function and ends normally.
Ended leak_and_exit(const Session& session, const ManagerOptions& options,
                    const std::function<void(SessionLock&)>& last = {}) {
  return ChildProcess::run_to_exit([&](Channel&) {
           static SessionLock* leaked = nullptr;  // static: leak checkers report what nobody can reach
           leaked = new SessionLock(held(LockManager(options).try_acquire(session.path)));
           if (last) {
             last(*leaked);
           }
           return 5;
         })
      .wait();
}

}  // namespace

TEST_CASE("what is held at a normal exit is released, unless that is not wanted") {
  const Session session;
  CHECK(leak_and_exit(session, {}).exited_with(5));
  CHECK(!fs::exists(session.lock));
  ManagerOptions options;
  options.release_at_exit = false;
  CHECK(leak_and_exit(session, options).exited_with(5));
  CHECK(fs::exists(session.lock));
  const auto lock = held(try_lock(session.path));  // the kernel saw to it
  CHECK(lock.reclaimed_from()->reasons.front() == StaleReason::dead_pid);
}

TEST_CASE("an exit inside a guarded write leaves the lock to the kernel") {
  const Session session;
  CHECK(leak_and_exit(session, {}, [](SessionLock& lock) { (void)lock.guarded([] { std::exit(6); }); }).exited_with(6));
  CHECK(fs::exists(session.lock));
  CHECK(held(try_lock(session.path)).reclaimed_from().has_value());
}

TEST_CASE("clean-up at exit waits for nobody") {
  const Session session;
  CHECK(leak_and_exit(session, {}, [&](SessionLock&) {
          const int fd = ::open(session.lock.c_str(), O_RDONLY | O_CLOEXEC);
          REQUIRE_IN_CHILD(::flock(fd, LOCK_EX) == 0);
        }).exited_with(5));
  CHECK(fs::exists(session.lock));
  CHECK(try_lock(session.path).has_value());
}

namespace {

void acquire_at_exit() {
  auto lock = LockManager().acquire(::getenv("SESSIONLOCK_TEST_SESSION"));
  ::_exit(lock && lock->guarded([] {}) && code_of(lock->release()) != Errc::lost ? 7 : 8);
}

/// Like the destructor of a static object that is older than any use of the library.
[[maybe_unused]] const int g_registered =
    ::getenv("SESSIONLOCK_TEST_SESSION") != nullptr ? std::atexit(acquire_at_exit) : 0;

}  // namespace

TEST_CASE("(at exit) the session is held" * doctest::skip()) {
  static const auto* const leaked = new SessionLock(held(try_lock(::getenv("SESSIONLOCK_TEST_SESSION"))));
  CHECK(leaked->owns());
}

TEST_CASE("a session can be acquired again after clean-up at exit") {
  // Protects: taking an ended hold off the table in `Ticket::enter`; and `make_tables_first`, without which the
  // program aborts. In a program of its own, because only there nothing was used before.
  const Session session;
  ExecOptions options;
  options.environment = {"SESSIONLOCK_TEST_SESSION=" + session.path.string()};
  const auto ran = run_command({"/proc/self/exe", "-tc=(at exit)*", "--no-skip"}, {}, options);
  CHECK_MESSAGE(ran.ended.exited_with(7), ran.out);
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a manager that is moved takes its options and its watchdog along") {
  const Session session;
  std::atomic<int> overruns{0};
  ManagerOptions options;
  options.watchdog_interval = 1ms;
  options.observer = [&](const Event& event) { overruns += event.kind == EventKind::overrun ? 1 : 0; };
  LockManager manager;
  {
    LockManager first(options);
    LockManager second(std::move(first));
    manager = std::move(second);
  }
  AcquireOptions brief;
  brief.max_hold = 0ms;
  auto lock = held(manager.try_acquire(session.path, brief));
  wait_until("the watchdog tells of it", [&] { return overruns > 0; });
  CHECK(lock.release().has_value());
}

TEST_CASE("handles outlive their manager") {
  const Session session;
  auto lock = [&] { return held(LockManager().try_acquire(session.path)); }();
  CHECK(lock.guarded([] {}).has_value());
  CHECK(lock.release().has_value());
}

TEST_CASE("an observer may destroy its manager, also from the watchdog's thread") {
  const Session session;
  std::promise<void> told;
  std::atomic<bool> may_destroy{false};
  std::unique_ptr<LockManager> manager;
  ManagerOptions options;
  options.watchdog_interval = 1ms;
  options.observer = [&](const Event& event) {
    if (event.kind == EventKind::overrun && may_destroy.exchange(false)) {
      manager.reset();
      told.set_value();
    }
  };
  manager = std::make_unique<LockManager>(options);
  AcquireOptions brief;
  brief.max_hold = 1ms;
  const auto lock = held(manager->acquire(session.path, brief));
  may_destroy = true;
  CHECK(told.get_future().wait_for(k_patience) == std::future_status::ready);
  CHECK(lock.verify().has_value());
}

TEST_CASE("nothing stays open after the last handle") {
  // In a process of its own: here a thread of another test may still be closing something.
  auto process = ChildProcess::run([](Channel&) {
    const Session session;
    {
      auto lock = held(try_lock(session.path));
      const auto nested = try_lock(session.path);
      REQUIRE_IN_CHILD(lock.release().has_value());
      REQUIRE_IN_CHILD(sys::open_descriptor_count() > 0);  // the number stays reserved
    }
    REQUIRE_IN_CHILD(sys::open_descriptor_count() == 0);
    return 0;
  });
  CHECK(process.wait().exited_with(0));
}

TEST_CASE("a program that closed every descriptor and reused their numbers publishes no lock in the wrong directory") {
  // Protects: the look at the descriptor itself in `find_open`.
  const TemporaryDirectory directory;
  fs::create_directory(directory / "a");
  fs::create_directory(directory / "b");
  const auto child = ChildProcess::run([&directory](Channel&) {
                       LockManager manager;
                       auto first = manager.try_acquire(directory / "a/one.jsonl");
                       REQUIRE_IN_CHILD(first.has_value());
                       ::close_range(3, ~0U, 0);
                       const std::string other = directory / "b";
                       while (::open(other.c_str(), O_RDONLY | O_DIRECTORY) < 20) {
                       }
                       const auto second = manager.try_acquire(directory / "a/two.jsonl");
                       REQUIRE_IN_CHILD(second.has_value());
                       REQUIRE_IN_CHILD(fs::exists(directory / "a/two.jsonl.lock"));
                       REQUIRE_IN_CHILD(fs::is_empty(directory / "b"));
                       REQUIRE_IN_CHILD(first->verify().error().code == Errc::lost);
                       return 0;
                     }).wait();
  CHECK(child.exited_with(0));
}

TEST_CASE("a thread that got the id of one that has ended does not pass for it") {
  // Protects: `this_thread` in hold.cpp. The C library gives a new thread the stack, and so the id, of the last.
  const Session session;
  SessionLock held;
  std::thread::id first_id;
  std::thread([&] {
    first_id = std::this_thread::get_id();
    held = LockManager().try_acquire(session.path, {.reentrant = true}).value();
  }).join();
  bool met_again = false;
  for (int i = 0; i < 100 && !met_again; ++i) {
    std::thread([&] {
      met_again = std::this_thread::get_id() == first_id;
      const auto lock = LockManager().try_acquire(session.path, {.reentrant = true});
      CHECK((!lock && lock.error().code == Errc::locked));
    }).join();
  }
  CHECK(met_again);
  CHECK(held.owns());
}
