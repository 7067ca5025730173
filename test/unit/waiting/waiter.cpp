#include "waiting/waiter.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <sessionlock/counters.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/lock_file.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Clock = Deadline::Clock;

namespace {

/// A lock file of nobody in particular, as somebody who looked at it has it.
struct LockFile {
  explicit LockFile(const std::string& name = "s.jsonl.lock") : place(place_in(directory.path(), name)) {
    plant(directory / name, "{}");
  }
  [[nodiscard]] WatchedFile watched(bool is_local = true) const {
    auto found = pin(place);
    REQUIRE(found.has_value());
    REQUIRE(found->has_value());
    return {std::move((*found)->fd), (*found)->file, is_local};
  }
  void remove() const { REQUIRE(::unlink(place.path().c_str()) == 0); }
  /// Another one takes its place.
  void replace() const {
    const auto fresh = directory / "fresh";
    plant(fresh, "{}");
    std::filesystem::rename(fresh, place.path());
  }

  TemporaryDirectory directory{};
  Place place;
};

/// Counts all calls, and can fail some.
class Calls : public Script {
 public:
  explicit Calls(std::map<sys::Call, int> failures = {})
      : Script([this, failures = std::move(failures)](const sys::CallInfo& info) {
          ++counts_[static_cast<std::size_t>(info.call)];
          const auto found = failures.find(info.call);
          return found == failures.end() ? 0 : found->second;
        }) {}
  [[nodiscard]] int count(sys::Call call) const { return counts_[static_cast<std::size_t>(call)].load(); }

 private:
  std::array<std::atomic<int>, 64> counts_{};
};

/// A waiter, and its thread's parker.
class ThreadWaiter {
 public:
  ThreadWaiter(const Deadline& deadline, std::stop_token stop) : waiter_(parker_, deadline, std::move(stop)) {}
  [[nodiscard]] bool watch(WatchedFile&& file, const WatchPlan& plan) { return waiter_.watch(std::move(file), plan); }
  [[nodiscard]] WaitResult wait(std::optional<Clock::time_point> report = std::nullopt) {
    const auto until = waiter_.begin_rest(report);
    if (!until) {
      return until.error();
    }
    parker_.sleep(*until);
    return waiter_.end_rest();
  }
  void count_end() { waiter_.count_end(); }
  [[nodiscard]] std::unique_ptr<EndedWait> detach_watches() { return waiter_.detach_watches(); }
  [[nodiscard]] std::optional<std::error_code> take_degradation() { return waiter_.take_degradation(); }

 private:
  Parker parker_{};
  Waiter waiter_;
};

Counters since(const Counters& before) {
  Counters now = counters();
  now.wake_ups_by_event -= before.wake_ups_by_event;
  now.wake_ups_by_timer -= before.wake_ups_by_timer;
  return now;
}

const Deadline k_long{k_patience};

}  // namespace

TEST_CASE("a deadline of zero or less is a single try that has passed") {
  for (const auto timeout : {0ms, -1ms, std::chrono::milliseconds::min()}) {
    CAPTURE(timeout.count());
    const Deadline deadline(timeout);
    CHECK(deadline.is_single_try());
    CHECK(!deadline.is_unlimited());
    CHECK(deadline.has_passed());
  }
}

TEST_CASE("a deadline too far away for the clock is no deadline") {
  const Deadline unlimited(std::chrono::milliseconds::max());
  CHECK(unlimited.is_unlimited());
  CHECK(unlimited.end() == Clock::time_point::max());
  CHECK(!unlimited.has_passed());
  const Deadline far(std::chrono::milliseconds::max() - 1ms);
  CHECK(!far.is_unlimited());
  CHECK(far.end() == Clock::time_point::max());
  CHECK(!far.has_passed());
  const Deadline near(1h);
  CHECK(near.end() == near.start() + 1h);
}

