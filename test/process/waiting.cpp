// Waiting: nobody misses a release or a death, nobody spins, nobody starves, and who gives up leaves nothing behind.

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <sessionlock/counters.hpp>
#include <sessionlock/lock_manager.hpp>
#include <sessionlock/process_identity.hpp>

#include "events.hpp"
#include "fairness.hpp"
#include "hold/yielding.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "protocol/lock_file.hpp"
#include "protocol/session_location.hpp"
#include "script.hpp"
#include "second_copy.hpp"
#include "wake_ups.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

AcquireOptions waiting_for(std::chrono::milliseconds timeout) {
  AcquireOptions options;
  options.timeout = timeout;
  return options;
}

/// Numbers that several processes count in.
template <std::size_t size>
class SharedCounts {
 public:
  SharedCounts()
      : counts_(new (::mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
                    Counts{}) {}
  ~SharedCounts() { ::munmap(counts_, sizeof(Counts)); }
  SharedCounts(const SharedCounts&) = delete;
  SharedCounts& operator=(const SharedCounts&) = delete;
  std::atomic<std::uint64_t>& operator[](std::size_t i) const { return (*counts_)[i]; }
  [[nodiscard]] std::array<std::uint64_t, size> all() const {
    std::array<std::uint64_t, size> all{};
    std::copy(counts_->begin(), counts_->end(), all.begin());
    return all;
  }

 private:
  using Counts = std::array<std::atomic<std::uint64_t>, size>;
  Counts* counts_;
};

/// Counts one kind of call.
class CallCount : public Script {
 public:
  explicit CallCount(sys::Call call)
      : Script([this, call](const sys::CallInfo& info) {
          count_ += info.call == call ? 1 : 0;
          return 0;
        }) {}
  [[nodiscard]] int count() const { return count_.load(); }

 private:
  std::atomic<int> count_{0};
};

/// A thread that acquires, and keeps what it got until the test is over with it.
class AcquiringThread {
 public:
  AcquiringThread(LockManager& manager, fs::path session, AcquireOptions options = waiting_for(k_patience))
      : options_(std::move(options)), thread_([this, &manager, session = std::move(session)] {
          result_ = manager.acquire(session, options_);
          is_done_ = true;
        }) {}
  ~AcquiringThread() {
    if (thread_.joinable()) {
      thread_.join();
    }
  }
  AcquiringThread(const AcquiringThread&) = delete;
  AcquiringThread& operator=(const AcquiringThread&) = delete;
  [[nodiscard]] bool is_done() const { return is_done_; }
  [[nodiscard]] Result<SessionLock> wait() {
    thread_.join();
    return std::move(*result_);
  }

 private:
  AcquireOptions options_;
  std::optional<Result<SessionLock>> result_{};
  std::atomic<bool> is_done_{false};
  std::thread thread_;
};

}  // namespace

// --- wake-ups --------------------------------------------------------------------------------------------------------

TEST_CASE("a release at any moment between look and sleep is not missed") {
  // The long form is test/stress/wake_ups.cpp.
  release_at_every_call(150).check();
}

TEST_CASE("the owner's death at any moment between look and sleep is not missed") {
  kill_at_every_call(60).check();
}

TEST_CASE("a release and a death end a wait by their events") {
  const Session session;
  for (const bool dies : {false, true}) {
    CAPTURE(dies);
    Events events;
    LockManager manager(events.options());
    auto holder = holder_of(session.path);
    const auto before = counters();
    AcquiringThread waiting(manager, session.path);
    events.wait_for(EventKind::contended);
    if (dies) {
      holder.send_signal(SIGKILL);
    } else {
      holder.tell("release");
    }
    const auto lock = held(waiting.wait());
    CHECK(lock.reclaimed_from().has_value() == dies);
    CHECK(counters().waits == before.waits + 1);
    CHECK(counters().wake_ups_by_event == before.wake_ups_by_event + 1);
    CHECK(counters().wake_ups_by_timer == before.wake_ups_by_timer);
    CHECK(counters().wait_time > before.wait_time);
  }
}

TEST_CASE("a lock that is free is not waited for") {
  const Session session;
  const auto before = counters();
  const CallCount polls(sys::Call::poll);
  CHECK(held(LockManager().acquire(session.path)).owns());
  CHECK(polls.count() == 0);
  CHECK(counters().waits == before.waits);
  CHECK(counters().acquisitions == before.acquisitions + 1);
}

