// Identity of real processes: other users, zombies, ended main threads, recycled pids, namespaces, hidden /proc.

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <sessionlock/lock_manager.hpp>
#include <sessionlock/process_signal.hpp>
#include <sessionlock/sweep.hpp>

#include "check_in.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "process/flock_holder.hpp"
#include "process/process_probe.hpp"
#include "process/procfs.hpp"
#include "process/this_process.hpp"
#include "sanitizers.hpp"
#include "script.hpp"
#include "system/system.hpp"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

using namespace sessionlock;
using namespace sessionlock::test;

namespace {

/// Ends the main thread of a child, as pthread_exit(3) in `main` does, while `rest` runs on in another thread. (The
/// call itself would unwind through what started the child.)
[[noreturn]] void end_main_thread(std::function<int()> rest) {
  std::thread([rest = std::move(rest)] {
    const std::string own_stat = "/proc/" + std::to_string(::getpid()) + "/stat";
    wait_until("the main thread has ended", [&] { return read_text(own_stat).find(") Z ") != std::string::npos; });
    ::_exit(rest());
  }).detach();
  ::syscall(SYS_exit, 0);
  std::abort();
}

/// Makes the next child of this PID namespace get this pid (pid_namespaces(7)).
bool choose_next_pid(pid_t pid) {
  std::ofstream file("/proc/sys/kernel/ns_last_pid");
  file << pid - 1;
  file.close();
  return !file.fail();
}

/// Returns once a new process has another start time than one that started before the call.
void let_a_tick_pass() {
  const auto ticks = [] {
    struct timespec now {};
    ::clock_gettime(CLOCK_BOOTTIME, &now);
    const long per_second = ::sysconf(_SC_CLK_TCK);
    return now.tv_sec * per_second + now.tv_nsec / (1'000'000'000 / per_second);
  };
  const auto before = ticks();
  wait_until("the clock goes on", [&] { return ticks() > before + 1; });
}

}  // namespace

TEST_CASE("a process of another user, whom we may not signal, is alive") {
  if (!can_become_second_user()) {
    skip_aloud("only root can become a second user");
    return;
  }
  const auto own_start = process_start_time(::getpid());
  auto child = ChildProcess::run([own_start](Channel&) {
    become_second_user();
    REQUIRE_IN_CHILD(::kill(::getppid(), 0) != 0 && errno == EPERM);
    REQUIRE_IN_CHILD(is_pid_alive(::getppid()));
    REQUIRE_IN_CHILD(probe_process(::getppid()).pid == PidProbe::exists);
    REQUIRE_IN_CHILD(process_start_time(::getppid()) == own_start);
    REQUIRE_IN_CHILD(this_process().pid_namespace != 0);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a zombie is dead") {
  auto child = idle_process();
  const auto start = process_start_time(child.pid());
  CHECK(is_pid_alive(child.pid()));
  child.send_signal(SIGKILL);
  child.wait_until_zombie();
  REQUIRE(::kill(child.pid(), 0) == 0);
  CHECK_FALSE(is_pid_alive(child.pid()));
  CHECK(probe_process(child.pid()).pid == PidProbe::gone);
  const auto identified = identify(child.pid());
  REQUIRE_FALSE(identified);
  CHECK(identified.error().code == std::errc::no_such_process);
  CHECK(process_start_time(child.pid()) == start);
}

TEST_CASE("a process that was reaped is dead") {
  auto child = idle_process();
  child.kill();
  CHECK_FALSE(is_pid_alive(child.pid()));
  CHECK_FALSE(process_start_time(child.pid()));
}

TEST_CASE("a stopped process is alive") {
  auto child = idle_process();
  const auto before = identify(child.pid());
  child.stop();
  CHECK(is_pid_alive(child.pid()));
  CHECK(same_process(before.value(), identify(child.pid()).value()) == Match::same);
}

TEST_CASE("a process whose main thread has exited while others run is alive") {
  auto child = ChildProcess::run([](Channel& parent) -> int {
    const auto before = identify(::getpid());
    end_main_thread([&parent, before] {
      REQUIRE_IN_CHILD(is_pid_alive(::getpid()));
      REQUIRE_IN_CHILD(same_process(before.value(), identify(::getpid()).value()) == Match::same);
      parent.tell("alone");
      (void)parent.hear();
      return 0;
    });
  });
  child.expect("alone");
  const auto probe = probe_process(child.pid());
  CHECK(probe.pid == PidProbe::exists);
  CHECK(probe.start_time_ticks == read_proc_stat(child.pid())->start_time_ticks);
  CHECK(read_proc_stat(child.pid())->state == 'Z');
  CHECK(is_pid_alive(child.pid()));
  child.tell("end");
  child.wait_until_zombie();
  CHECK_FALSE(is_pid_alive(child.pid()));
}

TEST_CASE("a thread that first asks after the main thread has exited still finds its namespaces and descriptors") {
  const Observer& expected = this_observer();
  auto child = ChildProcess::run([&expected](Channel&) -> int {
    end_main_thread([&expected] {
      const Observer& observer = this_observer();
      REQUIRE_IN_CHILD(observer.pid == ::getpid() && observer.start_time_ticks.has_value());
      REQUIRE_IN_CHILD(observer.pid_namespace == expected.pid_namespace);
      REQUIRE_IN_CHILD(observer.time_namespace == expected.time_namespace);
      REQUIRE_IN_CHILD(observer.time_namespaces_absent == expected.time_namespaces_absent);
      struct stat status {};
      const auto opened = sys::open(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY);
      REQUIRE_IN_CHILD(::stat(descriptor_link(opened.fd.get()).data(), &status) == 0);
      return 0;
    });
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("the id of a thread exists, as kill has it, with the thread's own start time") {
  auto child = ChildProcess::run([](Channel& parent) {
    let_a_tick_pass();
    std::thread thread([&parent] {
      const auto id = static_cast<pid_t>(::syscall(SYS_gettid));
      REQUIRE_IN_CHILD(id != ::getpid());
      REQUIRE_IN_CHILD(::kill(id, 0) == 0);
      REQUIRE_IN_CHILD(is_pid_alive(id));
      const auto start = process_start_time(id);
      REQUIRE_IN_CHILD(start && start > process_start_time(::getpid()));
      parent.tell("done");
    });
    thread.join();
    return 0;
  });
  child.expect("done");
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a command name with spaces and parentheses does not hide the start time") {
  auto child = ChildProcess::run([](Channel&) {
    const auto before = process_start_time(::getpid());
    for (const char* name : {"My App (v2)", "a) R 1 2 (b", ") Z 0 0 0 0"}) {
      std::ofstream("/proc/self/comm") << name;
      REQUIRE_IN_CHILD(read_text("/proc/self/stat").find(name) != std::string::npos);
      REQUIRE_IN_CHILD(before && process_start_time(::getpid()) == before);
      REQUIRE_IN_CHILD(is_pid_alive(::getpid()));
    }
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a recycled pid is alive, but another process") {
  check_in({CLONE_NEWPID | CLONE_NEWNS}, [](Channel&) {
    auto first = idle_process();
    const pid_t pid = first.pid();
    const auto recorded = identify(pid);
    first.kill();
    REQUIRE_IN_CHILD(!is_pid_alive(pid));
    let_a_tick_pass();
    REQUIRE_IN_CHILD(choose_next_pid(pid));
    auto second = idle_process();
    REQUIRE_IN_CHILD(second.pid() == pid);
    REQUIRE_IN_CHILD(is_pid_alive(pid));
    REQUIRE_IN_CHILD(same_process(recorded.value(), identify(pid).value()) == Match::different);
    REQUIRE_IN_CHILD(probe_process(pid).start_time_ticks > recorded->start_time_ticks);
    return 0;
  });
}

TEST_CASE("hidepid hides a living process's start time, never its life") {
  check_in({CLONE_NEWPID | CLONE_NEWNS, false}, [](Channel& parent) {
    if (!can_become_second_user() || ::mount("proc", "/proc", "proc", 0, "hidepid=2") != 0) {
      return skip_from_inside(parent, "hidepid needs root and a mountable /proc");
    }
    auto child = ChildProcess::run([](Channel&) {
      become_second_user();
      struct stat status {};
      REQUIRE_IN_CHILD(::stat("/proc/1/stat", &status) != 0 && errno == ENOENT);
      const auto probe = probe_process(1);
      REQUIRE_IN_CHILD(probe.pid == PidProbe::exists && !probe.start_time_ticks);
      REQUIRE_IN_CHILD(is_pid_alive(1) && !process_start_time(1));
      REQUIRE_IN_CHILD(same_process(identify(1).value(), identify(1).value()) == Match::unknown);
      REQUIRE_IN_CHILD(this_process().start_time_ticks.has_value());
      return 0;
    });
    return child.wait().exit_code;
  });
}

TEST_CASE("with the /proc of an outer PID namespace start times are unknown, and nobody is dead by them") {
  const auto outer = this_process();
  check_in({CLONE_NEWPID | CLONE_NEWNS, false}, [&outer](Channel&) {
    const auto self = this_process();
    REQUIRE_IN_CHILD(self.pid == 1 && !self.start_time_ticks);
    REQUIRE_IN_CHILD(self.boot_id == outer.boot_id);
    REQUIRE_IN_CHILD(self.pid_namespace != 0 && self.pid_namespace != outer.pid_namespace);
    REQUIRE_IN_CHILD(same_process(self, outer) == Match::unknown);
    REQUIRE_IN_CHILD(!process_start_time(1) && !process_start_time(outer.pid));
    auto child = idle_process();
    REQUIRE_IN_CHILD(is_pid_alive(child.pid()));
    REQUIRE_IN_CHILD(!identify(child.pid())->start_time_ticks);
    child.kill();
    REQUIRE_IN_CHILD(!is_pid_alive(child.pid()));
    return 0;
  });
}

TEST_CASE("with the /proc of an inner PID namespace start times are unknown, and nobody is dead by them") {
  check_in({CLONE_NEWNS}, [](Channel& parent) {
    if (::unshare(CLONE_NEWPID) != 0) {
      return skip_from_inside(parent, "a PID namespace inside another is not allowed here");
    }
    auto inner = ChildProcess::run([](Channel& outer) {
      REQUIRE_IN_CHILD(::getpid() == 1);
      REQUIRE_IN_CHILD(::mount("proc", "/proc", "proc", 0, nullptr) == 0);
      REQUIRE_IN_CHILD(process_start_time(1).has_value());
      outer.tell("mounted");
      (void)outer.hear();
      return 0;
    });
    inner.expect("mounted");
    REQUIRE_IN_CHILD(is_pid_alive(::getpid()) && is_pid_alive(inner.pid()));
    REQUIRE_IN_CHILD(!process_start_time(::getpid()) && !process_start_time(inner.pid()) && !process_start_time(1));
    REQUIRE_IN_CHILD(this_process().pid == ::getpid() && !this_process().start_time_ticks);
    REQUIRE_IN_CHILD(this_process().pid_namespace == 0);
    inner.tell("end");
    return inner.wait().exit_code;
  });
}

TEST_CASE("a /proc that happens to know us by our own number is still that of another PID namespace") {
  check_in({CLONE_NEWPID | CLONE_NEWNS}, [](Channel& parent) {
    constexpr pid_t k_number = 500;
    if (::unshare(CLONE_NEWPID) != 0) {
      return skip_from_inside(parent, "a PID namespace inside another is not allowed here");
    }
    // A thread that starts just then, as the thread sanitizer's do, may take the number in either namespace.
    constexpr int k_another_try = 99;
    constexpr int k_tries_max = 200;
    auto inner_first = ChildProcess::run([](Channel& outer) {
      REQUIRE_IN_CHILD(::getpid() == 1);
      for (int tries = 0; tries < k_tries_max; ++tries) {
        outer.tell("choose");
        outer.expect("chosen");
        REQUIRE_IN_CHILD(choose_next_pid(k_number));
        auto child = ChildProcess::run([](Channel&) {
          if (::getpid() != k_number || std::filesystem::read_symlink("/proc/self") != std::to_string(k_number)) {
            return k_another_try;
          }
          // Pid 1 of this /proc is not the pid 1 that kill knows.
          REQUIRE_IN_CHILD(!process_start_time(1) && !process_start_time(k_number));
          REQUIRE_IN_CHILD(!this_process().start_time_ticks);
          REQUIRE_IN_CHILD(probe_process(1).pid == PidProbe::exists);
          return 0;
        });
        if (const int code = child.wait().exit_code; code != k_another_try) {
          return code;
        }
      }
      return k_another_try;
    });
    while (inner_first.hear() == "choose") {
      REQUIRE_IN_CHILD(choose_next_pid(k_number));
      inner_first.tell("chosen");
    }
    return inner_first.wait().exit_code;
  });
}

TEST_CASE("where the kernel tells no NSpid, the number that /proc knows us by decides") {
  check_in({CLONE_NEWPID | CLONE_NEWNS, false}, [](Channel&) {
    const TemporaryDirectory directory;
    write_text(directory / "status", "Name:\tolder\n");
    REQUIRE_IN_CHILD(::mount((directory / "status").c_str(), "/proc/self/status", nullptr, MS_BIND, nullptr) == 0);
    REQUIRE_IN_CHILD(read_text("/proc/self/status") == "Name:\tolder\n");
    REQUIRE_IN_CHILD(!process_start_time(1) && !this_process().start_time_ticks);
    return 0;
  });
}

TEST_CASE("a process of inner namespaces is told as we know it, and is never another than it says it is") {
  check_in({CLONE_NEWPID | CLONE_NEWNS}, [](Channel& parent) {
    if (::unshare(CLONE_NEWPID | CLONE_NEWTIME) != 0) {
      return skip_from_inside(parent, "namespaces inside others are not allowed here");
    }
    write_text("/proc/self/timens_offsets", "boottime 1000 0");
    const auto own = this_process();
    auto child = ChildProcess::run([&own](Channel& outer) {
      REQUIRE_IN_CHILD(::unshare(CLONE_NEWNS) == 0 && ::mount("proc", "/proc", "proc", 0, nullptr) == 0);
      const auto told = this_process();
      REQUIRE_IN_CHILD(told.pid == 1 && told.start_time_ticks && told.time_namespace != own.time_namespace);
      REQUIRE_IN_CHILD(told.pid_namespace != own.pid_namespace);
      outer.tell(std::to_string(told.pid_namespace));
      outer.tell(std::to_string(told.time_namespace));
      outer.tell(std::to_string(*told.start_time_ticks));
      (void)outer.hear();
      return 0;
    });
    auto told = own;
    told.pid = 1;
    told.pid_namespace = std::stoull(child.hear().value());
    told.time_namespace = std::stoull(child.hear().value());
    told.start_time_ticks = std::stoull(child.hear().value());
    const auto seen = identify(child.pid());
    REQUIRE_IN_CHILD(seen && seen->pid == child.pid() && seen->start_time_ticks);
    REQUIRE_IN_CHILD(seen->pid_namespace == own.pid_namespace && seen->time_namespace == own.time_namespace);
    REQUIRE_IN_CHILD(*seen->start_time_ticks != *told.start_time_ticks);
    REQUIRE_IN_CHILD(same_process(told, *seen) == Match::unknown);
    return 0;
  });
}

TEST_CASE("in another time namespace the same process has another start time, and only the namespace says so") {
  const auto own = this_process();
  REQUIRE(own.start_time_ticks);
  if (own.time_namespace == 0) {
    skip_aloud("this kernel has no time namespaces");
    return;
  }
  constexpr std::chrono::seconds k_offset{1000};
  REQUIRE(boot_time_seconds().has_value());
  check_in({CLONE_NEWTIME, true, k_offset}, [&own, k_offset](Channel&) {
    const auto seen = identify(own.pid);
    REQUIRE_IN_CHILD(seen && seen->start_time_ticks && seen->pid_namespace == own.pid_namespace);
    const auto shift = static_cast<std::uint64_t>(k_offset.count() * ::sysconf(_SC_CLK_TCK));
    REQUIRE_IN_CHILD(*seen->start_time_ticks == *own.start_time_ticks + shift);
    REQUIRE_IN_CHILD(seen->time_namespace != 0 && seen->time_namespace != own.time_namespace);
    REQUIRE_IN_CHILD(this_observer().time_namespace == seen->time_namespace);
    REQUIRE_IN_CHILD(same_process(own, *seen) == Match::unknown);
    REQUIRE_IN_CHILD(!boot_time_seconds());
    return 0;
  });
}

namespace {

/// Enters a new time namespace with everything this process is: not only its later children. False if that is refused.
bool enter_new_time_namespace() {
  if (::unshare(CLONE_NEWTIME) != 0) {
    return false;
  }
  write_text("/proc/self/timens_offsets", "boottime 1000 0");
  const int entered = ::open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
  return ::setns(entered, CLONE_NEWTIME) == 0 && ::close(entered) == 0;
}

}  // namespace

// Only a process with one thread may enter a time namespace (setns(2)), and the thread sanitizer has one of its own.
TEST_CASE("a process that enters another time namespace takes no running process for another one" *
          doctest::skip(SESSIONLOCK_THREAD_SANITIZER)) {
  if (this_process().time_namespace == 0) {
    skip_aloud("this kernel has no time namespaces");
    return;
  }
  const Session session;
  const auto other = idle_process();
  auto child = ChildProcess::run([&](Channel& parent) {
    const auto before = identify(other.pid());
    REQUIRE_IN_CHILD(before && before->start_time_ticks);
    LockRecord record = own_record();
    record.pid = other.pid();
    record.starttime = before->start_time_ticks;
    record.created_at = created_at_ago(std::chrono::milliseconds{0});
    plant(session.lock, format_lock_record(record));
    REQUIRE_IN_CHILD(LockManager().inspect(session.path)->basis == Basis::verified);
    if (!enter_new_time_namespace()) {
      parent.tell("SKIPPED");
      return 0;
    }
    const auto now = identify(other.pid());
    REQUIRE_IN_CHILD(now && now->start_time_ticks != before->start_time_ticks);
    REQUIRE_IN_CHILD(now->time_namespace != before->time_namespace);
    REQUIRE_IN_CHILD(same_process(*before, *now) == Match::unknown);
    const auto inspection = LockManager().inspect(session.path);
    REQUIRE_IN_CHILD(inspection->state == LockState::held);
    REQUIRE_IN_CHILD(inspection->owner == OwnerState::unknown);
    REQUIRE_IN_CHILD(sweep(session.directory.path(), {.suffix = ".lock"})->removed.empty());
    REQUIRE_IN_CHILD(signal_process(*before, SIGTERM)->outcome == SignalOutcome::unverifiable);
    return 0;
  });
  if (child.hear() == "SKIPPED") {
    skip_aloud("new time namespaces are not allowed here");
    return;
  }
  CHECK(child.wait().exited_with(0));
  CHECK(std::filesystem::exists(session.lock));
}

TEST_CASE("while a shortage hides the time namespace no start time is compared") {
  if (this_process().time_namespace == 0) {
    skip_aloud("this kernel has no time namespaces");
    return;
  }
  auto child = ChildProcess::run([](Channel&) {
    const auto known = current_observer().time_namespace;
    {
      const Script script(
          [](const sys::CallInfo& info) { return is_call_on(info, sys::Call::fstatat, "ns/time") ? ENOMEM : 0; });
      const Observer& observer = current_observer();
      REQUIRE_IN_CHILD(observer.time_namespace == 0 && !observer.time_namespaces_absent);
    }
    REQUIRE_IN_CHILD(current_observer().time_namespace == known);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a process whose children will get another time namespace does not trust the boot time") {
  auto child = ChildProcess::run([](Channel& parent) {
    if (::unshare(CLONE_NEWTIME) != 0) {
      parent.tell("SKIPPED");
      return 0;
    }
    REQUIRE_IN_CHILD(!boot_time_seconds());
    parent.tell("done");
    return 0;
  });
  if (child.hear() == "SKIPPED") {
    skip_aloud("new time namespaces are not allowed here");
    return;
  }
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("without /proc start times are unknown and liveness alone decides") {
  check_in({CLONE_NEWNS}, [](Channel&) {
    REQUIRE_IN_CHILD(::mount("none", "/proc", "tmpfs", 0, nullptr) == 0);
    const Observer& observer = this_observer();
    REQUIRE_IN_CHILD(observer.pid == ::getpid() && !observer.start_time_ticks && observer.boot_id.empty());
    REQUIRE_IN_CHILD(observer.pid_namespace == 0 && observer.time_namespace == 0 && !observer.time_namespaces_absent);
    auto child = idle_process();
    REQUIRE_IN_CHILD(is_pid_alive(child.pid()) && !process_start_time(child.pid()));
    REQUIRE_IN_CHILD(identify(child.pid()).has_value());
    REQUIRE_IN_CHILD(!boot_time_seconds() && !flock_holder({1, 2}));
    child.kill();
    REQUIRE_IN_CHILD(!is_pid_alive(child.pid()) && !identify(child.pid()));
    return 0;
  });
}

TEST_CASE("files made to look like /proc are not believed") {
  check_in({CLONE_NEWNS}, [](Channel&) {
    const std::string own = std::to_string(::getpid());
    const std::string stat = read_text("/proc/self/stat");
    REQUIRE_IN_CHILD(::mount("none", "/proc", "tmpfs", 0, nullptr) == 0);
    std::filesystem::create_directory("/proc/" + own);
    write_text("/proc/" + own + "/stat", stat);
    write_text("/proc/" + own + "/status", "NSpid:\t" + own + "\n");
    std::filesystem::create_directory_symlink(own, "/proc/self");
    REQUIRE_IN_CHILD(read_text("/proc/self/stat") == stat);
    REQUIRE_IN_CHILD(!process_start_time(::getpid()));
    REQUIRE_IN_CHILD(is_pid_alive(::getpid()));
    return 0;
  });
}

TEST_CASE("the boot time is the kernel's, not one that is mounted over it") {
  const auto boot = boot_time_seconds();
  REQUIRE(boot);
  const std::string stat = read_text("/proc/stat");
  const auto begin = stat.find("\nbtime ");
  REQUIRE(begin != std::string::npos);
  CHECK(*boot == std::stoll(stat.substr(begin + 7)));
  check_in({CLONE_NEWNS}, [](Channel&) {
    const TemporaryDirectory directory;
    write_text(directory / "stat", "cpu 1\nbtime 5\n");
    REQUIRE_IN_CHILD(::mount((directory / "stat").c_str(), "/proc/stat", nullptr, MS_BIND, nullptr) == 0);
    REQUIRE_IN_CHILD(read_text("/proc/stat") == "cpu 1\nbtime 5\n");
    REQUIRE_IN_CHILD(!boot_time_seconds());
    return 0;
  });
}

namespace {

/// Of a file in this directory that a child has locked, and after that.
void check_flock_holder_in(const std::filesystem::path& directory) {
  const auto path = directory / "lock";
  write_text(path, "");
  struct stat status {};
  REQUIRE_IN_CHILD(::stat(path.c_str(), &status) == 0);
  const FileIdentity file{status.st_dev, status.st_ino};
  REQUIRE_IN_CHILD(!flock_holder(file));
  auto child = ChildProcess::run([&path](Channel& parent) {
    const auto opened = sys::open(AT_FDCWD, path.c_str(), O_RDWR);
    REQUIRE_IN_CHILD(opened.ok() && sys::flock(opened.fd.get(), LOCK_EX | LOCK_NB).ok());
    parent.tell("locked");
    (void)parent.hear();
    return 0;
  });
  child.expect("locked");
  REQUIRE_IN_CHILD(flock_holder(file) == child.pid());
  REQUIRE_IN_CHILD(!flock_holder({status.st_dev, status.st_ino + 1}));
  REQUIRE_IN_CHILD(!flock_holder({status.st_dev + 1, status.st_ino}));
  child.kill();
  REQUIRE_IN_CHILD(!flock_holder(file));
}

}  // namespace

TEST_CASE("who holds a flock is told by its inode") {
  check_in({CLONE_NEWNS}, [](Channel& parent) {
    std::string why_not;
    const auto mounted = TmpfsMount::mount("size=64k", &why_not);
    if (!mounted) {
      return skip_from_inside(parent, "a tmpfs cannot be mounted: " + why_not);
    }
    check_flock_holder_in(mounted->path());
    return 0;
  });
}

namespace {

/// Runs `body` in a namespace where a btrfs is mounted.
void on_btrfs(const std::function<void(const std::filesystem::path&)>& body) {
  const TemporaryDirectory directory;
  check_in({CLONE_NEWNS}, [&](Channel& parent) {
    if (read_text("/proc/filesystems").find("\tbtrfs\n") == std::string::npos) {
      return skip_from_inside(parent, "this kernel has no btrfs");
    }
    const auto image = directory / "image";
    const auto mounted = directory / "mounted";
    constexpr std::uintmax_t k_bytes = std::uintmax_t{128} << 20;  // mkfs.btrfs wants 109 MiB
    write_text(image, "");
    std::filesystem::resize_file(image, k_bytes);
    std::filesystem::create_directory(mounted);
    for (const auto& command : {std::vector<std::string>{"mkfs.btrfs", "-q", image.string()},
                                std::vector<std::string>{"mount", "-o", "loop", image.string(), mounted.string()}}) {
      if (const auto result = run_command(command); !result.ended.exited_with(0)) {
        return skip_from_inside(parent, command.front() + ": " + result.error.substr(0, result.error.find('\n')));
      }
    }
    body(mounted);
    REQUIRE_IN_CHILD(run_command({"umount", mounted.string()}).ended.exited_with(0));
    return 0;
  });
}

}  // namespace

TEST_CASE("who holds a flock is told where the kernel has another device number for it than for a file") {
  // Protects: the second half of `flock_holder`; on btrfs each subvolume is a device of its own for stat(2) only.
  on_btrfs(check_flock_holder_in);
}

TEST_CASE("who holds a flock is told although that process has files open whose server does not answer") {
  // Protects: `has_flock_line` in `flock_holder`.
  if (!std::filesystem::exists("/dev/fuse")) {
    skip_aloud("this kernel has no FUSE");
    return;
  }
  const TemporaryDirectory source;
  const TemporaryDirectory shown;
  on_btrfs([&](const std::filesystem::path& directory) {
    write_text(source / "file", "");
    auto server =
        ChildProcess::exec({"bindfs", "-f", "-o", "attr_timeout=0", source.path().string(), shown.path().string()});
    wait_until("bindfs shows its directory", [&] { return std::filesystem::exists(shown / "file"); });
    const auto path = directory / "file";
    write_text(path, "");
    struct stat status {};
    REQUIRE_IN_CHILD(::stat(path.c_str(), &status) == 0);
    auto holder = ChildProcess::run([&](Channel& parent) {
      const auto served = sys::open(AT_FDCWD, (shown / "file").c_str(), O_RDONLY);
      const auto opened = sys::open(AT_FDCWD, path.c_str(), O_RDWR);
      REQUIRE_IN_CHILD(served.ok() && opened.ok() && sys::flock(opened.fd.get(), LOCK_EX | LOCK_NB).ok());
      parent.tell("locked");
      (void)parent.hear();
      return 0;
    });
    holder.expect("locked");
    server.stop();
    auto asker = ChildProcess::run([&](Channel& parent) {
      parent.tell(std::to_string(flock_holder({status.st_dev, status.st_ino}).value_or(0)));
      return 0;
    });
    asker.expect(std::to_string(holder.pid()));
    server.resume();
    (void)holder.kill();
    REQUIRE_IN_CHILD(::umount2(shown.path().c_str(), MNT_DETACH) == 0);
    (void)server.kill();
  });
}