TEST_CASE("a new lock and a new owner are looked at again before the wait, the same ones are not") {
  const LockFile lock;
  ThreadWaiter waiter(k_long, {});
  CHECK(waiter.watch(lock.watched(), {}));
  CHECK(!waiter.watch(lock.watched(), {}));
  CHECK(waiter.watch(lock.watched(), {.owner = ::getpid()}));
  CHECK(!waiter.watch(lock.watched(), {.owner = ::getpid()}));
  CHECK(!waiter.watch(lock.watched(), {}));
  CHECK(waiter.watch(lock.watched(), {.expect_no_event = true}));
  lock.replace();
  CHECK(waiter.watch(lock.watched(), {}));
  CHECK(!waiter.watch(lock.watched(), {}));
}

TEST_CASE("after a change of hands the new lock is watched, and no more the old one") {
  const LockFile lock;
  const Calls calls;
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(), {}));
  lock.replace();  // the old one loses its name
  REQUIRE(waiter.watch(lock.watched(), {}));
  CHECK(calls.count(sys::Call::inotify_add_watch) == 2);
  CHECK(waiter.wait(Clock::now()) == WaitResult::look_again);
  lock.remove();
  CHECK(waiter.wait() == WaitResult::name_went);
}

TEST_CASE("a lock that cannot be read is waited for without being watched") {
  const LockFile lock;
  const Calls calls;
  ThreadWaiter waiter(Deadline(30ms), {});
  CHECK(!waiter.watch({}, {.expect_no_event = true}));
  CHECK(calls.count(sys::Call::inotify_add_watch) == 0);
  while (waiter.wait() == WaitResult::look_again) {
  }
  CHECK(waiter.wait() == WaitResult::deadline);
}

TEST_CASE("a wait is ended by the lock's name going") {
  const LockFile lock;
  const auto before = counters();
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(), {}));
  lock.remove();
  CHECK(waiter.wait() == WaitResult::name_went);
  waiter.count_end();
  CHECK(since(before).wake_ups_by_event == 1);
  CHECK(since(before).wake_ups_by_timer == 0);
}

TEST_CASE("a wait is ended by the owner's end, and that is told once") {
  // Protects: the owner who is told to be gone and yet seems to exist, as a zombie does where its state cannot be read.
  const LockFile lock;
  auto owner = idle_process();
  const WatchPlan plan{.owner = owner.pid()};
  const Calls calls;
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(), plan));
  owner.send_signal(SIGKILL);
  CHECK(waiter.wait() == WaitResult::look_again);
  CHECK(waiter.watch(lock.watched(), plan));  // from now on it is silent
  CHECK(!waiter.watch(lock.watched(), plan));
  CHECK(calls.count(sys::Call::pidfd_open) == 1);
  const int polls = calls.count(sys::Call::poll);
  CHECK(waiter.wait() == WaitResult::look_again);
  CHECK(!waiter.watch(lock.watched(), plan));
  CHECK(waiter.wait() == WaitResult::look_again);
  CHECK(calls.count(sys::Call::poll) == polls + 2);
  lock.remove();
  CHECK(waiter.wait() == WaitResult::name_went);
}

TEST_CASE("an owner that is gone before it is watched is told at the look that follows") {
  const LockFile lock;
  ThreadWaiter waiter(k_long, {});
  CHECK(waiter.watch(lock.watched(), {.owner = dead_pid()}));
  CHECK(!waiter.take_degradation());
}

TEST_CASE("no wait begins after the deadline, in a single try, or after the stop request") {
  const LockFile lock;
  const Calls calls;
  CHECK(ThreadWaiter(Deadline(0ms), {}).wait() == WaitResult::deadline);
  CHECK(ThreadWaiter(Deadline(-1ms), {}).wait() == WaitResult::deadline);
  ThreadWaiter late(Deadline(1ms), {});
  std::this_thread::sleep_for(2ms);
  CHECK(late.wait() == WaitResult::deadline);
  std::stop_source source;
  source.request_stop();
  ThreadWaiter cancelled(k_long, source.get_token());
  CHECK(cancelled.wait() == WaitResult::cancelled);
  CHECK(cancelled.watch(lock.watched(), {}));
  CHECK(cancelled.wait() == WaitResult::cancelled);
  CHECK(calls.count(sys::Call::poll) == 0);
}

