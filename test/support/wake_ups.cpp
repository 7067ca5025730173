#include "wake_ups.hpp"

#include <atomic>
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <thread>
#include <utility>

#include <doctest/doctest.h>
#include <sessionlock/counters.hpp>
#include <sessionlock/lock_manager.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

namespace sessionlock::test {
namespace {

using namespace std::chrono_literals;

/// A few more than an acquire makes between its first look and its sleep.
constexpr int k_calls = 48;

/// A child that acquires and releases as it is told.
ChildProcess obedient_holder(const Session& session) {
  return ChildProcess::run([&](Channel& parent) {
    LockManager manager;
    SessionLock lock;
    while (const auto order = parent.hear()) {
      if (*order == "acquire") {
        auto acquired = manager.acquire(session.path);
        REQUIRE_IN_CHILD(acquired.has_value());
        lock = std::move(*acquired);
      } else {
        REQUIRE_IN_CHILD(lock.release().has_value());
      }
      parent.tell("done");
    }
    return 0;
  });
}

/// Acquires a lock that is held, and has it given up before a certain one of the calls that are made meanwhile.
void acquire_with_injection(const Session& session, int call, const std::function<void()>& give_up,
                            WakeUpFigures& figures) {
  const auto before = counters();
  bool given_up = false;
  int calls = 0;
  Result<SessionLock> lock;
  {
    const Script script(outermost([&](const sys::CallInfo& info) {
      const bool sleeps = info.call == sys::Call::poll;
      if (!given_up && (sleeps || calls++ == call)) {
        given_up = true;
        ++(sleeps ? figures.at_sleep : figures.before_sleep);
        give_up();
      }
      return 0;
    }));
    lock = LockManager().acquire(session.path);
  }
  figures.ended_by_timer += counters().wake_ups_by_timer - before.wake_ups_by_timer;
  if (!lock || !given_up) {
    std::cerr << "acquire: " << (lock ? "the lock was free" : lock.error().message()) << '\n';
    ++figures.failures;
  }
}

}  // namespace

void WakeUpFigures::check() const {
  CHECK(ended_by_timer == 0);
  CHECK(failures == 0);
  CHECK(before_sleep > 0);
  CHECK(at_sleep > 0);
}

WakeUpFigures release_at_every_call(int rounds) {
  const Session session;
  auto holder = obedient_holder(session);
  const auto tell_holder = [&](std::string_view order) {
    holder.tell(order);
    holder.expect("done");
  };
  WakeUpFigures figures;
  for (int round = 0; round < rounds; ++round) {
    tell_holder("acquire");
    acquire_with_injection(
        session, round % k_calls, [&] { tell_holder("release"); }, figures);
  }
  return figures;
}

WakeUpFigures kill_at_every_call(int rounds) {
  const Session session;
  WakeUpFigures figures;
  for (int round = 0; round < rounds; ++round) {
    auto holder = holder_of(session.path);
    acquire_with_injection(
        session, round % k_calls, [&] { (void)holder.kill(); }, figures);
  }
  return figures;
}

namespace {

/// What cancelled acquires compete with.
class Competitor {
 public:
  virtual ~Competitor() = default;
  virtual void acquire() = 0;
  /// Begins to release.
  virtual void release() = 0;
  /// Returns when it has released.
  virtual void wait_for_release() = 0;
};

class ProcessCompetitor final : public Competitor {
 public:
  explicit ProcessCompetitor(const Session& session) : holder_(obedient_holder(session)) {}
  void acquire() override {
    holder_.tell("acquire");
    holder_.expect("done");
  }
  void release() override { holder_.tell("release"); }
  void wait_for_release() override { holder_.expect("done"); }

 private:
  ChildProcess holder_;
};

class ThreadCompetitor final : public Competitor {
 public:
  explicit ThreadCompetitor(const Session& session) : session_(session) {}
  void acquire() override { lock_ = value_or_throw(LockManager().acquire(session_.path)); }
  void release() override {
    thread_ = std::thread([this] { (void)lock_.release(); });
  }
  void wait_for_release() override { thread_.join(); }

 private:
  const Session& session_;
  SessionLock lock_{};
  std::thread thread_{};
};

}  // namespace

CancelFigures cancel_at_random(Queue queue, int rounds) {
  const Session session;
  std::unique_ptr<Competitor> competitor;
  if (queue == Queue::threads) {
    competitor = std::make_unique<ThreadCompetitor>(session);
  } else {
    competitor = std::make_unique<ProcessCompetitor>(session);
  }
  std::minstd_rand random(static_cast<unsigned>(rounds));  // NOLINT: the same each time
  std::uniform_int_distribution<int> microseconds(0, 300);
  CancelFigures figures;
  for (int round = 0; round < rounds; ++round) {
    competitor->acquire();
    std::stop_source source;
    std::optional<Result<SessionLock>> lock;
    std::thread waiting([&] {
      AcquireOptions options;
      options.timeout = std::chrono::milliseconds::max();
      options.stop = source.get_token();
      lock = LockManager().acquire(session.path, options);
    });
    std::this_thread::sleep_for(std::chrono::microseconds{microseconds(random)});
    const bool stop_first = round % 2 == 0;
    if (stop_first) {
      source.request_stop();
    }
    competitor->release();
    if (!stop_first) {
      std::this_thread::sleep_for(std::chrono::microseconds{microseconds(random) / 4});
      source.request_stop();
    }
    waiting.join();
    competitor->wait_for_release();
    if (*lock) {
      ++figures.acquired;
      figures.lost += (*lock)->owns() && (*lock)->verify() && (*lock)->release() ? 0U : 1U;
    } else {
      ++(lock->error().code == Errc::cancelled ? figures.cancelled : figures.lost);
    }
    // Nobody has it now, so it can be acquired at once.
    const bool free = LockManager().held().empty() && try_lock(session.path).has_value();
    figures.lost += free ? 0U : 1U;
  }
  return figures;
}

}  // namespace sessionlock::test
