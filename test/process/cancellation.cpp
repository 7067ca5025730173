// Threads that are cancelled (pthread_cancel(3)) while they are inside the library.

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include <sessionlock/sessionlock.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "system/system.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

/// A thread that can be cancelled. `body` runs in it, and then a cancellation point.
class Cancellable {
 public:
  explicit Cancellable(std::function<void()> body) : body_(std::move(body)) {
    REQUIRE(::pthread_create(&thread_, nullptr, &Cancellable::run, this) == 0);
  }
  Cancellable(const Cancellable&) = delete;
  Cancellable& operator=(const Cancellable&) = delete;
  ~Cancellable() { (void)was_cancelled(); }

  void cancel() const { ::pthread_cancel(thread_); }
  [[nodiscard]] bool has_finished() const { return has_finished_.load(); }
  /// Waits for its end.
  bool was_cancelled() {
    if (!std::exchange(has_joined_, true)) {
      ::pthread_join(thread_, &result_);
    }
    return result_ == PTHREAD_CANCELED;
  }

 private:
  static void* run(void* self) {
    auto& thread = *static_cast<Cancellable*>(self);
    thread.body_();
    thread.has_finished_.store(true);
    ::pthread_testcancel();
    return nullptr;
  }

  std::function<void()> body_;
  std::atomic<bool> has_finished_{false};
  pthread_t thread_{};
  bool has_joined_{false};
  void* result_{nullptr};
};

/// Whether a call runs to its end in a thread that was cancelled before.
bool outlasts_cancellation(const std::function<void()>& call) {
  Cancellable thread([&call] {
    ::pthread_cancel(::pthread_self());
    call();
  });
  return thread.was_cancelled() && thread.has_finished();
}

/// A manager whose observer says what happens, into a counter for each kind that is asked for.
ManagerOptions observed(
    EventKind kind, std::atomic<int>& count, std::function<void()> act = [] {}) {
  ManagerOptions options;
  options.observer = [kind, &count, act = std::move(act)](const Event& event) {
    if (event.kind == kind) {
      ++count;
      act();
    }
  };
  return options;
}

}  // namespace

TEST_CASE("a thread that is cancelled while it waits for a lock gets the lock first, and leaves nothing behind") {
  const Session session;
  const auto wait_in_a_thread = [&](bool is_cancelled) {
    auto other = holder_of(session.path);
    std::atomic<int> contended{0};
    Cancellable thread([&] {
      LockManager manager(observed(EventKind::contended, contended));
      CHECK(manager.acquire(session.path, {.timeout = k_patience}).has_value());
    });
    wait_until("the thread waits", [&] { return contended.load() == 1; });
    if (is_cancelled) {
      thread.cancel();
    }
    other.tell("release");
    CHECK(thread.was_cancelled() == is_cancelled);
    CHECK(thread.has_finished());
    CHECK_FALSE(std::filesystem::exists(session.lock));
    return sys::open_descriptor_count();  // with what is shared by all waits of the process
  };
  const auto as_always = wait_in_a_thread(false);
  CHECK(wait_in_a_thread(true) == as_always);
}

TEST_CASE("a thread that is cancelled in the queue of its process passes its turn on") {
  const Session session;
  std::optional<SessionLock> lock = held(try_lock(session.path));
  std::atomic<int> contended{0};
  Cancellable thread([&] {
    LockManager manager(observed(EventKind::contended, contended));
    (void)manager.acquire(session.path, {.timeout = k_patience});
  });
  wait_until("the thread waits", [&] { return contended.load() == 1; });
  thread.cancel();
  lock.reset();
  CHECK(thread.was_cancelled());
  CHECK(thread.has_finished());
  CHECK(LockManager().acquire(session.path, {.timeout = k_patience}).has_value());
}

TEST_CASE("a thread that is cancelled inside its observer finishes what it was doing") {
  const Session session;
  auto other = holder_of(session.path);
  std::atomic<int> contended{0};
  Cancellable thread([&] {
    LockManager manager(observed(EventKind::contended, contended, [] {
      ::pthread_cancel(::pthread_self());
      ::pthread_testcancel();
    }));
    CHECK(manager.acquire(session.path, {.timeout = k_patience}).has_value());
  });
  wait_until("the thread waits", [&] { return contended.load() == 1; });
  other.tell("release");
  CHECK(thread.was_cancelled());
  CHECK(thread.has_finished());
  CHECK_FALSE(std::filesystem::exists(session.lock));
}

