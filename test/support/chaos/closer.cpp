#include "chaos/closer.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <stop_token>
#include <thread>
#include <utility>

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/lock_watch.hpp>
#include <sessionlock/pid_file.hpp>
#include <sessionlock/transcript.hpp>

#include "process.hpp"

namespace sessionlock::test::chaos {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
namespace fs = std::filesystem;

constexpr int k_first = 3;
/// More than the library ever has open here, so that each of its numbers is used again.
constexpr std::size_t k_own_min = 24;
/// A waiter for whom everything is watched sleeps longer than this without looking.
constexpr auto k_sound_sleep = 300ms;

/// The locks of all sessions, by name: a directory of the program's own has files of these names.
std::vector<std::string> lock_names() {
  std::vector<std::string> names;
  for (std::size_t number = 0; number < k_sessions; ++number) {
    names.push_back(session_path("", number).native() + ".lock");
  }
  return names;
}

void wait_for(pid_t child) {
  while (child > 0 && ::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

Closer::Closer(const Stage& stage)
    : Actor(stage), manager_(manager_options()), own_directory_(directory() / ("own-" + std::to_string(stage.slot))) {
  fs::remove_all(own_directory_);
  fs::create_directory(own_directory_);
  sys::set_interceptor(this);
}

Closer::~Closer() {
  sys::set_interceptor(nullptr);
}

void Closer::act() {
  switch (any(6)) {
    case 0:
      return wait_for_session();
    case 1:
      return wait_beside_friend();
    case 2:
      return watch();
    case 3:
      return claim();
    default:
      return hold();
  }
}

void Closer::close_everything() {
  check("a call that sleeps");
  own_.reset();
  if (in_one_of(2)) {
    ::close_range(k_first, ~0U, 0);
  } else {
    for (int fd = k_first; fd < 256; ++fd) {
      if (in_one_of(2)) {
        ::close(fd);
      }
    }
  }
  own_ = std::make_unique<OwnDescriptors>(own_directory_, k_own_min, any(~std::uint64_t{0}), lock_names());
  ++figures().closings;
}

void Closer::check(const char* call) {
  if (complain_of_changes(call)) {
    own_.reset();  // each change is told once
  }
}

bool Closer::complain_of_changes(const char* call) const {
  if (!own_) {
    return false;
  }
  figures().descriptors_checked += own_->size();
  const auto changes = own_->changes();
  for (const auto& change : changes) {
    ++figures().descriptors_touched;
    world().complain(std::string("touched by ") + call + ": " + change);
  }
  return !changes.empty();
}

template <class F>
auto Closer::checked(const char* call, F&& make) {
  struct Check {
    Closer& closer;
    const char* call;
    ~Check() { closer.check(call); }
  };
  const Check check{*this, call};
  return make();
}

template <class F>
auto Closer::closing_in_sleep(const char* call, F&& make) {
  arm();
  auto answer = checked(call, std::forward<F>(make));
  disarm();
  return answer;
}

void Closer::arm() {
  const std::lock_guard lock(closing_);
  sleeps_until_close_ = 1 + static_cast<int>(any(4));
}

void Closer::disarm() {
  const std::lock_guard lock(closing_);
  sleeps_until_close_ = 0;
}

int Closer::before(const sys::CallInfo& info) {
  if (info.call == sys::Call::poll) {
    ++sleeps_;
    const std::lock_guard lock(closing_);
    if (sleeps_until_close_ > 0 && --sleeps_until_close_ == 0) {
      close_everything();
    }
  }
  return 0;
}

void Closer::hold() {
  const std::size_t number = any(k_sessions);
  auto lock = checked("acquire", [&] { return manager_.acquire(session(number), acquire_options(k_timeout)); });
  if (!lock) {
    judge_refusal(lock.error());
    return;
  }
  ++figures().acquisitions;
  use(number, *lock);
  if (in_one_of(3)) {
    checked("the end of a handle", [&] { *lock = SessionLock(); });
  } else {
    checked("release", [&] { (void)lock->release(); });
  }
  take_back(number);
}

void Closer::use(std::size_t number, SessionLock& lock) {
  auto transcript = Transcript::open(lock);
  close_everything();
  for (auto calls = any(4); calls > 0; --calls) {
    switch (any(6)) {
      case 0:
        write(number, lock);
        break;
      case 1:
        checked("verify", [&] { (void)lock.verify(); });
        break;
      case 2:
        fork_once(lock);
        break;
      case 3:
        spawn(lock);
        break;
      case 4:
        checked("inspect", [&] { (void)manager_.inspect(session(any(k_sessions))); });
        break;
      default:
        checked("try_acquire", [&] { (void)manager_.try_acquire(session(any(k_sessions)), acquire_options(0ms)); });
    }
  }
  if (transcript) {
    checked("the end of a transcript", [&] { const auto gone = std::move(*transcript); });
  }
}

/// As a rule nothing is written, because the hold was lost with its descriptor.
void Closer::write(std::size_t number, SessionLock& lock) {
  checked("guarded", [&] {
    (void)lock.guarded([&] {
      world().enter(world().sessions[number].section, token());
      pause(200us);
      world().leave(world().sessions[number].section, token());
    });
  });
}

/// A child closes what it inherited from the library, and nothing else.
void Closer::fork_once(const SessionLock& lock) {
  const pid_t child = ::fork();
  if (child == 0) {
    (void)lock.verify();
    (void)complain_of_changes("verify in a child");
    ::_exit(0);
  }
  wait_for(child);
  check("a forked child");
}

/// The program gets the lock's descriptor, or nothing.
void Closer::spawn(const SessionLock& lock) {
  std::string name = "sleep";
  std::string duration = "0.01";
  std::array<char*, 3> arguments{name.data(), duration.data(), nullptr};
  const auto child = checked("spawn_with", [&] { return lock.spawn_with(name.c_str(), arguments.data(), environ); });
  if (!child) {
    return;
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(*child) + "/fd", ignored)) {
    const auto target = fs::read_symlink(entry.path(), ignored);
    if (target.native().starts_with(own_directory_.native())) {
      ++figures().descriptors_touched;
      world().complain("spawn_with gave a program what is not the library's: " + target.native());
    }
  }
  wait_for(*child);
}

void Closer::take_back(std::size_t number) {
  auto again = checked("try_acquire", [&] { return manager_.try_acquire(session(number), acquire_options(0ms)); });
  if (again) {
    checked("release", [&] { (void)again->release(); });
  } else {
    judge_refusal(again.error());
  }
}

void Closer::wait_for_session() {
  const std::size_t number = any(k_sessions);
  auto lock =
      closing_in_sleep("acquire", [&] { return manager_.acquire(session(number), acquire_options(k_timeout)); });
  if (!lock) {
    judge_refusal(lock.error());
    return;
  }
  ++figures().acquisitions;
  write(number, *lock);
  checked("release", [&] { (void)lock->release(); });
  take_back(number);
}

/// 1. A friend holds a session that is nobody else's. 2. A thread waits for it, asleep. 3. This thread closes
/// everything. 4. The friend releases, and the thread wakes up.
void Closer::wait_beside_friend() {
  const fs::path path = directory() / ("friend-" + std::to_string(token().slot) + ".jsonl");
  slot().companion.store(Companion::starting);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto lock = LockManager().acquire(path, acquire_options(k_timeout));
    slot().companion.store(lock ? Companion::holding : Companion::failed);
    while (slot().companion.load() == Companion::holding) {
      std::this_thread::sleep_for(1ms);
    }
    ::_exit(lock && lock->release() ? 0 : 1);
  }
  while (slot().companion.load() == Companion::starting) {
    std::this_thread::sleep_for(1ms);
  }
  if (slot().companion.load() == Companion::holding) {
    close_beside_waiter(path);
  }
  wait_for(child);
}

void Closer::close_beside_waiter(const fs::path& path) {
  const int sleeps_before = sleeps_.load();
  Result<SessionLock> lock;
  std::thread waiter([&] { lock = manager_.acquire(path, acquire_options(k_timeout)); });
  while (sleeps_.load() == sleeps_before) {
    std::this_thread::sleep_for(1ms);
  }
  const int sleeps = sleeps_.load();
  const auto asleep_since = Clock::now();
  std::this_thread::sleep_for(5ms);
  close_everything();
  // Where this thread was stopped meanwhile, the other may have looked at a descriptor just before it was closed.
  const bool was_sound = sleeps_.load() == sleeps && Clock::now() - asleep_since < k_sound_sleep;
  slot().companion.store(Companion::releasing);
  waiter.join();
  was_sound ? check("a wait") : own_.reset();
  if (lock) {
    checked("release", [&] { (void)lock->release(); });
  } else {
    judge_refusal(lock.error());
  }
}

void Closer::watch() {
  std::stop_source stop;
  LockWatchOptions watching;
  watching.stop = stop.get_token();
  arm();
  std::thread watcher([&] { (void)watch_locks(directory(), watching, [](const LockEvent&) {}); });
  pause(20'000us);
  disarm();
  stop.request_stop();
  watcher.join();
  check("watch_locks");
}

void Closer::claim() {
  const fs::path path = directory() / ("closer-" + std::to_string(token().slot) + ".pid");
  auto claim = checked("PidFile::claim", [&] { return PidFile::claim(path); });
  if (!claim || !claim->file) {
    return;
  }
  close_everything();
  if (in_one_of(2)) {
    checked("PidFile::touch", [&] { (void)claim->file->touch(); });
  }
  if (in_one_of(2)) {
    checked("PidFile::release", [&] { (void)claim->file->release(); });
  }
  checked("the end of a PidFile", [&] { claim->file.reset(); });
}

}  // namespace sessionlock::test::chaos