TEST_CASE("who only waits until it is free is woken, takes nothing and leaves no mark") {
  const Session session;
  Events events;
  LockManager manager(events.options());
  auto holder = holder_of(session.path);
  std::optional<Result<void>> waited;
  std::thread thread([&] { waited = manager.wait_until_free(session.path, waiting_for(k_patience)); });
  events.wait_for(EventKind::contended);
  const auto place = place_in(session.directory.path(), "s.jsonl.lock");
  const auto pinned = pin(place);
  REQUIRE(pinned.has_value());
  CHECK(!has_waiting_mark((*pinned)->fd.get(), *place.directory->traits));
  holder.tell("release");
  thread.join();
  CHECK(waited->has_value());
  CHECK(!fs::exists(session.lock));
  CHECK(events.of(EventKind::acquired).empty());
}

TEST_CASE("who waits until it is free is told of a stale lock at once, and that a wait ran out") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  CHECK(LockManager().wait_until_free(session.path, waiting_for(0ms)).has_value());
  CHECK(fs::exists(session.lock));  // not taken away
  fs::remove(session.lock);
  const auto holder = holder_of(session.path);
  CHECK(code_of(LockManager().wait_until_free(session.path, waiting_for(0ms))) == Errc::locked);
  CHECK(code_of(LockManager().wait_until_free(session.path, waiting_for(5ms))) == Errc::timed_out);
}

TEST_CASE("of 64 waiters exactly one gets a killed holder's lock, the others wait on without spinning") {
  constexpr std::size_t k_waiters = 64;
  const Session session;
  const SharedCounts<k_waiters> polls;
  const SharedCounts<1> degraded;  // inotify instances run out where several such tests run at once
  std::array<int, 2> winners{};
  REQUIRE(::pipe2(winners.data(), O_CLOEXEC) == 0);
  auto holder = holder_of(session.path);
  std::vector<ChildProcess> waiters;
  for (std::size_t i = 0; i < k_waiters; ++i) {
    waiters.push_back(ChildProcess::run([&, i](Channel& parent) {
      const Script script([&](const sys::CallInfo& info) {
        polls[i] += info.call == sys::Call::poll ? 1 : 0;
        return 0;
      });
      ManagerOptions options;
      options.observer = [&](const Event& event) { degraded[0] += event.kind == EventKind::degraded ? 1 : 0; };
      auto lock = LockManager(options).acquire(session.path, waiting_for(2 * k_patience));
      REQUIRE_IN_CHILD(lock.has_value());
      const auto number = static_cast<unsigned char>(i);
      REQUIRE_IN_CHILD(::write(winners[1], &number, 1) == 1);
      parent.expect("release");
      REQUIRE_IN_CHILD(lock->release().has_value());
      return 0;
    }));
  }
  for (std::size_t i = 0; i < k_waiters; ++i) {
    wait_until("asleep", [&] { return polls[i] > 0; });
  }
  const auto next_winner = [&](int patience_ms) -> std::optional<std::size_t> {
    ::pollfd entry{winners[0], POLLIN, 0};
    unsigned char number = 0;
    if (::poll(&entry, 1, patience_ms) != 1 || ::read(winners[0], &number, 1) != 1) {
      return std::nullopt;
    }
    return number;
  };
  constexpr int k_patience_ms = static_cast<int>(std::chrono::milliseconds{k_patience}.count());
  (void)holder.kill();
  std::set<std::size_t> seen;
  for (std::size_t i = 0; i < k_waiters; ++i) {
    const auto winner = next_winner(k_patience_ms);
    REQUIRE(winner.has_value());
    CHECK(seen.insert(*winner).second);
    if (i == 0) {
      // The dust settles, and then nothing but a rare look happens; who cannot watch looks every 5 to 10 ms.
      wait_until("nobody spins", [&] {
        const auto before = polls.all();
        std::this_thread::sleep_for(300ms);
        const auto after = polls.all();
        const std::uint64_t most = degraded[0] == 0 ? 10 : 150;
        return std::equal(before.begin(), before.end(), after.begin(),
                          [most](std::uint64_t then, std::uint64_t now) { return now - then < most; });
      });
    }
    CHECK(!next_winner(0));
    const auto inspection = LockManager().inspect(session.path);
    REQUIRE(inspection.has_value());
    CHECK(inspection->record.pid == waiters[*winner].pid());
    waiters[*winner].tell("release");
    CHECK(waiters[*winner].wait().exited_with(0));
  }
  ::close(winners[0]);
  ::close(winners[1]);
}

