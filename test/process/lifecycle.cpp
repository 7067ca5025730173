// What happens to a hold when its process forks, executes, exits, is signalled, is stopped or becomes a daemon, and
// what a watchdog does.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <iterator>
#include <latch>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/counters.hpp>
#include <sessionlock/lock_manager.hpp>
#include <sessionlock/transcript.hpp>

#include "check_in.hpp"
#include "events.hpp"
#include "exit_race.hpp"
#include "hold/exit_cleanup.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "sanitizers.hpp"
#include "script.hpp"
#include "text/simdjson_use.hpp"

namespace fs = std::filesystem;
using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

AcquireOptions held_at_most(std::chrono::milliseconds max_hold) {
  AcquireOptions options;
  options.max_hold = max_hold;
  return options;
}

/// Runs a hidden test case of this program as a program of its own.
CommandResult run_case(const std::string& name, const std::vector<std::string>& environment) {
  ExecOptions options;
  options.environment = environment;
  return run_command({"/proc/self/exe", "-tc=" + name, "--no-skip", "--no-intro=true"}, {}, options);
}

// The thread sanitizer lets each exit take a second, in case another thread has something to report.
constexpr int k_exits = SESSIONLOCK_THREAD_SANITIZER ? 3 : 25;

fs::path path_from_environment() {
  const char* const path = std::getenv("SESSIONLOCK_TEST_SESSION");
  return path != nullptr ? path : "";
}

std::size_t count_in(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

}  // namespace

// --- forks -----------------------------------------------------------------------------------------------------------

TEST_CASE("in a child every call on an inherited handle answers lost and touches nothing") {
  const Session session;
  for (const ForkWay& way : k_fork_ways) {
    CAPTURE(way.name);
    auto lock = held(try_lock(session.path));
    const auto inode = inode_of(session.lock);
    CHECK(exit_code_in(way, [&] {
            int wrong = 0;
            bool ran = false;
            std::string name = "true";
            char* const arguments[] = {name.data(), nullptr};
            wrong += lock.owns() ? 1 : 0;
            wrong += code_of(lock.verify()) == Errc::lost ? 0 : 1;
            wrong += code_of(lock.guarded([&] { ran = true; })) == Errc::lost && !ran ? 0 : 1;
            wrong += code_of(lock.spawn_with(name.c_str(), arguments, environ)) == Errc::lost ? 0 : 1;
            wrong += code_of(Transcript::open(lock)) == Errc::lost ? 0 : 1;
            wrong += lock.session_path() == session.path ? 0 : 1;
            wrong += LockManager().held().empty() ? 0 : 1;
            wrong += code_of(try_lock(session.path)) == Errc::locked ? 0 : 1;
            wrong += try_lock(session.directory / "own").has_value() ? 0 : 1;
            auto moved = std::move(lock);
            wrong += code_of(moved.release()) == Errc::lost ? 0 : 1;
            return wrong;
          }) == 0);
    CHECK(inode_of(session.lock) == inode);
    CHECK(lock.verify().has_value());
    CHECK(lock.guarded([] {}).has_value());
    CHECK(LockManager().held().size() == 1);
    CHECK(lock.release().has_value());
  }
}

TEST_CASE("a child that lives on does not keep its dead parent's lock") {
  // With the handlers of pthread_atfork at once, without them from its first call of the library on.
  for (const ForkWay& way : k_fork_ways) {
    CAPTURE(way.name);
    const Session session;
    auto parent_process = ChildProcess::run([&](Channel& parent) -> int {
      const auto lock = held(try_lock(session.path));
      if (way.fork() == 0) {
        REQUIRE_IN_CHILD(!lock.owns());
        parent.tell(std::to_string(::getpid()));
      }
      while (true) {
        ::pause();
      }
    });
    const pid_t child = static_cast<pid_t>(std::stoi(*parent_process.hear()));
    (void)parent_process.kill();
    REQUIRE(::kill(child, 0) == 0);
    const auto lock = try_lock(session.path);
    ::kill(child, SIGKILL);
    REQUIRE(lock.has_value());
    CHECK(lock->reclaimed_from()->reasons.front() == StaleReason::dead_pid);
  }
}

TEST_CASE("a child keeps no flock of a reclaimer that is killed") {
  const Session session;
  plant(session.lock, foreign_record(dead_pid()));
  auto reclaimer = ChildProcess::run([&](Channel& parent) {
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (is_call_on(info, sys::Call::unlinkat, "s.jsonl.lock")) {  // under the flock
        if (::fork() == 0) {
          parent.tell(std::to_string(::getpid()));
        }
        while (true) {
          ::pause();
        }
      }
      return 0;
    }));
    (void)try_lock(session.path);
    return 0;
  });
  const pid_t child = static_cast<pid_t>(std::stoi(*reclaimer.hear()));
  CHECK(code_of(try_lock(session.path)) == Errc::locked);  // the flock is busy
  (void)reclaimer.kill();
  REQUIRE(::kill(child, 0) == 0);
  const auto lock = try_lock(session.path);
  ::kill(child, SIGKILL);
  CHECK(lock.has_value());
}

