// The stages of an acquire, one `advance` after the other: no thread, and no sleep.

#include "hold/acquisition.hpp"

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <sessionlock/counters.hpp>
#include <sessionlock/lock_manager.hpp>

#include "events.hpp"
#include "hold/yielding.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/lock_file.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Clock = Deadline::Clock;
using Stage = Acquisition::Stage;

namespace {

AcquireOptions patient() {
  AcquireOptions options;
  options.timeout = k_patience;
  return options;
}

/// An acquire, and what it refers to.
struct Acquire {
  explicit Acquire(const Session& session, AcquireOptions how = patient(), ManagerOptions managed = {})
      : path(session.path),
        manager(std::make_shared<const ManagerOptions>(std::move(managed))),
        options(std::move(how)) {
    machine.emplace(manager, path, options);
  }
  Acquisition* operator->() { return &*machine; }

  fs::path path;
  std::shared_ptr<const ManagerOptions> manager;
  AcquireOptions options;
  std::optional<Acquisition> machine{};
};

/// Another thread's lock of this process, as far as the queue is concerned.
SessionLock held_here(const Session& session, const AcquireOptions& options = {}) {
  return held(LockManager().try_acquire(session.path, options));
}

bool is_marked(const Session& session) {
  const int fd = ::open(session.lock.c_str(), O_RDWR | O_CLOEXEC);
  const bool is_marked = has_waiting_mark(fd, *place_in(session.directory.path(), "s.jsonl.lock").directory->traits);
  ::close(fd);
  return is_marked;
}

/// Fails each `flock` with EWOULDBLOCK, as while another process judges the lock, until told not to.
struct BusyFlock {
  bool is_busy{true};
  Script script{outermost(
      [this](const sys::CallInfo& info) { return info.call == sys::Call::flock && is_busy ? EWOULDBLOCK : 0; })};
};

}  // namespace

TEST_CASE("a free lock is acquired without a rest") {
  const Session session;
  Acquire acquire(session);
  CHECK(acquire->stage() == Stage::locate);
  REQUIRE(acquire->advance());
  CHECK(acquire->stage() == Stage::ended);
  CHECK(acquire->advance());  // it stays so
  const auto lock = acquire->take();
  REQUIRE(lock.has_value());
  CHECK(lock->lock_path() == session.lock);
  CHECK(lock->verify().has_value());
}

TEST_CASE("what is wrong with the arguments or the path is told without a rest") {
  const Session session;
  Acquire nameless(session);
  nameless.path.clear();
  REQUIRE(nameless->advance());
  CHECK(code_of(nameless->take()) == Errc::invalid_argument);
  AcquireOptions options;
  options.label = std::string(2000, 'x');
  Acquire talkative(session, options);
  REQUIRE(talkative->advance());
  CHECK(code_of(talkative->take()) == Errc::invalid_argument);
}

TEST_CASE("an acquire rests in the queue behind another thread's lock until its turn wakes it") {
  const Session session;
  auto other = held_here(session);
  const auto waits = counters().waits;
  Acquire acquire(session);
  REQUIRE(!acquire->advance());
  CHECK(acquire->stage() == Stage::queue);
  CHECK(acquire->rests_until() <= Clock::now() + 1s);
  REQUIRE(!acquire->advance());
  CHECK(counters().waits == waits + 1);
  CHECK(acquire->slot().take_cause() == WakeCause::time);
  REQUIRE(other.release().has_value());
  CHECK(acquire->slot().take_cause() == WakeCause::called);
  REQUIRE(acquire->advance());
  CHECK(acquire->take().has_value());
}