// --- what raises no event --------------------------------------------------------------------------------------------

TEST_CASE("while a dead owner's child has the witness it is looked at now and then, and its end frees the lock") {
  const Session session;
  auto owner = ChildProcess::run([&](Channel& parent) {
    const auto lock = held(try_lock(session.path));
    std::string name = "sleep";
    std::string time = "1000";
    char* const arguments[] = {name.data(), time.data(), nullptr};
    parent.tell(std::to_string(value_or_throw(lock.spawn_with(name.c_str(), arguments, environ))));
    (void)parent.hear();
    return 0;
  });
  const pid_t heir = static_cast<pid_t>(std::stoi(*owner.hear()));
  const CallCount polls(sys::Call::poll);
  Events events;
  LockManager manager(events.options());
  AcquiringThread waiting(manager, session.path);
  events.wait_for(EventKind::contended);
  (void)owner.kill();
  const int before = polls.count();
  std::this_thread::sleep_for(400ms);
  CHECK(polls.count() - before < 40);  // a pidfd that stays in the poll set would make it half a million
  CHECK(!waiting.is_done());
  ::kill(heir, SIGKILL);
  CHECK(held(waiting.wait()).reclaimed_from().has_value());
}

TEST_CASE("a stranger that got a dead owner's pid is not watched in its place") {
  // The witness is held by an heir, and the pid belongs to somebody who lives on.
  const Session session;
  auto stranger = idle_process();
  auto heir = ChildProcess::run([&](Channel& parent) {
    auto record = own_record();
    record.pid = stranger.pid();
    record.starttime = *process_start_time(stranger.pid()) + 1;
    const int fd = ::open(session.lock.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const std::string text = format_lock_record(record);
    REQUIRE_IN_CHILD(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    REQUIRE_IN_CHILD(sys::ofd_set_lock(fd, F_WRLCK, k_witness_offset).ok());
    parent.tell("ready");
    (void)parent.hear();
    return 0;
  });
  heir.expect("ready");
  const CallCount opened(sys::Call::pidfd_open);
  Events events;
  LockManager manager(events.options());
  AcquiringThread waiting(manager, session.path);
  events.wait_for(EventKind::contended);
  (void)heir.kill();
  CHECK(held(waiting.wait()).reclaimed_from()->reasons.front() == StaleReason::recycled_pid);
  CHECK(opened.count() == 0);
}

TEST_CASE("a wait that has to poll says so once and gets the lock") {
  struct Shortage {
    sys::Call call;
    int error;
  };
  for (const Shortage& shortage : {Shortage{sys::Call::eventfd, EMFILE}, Shortage{sys::Call::inotify_add_watch, ENOSPC},
                                   Shortage{sys::Call::pidfd_open, EMFILE}}) {
    CAPTURE(sys::to_string(shortage.call));
    const Session session;
    auto first = holder_of(session.path);
    const Script script(failing(shortage.call, shortage.error));
    Events events;
    LockManager manager(events.options());
    AcquiringThread waiting(manager, session.path);
    events.wait_for(EventKind::degraded);
    auto second = ChildProcess::run([&](Channel& parent) {  // so that the lock changes hands before the wait is over
      parent.tell("going");
      auto lock = LockManager().acquire(session.path);
      REQUIRE_IN_CHILD(lock.has_value());
      return 0;
    });
    second.expect("going");
    first.tell("release");
    CHECK(held(waiting.wait()).owns());
    CHECK(second.wait().exited_with(0));
    const auto degraded = events.of(EventKind::degraded);
    REQUIRE(degraded.size() == 1);
    CHECK(degraded.front().error->code.value() == shortage.error);
    CHECK(degraded.front().lock_path == session.lock);
  }
}

TEST_CASE("without inotify instances a wait polls, and is told of its owner's end all the same") {
  auto child = ChildProcess::run([](Channel&) {  // where there is no instance yet
    const Session session;
    auto holder = holder_of(session.path);
    const Script script(failing(sys::Call::inotify_init, EMFILE));
    Events events;
    LockManager manager(events.options());
    AcquiringThread waiting(manager, session.path);
    events.wait_for(EventKind::degraded);
    holder.send_signal(SIGKILL);
    REQUIRE_IN_CHILD(waiting.wait().has_value());
    REQUIRE_IN_CHILD(events.of(EventKind::degraded).size() == 1);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a lock that is found by a name it is just losing is not waited for") {
  // Protects: the look at the link count in `pin`. The kernel tells watchers of an unlink before the name is gone.
  const Session session;
  plant(session.lock, foreign_record(::getpid(), start_of(::getpid())));
  bool removed = false;
  const Script script(outermost([&](const sys::CallInfo& info) {
    const bool is_lock = info.call == sys::Call::fstat && inode_of(session.lock) != 0 && [&] {
      struct stat status {};
      return ::fstat(info.fd, &status) == 0 && status.st_ino == inode_of(session.lock);
    }();
    if (is_lock && !removed) {
      removed = true;
      fs::remove(session.lock);
    }
    return 0;
  }));
  CHECK(held(try_lock(session.path)).owns());
  CHECK(removed);
}

TEST_CASE("who waits at a session that leads elsewhere meanwhile gets the lock where it leads") {
  // Each of them would wait out its time at a lock that is not the session's any more.
  const TemporaryDirectory directory;
  for (const char* const name : {"renamed", "queued", "aged", "one", "other"}) {
    fs::create_directory(directory / name);
  }
  fs::create_symlink("one", directory / "link");
  const fs::path renamed = directory / "renamed/s.jsonl";
  const fs::path queued = directory / "queued/s.jsonl";
  const fs::path aged = directory / "aged/s.jsonl";
  const auto holder = holder_of(renamed);
  const auto holder_of_link = holder_of(directory / "one/s.jsonl");
  const auto lock_of_queued = held(try_lock(queued));
  plant(aged.string() + ".lock", foreign_record(::getpid()));  // its age is looked at again and again
  Events events;
  LockManager manager(events.options());
  AcquiringThread waits_for_process(manager, renamed);
  AcquiringThread waits_behind_link(manager, directory / "link/s.jsonl");
  AcquiringThread waits_in_queue(manager, queued);
  AcquiringThread waits_for_age(manager, aged);
  events.wait_for(EventKind::contended, 4);
  for (const std::string name : {"renamed", "queued", "aged"}) {
    fs::rename(directory / name, directory / (name + " away"));
    fs::create_directory(directory / name);
  }
  fs::remove(directory / "link");
  fs::create_symlink("other", directory / "link");
  CHECK(held(waits_for_process.wait()).session_path() == renamed);
  CHECK(held(waits_behind_link.wait()).session_path() == directory / "other/s.jsonl");
  CHECK(held(waits_in_queue.wait()).session_path() == queued);
  CHECK(held(waits_for_age.wait()).session_path() == aged);
  CHECK(fs::exists(directory / "renamed away/s.jsonl.lock"));
  CHECK(lock_of_queued.verify().has_value());
}

// --- threads of one process ------------------------------------------------------------------------------------------

TEST_CASE("threads of one process get the lock in the order in which they came") {
  const Session session;
  Events events;
  LockManager manager(events.options());
  auto lock = held(manager.acquire(session.path));
  constexpr std::size_t k_threads = 6;
  std::vector<std::size_t> order;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < k_threads; ++i) {
    threads.emplace_back([&, i] {
      const auto mine = manager.acquire(session.path, waiting_for(k_patience));
      order.push_back(mine ? i : k_threads);  // under the lock
    });
    events.wait_for(EventKind::contended, i + 1);  // it stands in the queue
  }
  CHECK(lock.release().has_value());
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(order == std::vector<std::size_t>{0, 1, 2, 3, 4, 5});
}

TEST_CASE("a thread in the queue is called when its turn comes") {
  // Without a call it would look up after a second. A busy machine may need more than one try.
  const Session session;
  Events events;
  LockManager manager(events.options());
  std::size_t rounds = 0;
  wait_until("a turn came soon", [&] {
    auto lock = held(manager.acquire(session.path));
    AcquiringThread waiting(manager, session.path);
    events.wait_for(EventKind::contended, ++rounds);
    const auto start = Clock::now();
    CHECK(lock.release().has_value());
    CHECK(held(waiting.wait()).owns());
    return Clock::now() - start < 400ms;
  });
}

TEST_CASE("a lock that age makes stale is taken when the time has come, not at the next periodic look") {
  // Protects: `plan.due` in `BlockingLock::make_plan`. A busy machine may need more than one try.
  const auto owner = idle_process();
  wait_until("taken when the time had come", [&] {
    const Session session;
    AcquireOptions options = waiting_for(k_patience);
    options.stale.stale_after = 50ms;
    plant(session.lock, foreign_record(owner.pid()));
    const auto start = Clock::now();
    const auto lock = held(LockManager().acquire(session.path, options));
    CHECK(lock.reclaimed_from()->record.pid == owner.pid());
    return Clock::now() - start < 400ms;
  });
}

TEST_CASE("a thread in the queue gets the lock although its release failed at first") {
  // Protects: `retry_failed_releases` in `Acquisition::still_leads_here_from_queue`.
  const Session session;
  const Events events;
  LockManager manager(events.options());
  std::optional<SessionLock> got;
  std::thread thread;
  {
    const Script script(failing(sys::Call::unlinkat, EIO));
    { const auto lock = held(try_lock(session.path)); }
    thread = std::thread([&] { got = held(manager.acquire(session.path)); });
    events.wait_for(EventKind::contended);
  }
  thread.join();
  CHECK(got->verify().has_value());
}

TEST_CASE("a thread in the queue is told whom it waits for") {
  const Session session;
  Events events;
  LockManager holders;
  LockManager manager(events.options());
  auto lock = held(holders.acquire(session.path));
  AcquiringThread waiting(manager, session.path);
  events.wait_for(EventKind::contended);
  const Event contended = events.of(EventKind::contended).front();
  REQUIRE(contended.inspection.has_value());
  CHECK(contended.inspection->record.pid == ::getpid());
  CHECK(contended.inspection->basis == Basis::held_here);
  CHECK(contended.lock_path == session.lock);
  CHECK(lock.release().has_value());
  CHECK(held(waiting.wait()).owns());
  CHECK(events.of(EventKind::contended).size() == 1);
  CHECK(events.of(EventKind::acquired).size() == 1);
}

TEST_CASE("deadlines and stop requests work in the queue, and those behind move up") {
  const Session session;
  Events events;
  LockManager manager(events.options());
  auto lock = held(manager.acquire(session.path));
  std::stop_source source;
  AcquireOptions cancellable = waiting_for(std::chrono::milliseconds::max());
  cancellable.stop = source.get_token();
  AcquiringThread cancelled(manager, session.path, cancellable);
  events.wait_for(EventKind::contended, 1);
  AcquiringThread late(manager, session.path, waiting_for(20ms));
  events.wait_for(EventKind::contended, 2);
  AcquiringThread patient(manager, session.path);
  events.wait_for(EventKind::contended, 3);
  const auto timed_out = late.wait();
  REQUIRE(!timed_out.has_value());
  CHECK(timed_out.error().code == Errc::timed_out);
  CHECK(timed_out.error().holder->record.pid == ::getpid());
  source.request_stop();
  CHECK(code_of(cancelled.wait()) == Errc::cancelled);
  CHECK(!patient.is_done());
  CHECK(lock.release().has_value());
  CHECK(held(patient.wait()).owns());
}

TEST_CASE("a queue's first thread waits for another process, and the others for it") {
  const Session session;
  auto holder = holder_of(session.path);
  Events events;
  LockManager manager(events.options());
  AcquiringThread first(manager, session.path);
  events.wait_for(EventKind::contended, 1);
  AcquiringThread second(manager, session.path);
  events.wait_for(EventKind::contended, 2);
  for (const auto& event : events.of(EventKind::contended)) {
    CHECK(event.inspection->record.pid == holder.pid());
  }
  holder.tell("release");
  {
    const auto lock = held(first.wait());
    CHECK(!second.is_done());
  }
  CHECK(held(second.wait()).owns());
}

TEST_CASE("several threads wait for several sessions of other processes, and each gets its own") {
  constexpr std::size_t k_sessions = 4;
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<ChildProcess> holders;
  std::vector<std::unique_ptr<AcquiringThread>> threads;
  Events events;
  LockManager manager(events.options());
  const auto before = counters();
  for (std::size_t i = 0; i < k_sessions; ++i) {
    sessions.push_back(std::make_unique<Session>());
    holders.push_back(holder_of(sessions.back()->path));
  }
  for (std::size_t i = 0; i < k_sessions; ++i) {
    threads.push_back(std::make_unique<AcquiringThread>(manager, sessions[i]->path));
    events.wait_for(EventKind::contended, i + 1);
  }
  for (const std::size_t i : {0U, 2U, 3U, 1U}) {
    CHECK(!threads[i]->is_done());
    if (i % 2 == 0) {
      holders[i].tell("release");
    } else {
      (void)holders[i].kill();
    }
    CHECK(held(threads[i]->wait()).owns());
  }
  CHECK(counters().wake_ups_by_timer == before.wake_ups_by_timer);
}

TEST_CASE("a hold by one manager is seen by the others of the process") {
  const Session session;
  LockManager one;
  LockManager other;
  auto lock = held(one.acquire(session.path));
  const auto refused = other.try_acquire(session.path);
  REQUIRE(code_of(refused) == Errc::locked);
  CHECK(refused.error().holder->basis == Basis::held_here);
  CHECK(other.inspect(session.path)->basis == Basis::held_here);
  REQUIRE(other.held().size() == 1);
  CHECK(other.held().front().session_path == session.path);
  CHECK(other.held().front().depth == 1);
  CHECK(lock.release().has_value());
  CHECK(other.held().empty());
  CHECK(held(other.try_acquire(session.path)).owns());
}

TEST_CASE("two copies of the library in one process exclude each other through the file") {
  const SecondCopy& copy = SecondCopy::load();
  const Session session;
  {
    const auto lock = held(try_lock(session.path));
    CHECK(code_of(copy.acquire(session.path, waiting_for(0ms))) == Errc::locked);
  }
  auto theirs = copy.acquire(session.path, waiting_for(0ms));
  REQUIRE(theirs.has_value());
  const auto refused = try_lock(session.path);
  REQUIRE(code_of(refused) == Errc::locked);
  CHECK(refused.error().holder->basis == Basis::witness_held);
  CHECK(refused.error().holder->record.pid == ::getpid());
  CHECK(LockManager().held().empty());
  Events events;
  LockManager manager(events.options());
  AcquiringThread waiting(manager, session.path);
  events.wait_for(EventKind::contended);
  CHECK(theirs->release().has_value());
  CHECK(held(waiting.wait()).owns());
}

// --- giving up -------------------------------------------------------------------------------------------------------

TEST_CASE("an acquire that is cancelled either has the lock or has left nothing") {
  // The long form is test/stress/wake_ups.cpp.
  constexpr int k_rounds = 100;
  for (const Queue queue : {Queue::threads, Queue::processes}) {
    const auto figures = cancel_at_random(queue, k_rounds);
    CHECK(figures.lost == 0);
    CHECK(figures.acquired + figures.cancelled == k_rounds);
    CHECK(figures.cancelled > 0);
  }
}

TEST_CASE("an acquire that is cancelled before it begins tries nothing") {
  const Session session;
  std::stop_source source;
  source.request_stop();
  AcquireOptions options;
  options.stop = source.get_token();
  const CallCount links(sys::Call::linkat);
  CHECK(code_of(LockManager().acquire(session.path, options)) == Errc::cancelled);
  CHECK(links.count() == 0);
  CHECK(held(try_lock(session.path)).owns());
}

TEST_CASE("a stop request ends a wait for another process, and names whom it was for") {
  const Session session;
  const auto holder = holder_of(session.path);
  Events events;
  LockManager manager(events.options());
  std::stop_source source;
  AcquireOptions options = waiting_for(std::chrono::milliseconds::max());
  options.stop = source.get_token();
  AcquiringThread waiting(manager, session.path, options);
  events.wait_for(EventKind::contended);
  source.request_stop();
  const auto cancelled = waiting.wait();
  REQUIRE(code_of(cancelled) == Errc::cancelled);
  CHECK(cancelled.error().holder->record.pid == holder.pid());
}

// --- fairness --------------------------------------------------------------------------------------------------------

TEST_CASE("who releases a lock that somebody waits for lets that one go first") {
  const Session session;
  LockManager manager;
  // A pause that begins too late is none, so a busy machine may need more than one try.
  wait_until("the releaser gave way", [&] {
    auto lock = held(manager.acquire(session.path));
    auto waiter = ChildProcess::run([&](Channel& parent) {
      const Script script(outermost([&](const sys::CallInfo& info) {
        if (info.call == sys::Call::poll) {
          parent.tell("asleep");
        }
        return 0;
      }));
      auto got = LockManager().acquire(session.path, waiting_for(k_patience));
      REQUIRE_IN_CHILD(got.has_value());
      parent.tell("got it");
      parent.expect("release");
      REQUIRE_IN_CHILD(got->release().has_value());
      return 0;
    });
    waiter.expect("asleep");
    bool has_looked = false;
    bool has_tried_before = false;
    {
      const Script script(outermost([&](const sys::CallInfo& info) {
        has_tried_before = has_tried_before || (!has_looked && info.call == sys::Call::linkat);
        if (!has_looked && !has_tried_before && is_call_on(info, sys::Call::fstatat, "s.jsonl.lock") &&
            !fs::exists(session.lock)) {
          has_looked = true;  // whether the other came; let it come
          while (waiter.hear() != "got it") {
          }
        }
        return 0;
      }));
      REQUIRE(lock.release().has_value());
      (void)manager.acquire(session.path, waiting_for(1ms));
    }
    const bool gave_way = has_looked && !has_tried_before;
    waiter.tell("release");
    CHECK(waiter.wait().exited_with(0));
    return gave_way;
  });
}

TEST_CASE("competing processes get their turns, and nobody waits without end") {
  // The long form, with figures, is test/stress/fairness.cpp.
  for (const auto& competitors :
       {std::vector<Competitor>(8),
        std::vector<Competitor>{{.hold = 500us}, {.rest = 500us}, {.rest = 500us, .polls = true}}}) {
    const auto shares = compete(competitors, 250ms);
    CHECK(longest_wait(shares) < 10s);
    CHECK(std::all_of(shares.begin(), shares.end(), [](const Share& share) { return share.acquisitions > 0; }));
  }
}

TEST_CASE("a releaser pauses for those who wait, once, and not for long when nobody comes") {
  const Session session;
  auto lock = held(try_lock(session.path));
  // A waiter that never comes: it is stopped with its mark on the lock.
  auto waiter = ChildProcess::run([&](Channel& parent) {
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::poll) {
        parent.tell("asleep");
      }
      return 0;
    }));
    const auto got = LockManager().acquire(session.path);
    return got ? 0 : 1;
  });
  waiter.expect("asleep");
  waiter.stop();
  REQUIRE(lock.release().has_value());
  const CallCount looks(sys::Call::fstatat);
  int paused = 0;
  int before = 0;
  const auto looks_of_acquire = [&] {
    before = looks.count();
    const auto again = held(LockManager().acquire(session.path));
    return looks.count() - before;
  };
  paused = looks_of_acquire();
  const int at_once = looks_of_acquire();
  CHECK(paused > at_once);  // the second time nobody is owed anything
  waiter.resume();
  CHECK(waiter.wait().exited_with(0));
}

