// What a manager's observer is told, and what it may do meanwhile.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/counters.hpp>
#include <sessionlock/lock_manager.hpp>

#include "events.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

TEST_CASE("an observer is told what happens in order, with durations") {
  const Session session;
  const Events events;
  LockManager manager(events.options());
  auto holder = holder_of(session.path);
  std::thread thread([&] {
    const auto lock = held(manager.acquire(session.path));
    std::this_thread::sleep_for(5ms);
  });
  events.wait_for(EventKind::contended);
  std::this_thread::sleep_for(5ms);
  (void)holder.kill();
  thread.join();
  const auto told = events.all();
  REQUIRE(events.kinds() == std::vector{EventKind::contended, EventKind::acquired, EventKind::released});
  CHECK(told[0].inspection->record.pid == holder.pid());
  CHECK(told[1].duration >= 5ms);
  CHECK(told[1].inspection->removed);
  CHECK(told[1].inspection->reasons.front() == StaleReason::dead_pid);
  CHECK(told[2].duration >= 5ms);
  for (const auto& event : told) {
    CHECK(event.session_path == session.path);
    CHECK(event.lock_path == session.lock);
  }
}

TEST_CASE("an observer is told once that a lock is lost, and of a stale lock that nothing was waited for") {
  const Session session;
  const Events events;
  LockManager manager(events.options());
  plant(session.lock, foreign_record(dead_pid()));
  const auto lock = held(manager.acquire(session.path));
  fs::remove(session.lock);
  CHECK(code_of(lock.guarded([] {})) == Errc::lost);
  CHECK(code_of(lock.verify()) == Errc::lost);
  CHECK(events.kinds() == std::vector{EventKind::acquired, EventKind::lost});
}

TEST_CASE("an observer is told now and then that a wait goes on, and for whom") {
  const Session session;
  const Events events;
  LockManager manager(events.options());
  const auto holder = holder_of(session.path);
  std::stop_source source;
  AcquireOptions options;
  options.timeout = std::chrono::milliseconds::max();
  options.stop = source.get_token();
  std::thread thread([&] { (void)manager.acquire(session.path, options); });
  events.wait_for(EventKind::waiting);
  source.request_stop();
  thread.join();
  CHECK(events.of(EventKind::contended).size() == 1);
  const auto waiting = events.of(EventKind::waiting).front();
  CHECK(waiting.duration >= 1s);
  CHECK(waiting.inspection->record.pid == holder.pid());
  CHECK(!waiting.inspection->explanation().empty());
}

TEST_CASE("an observer may use the library") {
  const Session session;
  ManagerOptions options;
  int inspected = 0;
  options.observer = [&](const Event& event) {
    inspected += LockManager().inspect(event.session_path).has_value() ? 1 : 0;
    (void)LockManager().held();
    (void)try_lock(session.directory / "other.jsonl");
  };
  auto lock = held(LockManager(options).acquire(session.path));
  CHECK(lock.release().has_value());
  CHECK(inspected == 2);
}