TEST_CASE("a thread that is cancelled inside its guarded write leaves the guard, and the lock stays held") {
  const Session session;
  SessionLock lock = held(try_lock(session.path));
  Cancellable thread([&] {
    (void)lock.guarded([] {
      ::pthread_cancel(::pthread_self());
      ::pthread_testcancel();
    });
  });
  CHECK(thread.was_cancelled());
  CHECK_FALSE(thread.has_finished());
  CHECK(is_unguarded(session.lock));
  CHECK(lock.guarded([] {}).has_value());
  CHECK(lock.release().has_value());
}

TEST_CASE("a watchdog's manager ends in a thread that was cancelled") {
  CHECK(outlasts_cancellation([] {
    ManagerOptions options;
    options.watchdog_interval = 1ms;
    const LockManager manager(std::move(options));
  }));
}

TEST_CASE("no call on locks is cut short by a cancellation") {
  const Session session;
  LockManager manager;
  std::optional<SessionLock> lock;
  std::optional<Transcript> transcript;
  CHECK(outlasts_cancellation([&] { lock = held(manager.acquire(session.path)); }));
  CHECK(outlasts_cancellation([&] { CHECK(code_of(try_lock(session.path)) == Errc::locked); }));
  CHECK(outlasts_cancellation([&] { CHECK(manager.inspect(session.path).has_value()); }));
  CHECK(outlasts_cancellation([&] { CHECK(manager.inspect(session.directory / "none" / "s").has_value()); }));
  CHECK(outlasts_cancellation([&] { CHECK_FALSE(manager.wait_until_free(session.path, {.timeout = 1ms})); }));
  CHECK(outlasts_cancellation([&] { CHECK(lock->verify().has_value()); }));
  CHECK(outlasts_cancellation([&] { transcript = std::move(*Transcript::open(*lock, {.fsync = true})); }));
  CHECK(outlasts_cancellation([&] { CHECK(transcript->append("1").has_value()); }));
  CHECK(outlasts_cancellation([&] { CHECK(sweep(session.directory.path()).has_value()); }));
  CHECK(outlasts_cancellation([&] { CHECK(lock->release().has_value()); }));
  CHECK(outlasts_cancellation([&] { transcript.reset(); }));
  CHECK(outlasts_cancellation([&] { CHECK(check_file_system(session.directory.path()).has_value()); }));
  CHECK(outlasts_cancellation([&] {
    std::stop_source stop;
    stop.request_stop();
    CHECK(watch_locks(session.directory.path(), {.stop = stop.get_token()}, [](const LockEvent&) {}).has_value());
  }));
  CHECK(names_in(session.directory.path()) == std::vector<std::string>{"s.jsonl"});
}

TEST_CASE("no call on claims is cut short by a cancellation") {
  const TemporaryDirectory directory;
  std::optional<PidFile> claim;
  CHECK(outlasts_cancellation([&] { claim = std::move(PidFile::claim(directory / "pid")->file); }));
  REQUIRE(claim.has_value());
  CHECK(outlasts_cancellation([&] { CHECK(inspect_pid_file(directory / "pid")->state == PidFileState::alive); }));
  CHECK(outlasts_cancellation([&] { CHECK(claim->touch().has_value()); }));
  CHECK(outlasts_cancellation([&] { claim.reset(); }));
  const Sentinel sentinel(directory / "stopping");
  CHECK(outlasts_cancellation([&] { CHECK(sentinel.set(1h).has_value()); }));
  CHECK(outlasts_cancellation([&] { CHECK(*sentinel.active()); }));
  CHECK(outlasts_cancellation([&] { CHECK(sentinel.clear().has_value()); }));
  SpawnGate gate(directory / "gate");
  CHECK(outlasts_cancellation([&] { CHECK(gate.try_enter()->outcome == GateOutcome::acquired); }));
  CHECK(outlasts_cancellation([&] { CHECK(is_pid_alive(::getpid())); }));
  CHECK(outlasts_cancellation([&] { CHECK(process_start_token(::getpid()).has_value()); }));
  CHECK(names_in(directory.path()).empty());
}