// Not with the address sanitizer, whose allocator does not survive a fork beside threads that allocate.
#if !SESSIONLOCK_ADDRESS_SANITIZER
TEST_CASE("forks in the middle of other threads' locking neither hang nor harm") {
  const Session session;
  auto process = ChildProcess::run([&](Channel&) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (const char* const name : {"a.jsonl", "b.jsonl"}) {
      threads.emplace_back([&, name] {
        LockManager manager;
        while (!stop) {
          auto lock = held(manager.acquire(session.directory / name));
          REQUIRE_IN_CHILD(lock.guarded([] {}).has_value());
          REQUIRE_IN_CHILD(lock.release().has_value());
        }
      });
    }
    const auto lock = held(try_lock(session.path));
    for (int i = 0; i < 40; ++i) {
      const int wrong = exit_code_in(k_fork_ways[0], [&] {
        const bool inherited = code_of(lock.verify()) == Errc::lost;
        const bool own = try_lock(session.directory / "child.jsonl").has_value();
        return inherited && own ? 0 : 1;
      });
      REQUIRE_IN_CHILD(wrong == 0);
    }
    stop = true;
    for (auto& thread : threads) {
      thread.join();
    }
    REQUIRE_IN_CHILD(lock.verify().has_value());
    REQUIRE_IN_CHILD(sys::open_descriptor_count() < 20);
    return 0;
  });
  CHECK(process.wait().exited_with(0));
}
#endif

TEST_CASE("a lock belongs to the process that is there after the last fork of a daemon") {
  const Session session;
  auto starter = ChildProcess::run([&](Channel& parent) {
    if (::fork() != 0) {
      ::_exit(0);
    }
    ::setsid();
    if (::fork() != 0) {
      ::_exit(0);
    }
    REQUIRE_IN_CHILD(::chdir("/") == 0);
    const auto lock = held(try_lock(session.path));
    parent.tell(std::to_string(::getpid()));
    (void)parent.hear();
    return 0;
  });
  const auto heard = starter.hear();
  REQUIRE(heard.has_value());
  const auto inspection = LockManager().inspect(session.path);
  REQUIRE(inspection.has_value());
  CHECK(std::to_string(inspection->record.pid.value_or(0)) == *heard);
  CHECK(inspection->owner == OwnerState::alive);
  starter.tell("end");
}