TEST_CASE("an acquire whose directory's descriptor became another directory's in the queue publishes nothing there") {
  // Protects: `has_usable_descriptors` in `Acquisition::yield`. As a program does that becomes a daemon:
  // 1. A rests in the queue. 2. The program closes all descriptors, and opens another directory under one of the
  // numbers.
  const Session session;
  const TemporaryDirectory elsewhere;
  auto child = ChildProcess::run([&](Channel&) {
    auto other = held_here(session);
    Acquire acquire(session);
    REQUIRE_IN_CHILD(!acquire->advance() && acquire->stage() == Stage::queue);
    int replaced = 0;
    for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
      std::error_code none;
      if (fs::read_symlink(entry.path(), none) == session.directory.path()) {
        const int directory = ::open(elsewhere.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
        REQUIRE_IN_CHILD(::dup3(directory, std::stoi(entry.path().filename()), O_CLOEXEC) > 0);
        ++replaced;
      }
    }
    REQUIRE_IN_CHILD(replaced > 0);
    REQUIRE_IN_CHILD(code_of(other.release()) == Errc::lost);
    bool published_elsewhere = false;
    const Script script([&](const sys::CallInfo&) {
      published_elsewhere = published_elsewhere || !names_in(elsewhere.path()).empty();
      return 0;
    });
    while (!acquire->advance()) {
      acquire->slot().wake();
    }
    const auto lock = acquire->take();
    REQUIRE_IN_CHILD(!published_elsewhere && names_in(elsewhere.path()).empty());
    REQUIRE_IN_CHILD(lock.has_value() && lock->verify().has_value());
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("in the queue an acquire gives up at its deadline and at a stop request, and those behind it move up") {
  const Session session;
  std::optional<SessionLock> other = held_here(session);
  std::stop_source source;
  AcquireOptions options = patient();
  Errc expected{};
  SUBCASE("the deadline") {
    options.timeout = 1ms;
    expected = Errc::timed_out;
  }
  SUBCASE("a stop request") {
    options.stop = source.get_token();
    expected = Errc::cancelled;
  }
  Acquire hasty(session, options);
  while (!hasty->advance()) {  // more than once only where the deadline has not come
    CHECK(hasty->stage() == Stage::queue);
    if (options.stop.stop_possible()) {
      CHECK(hasty->slot().take_cause() == WakeCause::time);
      source.request_stop();
      CHECK(hasty->slot().take_cause() == WakeCause::called);
    }
  }
  const auto refused = hasty->take();
  REQUIRE(!refused);
  CHECK(refused.error().code == expected);
  CHECK(refused.error().holder->basis == Basis::held_here);
  Acquire next(session);
  REQUIRE(!next->advance());
  other.reset();
  REQUIRE(next->advance());  // although `hasty` exists
  CHECK(next->take().has_value());
}

TEST_CASE("an acquire that is destroyed in the queue, or with the turn, leaves nothing") {
  const Session session;
  const auto descriptors = sys::open_descriptor_count();
  {
    auto holder = holder_of(session.path);
    Acquire first(session);
    Acquire second(session);
    Acquire third(session);
    REQUIRE(!first->advance());
    REQUIRE(!second->advance());
    REQUIRE(!third->advance());
    CHECK(first->stage() == Stage::wake);
    CHECK(second->stage() == Stage::queue);
    second.machine.reset();
    first.machine.reset();
    CHECK(third->slot().take_cause() == WakeCause::called);
    REQUIRE(!third->advance());
    CHECK(third->stage() == Stage::wake);
  }
  CHECK(sys::open_descriptor_count() <= descriptors + 1);  // the instance of inotify
  CHECK(Acquire(session)->advance());
}

TEST_CASE("a share is given to an acquire that queues, and to one that comes later") {
  const Session session;
  AcquireOptions options = patient();
  options.reentrant = true;
  options.owner = "both";
  auto holder = holder_of(session.path);
  Acquire first(session, options);
  Acquire second(session, options);
  REQUIRE(!first->advance());
  REQUIRE(!second->advance());
  holder.tell("release");
  holder.expect("released");
  while (!first->advance()) {
  }
  const auto lock = first->take();
  REQUIRE(lock.has_value());
  CHECK(second->slot().take_cause() == WakeCause::called);
  REQUIRE(second->advance());
  const auto share = second->take();
  REQUIRE(share.has_value());
  CHECK(share->record().lock_id == lock->record().lock_id);
  Acquire third(session, options);
  REQUIRE(third->advance());
  CHECK(third->take()->record().lock_id == lock->record().lock_id);
}

TEST_CASE("an acquire that queues for what the session was is located anew") {
  const Session session;
  write_text(session.directory / "one", "");
  fs::create_symlink("one", session.path);
  const auto other = held(LockManager().try_acquire(session.directory / "one"));
  Acquire acquire(session);
  REQUIRE(!acquire->advance());
  fs::remove(session.path);
  fs::create_symlink("two", session.path);
  REQUIRE(acquire->advance());
  const auto lock = acquire->take();
  REQUIRE(lock.has_value());
  CHECK(lock->lock_path() == session.directory / "two.lock");
}

TEST_CASE("an acquire yields to another process's waiter until that has published") {
  std::stop_source source;
  AcquireOptions options = patient();
  options.stop = source.get_token();
  std::optional<Session> session;
  std::optional<Acquire> acquire;
  wait_until("an acquire yielded", [&] {  // a busy machine may need longer than a yield lasts
    acquire.reset();
    session.emplace();
    schedule_yield(key_of(located(session->path)));
    acquire.emplace(*session, options);
    return !acquire->machine->advance();
  });
  Acquisition& machine = *acquire->machine;
  CHECK(machine.stage() == Stage::yield);
  CHECK(machine.rests_until() <= Clock::now() + 1ms);
  machine.slot().wake();
  SUBCASE("whose lock is then waited for") {
    const auto holder = holder_of(session->path);
    REQUIRE(!machine.advance());
    CHECK(machine.stage() == Stage::wake);
  }
  SUBCASE("or until a stop request") {
    source.request_stop();
    REQUIRE(machine.advance());
    CHECK(code_of(machine.take()) == Errc::cancelled);
  }
  CHECK(machine.slot().take_cause() == WakeCause::time);  // what had woken it must not keep it from its next rest
}

TEST_CASE("a single try does not yield, and leaves that to the next acquire") {
  AcquireOptions single;
  single.timeout = 0ms;
  wait_until("the next acquire yielded", [&] {  // a busy machine may need longer than a yield lasts
    const Session session;
    schedule_yield(key_of(located(session.path)));
    Acquire once(session, single);
    REQUIRE(once->advance());
    REQUIRE(once->take().has_value());
    return !Acquire(session)->advance();
  });
}

TEST_CASE("an acquire rests at another process's lock, marks it, and looks again when it goes on") {
  const Session session;
  auto holder = holder_of(session.path);
  CHECK(!is_marked(session));
  Acquire acquire(session);
  REQUIRE(!acquire->advance());
  CHECK(acquire->stage() == Stage::wake);
  CHECK(is_marked(session));
  REQUIRE(!acquire->advance());
  CHECK(acquire->stage() == Stage::wake);
  holder.tell("release");
  holder.expect("released");
  REQUIRE(acquire->advance());
  const auto lock = acquire->take();
  REQUIRE(lock.has_value());
  CHECK(!lock->reclaimed_from());
}

TEST_CASE("a lock whose name went is published at once, without another look") {
  const Session session;
  auto holder = holder_of(session.path);
  Acquire acquire(session);
  REQUIRE(!acquire->advance());
  holder.tell("release");
  holder.expect("released");
  REQUIRE(has_pending_event(acquire->slot()));
  std::vector<sys::Call> calls;
  const Script script([&](const sys::CallInfo& info) {
    if (info.path != nullptr && std::string_view(info.path).ends_with(".lock")) {
      calls.push_back(info.call);
    }
    return 0;
  });
  REQUIRE(acquire->advance());
  REQUIRE(!calls.empty());
  CHECK(calls.front() == sys::Call::linkat);
  CHECK(acquire->take().has_value());
}

TEST_CASE("at another process's lock an acquire gives up at its deadline and at a stop request, and says whose it is") {
  const Session session;
  const auto holder = holder_of(session.path);
  std::stop_source source;
  AcquireOptions options = patient();
  options.stop = source.get_token();
  Acquire stopped(session, options);
  REQUIRE(!stopped->advance());
  source.request_stop();
  CHECK(stopped->slot().take_cause() == WakeCause::called);
  REQUIRE(stopped->advance());
  auto refused = stopped->take();
  CHECK(code_of(refused) == Errc::cancelled);
  CHECK(refused.error().holder->record.pid == holder.pid());
  Acquire next(session);
  REQUIRE(!next->advance());
  CHECK(next->stage() == Stage::wake);  // it has the turn, although `stopped` exists
  next.machine.reset();
  options = {};
  options.timeout = 0ms;
  Acquire once(session, options);
  REQUIRE(once->advance());
  refused = once->take();
  CHECK(code_of(refused) == Errc::locked);
  CHECK(refused.error().holder->record.pid == holder.pid());
}

TEST_CASE("a dead owner's lock is taken over without a rest") {
  const Session session;
  const auto dead = dead_pid();
  plant(session.lock, foreign_record(dead));
  Acquire acquire(session);
  REQUIRE(acquire->advance());
  const auto lock = acquire->take();
  REQUIRE(lock.has_value());
  CHECK(lock->reclaimed_from()->record.pid == dead);
}

TEST_CASE("a stale lock that another process is just judging is looked at again soon") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  BusyFlock flock;
  Acquire acquire(session);
  REQUIRE(!acquire->advance());
  CHECK(acquire->stage() == Stage::wake);
  CHECK(acquire->rests_until() <= Clock::now() + 10ms);
  flock.is_busy = false;
  REQUIRE(acquire->advance());
  CHECK(acquire->take()->reclaimed_from().has_value());
}

/// Turns the session into a link as soon as its lock is about to have its name; from then on each `flock` fails.
struct MovingSession {
  MovingSession(const Session& moving, sys::Call call, int failure)
      : session(moving), naming(call), flock_error(failure) {}
  int before(const sys::CallInfo& info) {
    if (!has_moved && is_call_on(info, naming, "s.jsonl.lock")) {
      has_moved = true;
      fs::create_symlink("target", session.path);
    }
    const bool locks = has_moved && info.call == sys::Call::flock;
    tries += locks ? 1 : 0;
    return locks ? flock_error : 0;
  }

  const Session& session;
  /// By which the lock gets its name.
  sys::Call naming;
  int flock_error;
  bool has_moved{false};
  int tries{0};
  Script script{outermost([this](const sys::CallInfo& info) { return before(info); })};
};

TEST_CASE("a lock on what the session was is given back as soon as no other process is judging it") {
  // Protects: that `give_back` tries once, and rests.
  for (const bool is_stale : {false, true}) {
    CAPTURE(is_stale);
    const Session session;
    const std::string record = foreign_record(dead_pid());
    if (is_stale) {
      plant(session.lock, record);
    }
    MovingSession moving(session, is_stale ? sys::Call::renameat2 : sys::Call::linkat, EWOULDBLOCK);
    Acquire acquire(session);
    for (int i = 0; i < 3; ++i) {
      REQUIRE(!acquire->advance());
      CHECK(acquire->stage() == Stage::give_back);
      CHECK(acquire->rests_until() <= Clock::now() + 10ms);
      CHECK(fs::file_size(session.lock) != record.size());
      CHECK(acquire->slot().take_cause() == WakeCause::time);
      acquire->slot().wake();  // once, and not a reason for trying without a rest from now on
    }
    moving.flock_error = 0;
    REQUIRE(acquire->advance());
    const auto lock = acquire->take();
    REQUIRE(lock.has_value());
    CHECK(lock->lock_path() == session.directory / "target.lock");
    CHECK(!lock->reclaimed_from());
    CHECK(fs::exists(session.lock) == is_stale);
    CHECK((!is_stale || read_text(session.lock) == record));
  }
}

TEST_CASE("a lock on what the session was that cannot be given back ends the acquire, and is released later") {
  const Session session;
  const Events events;
  {
    const MovingSession moving(session, sys::Call::linkat, EIO);
    Acquire acquire(session, patient(), events.options());
    REQUIRE(acquire->advance());
    CHECK(code_of(acquire->take()) == std::errc::io_error);
    CHECK(moving.tries == 1);
    CHECK(events.kinds() == std::vector{EventKind::release_failed});
    CHECK(fs::exists(session.lock));
  }
  retry_releases();
  CHECK(!fs::exists(session.lock));
  CHECK(LockManager().held().empty());
}

TEST_CASE("an observer is told at the first rest, and not again before that is due") {
  const Session session;
  const Events events;
  SUBCASE("in the queue") {
    const auto other = held_here(session);
    Acquire acquire(session, patient(), events.options());
    REQUIRE(!acquire->advance());
    REQUIRE(!acquire->advance());
    CHECK(acquire->stage() == Stage::queue);
  }
  SUBCASE("at another process's lock") {
    const auto holder = holder_of(session.path);
    Acquire acquire(session, patient(), events.options());
    REQUIRE(!acquire->advance());
    CHECK(acquire->rests_until() <= Clock::now() + 2s);  // when to tell it again
    REQUIRE(!acquire->advance());
    CHECK(acquire->stage() == Stage::wake);
  }
  CHECK(events.kinds() == std::vector{EventKind::contended});
}