TEST_CASE("a stop request ends the wait") {
  for (const bool has_bell : {true, false}) {
    CAPTURE(has_bell);
    const LockFile lock;
    const Calls calls(has_bell ? std::map<sys::Call, int>{} : std::map<sys::Call, int>{{sys::Call::eventfd, EMFILE}});
    std::stop_source source;
    WaitResult reason = WaitResult::look_again;
    ThreadWaiter waiter(k_long, source.get_token());
    REQUIRE(waiter.watch(lock.watched(), {}));
    std::thread thread([&] {
      while ((reason = waiter.wait()) == WaitResult::look_again) {
      }
    });
    wait_until("asleep", [&] { return calls.count(sys::Call::poll) > 0; });
    const Counters before = counters();
    source.request_stop();
    thread.join();
    CHECK(reason == WaitResult::cancelled);
    waiter.count_end();
    CHECK((!has_bell || since(before).wake_ups_by_timer == 0));  // it was called, and did not just look up
  }
}

TEST_CASE("a wait does not go beyond the deadline or the time of the next report") {
  const LockFile lock;
  ThreadWaiter waiter(Deadline(30ms), {});
  REQUIRE(waiter.watch(lock.watched(), {}));
  CHECK(waiter.wait(Clock::now() + 1ms) == WaitResult::look_again);
  while (waiter.wait() == WaitResult::look_again) {  // once, unless the machine is very slow
  }
  CHECK(waiter.wait() == WaitResult::deadline);
}

TEST_CASE("a wait is over when a report is due, or something is, not at the next periodic look") {
  // Which comes after half a second at the earliest. A busy machine may need more than one try.
  const LockFile lock;
  const auto is_soon_over = [&](const WatchPlan& plan, std::optional<Clock::duration> report) {
    ThreadWaiter waiter(k_long, {});
    REQUIRE(waiter.watch(lock.watched(), plan));
    const auto start = Clock::now();
    CHECK(waiter.wait(report ? std::optional(start + *report) : std::nullopt) == WaitResult::look_again);
    return Clock::now() - start < 400ms;
  };
  wait_until("a wait ended with the report", [&] { return is_soon_over({}, 1ms); });
  wait_until("a wait ended when it was due", [&] { return is_soon_over({.due = 1ms}, std::nullopt); });
}

TEST_CASE("a due time of any size neither overflows nor makes the wait spin") {
  const LockFile lock;
  constexpr auto k_max = std::chrono::milliseconds::max();
  for (const std::chrono::milliseconds due : {k_max, k_max / 1000, k_max / 1'000'000}) {
    const Calls calls;
    ThreadWaiter waiter(Deadline(20ms), {});
    REQUIRE(waiter.watch(lock.watched(), {.due = due}));
    while (waiter.wait() == WaitResult::look_again) {
    }
    CHECK(calls.count(sys::Call::poll) <= 2);
  }
}

TEST_CASE("what is over in a moment is looked at soon, but ever more rarely") {
  const LockFile lock;
  const Calls calls;
  ThreadWaiter waiter(Deadline(200ms), {});
  REQUIRE(waiter.watch(lock.watched(), {.poll_briefly = true}));
  while (waiter.wait() == WaitResult::look_again) {
    CHECK(!waiter.watch(lock.watched(), {.poll_briefly = true}));
  }
  CHECK(calls.count(sys::Call::poll) > 1);
  CHECK(calls.count(sys::Call::poll) < 60);  // every millisecond would be about 270
}