TEST_CASE("who closes all its descriptors has lost its lock, is told so, and keeps the descriptors it opens then") {
  const Session session;
  auto daemon = ChildProcess::run([&](Channel& parent) {
    auto lock = held(LockManager().acquire(session.path));
    auto forgotten = std::make_unique<SessionLock>(held(try_lock(session.directory / "other.jsonl")));
    const auto in = ::fcntl(STDIN_FILENO, F_GETFD);
    REQUIRE_IN_CHILD(in >= 0);
    constexpr int k_numbers = 64;
    int kept = -1;
    for (int fd = 3; fd < k_numbers; ++fd) {
      // The channel's ends stay, because the test needs them.
      struct stat status {};
      if (::fstat(fd, &status) == 0 && !S_ISSOCK(status.st_mode) && !S_ISFIFO(status.st_mode)) {
        ::close(fd);
        kept = fd;
      }
    }
    REQUIRE_IN_CHILD(kept > 0);
    std::vector<int> own;
    for (int i = 0; i < k_numbers / 2; ++i) {
      own.push_back(::open((session.directory / "own").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      REQUIRE_IN_CHILD(own.back() >= 0);
    }
    bool ran = false;
    REQUIRE_IN_CHILD(code_of(lock.guarded([&] { ran = true; })) == Errc::lost && !ran);
    REQUIRE_IN_CHILD(code_of(lock.verify()) == Errc::lost);
    REQUIRE_IN_CHILD(!lock.owns());
    forgotten.reset();
    lock = SessionLock();
    for (const int fd : own) {
      REQUIRE_IN_CHILD(::fcntl(fd, F_GETFD) >= 0);
      REQUIRE_IN_CHILD(::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::flock(fd, LOCK_UN) == 0);  // nobody locked it
    }
    // It still runs under the recorded pid and start time, so others respect the file until it ends.
    REQUIRE_IN_CHILD(fs::exists(session.lock));
    parent.tell("closed");
    (void)parent.hear();
    return 0;
  });
  daemon.expect("closed");
  const auto refused = try_lock(session.path);
  CHECK(code_of(refused) == Errc::locked);
  CHECK(refused.error().holder->basis == Basis::verified);
  daemon.tell("end");
  CHECK(daemon.wait().exited_with(0));
  CHECK(try_lock(session.path).has_value());
}

// --- exec ------------------------------------------------------------------------------------------------------------

namespace {

/// Makes the library open whatever it opens: a lock, a wait for another, a failed acquire.
class Everything {
 public:
  explicit Everything(const fs::path& session)
      : lock_(held(try_lock(session))), events_(), manager_(events_.options()) {
    const fs::path other = session.parent_path() / "other.jsonl";
    thread_ = std::thread([this, other] {
      AcquireOptions options;
      options.stop = stop_.get_token();
      options.timeout = std::chrono::milliseconds::max();
      (void)manager_.acquire(other, options);
    });
    events_.wait_for(EventKind::contended);
  }
  ~Everything() {
    stop_.request_stop();
    thread_.join();
  }
  Everything(const Everything&) = delete;
  Everything& operator=(const Everything&) = delete;
  [[nodiscard]] const SessionLock& lock() const { return lock_; }

 private:
  SessionLock lock_;
  Events events_;
  LockManager manager_;
  std::stop_source stop_{};
  std::thread thread_{};
};

/// Whether a listing of descriptors shows none of the library's.
bool shows_nothing_of_ours(const std::string& listing, const fs::path& directory) {
  return count_in(listing, directory.string()) == 0 && count_in(listing, "anon_inode") == 0 &&
         count_in(listing, "pidfd") == 0;
}

constexpr const char* k_listing = "-l";
constexpr const char* k_descriptors = "/proc/self/fd";

}  // namespace

TEST_CASE("(exec) a program that becomes another" * doctest::skip()) {
  const Everything everything(path_from_environment());
  ::execlp("ls", "ls", k_listing, k_descriptors, nullptr);
}

TEST_CASE("(spawn) a program that gives its lock to another" * doctest::skip()) {
  const Everything everything(path_from_environment());
  std::string name = "ls";
  std::string listing = k_listing;
  std::string descriptors = k_descriptors;
  char* const arguments[] = {name.data(), listing.data(), descriptors.data(), nullptr};
  const auto child = everything.lock().spawn_with(name.c_str(), arguments, environ);
  REQUIRE(child.has_value());
  REQUIRE(::waitpid(*child, nullptr, 0) == *child);
}

TEST_CASE("(fork) a program that starts another" * doctest::skip()) {
  const Everything everything(path_from_environment());
  const pid_t child = ::fork();
  if (child == 0) {
    ::execlp("ls", "ls", k_listing, k_descriptors, nullptr);
    ::_exit(1);
  }
  REQUIRE(::waitpid(child, nullptr, 0) == child);
}

TEST_CASE("a lock that is left behind by exec is held while the new program runs, but not for other namespaces") {
  const Session session;
  auto starter = ChildProcess::run([&](Channel& parent) {
    const auto lock = held(try_lock(session.path));
    parent.tell("held");
    ::execlp("sleep", "sleep", "1000", nullptr);
    return 1;
  });
  starter.expect("held");
  wait_until("the program has been started",
             [&] { return read_text("/proc/" + std::to_string(starter.pid()) + "/comm") == "sleep\n"; });
  // The name is there a moment before the kernel has closed what exec closes, and with it the witness.
  wait_until("the witness is free", [&] {
    const auto refused = try_lock(session.path);
    CHECK(code_of(refused) == Errc::locked);
    return refused.error().holder->basis == Basis::verified;
  });
  check_in({CLONE_NEWPID}, [&](Channel&) {
    const auto lock = held(try_lock(session.path));
    REQUIRE_IN_CHILD(lock.reclaimed_from()->reasons.front() == StaleReason::orphaned);
    return 0;
  });
}

TEST_CASE("exec, and fork and exec, leak no descriptor") {
  const Session session;
  const auto holder = holder_of(session.directory / "other.jsonl");
  for (const std::string name : {"(exec)*", "(fork)*"}) {
    CAPTURE(name);
    const auto listed = run_case(name, {"SESSIONLOCK_TEST_SESSION=" + session.path.string()});
    CHECK_MESSAGE(count_in(listed.out, " -> ") > 2, listed.out);
    CHECK_MESSAGE(shows_nothing_of_ours(listed.out, session.directory.path()), listed.out);
    fs::remove(session.lock);
  }
}

TEST_CASE("a program that is given the lock gets this one descriptor and no other") {
  const Session session;
  const auto holder = holder_of(session.directory / "other.jsonl");
  const auto listed = run_case("(spawn)*", {"SESSIONLOCK_TEST_SESSION=" + session.path.string()});
  CHECK_MESSAGE(count_in(listed.out, session.directory.path().string()) == 1, listed.out);
  CHECK_MESSAGE(count_in(listed.out, "other.jsonl") == 0, listed.out);
  CHECK_MESSAGE(count_in(listed.out, "anon_inode") == 0, listed.out);
}

// --- exit ------------------------------------------------------------------------------------------------------------

TEST_CASE("an exit in one thread never lets a successor in under another thread's guarded write") {
  // Protects: the phase of a hold. With `flock` alone both threads have it, and they overlap. Many more rounds are in
  // test/stress/exits.cpp.
  exit_while_writing(k_exits).check();
}

TEST_CASE("an exit releases what is idle, in whatever thread it is called") {
  const Session session;
  auto process = ChildProcess::run_to_exit([&](Channel&) {
    static const auto* const idle = new SessionLock(held(try_lock(session.path)));  // held at the exit
    ManagerOptions options;
    options.release_at_exit = false;
    static const auto* const kept =
        new SessionLock(held(LockManager(options).try_acquire(session.directory / "kept.jsonl")));
    REQUIRE_IN_CHILD(idle->owns() && kept->owns());
    std::thread([] { std::exit(7); }).join();
    return 1;
  });
  CHECK(process.wait().exited_with(7));
  CHECK(!fs::exists(session.lock));
  CHECK(fs::exists(session.directory / "kept.jsonl.lock"));
}

TEST_CASE("a child that exits releases nothing of its parent's, and its own") {
  const Session session;
  auto lock = held(try_lock(session.path));
  auto child = ChildProcess::run_to_exit([&](Channel&) {
    static const auto* const own = new SessionLock(held(try_lock(session.directory / "own.jsonl")));
    REQUIRE_IN_CHILD(own->owns());
    lock = SessionLock();
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(!fs::exists(session.directory / "own.jsonl.lock"));
  CHECK(lock.verify().has_value());
}

namespace {

/// In a thread that has read no lock yet, with everything that reading and writing one needs.
bool is_usable_in_new_thread(const fs::path& session) {
  bool is_usable = false;
  std::thread([&] {
    const auto lock = LockManager().acquire(session);
    is_usable = lock && lock->guarded([] {}) && LockManager().inspect(session)->owner == OwnerState::alive;
  }).join();
  return is_usable;
}

const fs::path* g_session_at_the_very_end = nullptr;
std::atomic<bool> g_has_left{false};

}  // namespace

TEST_CASE("a lock can be acquired, written under and inspected until the process has ended, also in a new thread") {
  const Session session;
  auto child = ChildProcess::run_to_exit([&](Channel&) {
    REQUIRE_IN_CHILD(is_usable_in_new_thread(session.path));
    g_session_at_the_very_end = new fs::path(session.path);
    run_at_the_very_end([] { ::_exit(is_usable_in_new_thread(*g_session_at_the_very_end) ? 0 : 2); });
    return 1;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("an exit destroys nothing that another thread is about to use") {
  auto child = ChildProcess::run_to_exit([](Channel&) {
    std::latch is_inside(1);
    std::thread([&] {
      const SimdjsonUse use;
      is_inside.count_down();
      while (!SimdjsonUse::is_for_exit()) {
        std::this_thread::yield();
      }
      g_has_left.store(true);
    }).detach();
    is_inside.wait();
    run_at_the_very_end([] { ::_exit(g_has_left.load() ? 0 : 2); });
    return 1;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("an exit while other threads are busy with locks ends as it was asked to" *
          doctest::skip(SESSIONLOCK_THREAD_SANITIZER)) {  // which reports threads that an exit leaves unjoined
  exit_while_busy(k_exits);
}

// --- signals ---------------------------------------------------------------------------------------------------------

namespace {

ManagerOptions cleaning_up() {
  ManagerOptions options;
  options.cleanup_signals.assign(std::begin(k_cleanup_signals), std::end(k_cleanup_signals));
  return options;
}

/// Takes the test framework's handlers off, and leaves no cores about.
void begin_as_a_program() {
  for (const int signal : k_cleanup_signals) {
    ::signal(signal, SIG_DFL);
  }
  const struct rlimit none {};
  (void)::setrlimit(RLIMIT_CORE, &none);
}

/// A child that holds the session's lock, and cleans up on signals. Says "held".
ChildProcess signalled_holder(const Session& session, const ManagerOptions& options,
                              const std::function<void()>& before = {}) {
  auto child = ChildProcess::run([&](Channel& parent) {
    begin_as_a_program();
    if (before) {
      before();
    }
    const auto lock = held(LockManager(options).try_acquire(session.path));
    parent.tell("held");
    while (const auto heard = parent.hear()) {
      parent.tell(lock.verify() ? "still held" : "lost");
    }
    return 0;
  });
  child.expect("held");
  return child;
}

volatile std::sig_atomic_t g_handled = 0;

}  // namespace

TEST_CASE("each of the five signals releases the lock and ends the process as it would have") {
  const Session session;
  for (const int signal : k_cleanup_signals) {
    CAPTURE(signal);
    auto child = signalled_holder(session, cleaning_up());
    REQUIRE(fs::exists(session.lock));
    child.send_signal(signal);
    CHECK(child.wait().killed_by(signal));
    CHECK(!fs::exists(session.lock));
  }
}

TEST_CASE("pid 1 of a namespace, which no default action ends, exits after the clean-up with 128 and the signal") {
  const Session session;
  for (const int signal : k_cleanup_signals) {
    CAPTURE(signal);
    const auto run = run_in_namespaces({.flags = CLONE_NEWPID}, [&](Channel& parent) {
      begin_as_a_program();
      const auto lock = held(LockManager(cleaning_up()).try_acquire(session.path));
      REQUIRE_IN_CHILD(::getpid() == 1 && fs::exists(session.lock));
      ::raise(signal);
      parent.tell("runs on");
      return 0;
    });
    if (!run.why_not.empty()) {
      skip_aloud("new namespaces are not allowed here: " + run.why_not);
      return;
    }
    CHECK(run.output.empty());
    CHECK(run.ended.exited_with(128 + signal));
    CHECK(!fs::exists(session.lock));
  }
}

TEST_CASE("the clean-up works after the plugin that asked for it was unloaded") {
  const Session session;
  auto child = ChildProcess::run([&](Channel&) {
    begin_as_a_program();
    const auto path = fs::read_symlink("/proc/self/exe").parent_path() / "second_copy.so";
    void* const module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    REQUIRE_IN_CHILD(module != nullptr);
    const auto hold_until = reinterpret_cast<bool (*)(int, const char*)>(::dlsym(module, "second_copy_hold_until"));
    REQUIRE_IN_CHILD(hold_until != nullptr && hold_until(SIGTERM, session.path.c_str()));
    REQUIRE_IN_CHILD(fs::exists(session.lock));
    REQUIRE_IN_CHILD(::dlclose(module) == 0);
    ::raise(SIGTERM);
    return 0;
  });
  CHECK(child.wait().killed_by(SIGTERM));
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("the clean-up runs on the stack that the program has for its signals") {
  const Session session;
  auto child = ChildProcess::run([&](Channel& parent) {
    begin_as_a_program();
    constexpr std::size_t k_bytes = std::size_t{1} << 20U;
    std::vector<char> memory(k_bytes);
    stack_t stack{};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    REQUIRE_IN_CHILD(::sigaltstack(&stack, nullptr) == 0);
    const auto lock = held(LockManager(cleaning_up()).try_acquire(session.path));
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::unlinkat) {
        const auto* const frame = static_cast<const char*>(__builtin_frame_address(0));
        parent.tell(frame >= memory.data() && frame < memory.data() + memory.size() ? "there" : "elsewhere");
      }
      return 0;
    }));
    ::raise(SIGTERM);
    return 0;
  });
  child.expect("there");
  CHECK(child.wait().killed_by(SIGTERM));
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("an abort releases the lock") {
  const Session session;
  auto child = ChildProcess::run([&](Channel&) -> int {
    begin_as_a_program();
    const auto lock = held(LockManager(cleaning_up()).try_acquire(session.path));
    std::abort();
  });
  CHECK(child.wait().killed_by(SIGABRT));
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("signals that nobody asked for are left alone") {
  const Session session;
  auto child = signalled_holder(session, {});
  child.send_signal(SIGTERM);
  CHECK(child.wait().killed_by(SIGTERM));
  CHECK(fs::exists(session.lock));
  CHECK(held(try_lock(session.path)).reclaimed_from().has_value());
}

TEST_CASE("a signal that is ignored stays ignored") {
  const Session session;
  auto child = signalled_holder(session, cleaning_up(), [] { ::signal(SIGHUP, SIG_IGN); });
  child.send_signal(SIGHUP);
  child.tell("well?");
  child.expect("still held");
  child.send_signal(SIGTERM);
  CHECK(child.wait().killed_by(SIGTERM));
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a signal that has a handler stays that handler's, and the lock stays") {
  const Session session;
  const auto plain = [] { ::signal(SIGTERM, [](int) { g_handled = 1; }); };
  const auto with_information = [] {
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t*, void*) { g_handled = 1; };
    ::sigaction(SIGTERM, &action, nullptr);
  };
  for (const std::function<void()>& install : {std::function<void()>(plain), std::function<void()>(with_information)}) {
    auto child = ChildProcess::run([&](Channel& parent) {
      begin_as_a_program();
      install();
      const auto lock = held(LockManager(cleaning_up()).try_acquire(session.path));
      parent.tell("held");
      wait_until("handled", [] { return g_handled == 1; });
      parent.tell(lock.verify() ? "still held" : "lost");
      return 0;
    });
    child.expect("held");
    child.send_signal(SIGTERM);
    child.expect("still held");
    CHECK(child.wait().exited_with(0));
  }
}

TEST_CASE("a signal that ends no process releases nothing, even if it was asked for") {
  const Session session;
  ManagerOptions options;
  options.cleanup_signals = {SIGCHLD, SIGWINCH, SIGURG, SIGCONT, SIGTERM};
  auto child = signalled_holder(session, options);
  for (const int signal : {SIGCHLD, SIGWINCH, SIGURG, SIGCONT}) {
    child.send_signal(signal);
  }
  child.tell("well?");
  child.expect("still held");
  child.send_signal(SIGTERM);
  CHECK(child.wait().killed_by(SIGTERM));
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a signal that stops a process, cannot be caught or is none keeps its action, whatever was asked for") {
  auto child = ChildProcess::run([](Channel&) {
    ManagerOptions options;
    options.cleanup_signals = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGKILL, 0, 4711, SIGUSR1};
    const LockManager manager(options);
    for (const int signal : {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGKILL, SIGUSR1}) {
      struct sigaction action {};
      REQUIRE_IN_CHILD(::sigaction(signal, nullptr, &action) == 0);
      REQUIRE_IN_CHILD((action.sa_handler == SIG_DFL) == (signal != SIGUSR1));
    }
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a second signal during the clean-up is harmless") {
  const Session session;
  for (const bool from_outside : {false, true}) {
    CAPTURE(from_outside);
    auto child = ChildProcess::run([&](Channel& parent) {
      begin_as_a_program();
      const auto first = held(LockManager(cleaning_up()).try_acquire(session.path));
      const auto second = held(try_lock(session.directory / "second.jsonl"));
      const Script script(outermost([&](const sys::CallInfo& info) {
        if (info.call == sys::Call::unlinkat) {
          if (from_outside) {
            ::kill(::getpid(), SIGINT);
          } else {
            ::raise(SIGINT);
          }
        }
        return 0;
      }));
      parent.tell("held");
      (void)parent.hear();
      return 0;
    });
    child.expect("held");
    child.send_signal(SIGTERM);
    const auto ended = child.wait();
    CHECK((ended.killed_by(SIGTERM) || ended.killed_by(SIGINT)));
    CHECK(!fs::exists(session.lock));
    CHECK(!fs::exists(session.directory / "second.jsonl.lock"));
  }
}

TEST_CASE("the clean-up works at every step of an acquire, a guarded write and a release") {
  // The signal comes before each system call, some of which are made under a mutex of the library.
  constexpr int k_steps = 60;
  int guarded = 0;
  int ended_early = 0;
  for (int step = 0; step < k_steps; ++step) {
    CAPTURE(step);
    const Session session;
    auto child = ChildProcess::run([&](Channel&) {
      begin_as_a_program();
      LockManager manager(cleaning_up());
      const auto idle = held(manager.try_acquire(session.path));
      int calls = 0;
      const Script script(outermost([&](const sys::CallInfo&) {
        if (calls++ == step) {
          ::raise(SIGTERM);
        }
        return 0;
      }));
      auto other = held(manager.acquire(session.directory / "other.jsonl"));
      (void)other.guarded([&] { (void)LockManager().inspect(session.directory / "other.jsonl"); });
      (void)other.release();
      return 0;
    });
    const auto ended = child.wait();
    REQUIRE((ended.killed_by(SIGTERM) || ended.exited_with(0)));
    ended_early += ended.signal != 0 ? 1 : 0;
    if (ended.signal != 0) {
      CHECK(!fs::exists(session.lock));
      guarded += fs::exists(session.directory / "other.jsonl.lock") ? 1 : 0;
    }
    CHECK(try_lock(session.directory / "other.jsonl").has_value());
  }
  CHECK(ended_early > 20);
  CHECK(guarded > 0);  // nothing was unlinked under a guarded write
}

TEST_CASE("the clean-up works wherever the program is") {
  // A handler that allocated or took a lock would meet a thread that does just that, sooner or later.
  for (int round = 0; round < 15; ++round) {
    const Session session;
    auto child = ChildProcess::run([&](Channel& parent) -> int {
      begin_as_a_program();
      LockManager manager(cleaning_up());
      const auto idle = held(manager.try_acquire(session.path));
      std::thread([&] {
        while (true) {
          (void)manager.acquire(session.directory / "other.jsonl");
        }
      }).detach();
      parent.tell("busy");
      for (std::size_t size = 1;; size = size % 5000 + 7) {
        const std::vector<std::string> strings(size % 10, std::string(size, 'x'));
      }
    });
    child.expect("busy");
    std::this_thread::sleep_for(std::chrono::microseconds{137 * round});
    child.send_signal(SIGTERM);
    REQUIRE(child.wait().killed_by(SIGTERM));
    CHECK(!fs::exists(session.lock));
    CHECK(try_lock(session.directory / "other.jsonl").has_value());
  }
}

TEST_CASE("a signal never unlinks under a guarded write, of its own thread or of another") {
  const Session session;
  for (const bool own_thread : {true, false}) {
    CAPTURE(own_thread);
    auto child = ChildProcess::run([&](Channel& parent) {
      begin_as_a_program();
      const auto lock = held(LockManager(cleaning_up()).try_acquire(session.path));
      const auto write = [&] {
        parent.tell("writing");
        while (true) {
          ::pause();
        }
      };
      if (own_thread) {
        (void)lock.guarded(write);
      }
      sigset_t all;
      sigfillset(&all);
      ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
      std::thread thread([&] { (void)lock.guarded(write); });
      ::pthread_sigmask(SIG_UNBLOCK, &all, nullptr);
      thread.join();
      return 0;
    });
    child.expect("writing");
    child.send_signal(SIGTERM);
    CHECK(child.wait().killed_by(SIGTERM));
    CHECK(fs::exists(session.lock));
    CHECK(held(try_lock(session.path)).reclaimed_from().has_value());
  }
}

TEST_CASE("a signal that ends a child releases nothing of its parent's") {
  const Session session;
  auto parent_process = ChildProcess::run([&](Channel& parent) {
    begin_as_a_program();
    const auto lock = held(LockManager(cleaning_up()).try_acquire(session.path));
    for (const ForkWay& way : k_fork_ways) {
      const pid_t child = way.fork();
      if (child == 0) {
        ::raise(SIGTERM);
        ::_exit(0);
      }
      int status = 0;
      REQUIRE_IN_CHILD(::waitpid(child, &status, 0) == child);
      REQUIRE_IN_CHILD(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
      REQUIRE_IN_CHILD(lock.verify().has_value());
    }
    parent.tell("held");
    (void)parent.hear();
    return 0;
  });
  parent_process.expect("held");
  CHECK(fs::exists(session.lock));
  parent_process.send_signal(SIGTERM);
  CHECK(parent_process.wait().killed_by(SIGTERM));
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a signal or an exit that ends a child of vfork releases nothing of its parent's, in whose memory it runs") {
  const Session session;
  auto parent_process = ChildProcess::run([&](Channel&) {
    begin_as_a_program();
    const auto lock = held(LockManager(cleaning_up()).try_acquire(session.path));
    for (const bool by_signal : {true, false}) {
      const pid_t child = ::vfork();
      if (child == 0) {
        if (by_signal) {
          ::kill(static_cast<pid_t>(::syscall(SYS_getpid)), SIGTERM);
        } else {
          clean_up_holds();  // what exit(3) calls; the rest of an exit would end the parent's static objects
        }
        ::_exit(0);
      }
      int status = 0;
      REQUIRE_IN_CHILD(::waitpid(child, &status, 0) == child);
      REQUIRE_IN_CHILD(WIFSIGNALED(status) == by_signal);
      REQUIRE_IN_CHILD(fs::exists(session.lock));
      REQUIRE_IN_CHILD(lock.verify().has_value());
    }
    ::raise(SIGTERM);
    return 0;
  });
  CHECK(parent_process.wait().killed_by(SIGTERM));
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a child can make a manager with clean-up signals while another thread of its parent's makes one") {
  constexpr int k_forks = 100;
  auto parent_process = ChildProcess::run([](Channel&) {
    begin_as_a_program();
    std::atomic<bool> is_over{false};
    std::thread other([&] {
      while (!is_over) {
        const LockManager manager(cleaning_up());
      }
    });
    int failures = 0;
    for (int i = 0; i < k_forks; ++i) {
      failures += exit_code_in(k_fork_ways[0], [] {
        ::alarm(static_cast<unsigned>(k_patience.count()) / 4);
        const LockManager manager(cleaning_up());
        return 0;
      });
    }
    is_over = true;
    other.join();
    return failures == 0 ? 0 : 1;
  });
  CHECK(parent_process.wait().exited_with(0));
}

TEST_CASE("what is not to be released at exit is not released by a signal") {
  const Session session;
  ManagerOptions options = cleaning_up();
  options.release_at_exit = false;
  auto child = signalled_holder(session, options);
  child.send_signal(SIGTERM);
  CHECK(child.wait().killed_by(SIGTERM));
  CHECK(fs::exists(session.lock));
  CHECK(try_lock(session.path).has_value());
}

// --- the watchdog ----------------------------------------------------------------------------------------------------

namespace {

ManagerOptions watched(OverrunAction action) {
  ManagerOptions options;
  options.watchdog_interval = 1ms;
  options.overrun = action;
  return options;
}

/// Whether each report came when the hold was twice as old as at the one before.
bool grow(const std::vector<Event>& reports) {
  for (std::size_t i = 1; i < reports.size(); ++i) {
    if (reports[i].duration < 2 * reports[i - 1].duration) {
      return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("a watchdog reports over-long holds at growing intervals, and leaves them alone unless told otherwise") {
  const Session session;
  const Events events(watched(OverrunAction::report));
  LockManager manager(events.options());
  const auto patient = held(manager.acquire(session.directory / "patient.jsonl", held_at_most(1h)));
  auto lock = held(manager.acquire(session.path, held_at_most(5ms)));
  events.wait_for(EventKind::overrun, 4);
  const auto reports = events.of(EventKind::overrun);
  CHECK(reports.front().duration >= 5ms);
  CHECK(grow(reports));
  for (const auto& report : reports) {
    CHECK(report.session_path == session.path);
  }
  CHECK(lock.verify().has_value());
  CHECK(lock.release().has_value());
}

TEST_CASE("a watchdog takes none of the program's signals") {
  // Protects: `SignalsBlocked` in `Watchdog::Watchdog`.
  const auto threads = [] {
    std::set<std::string> ids;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
      ids.insert(entry.path().filename().native());
    }
    return ids;
  };
  const auto before = threads();
  const LockManager manager(watched(OverrunAction::report));
  int looked_at = 0;
  for (const std::string& id : threads()) {
    if (!before.contains(id)) {
      ++looked_at;
      const std::string status = read_text("/proc/self/task/" + id + "/status");
      const auto mask = std::stoull(status.substr(status.find("SigBlk:") + 7), nullptr, 16);
      for (const int signal : {SIGHUP, SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGALRM, SIGRTMIN}) {
        CAPTURE(signal);
        CHECK((mask >> static_cast<unsigned>(signal - 1) & 1U) == 1);
      }
    }
  }
  CHECK(looked_at == 1);
  sigset_t own;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &own);
  CHECK(::sigismember(&own, SIGTERM) == 0);
}

TEST_CASE("a fault in an observer that a watchdog calls is for the program's handler") {
  // Protects: what `SignalsBlocked` leaves out. A fault that is blocked ends the process, handler or not.
  const Session session;
  auto child = ChildProcess::run([&](Channel&) {
    ::signal(SIGSEGV, [](int) { ::_exit(42); });
    std::atomic<bool> is_told{false};
    ManagerOptions options = watched(OverrunAction::report);
    options.observer = [&](const Event& event) {
      if (event.kind == EventKind::overrun) {
        ::raise(SIGSEGV);
        is_told = true;
      }
    };
    LockManager manager(options);
    AcquireOptions brief;
    brief.max_hold = 1ms;
    const auto lock = manager.try_acquire(session.path, brief);
    REQUIRE_IN_CHILD(lock.has_value());
    wait_until("the watchdog tells", [&] { return is_told.load(); });
    return 0;
  });
  CHECK(child.wait().exited_with(42));
}

TEST_CASE("what a watchdog releases is lost to its holder before a byte is written") {
  const Session session;
  const Events events(watched(OverrunAction::release));
  ManagerOptions options = events.options();
  std::latch is_open{1};
  options.observer = [&, remember = options.observer](const Event& event) {
    remember(event);
    if (event.kind == EventKind::overrun) {
      is_open.wait();
    }
  };
  LockManager manager(options);
  auto lock = held(manager.acquire(session.path, held_at_most(5ms)));
  auto transcript = value_or_throw(Transcript::open(lock));
  is_open.count_down();
  events.wait_for(EventKind::released);
  CHECK(!fs::exists(session.lock));
  bool ran = false;
  CHECK(code_of(lock.guarded([&] { ran = true; })) == Errc::lost);
  CHECK(!ran);
  CHECK(code_of(lock.verify()) == Errc::lost);
  CHECK(code_of(transcript.append("1")) == Errc::lost);
  CHECK(!lock.owns());
  CHECK(read_text(session.path).empty());
  CHECK(code_of(lock.release()) == Errc::lost);
  CHECK(events.kinds() == std::vector{EventKind::acquired, EventKind::overrun, EventKind::released});
  CHECK(manager.held().empty());
  CHECK(held(try_lock(session.path)).owns());
}

TEST_CASE("a watchdog leaves a hold alone until its acquire has been reported") {
  // Otherwise: 1. A publishes the lock, and is not scheduled for longer than the limit. 2. The watchdog reports the
  // hold and releases it, and reports no release, because nothing was acquired. 3. A reports that it has the lock.
  const Session session;
  const Events events(watched(OverrunAction::release));
  ManagerOptions options = events.options();
  std::optional<LockManager> manager;
  options.observer = [&, remember = options.observer](const Event& event) {
    if (event.kind == EventKind::acquired && event.session_path == session.path) {
      std::async(std::launch::async, [&] {
        const auto later = held(manager->acquire(session.directory / "later.jsonl", held_at_most(1ms)));
        wait_until("the watchdog has found a later hold over-long", [&] { return !later.owns(); });
      }).wait();
    }
    remember(event);
  };
  manager.emplace(options);
  const auto lock = held(manager->acquire(session.path, held_at_most(1ms)));
  events.wait_for(EventKind::released, 2);
  std::vector<EventKind> kinds;
  for (const Event& event : events.all()) {
    if (event.session_path == session.path) {
      kinds.push_back(event.kind);
    }
  }
  CHECK(kinds == std::vector{EventKind::acquired, EventKind::overrun, EventKind::released});
}

TEST_CASE("a watchdog never takes a lock from under a guarded write, and does not report it at every look") {
  const Session session;
  wait_until("a guarded write begins before the watchdog's first look after the limit", [&] {
    const Events events(watched(OverrunAction::release));
    LockManager manager(events.options());
    const auto lock = held(manager.acquire(session.path, held_at_most(2ms)));
    const auto guarded = lock.guarded([&] {
      events.wait_for(EventKind::overrun, 4);
      CHECK(fs::exists(session.lock));
    });
    if (code_of(guarded) == Errc::lost) {
      return false;
    }
    CHECK(guarded.has_value());
    CHECK(grow(events.of(EventKind::overrun)));
    events.wait_for(EventKind::released);
    CHECK(code_of(lock.verify()) == Errc::lost);
    return true;
  });
}

TEST_CASE("a hold that a watchdog cannot release keeps it from no other, and is tried again") {
  const Session session;
  const Events events(watched(OverrunAction::release));
  LockManager manager(events.options());
  std::vector<SessionLock> locks;
  for (const char* const name : {"a.jsonl", "b.jsonl", "c.jsonl"}) {
    locks.push_back(held(manager.acquire(session.directory / name)));
  }
  {
    const Script script(
        [](const sys::CallInfo& info) { return is_call_on(info, sys::Call::unlinkat, "b.jsonl.lock") ? EACCES : 0; });
    for (const char* const name : {"a.jsonl", "b.jsonl", "c.jsonl"}) {
      locks.push_back(held(manager.acquire(session.directory / ("short-" + std::string(name)), held_at_most(1ms))));
    }
    events.wait_for(EventKind::released, 2);
    wait_until("two looks more", [&] { return events.of(EventKind::overrun).size() >= 5; });
    CHECK(fs::exists(session.directory / "short-b.jsonl.lock"));
    CHECK(!fs::exists(session.directory / "short-a.jsonl.lock"));
    CHECK(!fs::exists(session.directory / "short-c.jsonl.lock"));
  }
  events.wait_for(EventKind::released, 3);
  CHECK(!fs::exists(session.directory / "short-b.jsonl.lock"));
  CHECK(manager.held().size() == 3);
}

TEST_CASE("an observer that throws breaks nothing") {
  const Session session;
  ManagerOptions options = watched(OverrunAction::release);
  std::atomic<int> told{0};
  options.observer = [&](const Event&) {
    ++told;
    throw std::runtime_error("not now");
  };
  LockManager manager(options);
  const auto holder = holder_of(session.directory / "other.jsonl");
  auto lock = held(manager.acquire(session.path, held_at_most(1ms)));
  wait_until("released", [&] { return !lock.owns(); });
  AcquireOptions brief;
  brief.timeout = 5ms;
  CHECK(code_of(manager.acquire(session.directory / "other.jsonl", brief)) == Errc::timed_out);
  auto again = held(manager.acquire(session.path));
  CHECK(again.release().has_value());
  CHECK(told >= 5);  // acquired, overrun, released, contended, acquired, released
}

TEST_CASE("a watchdog tries again what could not be released") {
  const Session session;
  const Events events(watched(OverrunAction::report));
  LockManager manager(events.options());
  {
    const Script script(failing(sys::Call::unlinkat, EIO));
    (void)held(manager.acquire(session.path));
    events.wait_for(EventKind::release_failed);
    CHECK(fs::exists(session.lock));
  }
  events.wait_for(EventKind::released);
  CHECK(!fs::exists(session.lock));
}

TEST_CASE("a child can end a manager whose watchdog only the parent has") {
  // Whether its thread sleeps or looks when the fork comes.
  auto manager = std::make_unique<LockManager>(watched(OverrunAction::report));
  for (int i = 0; i < 10; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds{300 * i});
    auto child = ChildProcess::run([&](Channel&) {
      manager.reset();
      return 0;
    });
    REQUIRE(child.wait().exited_with(0));
  }
  manager.reset();
}

TEST_CASE("a child can end a manager whose watchdog only the parent has, however it was forked") {
  // Without fork handlers nobody tells the child's C library that the thread is not there to be joined.
  ManagerOptions options;
  options.watchdog_interval = 1h;  // it sleeps, and is in the middle of nothing that a child would miss
  auto outer = ChildProcess::run([&](Channel&) {
    auto manager = std::make_unique<LockManager>(options);
    for (const ForkWay& way : k_fork_ways) {
      REQUIRE_IN_CHILD(exit_code_in(way, [&] {
                         manager.reset();
                         return 0;
                       }) == 0);
    }
    return 0;
  });
  CHECK(outer.wait().exited_with(0));
}

TEST_CASE("a holder that was stopped beyond its limit and forced out appends nothing when it goes on") {
  const Session session;
  auto writer = ChildProcess::run([&](Channel& parent) {
    auto lock = held(LockManager().acquire(session.path, held_at_most(10ms)));
    auto transcript = value_or_throw(Transcript::open(lock));
    int records = 0;
    parent.tell("writing");
    while (transcript.append(R"({"by": "the first"})")) {
      ++records;
    }
    bool ran = false;
    REQUIRE_IN_CHILD(code_of(lock.verify()) == Errc::lost);
    REQUIRE_IN_CHILD(code_of(lock.guarded([&] { ran = true; })) == Errc::lost && !ran);
    parent.tell(std::to_string(records));
    return 0;
  });
  writer.expect("writing");
  LockManager manager;
  std::optional<Inspection> inspection;
  wait_until("over-long and stopped outside of a guarded write", [&] {
    writer.stop();
    inspection = value_or_throw(manager.inspect(session.path));
    const bool over =
        std::count(inspection->reasons.begin(), inspection->reasons.end(), StaleReason::hold_exceeded) > 0;
    if (over && manager.force_release(session.path, inspection->record.lock_id.value_or(""), true)) {
      return true;
    }
    writer.resume();
    return false;
  });
  CHECK(inspection->owner == OwnerState::alive);
  auto successor = held(manager.acquire(session.path));
  auto transcript = value_or_throw(Transcript::open(successor));
  REQUIRE(transcript.append(R"({"by": "the second", "n": 1})"));
  writer.resume();
  const auto records = writer.hear();
  REQUIRE(records.has_value());
  REQUIRE(transcript.append(R"({"by": "the second", "n": 2})"));
  CHECK(writer.wait().exited_with(0));
  const std::string text = read_text(session.path);
  const auto second = text.find(R"({"by": "the second")");
  CHECK(text.substr(second) == "{\"by\": \"the second\", \"n\": 1}\n{\"by\": \"the second\", \"n\": 2}\n");
  CHECK(count_in(text.substr(0, second), "{\"by\": \"the first\"}\n") == static_cast<std::size_t>(std::stoi(*records)));
  CHECK(!fs::exists(session.path.string() + ".torn"));
}
