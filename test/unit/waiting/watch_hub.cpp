#include "waiting/watch_hub.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

/// A file that is open, so that its inode stays when it loses its name.
class File {
 public:
  File(const TemporaryDirectory& directory, const std::string& name)
      : path_(directory / name), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR)) {
    REQUIRE(fd_ >= 0);
  }
  File(File&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  File& operator=(File&&) = delete;
  ~File() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  [[nodiscard]] int fd() const { return fd_; }
  void unlink() const { REQUIRE(::unlink(path_.c_str()) == 0); }
  void change_mode(mode_t mode) const { REQUIRE(::fchmod(fd_, mode) == 0); }

 private:
  std::filesystem::path path_;
  int fd_;
};

/// Counts the polls, and so tells when somebody is about to sleep.
class PollCount : public Script {
 public:
  PollCount()
      : Script([this](const sys::CallInfo& info) {
          polls_ += info.call == sys::Call::poll ? 1 : 0;
          return info.call == sys::Call::eventfd && fails_events_ ? EMFILE : 0;
        }) {}
  /// From now on no event can be opened, or it can again.
  void fail_events(bool fails) { fails_events_ = fails; }
  [[nodiscard]] int polls() const { return polls_.load(); }
  void wait_for(int polls) const {
    wait_until("so many polls", [&] { return polls_.load() >= polls; });
  }

 private:
  std::atomic<int> polls_{0};
  std::atomic<bool> fails_events_{false};
};

/// What a thread sleeps on, and its one wait.
struct Sleeper {
  Parker parker{};
  WaitSlot slot{parker};
  InodeWatch watch{slot};

  [[nodiscard]] WakeCause sleep_until(Clock::time_point until) {
    parker.sleep(until);
    return slot.take_cause();
  }
};

/// A thread that sleeps once. What nobody wakes wakes by itself when the test has failed anyway.
class SleepingThread {
 public:
  explicit SleepingThread(const File* file, Clock::duration duration = k_patience) {
    (void)sleeper_.parker.open_event();
    if (file != nullptr) {
      REQUIRE(!sleeper_.watch.begin(file->fd()));
    }
    duration_ = duration;
  }
  ~SleepingThread() {
    if (thread_.joinable()) {
      sleeper_.slot.wake();
      thread_.join();
    }
    sleeper_.watch.end();
  }
  SleepingThread(const SleepingThread&) = delete;
  SleepingThread& operator=(const SleepingThread&) = delete;

  void start() {
    thread_ = std::thread([this] {
      reason_ = sleeper_.sleep_until(Clock::now() + duration_);
      awake_ = true;
    });
  }
  /// Returns when it is about to sleep.
  void fall_asleep(const PollCount& count) {
    const int before = count.polls();
    start();
    count.wait_for(before + 1);
  }
  [[nodiscard]] bool is_awake() const { return awake_; }
  [[nodiscard]] WakeCause wait() {
    thread_.join();
    return reason_.value();
  }
  [[nodiscard]] Sleeper& sleeper() { return sleeper_; }

 private:
  Sleeper sleeper_{};
  Clock::duration duration_{};
  std::optional<WakeCause> reason_{};
  std::atomic<bool> awake_{false};
  std::thread thread_{};
};

sys::Fd open_process(pid_t pid) {
  auto opened = sys::pidfd_open(pid);
  REQUIRE(opened.ok());
  return std::move(opened.fd);
}

/// Whether a sleep ends when a file loses its name that is watched from now on.
bool wakes_for(const File& file) {
  Sleeper sleeper;
  if (sleeper.parker.open_event() || sleeper.watch.begin(file.fd())) {
    return false;
  }
  file.unlink();
  const WakeCause reason = sleeper.sleep_until(Clock::now() + k_patience);
  sleeper.watch.end();
  return reason == WakeCause::inode_changed;
}

}  // namespace

TEST_CASE("a sleeper wakes when the watched inode loses its name") {
  const TemporaryDirectory directory;
  const File file(directory, "a");
  const PollCount count;
  SleepingThread sleeping(&file);
  sleeping.fall_asleep(count);
  file.unlink();
  CHECK(sleeping.wait() == WakeCause::inode_changed);
}