TEST_CASE("the process's counters count") {
  const Session session;
  auto child = ChildProcess::run([&](Channel&) {
    (void)held(try_lock(session.path));
    REQUIRE_IN_CHILD(counters().acquisitions == 1);
    REQUIRE_IN_CHILD(counters().waits == 0 && counters().wait_time.count() == 0);
    plant(session.lock, foreign_record(dead_pid()));
    (void)held(try_lock(session.path));
    REQUIRE_IN_CHILD(counters().acquisitions == 2);
    REQUIRE_IN_CHILD(counters().reclaims[static_cast<std::size_t>(StaleReason::dead_pid)] == 1);
    plant(session.lock, "{\"pid\": 1, \"bootId\": \"of another machine\"}");
    REQUIRE_IN_CHILD(code_of(try_lock(session.path)) == Errc::locked);
    REQUIRE_IN_CHILD(counters().unknown_verdicts == 1);
    AcquireOptions brief;
    brief.timeout = 5ms;
    REQUIRE_IN_CHILD(code_of(LockManager().acquire(session.path, brief)) == Errc::timed_out);
    REQUIRE_IN_CHILD(counters().waits == 1 && counters().wait_time >= 5ms);
    fs::remove(session.lock);
    {
      auto lock = held(try_lock(session.path));
      const Script script(failing(sys::Call::unlinkat, EIO));
      lock = SessionLock();
    }
    REQUIRE_IN_CHILD(counters().release_failures == 1);
    REQUIRE_IN_CHILD(exit_code_in(k_fork_ways[0], [] { return static_cast<int>(counters().acquisitions); }) == 0);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

// --- an observer that uses the lock it is told of --------------------------------------------------------------------

namespace {

AcquireOptions without_limit() {
  AcquireOptions options;
  options.timeout = std::chrono::milliseconds::max();
  return options;
}

/// A manager whose observer does something at each event of a kind, and remembers what came of it.
class Acting {
 public:
  using Act = std::function<std::error_code(LockManager&, const fs::path& session)>;
  Acting(EventKind kind, Act act, ManagerOptions options = {}) : act_(std::move(act)) {
    options.observer = [this, kind](const Event& event) {
      if (event.kind == kind) {
        answers_.push_back(act_(*manager_, event.session_path));
      }
    };
    manager_.emplace(std::move(options));
  }
  [[nodiscard]] LockManager& manager() { return *manager_; }
  /// What came of it, once the thread that the observer is called on has ended, or waits for the test.
  [[nodiscard]] const std::vector<std::error_code>& answers() const { return answers_; }

 private:
  Act act_;
  std::vector<std::error_code> answers_{};
  std::optional<LockManager> manager_{};
};

std::error_code wait_for(LockManager& manager, const fs::path& session) {
  return code_of(manager.acquire(session, without_limit()));
}

std::error_code wait_until_free(LockManager& manager, const fs::path& session) {
  return code_of(manager.wait_until_free(session, without_limit()));
}

const std::vector<std::error_code> k_refused_once{Errc::invalid_argument};

/// Lets a holder go when its session's observer has answered.
void release(ChildProcess& holder) {
  holder.tell("release");
  holder.expect("released");
}

}  // namespace

TEST_CASE("an observer that waits for the session whose wait it is told of is refused, and that wait goes on") {
  // Protects: `notify_midway` in `Acquisition`, and `is_notifying` in the queue and in front of the file.
  const Session session;
  for (const auto& act : {wait_for, wait_until_free}) {
    for (const EventKind kind : {EventKind::contended, EventKind::waiting}) {
      CAPTURE(to_string(kind));
      auto holder = holder_of(session.path);
      Acting acting(kind, [&](LockManager& manager, const fs::path& path) {
        const auto code = act(manager, path);
        release(holder);
        return code;
      });
      CHECK(acting.manager().acquire(session.path, without_limit()).has_value());
      CHECK(acting.answers() == k_refused_once);
    }
  }
}

TEST_CASE("an observer that waits for the session that a wait only watches is refused") {
  const Session session;
  for (const auto& act : {wait_for, wait_until_free}) {
    auto holder = holder_of(session.path);
    Acting acting(EventKind::contended, [&](LockManager& manager, const fs::path& path) {
      const auto code = act(manager, path);
      release(holder);
      return code;
    });
    // Told of the observer's own acquire, it is refused there, and that acquire then goes on.
    CHECK(acting.manager().wait_until_free(session.path, without_limit()).has_value());
    CHECK(acting.answers() == k_refused_once);
  }
}

TEST_CASE("an observer that waits for a session in front of which its thread queues is refused") {
  const Session session;
  auto lock = held(try_lock(session.path));
  Acting acting(EventKind::contended, [&](LockManager& manager, const fs::path& path) {
    const auto code = wait_for(manager, path);
    CHECK(lock.release().has_value());
    return code;
  });
  std::thread thread([&] { CHECK(acting.manager().acquire(session.path, without_limit()).has_value()); });
  thread.join();
  CHECK(acting.answers() == k_refused_once);
}

TEST_CASE("an observer that waits for a session whose wait has to poll is refused") {
  const Session session;
  auto holder = holder_of(session.path);
  Acting acting(EventKind::degraded, [&](LockManager& manager, const fs::path& path) {
    const auto code = wait_for(manager, path);
    release(holder);
    return code;
  });
  const Script script(failing(sys::Call::inotify_add_watch, ENOSPC));
  CHECK(acting.manager().acquire(session.path, without_limit()).has_value());
  CHECK(acting.answers() == k_refused_once);
}

TEST_CASE("an observer that waits for the lock that its thread has just acquired is refused, and may share it") {
  const Session session;
  AcquireOptions reentrant = without_limit();
  reentrant.reentrant = true;
  SUBCASE("waits, with a limit or without") {
    for (const auto limit : {std::chrono::milliseconds(60s), std::chrono::milliseconds::max()}) {
      AcquireOptions options;
      options.timeout = limit;
      Acting acting(EventKind::acquired, [&](LockManager& manager, const fs::path& path) {
        return code_of(manager.acquire(path, options));
      });
      CHECK(acting.manager().acquire(session.path, reentrant).has_value());
      CHECK(acting.answers() == k_refused_once);
    }
  }
  SUBCASE("shares") {
    Acting acting(EventKind::acquired, [&](LockManager& manager, const fs::path& path) {
      return code_of(manager.acquire(path, reentrant));
    });
    CHECK(acting.manager().acquire(session.path, reentrant).has_value());
    CHECK(acting.answers() == std::vector{std::error_code()});
  }
}

TEST_CASE("an observer that waits for an over-long hold does not keep the watchdog from releasing it") {
  // Protects: `notify_midway` in the watchdog.
  const Session session;
  ManagerOptions options;
  options.watchdog_interval = 1ms;
  options.overrun = OverrunAction::release;
  Acting acting(EventKind::overrun, wait_for, options);
  AcquireOptions briefly;
  briefly.max_hold = 1ms;
  const auto lock = held(acting.manager().acquire(session.path, briefly));
  wait_until("released", [&] { return !lock.owns(); });
}

TEST_CASE("an observer may try once for the session it is told of, and may wait for another") {
  const Session session;
  auto holder = holder_of(session.path);
  SUBCASE("the same") {
    Acting acting(EventKind::contended, [&](LockManager& manager, const fs::path& path) {
      const auto code = code_of(manager.try_acquire(path));
      release(holder);
      return code;
    });
    CHECK(acting.manager().acquire(session.path, without_limit()).has_value());
    CHECK(acting.answers() == std::vector{make_error_code(Errc::locked)});
  }
  SUBCASE("another") {
    Acting acting(EventKind::contended, [&](LockManager& manager, const fs::path& path) {
      const auto code = code_of(manager.acquire(path.parent_path() / "other", without_limit()));
      release(holder);
      return code;
    });
    CHECK(acting.manager().acquire(session.path, without_limit()).has_value());
    CHECK(acting.answers() == std::vector{std::error_code()});
  }
}

TEST_CASE("an observer that is told of a release may acquire the session again") {
  const Session session;
  std::optional<SessionLock> again;
  Acting acting(EventKind::released, [&](LockManager& manager, const fs::path& path) {
    if (again) {
      return std::error_code();
    }
    auto lock = manager.acquire(path, without_limit());
    const auto code = code_of(lock);
    again = held(std::move(lock));
    return code;
  });
  CHECK(held(acting.manager().acquire(session.path)).release().has_value());
  CHECK(acting.answers() == std::vector{std::error_code()});
  CHECK(again->verify().has_value());
  CHECK(again->release().has_value());  // its handle stays, so that the observer does not acquire once more
}

TEST_CASE("a child that an observer forks may wait for the session") {
  // Protects: the generation in `is_notifying`.
  const Session session;
  auto holder = holder_of(session.path);
  Acting acting(EventKind::contended, [&](LockManager&, const fs::path& path) {
    auto child = ChildProcess::run([&](Channel& parent) {
      AcquireOptions briefly;
      briefly.timeout = 5ms;
      const auto code = code_of(LockManager().acquire(path, briefly));
      parent.tell("done");
      return code == Errc::timed_out ? 0 : 1;
    });
    child.expect("done");
    const bool timed_out = child.wait().exited_with(0);
    release(holder);
    return timed_out ? std::error_code() : std::error_code(EIO, std::system_category());
  });
  CHECK(acting.manager().acquire(session.path, without_limit()).has_value());
  CHECK(acting.answers() == std::vector{std::error_code()});
}

TEST_CASE(
    "a child that an observer forks, and that goes on in its place in a queue, waits for the lock and no longer") {
  // 1. A thread queues behind another thread of its process, and its observer forks. 2. The child, in which that other
  // thread does not exist, returns from the observer into the acquire. 3. The parent releases: the child has its turn.
  const Session session;
  auto parent_process = ChildProcess::run([&](Channel&) {
    auto lock = held(try_lock(session.path));
    std::atomic<pid_t> child{0};
    ManagerOptions options;
    options.observer = [&child](const Event& event) {
      if (event.kind == EventKind::contended && child == 0) {
        const pid_t forked = ::fork();
        child = forked == 0 ? -1 : forked;
      }
    };
    std::stop_source stop;
    std::thread waits([&] {
      const auto acquired = LockManager(options).acquire(session.path, {.timeout = 10s, .stop = stop.get_token()});
      if (child == -1) {
        ::_exit(acquired && acquired->guarded([] {}) ? 0 : 1);
      }
    });
    wait_until("the observer has forked", [&child] { return child != 0; });
    stop.request_stop();
    waits.join();
    REQUIRE_IN_CHILD(lock.release().has_value());
    int status = 0;
    REQUIRE_IN_CHILD(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
  });
  CHECK(parent_process.wait().exited_with(0));
}
