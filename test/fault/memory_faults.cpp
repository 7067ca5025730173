// Memory runs out at each place where an operation on locks takes some: once, or from there on. Whatever the operation
// answers, or throws, nobody is locked out by what is left of it.

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/pid_file.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "sanitizers.hpp"
#include "script.hpp"
#include "system/system.hpp"

namespace {

/// How many allocations of this thread succeed before one fails; negative: all do.
thread_local long g_allocations_left = -1;
thread_local bool g_fails_for_good = false;
thread_local bool g_has_failed = false;

}  // namespace

// The sanitizers bring one of their own. Then nothing is ever missing, and each case runs once.
#if !SESSIONLOCK_ADDRESS_SANITIZER && !SESSIONLOCK_THREAD_SANITIZER
void* operator new(std::size_t size) {
  if (g_allocations_left >= 0 && g_allocations_left-- == 0) {
    g_has_failed = true;
    g_allocations_left = g_fails_for_good ? 0 : -1;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size == 0 ? 1 : size); memory != nullptr) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
#endif

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;

namespace {

/// Names too long to be kept without memory of their own.
struct Bench {
  TemporaryDirectory directory{};
  fs::path path = directory / "a session with a long name.jsonl";
  fs::path lock = directory / "a session with a long name.jsonl.lock";
  LockManager manager{};
};

/// Acts while the allocation after so many fails. True if there was one.
bool act_without_memory(long allocations, bool for_good, const std::function<void()>& act) {
  g_has_failed = false;
  g_fails_for_good = for_good;
  g_allocations_left = allocations;
  try {
    act();
  } catch (const std::bad_alloc&) {
  }
  g_allocations_left = -1;
  return g_has_failed;
}

/// Once for each allocation that `act` makes, and each way to fail: `prepare`, `act`, `check`.
void without_memory(const std::function<void()>& prepare, const std::function<void()>& act,
                    const std::function<void()>& check) {
  for (const bool for_good : {false, true}) {
    CAPTURE(for_good);
    bool has_failed = true;
    for (long allocations = 0; has_failed; ++allocations) {
      CAPTURE(allocations);
      prepare();
      has_failed = act_without_memory(allocations, for_good, act);
      check();
    }
  }
}

SessionLock acquired(Bench& session, const AcquireOptions& options = {}) {
  auto lock = session.manager.try_acquire(session.path, options);
  REQUIRE_MESSAGE(lock.has_value(), (lock ? "" : lock.error().message()));
  return std::move(*lock);
}

}  // namespace

TEST_CASE("an acquisition that memory is missing for leaves no lock, and keeps nobody from another") {
  // Protects: `Acquisition::reserve`, and the order in `Acquisition::complete`, `Ticket::enter` and `Turn::hand_to`.
  Bench session;
  AcquireOptions options;
  options.owner = "an owner with a long name, too";
  options.label = "a label with more words than would fit into a string itself";
  (void)acquired(session);
  const std::size_t descriptors = sys::open_descriptor_count();
  for (const bool is_stale : {false, true}) {
    CAPTURE(is_stale);
    std::optional<Result<SessionLock>> lock;
    const std::string record = foreign_record(dead_pid());
    without_memory(
        [&] {
          if (is_stale) {
            plant(session.lock, record);
          }
        },
        [&] { lock = session.manager.try_acquire(session.path, options); },
        [&] {
          const bool is_held = lock && lock->has_value();
          lock.reset();
          if (fs::exists(session.lock)) {
            REQUIRE(is_stale);
            REQUIRE(!is_held);
            REQUIRE(fs::file_size(session.lock) == record.size());
          }
          REQUIRE(session.manager.held().empty());
          REQUIRE(sys::open_descriptor_count() == descriptors);
          (void)acquired(session, options);
          REQUIRE(!fs::exists(session.lock));
        });
  }
}

TEST_CASE("an acquisition in a directory of locks that memory is missing for leaves no lock there") {
  // Protects: `open_or_make_directory`, and the form of `create_directories` that may fail.
  Bench session;
  ManagerOptions options;
  options.lock_directory = session.directory / "a directory of locks with a long name";
  LockManager manager(options);
  for (const bool is_there : {false, true}) {
    CAPTURE(is_there);
    std::optional<Result<SessionLock>> lock;
    without_memory(
        [&] {
          if (is_there) {
            fs::create_directories(options.lock_directory);
          } else {
            fs::remove_all(options.lock_directory);
          }
        },
        [&] { lock = manager.try_acquire(session.path); },
        [&] {
          lock.reset();
          REQUIRE((!fs::exists(options.lock_directory) || names_in(options.lock_directory).empty()));
          REQUIRE(manager.try_acquire(session.path).has_value());
        });
  }
}

TEST_CASE("a wait that memory is missing for from the first moment of the process ends in an answer or an exception") {
  // Protects: `this_process_tally`, which the destructor of an acquisition counts in. It must be the first use there.
  Bench session;
  auto owner = idle_process();
  plant(session.lock, foreign_record(owner.pid(), start_of(owner.pid())));
  AcquireOptions options;
  options.timeout = std::chrono::milliseconds{1};
  for (long allocations = 0, has_failed = 1; has_failed != 0; ++allocations) {
    CAPTURE(allocations);
    auto child = ChildProcess::run([&](Channel&) {
      return act_without_memory(allocations, true, [&] { (void)session.manager.acquire(session.path, options); }) ? 3
                                                                                                                  : 0;
    });
    const Ended ended = child.wait();
    REQUIRE(ended.signal == 0);
    has_failed = ended.exit_code;
  }
}