TEST_CASE("what is over in a moment leaves the other pauses as they were, and begins with short ones each time") {
  const LockFile lock;
  {
    const Calls calls;
    ThreadWaiter waiter(Deadline(300ms), {});
    REQUIRE(waiter.watch(lock.watched(), {}));
    CHECK(!waiter.watch(lock.watched(), {.poll_briefly = true}));
    CHECK(waiter.wait() == WaitResult::look_again);
    const int before = calls.count(sys::Call::poll);
    CHECK(!waiter.watch(lock.watched(), {}));
    while (waiter.wait() == WaitResult::look_again) {
    }
    CHECK(calls.count(sys::Call::poll) <= before + 2);
  }
  wait_until("a short pause", [&] {  // a busy machine may need more than one try
    ThreadWaiter waiter(k_long, {});
    REQUIRE(waiter.watch(lock.watched(), {}));
    CHECK(!waiter.watch(lock.watched(), {.poll_briefly = true}));
    for (int i = 0; i < 6; ++i) {  // 10 ms by now, or half of that
      CHECK(waiter.wait() == WaitResult::look_again);
    }
    CHECK(!waiter.watch(lock.watched(), {}));
    CHECK(waiter.wait(Clock::now()) == WaitResult::look_again);
    CHECK(!waiter.watch(lock.watched(), {.poll_briefly = true}));
    const auto start = Clock::now();
    CHECK(waiter.wait() == WaitResult::look_again);
    return Clock::now() - start < 4ms;
  });
}

TEST_CASE("who has to poll polls often while the lock changes hands, or while it would not hear a stop request") {
  // Pauses that went on doubling would make a dozen looks of a quarter of a second. A busy machine may need more than
  // one try.
  const auto count_looks = [](bool changes_hands, bool is_deaf) {
    const LockFile lock;
    const Calls calls(is_deaf ? std::map<sys::Call, int>{{sys::Call::eventfd, EMFILE}} : std::map<sys::Call, int>{});
    const std::stop_source source;
    ThreadWaiter waiter(Deadline(250ms), is_deaf ? source.get_token() : std::stop_token());
    REQUIRE(waiter.watch(lock.watched(false), {}));
    if (changes_hands) {
      lock.replace();
      REQUIRE(waiter.watch(lock.watched(false), {}));
    }
    while (waiter.wait() == WaitResult::look_again) {
    }
    return calls.count(sys::Call::poll);
  };
  CHECK(count_looks(false, false) < 16);
  wait_until("many looks at what changes hands", [&] { return count_looks(true, false) > 20; });
  wait_until("many looks of who is deaf", [&] { return count_looks(false, true) > 20; });
}

TEST_CASE("what tells of nothing is looked at adaptively") {
  const LockFile lock;
  const Calls calls;
  ThreadWaiter waiter(Deadline(300ms), {});
  REQUIRE(waiter.watch(lock.watched(), {.expect_no_event = true}));
  while (waiter.wait() == WaitResult::look_again) {
  }
  CHECK(calls.count(sys::Call::poll) > 1);
  CHECK(calls.count(sys::Call::poll) < 20);
}

TEST_CASE("a shortage makes the wait poll, which is told once") {
  struct Shortage {
    sys::Call call;
    int error;
  };
  for (const Shortage& shortage : {Shortage{sys::Call::eventfd, EMFILE}, Shortage{sys::Call::inotify_add_watch, ENOSPC},
                                   Shortage{sys::Call::inotify_add_watch, ENOENT},
                                   Shortage{sys::Call::pidfd_open, EMFILE}, Shortage{sys::Call::pidfd_open, ENOSYS}}) {
    CAPTURE(sys::to_string(shortage.call));
    CAPTURE(shortage.error);
    const LockFile lock;
    const auto before = counters();
    const Calls calls({{shortage.call, shortage.error}});
    ThreadWaiter waiter(k_long, {});
    CHECK(!waiter.take_degradation());
    REQUIRE(waiter.watch(lock.watched(), {.owner = ::getpid()}));
    const auto why = waiter.take_degradation();
    REQUIRE(why.has_value());
    CHECK(why->value() == shortage.error);
    CHECK(!waiter.take_degradation());
    lock.replace();
    CHECK(waiter.watch(lock.watched(), {.owner = ::getpid()}));
    CHECK(!waiter.take_degradation());  // the same wait
    lock.remove();
    CHECK(waiter.wait() != WaitResult::deadline);
    waiter.count_end();
    CHECK(since(before).wake_ups_by_timer + since(before).wake_ups_by_event == 1);
  }
}