TEST_CASE("a change between watching and sleeping is not missed") {
  const TemporaryDirectory directory;
  const File file(directory, "a");
  SleepingThread sleeping(&file);
  file.unlink();
  CHECK(has_pending_event(sleeping.sleeper().slot));
  sleeping.start();
  CHECK(sleeping.wait() == WakeCause::inode_changed);
  CHECK(!has_pending_event(sleeping.sleeper().slot));
}

TEST_CASE("of several sleeping threads each is woken by its own inode, whoever leads") {
  // In every order, so that now the leader goes first, now last, and the lead is handed on up to three times.
  std::array<std::size_t, 4> order{};
  std::iota(order.begin(), order.end(), std::size_t{0});
  do {
    const TemporaryDirectory directory;
    const PollCount count;
    std::vector<File> files;
    std::vector<std::unique_ptr<SleepingThread>> threads;
    for (std::size_t i = 0; i < order.size(); ++i) {
      files.emplace_back(directory, std::to_string(i));
    }
    for (const File& file : files) {
      threads.push_back(std::make_unique<SleepingThread>(&file));
      threads.back()->fall_asleep(count);
    }
    for (std::size_t i = 0; i < order.size(); ++i) {
      files[order[i]].unlink();
      REQUIRE(threads[order[i]]->wait() == WakeCause::inode_changed);
      for (std::size_t later = i + 1; later < order.size(); ++later) {
        REQUIRE(!threads[order[later]]->is_awake());
      }
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("a leader that wakes for its own sake hands the lead over") {
  const TemporaryDirectory directory;
  const File mine(directory, "mine");
  const File other(directory, "other");
  const PollCount count;
  SUBCASE("because it is called") {
    SleepingThread leader(&mine);
    SleepingThread follower(&other);
    leader.fall_asleep(count);
    follower.fall_asleep(count);
    leader.sleeper().slot.wake();
    CHECK(leader.wait() == WakeCause::called);
    other.unlink();
    CHECK(follower.wait() == WakeCause::inode_changed);
  }
  SUBCASE("because an owner ended") {
    auto child = ChildProcess::run([](Channel& parent) {
      (void)parent.hear();
      return 0;
    });
    SleepingThread leader(&mine);
    leader.sleeper().slot.watch_owner(open_process(child.pid()));
    SleepingThread follower(&other);
    leader.fall_asleep(count);
    follower.fall_asleep(count);
    child.tell("end");
    CHECK(leader.wait() == WakeCause::owner_ended);
    other.unlink();
    CHECK(follower.wait() == WakeCause::inode_changed);
  }
  SUBCASE("because its time has come") {
    SleepingThread leader(&mine, 20ms);
    SleepingThread follower(&other);
    leader.fall_asleep(count);
    follower.start();
    CHECK(leader.wait() == WakeCause::time);
    other.unlink();
    CHECK(follower.wait() == WakeCause::inode_changed);
  }
}

TEST_CASE("whoever watches leads when the leader has nothing to watch for it") {
  // Protects: `leader_listens`. The first one sleeps without the instance, which is not even open yet.
  const TemporaryDirectory directory;
  const File file(directory, "a");
  const PollCount count;
  SleepingThread first(nullptr);
  first.fall_asleep(count);
  SleepingThread second(&file);
  second.fall_asleep(count);
  file.unlink();
  CHECK(second.wait() == WakeCause::inode_changed);
  CHECK(!first.is_awake());
}

TEST_CASE("a sleeper without an event does not keep the lead from one with an event") {
  const TemporaryDirectory directory;
  const File mute_file(directory, "mute");
  const File file(directory, "a");
  PollCount count;
  count.fail_events(true);
  SleepingThread mute(&mute_file);
  count.fail_events(false);
  SUBCASE("and hears of its own inode while it leads") {
    mute.fall_asleep(count);
    mute_file.unlink();
    CHECK(mute.wait() == WakeCause::inode_changed);
  }
  SUBCASE("when it fell asleep first") {
    mute.fall_asleep(count);
    SleepingThread second(&file);
    second.fall_asleep(count);
    file.unlink();
    CHECK(second.wait() == WakeCause::inode_changed);
    mute_file.unlink();  // so that it ends
    (void)mute.wait();
  }
}

TEST_CASE("two sleepers on one inode are both woken, and one that goes leaves the other its watch") {
  const TemporaryDirectory directory;
  const File file(directory, "a");
  const PollCount count;
  SleepingThread first(&file);
  SleepingThread second(&file);
  { const SleepingThread third(&file); }
  first.fall_asleep(count);
  second.fall_asleep(count);
  file.unlink();
  CHECK(first.wait() == WakeCause::inode_changed);
  CHECK(second.wait() == WakeCause::inode_changed);
}

TEST_CASE("a sleeper wakes when it is called, before or during the sleep") {
  const PollCount count;
  SleepingThread before(nullptr);
  before.sleeper().slot.wake();
  before.start();
  CHECK(before.wait() == WakeCause::called);
  CHECK(count.polls() == 0);
  SleepingThread during(nullptr);
  during.fall_asleep(count);
  during.sleeper().slot.wake();
  CHECK(during.wait() == WakeCause::called);
}

TEST_CASE("a pidfd that has fired leaves the poll set") {
  // Protects against half a million wake-ups a second while a dead owner's child keeps the witness.
  auto child = ChildProcess::run([](Channel&) { return 0; });
  child.wait_until_zombie();
  Sleeper sleeper;
  REQUIRE(!sleeper.parker.open_event());
  sleeper.slot.watch_owner(open_process(child.pid()));
  CHECK(has_pending_event(sleeper.slot));
  CHECK(sleeper.sleep_until(Clock::now() + k_patience) == WakeCause::owner_ended);
  CHECK(!has_pending_event(sleeper.slot));
  const PollCount count;
  CHECK(sleeper.sleep_until(Clock::now() + 20ms) == WakeCause::time);
  CHECK(count.polls() == 1);
}

TEST_CASE("a time that has come ends a sleep at once") {
  Sleeper sleeper;
  REQUIRE(!sleeper.parker.open_event());
  CHECK(sleeper.sleep_until(Clock::now() - 1s) == WakeCause::time);
}

TEST_CASE("a shortage is told, and over when it is over") {
  const TemporaryDirectory directory;
  const File file(directory, "a");
  Sleeper sleeper;
  {
    const Script script(failing(sys::Call::eventfd, EMFILE));
    CHECK(sleeper.parker.open_event() == std::errc::too_many_files_open);
    CHECK(!sleeper.parker.has_event());
    sleeper.slot.wake();  // a thread that is awake, and has no event
    CHECK(sleeper.slot.take_cause() == WakeCause::called);
  }
  {
    const Script script(failing(sys::Call::inotify_add_watch, ENOSPC));
    CHECK(sleeper.watch.begin(file.fd()) == std::errc::no_space_on_device);
  }
  CHECK(!sleeper.parker.open_event());
  CHECK(!sleeper.watch.begin(file.fd()));
  file.unlink();
  CHECK(sleeper.sleep_until(Clock::now() + k_patience) == WakeCause::inode_changed);
  sleeper.watch.end();
}

TEST_CASE("without an instance nothing is watched, and the next try makes one") {
  auto child = ChildProcess::run([](Channel&) {  // where there is none yet
    const TemporaryDirectory directory;
    const File file(directory, "a");
    Sleeper sleeper;
    {
      const Script script(failing(sys::Call::inotify_init, EMFILE));
      REQUIRE_IN_CHILD(sleeper.watch.begin(file.fd()) == std::errc::too_many_files_open);
      REQUIRE_IN_CHILD(sleeper.sleep_until(Clock::now() + 1ms) == WakeCause::time);
    }
    REQUIRE_IN_CHILD(wakes_for(file));
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("one instance serves the process") {
  const TemporaryDirectory directory;
  std::atomic<int> instances{0};
  const Script script([&](const sys::CallInfo& info) {
    instances += info.call == sys::Call::inotify_init ? 1 : 0;
    return 0;
  });
  for (int i = 0; i < 5; ++i) {
    const File file(directory, std::to_string(i));
    const SleepingThread sleeping(&file);
  }
  CHECK(instances <= 1);
}

TEST_CASE("a queue that overflowed wakes everybody") {
  std::size_t events_max = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> events_max;
  if (events_max == 0 || events_max > 200'000) {
    skip_aloud("this kernel's inotify queue is too long to fill, or its length unknown");
    return;
  }
  const TemporaryDirectory directory;
  const File noisy(directory, "noisy");
  const File noisier(directory, "noisier");
  const File quiet(directory, "quiet");
  const SleepingThread first(&noisy);
  const SleepingThread second(&noisier);
  SleepingThread sleeping(&quiet);
  for (std::size_t i = 0; i <= events_max / 2; ++i) {  // by turns, because equal events in a row are one
    noisy.change_mode(i % 2 == 0 ? 0600 : 0640);
    noisier.change_mode(i % 2 == 0 ? 0600 : 0640);
  }
  sleeping.start();
  CHECK(sleeping.wait() == WakeCause::inode_changed);
}

TEST_CASE("a poll that is refused does not spin and keeps the time") {
  Sleeper sleeper;
  REQUIRE(!sleeper.parker.open_event());
  std::atomic<int> polls{0};
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::poll) {
      ++polls;
      return EINVAL;
    }
    return 0;
  });
  const auto until = Clock::now() + 5ms;
  CHECK(sleeper.sleep_until(until) == WakeCause::time);
  CHECK(Clock::now() >= until);
  CHECK(polls == 1);
}

TEST_CASE("a program that closed what it did not open watches anew, and nothing of its own is touched") {
  // As one that becomes a daemon without a fork: the instance's number is closed, or something of the program's. What
  // is no file has the inode that the instance had, too.
  enum class Reuse { none, pipes, counters };
  for (const Reuse reuse : {Reuse::none, Reuse::pipes, Reuse::counters}) {
    CAPTURE(static_cast<int>(reuse));
    auto child = ChildProcess::run([&](Channel&) {
      const TemporaryDirectory directory;
      const File before(directory, "before");
      {
        Sleeper sleeper;
        REQUIRE_IN_CHILD(!sleeper.watch.begin(before.fd()));
        sleeper.watch.end();
      }
      constexpr int k_pipes = 40;
      for (int fd = 3; fd < 2 * k_pipes; ++fd) {
        ::close(fd);
      }
      std::vector<std::array<int, 2>> pipes;
      for (int i = 0; reuse == Reuse::pipes && i < k_pipes; ++i) {
        pipes.emplace_back();
        REQUIRE_IN_CHILD(::pipe2(pipes.back().data(), O_CLOEXEC) == 0);
        REQUIRE_IN_CHILD(::write(pipes.back()[1], "kept", 4) == 4);
      }
      std::vector<int> counters;
      for (int i = 0; reuse == Reuse::counters && i < 2 * k_pipes; ++i) {
        counters.push_back(::eventfd(7, EFD_NONBLOCK | EFD_CLOEXEC));
        REQUIRE_IN_CHILD(counters.back() >= 0);
      }
      {
        Sleeper unwatched;  // leads, and must not read what it takes for the instance
        REQUIRE_IN_CHILD(!unwatched.parker.open_event());
        REQUIRE_IN_CHILD(unwatched.sleep_until(Clock::now() + 1ms) == WakeCause::time);
      }
      REQUIRE_IN_CHILD(wakes_for(File(directory, "after")));
      for (const auto& ends : pipes) {
        std::array<char, 8> text{};
        REQUIRE_IN_CHILD(::read(ends[0], text.data(), text.size()) == 4);
        REQUIRE_IN_CHILD(::write(ends[1], "open", 4) == 4);
      }
      for (const int counter : counters) {
        ::eventfd_t count = 0;
        REQUIRE_IN_CHILD(::eventfd_read(counter, &count) == 0);
        REQUIRE_IN_CHILD(count == 7);
      }
      return 0;
    });
    CHECK(child.wait().exited_with(0));
  }
}

TEST_CASE("what nobody watches any more is not watched by the kernel either") {
  const TemporaryDirectory directory;
  const File file(directory, "a");
  const auto watches = [] {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
      std::ifstream lines(entry.path());
      for (std::string line; std::getline(lines, line);) {
        count += line.starts_with("inotify wd:") ? 1U : 0U;  // proc(5), one for each watch
      }
    }
    return count;
  };
  const auto before = watches();
  {
    const SleepingThread first(&file);
    CHECK(watches() == before + 1);
    { const SleepingThread second(&file); }
    CHECK(watches() == before + 1);
  }
  CHECK(watches() == before);
}

TEST_CASE("a forked child has a hub of its own") {
  const TemporaryDirectory directory;
  const File file(directory, "a");
  const PollCount count;
  SleepingThread sleeping(&file);
  sleeping.fall_asleep(count);
  auto child = ChildProcess::run([&](Channel&) {
    REQUIRE_IN_CHILD(wakes_for(File(directory, "own")));
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(!sleeping.is_awake());
  file.unlink();
  CHECK(sleeping.wait() == WakeCause::inode_changed);
}

TEST_CASE("a thread that watches nothing sleeps without a descriptor, and wakes when it is called") {
  const PollCount count;
  const auto before = sys::open_descriptor_count();
  Sleeper sleeper;
  sleeper.slot.wake();
  CHECK(sleeper.sleep_until(Clock::now() + k_patience) == WakeCause::called);
  CHECK(sleeper.sleep_until(Clock::now() + 1ms) == WakeCause::time);
  std::thread other([&] { sleeper.slot.wake(); });
  CHECK(sleeper.sleep_until(Clock::now() + k_patience) == WakeCause::called);
  other.join();
  CHECK(count.polls() == 0);
  CHECK(sys::open_descriptor_count() == before);
}

TEST_CASE("a thread that is awake is not signalled, and one that sleeps is signalled once") {
  // Protects: `is_asleep_`. A signal is a write here and a read there, in the middle of a hand-over.
  std::atomic<int> writes{0};
  std::atomic<int> polls{0};
  const Script script([&](const sys::CallInfo& info) {
    writes += info.call == sys::Call::write ? 1 : 0;
    polls += info.call == sys::Call::poll ? 1 : 0;
    return 0;
  });
  Sleeper sleeper;
  REQUIRE(!sleeper.parker.open_event());
  sleeper.slot.wake();
  CHECK(writes == 0);
  CHECK(sleeper.sleep_until(Clock::now() + k_patience) == WakeCause::called);
  std::thread thread([&] { CHECK(sleeper.sleep_until(Clock::now() + k_patience) == WakeCause::called); });
  wait_until("asleep", [&] { return polls.load() > 0; });
  sleeper.slot.wake();
  sleeper.slot.wake();
  thread.join();
  CHECK(writes == 1);
}

TEST_CASE("of several waits of one thread each has its own cause, and the thread wakes for any") {
  const TemporaryDirectory directory;
  const File file(directory, "a");
  auto child = ChildProcess::run([](Channel&) { return 0; });
  child.wait_until_zombie();
  Parker parker;
  REQUIRE(!parker.open_event());
  WaitSlot called(parker);
  WaitSlot watching(parker);
  WaitSlot with_owner(parker);
  InodeWatch watch(watching);
  REQUIRE(!watch.begin(file.fd()));
  with_owner.watch_owner(open_process(child.pid()));
  const auto until = Clock::now() + k_patience;
  parker.sleep(until);
  CHECK(called.take_cause() == WakeCause::time);
  CHECK(watching.take_cause() == WakeCause::time);
  CHECK(with_owner.take_cause() == WakeCause::owner_ended);
  file.unlink();
  parker.sleep(until);
  CHECK(watching.take_cause() == WakeCause::inode_changed);
  {
    WaitSlot short_lived(parker);
    short_lived.wake();
  }
  called.wake();
  parker.sleep(until);
  CHECK(called.take_cause() == WakeCause::called);
  CHECK(with_owner.take_cause() == WakeCause::time);
}