TEST_CASE("a claim of a PID file that memory is missing for leaves no file") {
  // Protects: `unpublish` in `PidFile::claim`.
  Bench session;
  const fs::path path = session.directory / "a PID file with a name that needs memory of its own.pid";
  std::optional<Result<PidClaim>> claim;
  without_memory([] {}, [&] { claim = PidFile::claim(path); },
                 [&] {
                   claim.reset();
                   REQUIRE(!fs::exists(path));
                   const auto again = PidFile::claim(path);
                   REQUIRE(again.has_value());
                   REQUIRE(again->file.has_value());
                 });
}

TEST_CASE("whatever memory is missing for, a death is reported to one turn, and nobody waits for it") {
  // Protects: `ReplacedFile`, which puts back without memory.
  Bench session;
  for (const bool has_lock_directory : {false, true}) {
    CAPTURE(has_lock_directory);
    ManagerOptions options;
    options.lock_directory = has_lock_directory ? session.directory / "locks" : "";
    options.observer = [](const Event&) {};
    LockManager manager(options);
    const fs::path lock_path = held(manager.try_acquire(session.path)).lock_path();
    const std::string record = foreign_record(dead_pid());
    std::optional<Result<SessionLock>> lock;
    without_memory([&] { plant(lock_path, record); }, [&] { lock = manager.try_acquire(session.path); },
                   [&] {
                     const bool is_held = lock && lock->has_value();
                     int reports = is_held && (*lock)->reclaimed_from() ? 1 : 0;
                     REQUIRE(reports == (is_held ? 1 : 0));
                     REQUIRE((is_held || read_text(lock_path) == record));
                     lock.reset();
                     const auto next = held(manager.try_acquire(session.path));
                     reports += next.reclaimed_from() ? 1 : 0;
                     REQUIRE(reports == 1);
                     REQUIRE(fs::file_size(lock_path) != record.size());
                   });
  }
}

TEST_CASE("a share that memory is missing for is none") {
  // Protects: `make_share`.
  Bench session;
  AcquireOptions options;
  options.reentrant = true;
  std::optional<SessionLock> outer;
  std::optional<Result<SessionLock>> inner;
  without_memory([&] { outer = acquired(session, options); },
                 [&] { inner = session.manager.try_acquire(session.path, options); },
                 [&] {
                   inner.reset();
                   REQUIRE(session.manager.held().front().depth == 1);
                   REQUIRE(outer->release().has_value());
                   REQUIRE(!fs::exists(session.lock));
                 });
}

TEST_CASE("a lock is released without memory") {
  // Protects: that `remove_hold` takes none.
  Bench session;
  std::optional<SessionLock> lock;
  for (const bool by_handle : {false, true}) {
    without_memory([&] { lock = acquired(session); },
                   [&] {
                     if (by_handle) {
                       lock.reset();
                     } else {
                       (void)lock->release();
                     }
                   },
                   [&] {
                     REQUIRE(!fs::exists(session.lock));
                     REQUIRE(session.manager.held().empty());
                   });
  }
}

TEST_CASE("a step that fails, and has no memory for words, can be tried again") {
  // Protects: `Hold::ClaimedPhase`.
  Bench session;
  std::optional<SessionLock> lock;
  const auto failing_at = [&](sys::Call call, const std::function<void()>& act) {
    lock = acquired(session);
    (void)lock->lock_path();  // made, so that the first thing that is missing is the error's own
    without_memory([] {},
                   [&] {
                     const Script script(failing(call, EIO));
                     act();
                   },
                   [&] {
                     REQUIRE(lock->verify().has_value());
                     REQUIRE(lock->guarded([] {}).has_value());
                   });
    REQUIRE(lock->release().has_value());
  };
  failing_at(sys::Call::unlinkat, [&] { (void)lock->release(); });
  failing_at(sys::Call::flock, [&] { (void)lock->guarded([] {}); });
  failing_at(sys::Call::fstatat, [&] { (void)lock->verify(); });
}

TEST_CASE("a handle that fails to release, and has no memory for words, leaves its lock to be released later") {
  // Protects: `release_quietly`.
  Bench session;
  std::optional<SessionLock> lock;
  without_memory([&] { lock = acquired(session); },
                 [&] {
                   int failures = 1;
                   const Script script([&failures](const sys::CallInfo& info) {
                     return info.call == sys::Call::flock && failures-- > 0 ? EIO : 0;
                   });
                   lock.reset();
                 },
                 [&] {
                   retry_releases();
                   REQUIRE(session.manager.held().empty());
                   REQUIRE(!fs::exists(session.lock));
                 });
}

TEST_CASE("who joined a lock and has no memory to look at it keeps its holder from nothing") {
  // Protects: the `InodeGuard` in `Hold::enter_guard`.
  Bench session;
  const auto lock = acquired(session);
  std::optional<SessionLock> joined;
  without_memory(
      [&] {
        auto made = session.manager.join(session.path, *lock.record().lock_id);
        REQUIRE(made.has_value());
        joined = std::move(*made);
      },
      [&] { (void)joined->guarded([] {}); },
      [&] {
        REQUIRE(lock.guarded([] {}).has_value());
        REQUIRE(joined->verify().has_value());
        REQUIRE(joined->guarded([] {}).has_value());
      });
}