TEST_CASE("a file system of several hosts is polled") {
  const LockFile lock;
  const Calls calls;
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(false), {.owner = ::getpid()}));
  CHECK(waiter.take_degradation() == std::errc::not_supported);
  CHECK(calls.count(sys::Call::inotify_add_watch) == 0);
  CHECK(waiter.wait() == WaitResult::look_again);
}

TEST_CASE("a wait that only the periodic look ends is counted as such") {
  const LockFile lock;
  const auto before = counters();
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(), {}));
  CHECK(waiter.wait(Clock::now()) == WaitResult::look_again);
  waiter.count_end();
  CHECK(since(before).wake_ups_by_timer == 1);
  waiter.count_end();  // once
  CHECK(since(before).wake_ups_by_timer == 1);
  CHECK(since(before).wake_ups_by_event == 0);
}

TEST_CASE("a wait that ended with another's lock is counted, and so is the one that follows") {
  const LockFile lock;
  const auto before = counters();
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(), {}));
  lock.replace();
  CHECK(waiter.wait() == WaitResult::name_went);
  REQUIRE(waiter.watch(lock.watched(), {}));
  CHECK(since(before).wake_ups_by_event == 1);
  lock.remove();
  CHECK(waiter.wait() == WaitResult::name_went);
  waiter.count_end();
  CHECK(since(before).wake_ups_by_event == 2);
  CHECK(since(before).wake_ups_by_timer == 0);
}

TEST_CASE("an event that comes between the timer and the look was not missed") {
  const LockFile lock;
  const auto before = counters();
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(), {}));
  CHECK(waiter.wait(Clock::now()) == WaitResult::look_again);
  lock.remove();
  waiter.count_end();
  CHECK(since(before).wake_ups_by_timer == 0);
  CHECK(since(before).wake_ups_by_event == 1);
}

TEST_CASE("what a wait leaves is closed with whoever takes it, and is told nothing more") {
  const LockFile lock;
  const auto before = sys::open_descriptor_count();
  ThreadWaiter waiter(k_long, {});
  REQUIRE(waiter.watch(lock.watched(), {.owner = ::getpid()}));
  const auto open = sys::open_descriptor_count();
  CHECK(open > before);
  const Calls calls;
  auto remains = waiter.detach_watches();
  CHECK(sys::open_descriptor_count() == open);
  CHECK(calls.count(sys::Call::inotify_rm_watch) == 0);
  // The waiter begins anew, also with the same lock.
  CHECK(waiter.watch(lock.watched(), {}));
  remains.reset();
  lock.remove();
  CHECK(waiter.wait() == WaitResult::name_went);
}

TEST_CASE("what is left of a wait does not take another's watch of the same inode along") {
  const LockFile lock;
  ThreadWaiter first(k_long, {});
  REQUIRE(first.watch(lock.watched(), {}));
  ThreadWaiter second(k_long, {});
  REQUIRE(second.watch(lock.watched(), {}));
  (void)first.detach_watches();
  lock.remove();
  CHECK(second.wait() == WaitResult::name_went);
}

TEST_CASE("retrying ends with success or with the time, and tries at least once") {
  int tries = 0;
  CHECK(retry_until(Clock::now() + k_patience, [&] { return ++tries == 3; }));
  CHECK(tries == 3);
  CHECK(!retry_until(Clock::now() - 1s, [&] {
    ++tries;
    return false;
  }));
  CHECK(tries == 4);
}