TEST_CASE("a pause that nobody used is followed by short ones, and one that somebody used by a long one") {
  // Protects: what `yield_to_waiters` records of a pause. Short is 200 us, long 12 ms.
  const TemporaryDirectory directory;
  const auto session = directory / "paused.jsonl";  // which no other test has owed a pause
  const SessionLocation location = value_or_throw(locate(session, {}));
  const HoldKeyView key = key_of(location);
  const auto is_next_long = [&] {
    std::optional<Clock::time_point> until;
    Clock::time_point end;
    for (int tries = 0; !until && tries < 1000; ++tries) {  // one that is over before it is asked for is none
      schedule_yield(key);
      end = Clock::now();
      until = take_pending_yield(key);
    }
    return until && *until > end + 1ms;
  };
  const auto acquire_after_pause = [&](const std::function<void()>& meanwhile) {
    bool has_paused = false;
    wait_until("a pause began before it was over", [&] {
      const Script script(outermost([&](const sys::CallInfo& info) {
        // A pause that was over before it began leaves the look of the release, which finds the lock.
        if (is_call_on(info, sys::Call::fstatat, "paused.jsonl.lock") && !fs::exists(location.lock.path()) &&
            !std::exchange(has_paused, true)) {
          meanwhile();
        }
        return 0;
      }));
      schedule_yield(key);
      (void)LockManager().acquire(session, waiting_for(1ms));
      return has_paused;
    });
  };
  CHECK(is_next_long());
  acquire_after_pause([] {});
  CHECK(!is_next_long());
  acquire_after_pause([&] { plant(location.lock.path(), foreign_record(::getpid(), start_of(::getpid()))); });
  CHECK(is_next_long());
}
