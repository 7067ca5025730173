// Signals to real processes, real recycled pids among them: the right one gets it, or nobody does.

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sessionlock/process_signal.hpp>

#include "check_in.hpp"
#include "process.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

ChildProcess sleeper(int ignored_signal = 0) {
  auto child = ChildProcess::run([ignored_signal](Channel& parent) {
    ::signal(SIGTERM, ignored_signal == SIGTERM ? SIG_IGN : SIG_DFL);  // the test framework has a handler
    parent.tell("here");
    (void)parent.hear();
    return 0;
  });
  child.expect("here");
  return child;
}

ProcessIdentity recorded(const ChildProcess& child) {
  return identify(child.pid()).value();
}

ProcessIdentity without_start_time(ProcessIdentity identity) {
  identity.start_time_ticks.reset();
  return identity;
}

ProcessIdentity of_another_start(ProcessIdentity identity) {
  identity.start_time_ticks = *identity.start_time_ticks + 1;
  return identity;
}

bool is_running(const ChildProcess& child) {
  return is_pid_alive(child.pid());
}

/// A child that does nothing, started without ado.
pid_t fork_idler(sighandler_t at_sigterm = SIG_DFL) {
  const auto ours = ::signal(SIGTERM, at_sigterm);  // before the fork, so that no SIGTERM comes too early
  const pid_t child = ::fork();
  if (child == 0) {
    while (true) {
      ::pause();
    }
  }
  ::signal(SIGTERM, ours);
  return child;
}

/// Makes an end of one process and gives its pid to a new one (pid_namespaces(7)).
bool replace_process(pid_t pid) {
  ::kill(pid, SIGKILL);
  if (::waitpid(pid, nullptr, 0) != pid) {
    return false;
  }
  std::ofstream file("/proc/sys/kernel/ns_last_pid");
  file << pid - 1;
  file.close();
  return !file.fail() && fork_idler() == pid;
}

/// Whether a signal that the process blocks has been sent to it: at once visible, unlike its death.
bool has_pending_signal(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    const bool counts = line.starts_with("SigPnd:") || line.starts_with("ShdPnd:");
    if (counts && line.find_first_not_of("0 \t", 7) != std::string::npos) {
      return true;
    }
  }
  return false;
}

/// Returns once a new process would have another start time than this one: what starts in the same tick of the clock
/// has the same.
void outwait_tick_of(const ProcessIdentity& process) {
  const auto ticks_a_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  const auto now = [&] {
    timespec time{};
    ::clock_gettime(CLOCK_BOOTTIME, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * ticks_a_second +
           static_cast<std::uint64_t>(time.tv_nsec) * ticks_a_second / 1'000'000'000;
  };
  while (now() <= process.start_time_ticks) {
    std::this_thread::sleep_for(1ms);
  }
}

}  // namespace

TEST_CASE("a verified process gets the signal, through a pidfd") {
  auto child = sleeper();
  const auto report = signal_process(recorded(child), SIGTERM);
  REQUIRE(report);
  CHECK(report->outcome == SignalOutcome::signalled);
  CHECK(report->pinned);
  CHECK(child.wait().killed_by(SIGTERM));
}

TEST_CASE("pid 0, negative, 1, this process and the leader of its group are refused, verified or not") {
  for (const Verification verification : {Verification::required, Verification::unverified}) {
    for (const pid_t pid : {pid_t{0}, pid_t{-1}, pid_t{-41237}, pid_t{1}, ::getpid(), ::getpgrp()}) {
      CAPTURE(pid);
      ProcessIdentity identity = this_process();
      identity.pid = pid;
      identity.start_time_ticks = process_start_time(pid);
      int calls = 0;
      const Script count([&](const sys::CallInfo& info) {
        calls += info.call == sys::Call::kill || info.call == sys::Call::pidfd_send_signal ? 1 : 0;
        return 0;
      });
      CHECK(signal_process(identity, SIGWINCH, verification).value().outcome == SignalOutcome::refused);
      CHECK(stop_process(identity, 0ms, verification).value().outcome == SignalOutcome::refused);
      CHECK(calls == 0);
    }
  }
}

TEST_CASE("the leader of our process group is refused although it is another process") {
  auto leader = ChildProcess::run([](Channel&) {
    ::setpgid(0, 0);
    const pid_t leading = ::getpid();
    auto member = ChildProcess::run([leading](Channel&) {
      REQUIRE_IN_CHILD(::getpgrp() == leading);
      REQUIRE_IN_CHILD(signal_process(identify(leading).value(), SIGKILL).value().outcome == SignalOutcome::refused);
      return 0;
    });
    return member.wait().exited_with(0) ? 0 : 1;
  });
  CHECK(leader.wait().exited_with(0));
}

TEST_CASE("a process that ended, reaped or not, is gone") {
  auto child = sleeper();
  const ProcessIdentity identity = recorded(child);
  child.send_signal(SIGKILL);
  child.wait_until_zombie();
  CHECK(signal_process(identity, SIGTERM).value().outcome == SignalOutcome::gone);
  CHECK(stop_process(identity, 0ms).value().outcome == SignalOutcome::gone);
  child.wait();
  CHECK(signal_process(identity, SIGTERM).value().outcome == SignalOutcome::gone);
  CHECK(signal_process(without_start_time(identity), SIGTERM, Verification::unverified).value().outcome ==
        SignalOutcome::gone);
}

TEST_CASE("a process that ends after it was looked at is gone, though it could still be signalled") {
  auto child = sleeper();
  const ProcessIdentity identity = recorded(child);
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::poll) {  // whether it has ended since
      child.send_signal(SIGKILL);
      child.wait_until_zombie();
    }
    return 0;
  });
  CHECK(signal_process(identity, SIGTERM).value().outcome == SignalOutcome::gone);
}

TEST_CASE("a pid of another start time is recycled, and never signalled even by who asks for unverified signals") {
  auto child = sleeper();
  for (const Verification verification : {Verification::required, Verification::unverified}) {
    CHECK(signal_process(of_another_start(recorded(child)), SIGKILL, verification).value().outcome ==
          SignalOutcome::recycled);
    CHECK(stop_process(of_another_start(recorded(child)), 0ms, verification).value().outcome ==
          SignalOutcome::recycled);
  }
  CHECK(is_running(child));
}

TEST_CASE("a record of another boot is recycled, one of another namespace unverifiable") {
  auto child = sleeper();
  ProcessIdentity identity = recorded(child);
  identity.boot_id = "another";
  CHECK(signal_process(identity, SIGKILL, Verification::unverified).value().outcome == SignalOutcome::recycled);
  identity = recorded(child);
  identity.pid_namespace += 1;
  CHECK(signal_process(identity, SIGKILL).value().outcome == SignalOutcome::unverifiable);
  CHECK(is_running(child));
}

TEST_CASE("a process that cannot be verified is signalled only for who asks for it by name") {
  auto child = sleeper();
  const ProcessIdentity identity = without_start_time(recorded(child));
  CHECK(signal_process(identity, SIGTERM).value().outcome == SignalOutcome::unverifiable);
  CHECK(is_running(child));
  CHECK(signal_process(identity, SIGTERM, Verification::unverified).value().outcome == SignalOutcome::signalled);
  CHECK(child.wait().killed_by(SIGTERM));
}

TEST_CASE("the id of a thread is no process") {
  auto child = ChildProcess::run([](Channel& parent) {
    std::thread([&parent] {
      parent.tell(std::to_string(::syscall(SYS_gettid)));
      ::pause();
    }).detach();
    (void)parent.hear();
    return 0;
  });
  const pid_t thread = std::stoi(child.hear().value());
  CHECK(signal_process(identify(thread).value(), SIGTERM).value().outcome == SignalOutcome::gone);
  CHECK(is_running(child));
}

TEST_CASE("a signal that is none is an error") {
  auto child = sleeper();
  for (const int signal : {0, -1, SIGRTMAX + 1, 1000}) {
    CHECK(signal_process(recorded(child), signal).error().code == Errc::invalid_argument);
  }
}

TEST_CASE("a process of another user is refused by the system under its own name") {
  if (!can_become_second_user()) {
    skip_aloud("becoming another user needs root");
    return;
  }
  auto child = sleeper();
  auto stranger = ChildProcess::run([identity = recorded(child)](Channel&) {
    become_second_user();
    REQUIRE_IN_CHILD(signal_process(identity, SIGTERM).error().code == std::errc::operation_not_permitted);
    REQUIRE_IN_CHILD(stop_process(identity, 0ms).error().code == std::errc::operation_not_permitted);
    return 0;
  });
  CHECK(stranger.wait().exited_with(0));
  CHECK(is_running(child));
}

TEST_CASE("a kernel without pidfd signals after a check, and the report says that nothing was pinned") {
  struct OldKernel {
    sys::Call call;
    int error;
  };
  for (const OldKernel& old : {OldKernel{sys::Call::pidfd_open, ENOSYS}, OldKernel{sys::Call::pidfd_open, EPERM},
                               OldKernel{sys::Call::pidfd_send_signal, ENOSYS}}) {
    auto child = sleeper();
    const Script old_kernel(failing(old.call, old.error));
    CHECK(signal_process(of_another_start(recorded(child)), SIGTERM).value().outcome == SignalOutcome::recycled);
    const auto report = signal_process(recorded(child), SIGTERM);
    CHECK(report->outcome == SignalOutcome::signalled);
    CHECK_FALSE(report->pinned);
    CHECK(child.wait().killed_by(SIGTERM));
  }
}

TEST_CASE("our own shortage of descriptors is an error, and nobody is signalled") {
  auto child = sleeper();
  const Script shortage(failing(sys::Call::pidfd_open, EMFILE));
  CHECK(signal_process(recorded(child), SIGTERM).error().code == std::errc::too_many_files_open);
  CHECK(is_running(child));
}

TEST_CASE("whichever way a kernel says that a pid is no process, it is gone and nobody is signalled") {
  auto child = sleeper();
  for (const int error : {ESRCH, EINVAL, ENOENT}) {
    const Script script(failing(sys::Call::pidfd_open, error));
    CHECK(signal_process(recorded(child), SIGTERM)->outcome == SignalOutcome::gone);
  }
  CHECK(is_running(child));
}

TEST_CASE("stop asks, waits and is content with a process that ends by itself") {
  auto child = sleeper();
  const auto report = stop_process(recorded(child), k_patience);
  CHECK(report->outcome == SignalOutcome::signalled);
  CHECK(child.wait().killed_by(SIGTERM));
}

TEST_CASE("stop can be told to wait without a limit") {
  auto child = sleeper();
  CHECK(stop_process(recorded(child), std::chrono::milliseconds::max())->outcome == SignalOutcome::signalled);
  CHECK(child.wait().killed_by(SIGTERM));
}

TEST_CASE("stop kills who ignores SIGTERM, after the grace") {
  for (const bool old_kernel : {false, true}) {
    auto child = sleeper(SIGTERM);
    const Script script([old_kernel](const sys::CallInfo& info) {
      return old_kernel && info.call == sys::Call::pidfd_open ? ENOSYS : 0;
    });
    const auto report = stop_process(recorded(child), 10ms);
    REQUIRE(report);
    CHECK(report->outcome == SignalOutcome::signalled);
    CHECK(child.wait().killed_by(SIGKILL));
  }
}

TEST_CASE("stop is content with a process that ends just when it is looked at for the second time") {
  auto child = sleeper(SIGTERM);
  const auto identity = recorded(child);
  int looks = 0;
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::kill && ++looks == 2) {
      (void)child.kill();
    }
    return 0;
  });
  const auto report = stop_process(identity, 10ms);
  REQUIRE(report);
  CHECK(report->outcome == SignalOutcome::signalled);
  CHECK(looks == 2);
}

TEST_CASE("stop that cannot go on after the grace says why, and kills nobody it did not look at") {
  struct Trouble {
    sys::Call call;
    int number;
    int error;
  };
  // Whether it has ended is asked before SIGTERM, at the end of the grace, and before SIGKILL.
  for (const Trouble& trouble : {Trouble{sys::Call::poll, 2, ENOMEM}, Trouble{sys::Call::poll, 3, ENOMEM},
                                 Trouble{sys::Call::pidfd_send_signal, 2, EPERM}}) {
    CAPTURE(sys::to_string(trouble.call));
    CAPTURE(trouble.number);
    auto child = sleeper(SIGTERM);
    int calls = 0;
    const Script script([&](const sys::CallInfo& info) {
      return info.call == trouble.call && ++calls == trouble.number ? trouble.error : 0;
    });
    const auto report = stop_process(recorded(child), 10ms);
    REQUIRE(!report);
    CHECK(report.error().code == std::error_code(trouble.error, std::system_category()));
    CHECK(report.error().detail == "pid " + std::to_string(child.pid()));
    CHECK(is_running(child));
  }
}

TEST_CASE("each outcome has a word") {
  CHECK(to_string(SignalOutcome::signalled) == "signalled");
  CHECK(to_string(SignalOutcome::gone) == "gone");
  CHECK(to_string(SignalOutcome::recycled) == "recycled");
  CHECK(to_string(SignalOutcome::unverifiable) == "unverifiable");
  CHECK(to_string(SignalOutcome::refused) == "refused");
  CHECK(to_string(static_cast<SignalOutcome>(77)) == "?");
}

TEST_CASE("stop never kills who cannot be verified, whatever it was allowed") {
  auto child = sleeper(SIGTERM);
  const auto report = stop_process(without_start_time(recorded(child)), 10ms, Verification::unverified);
  CHECK(report.error().code == Errc::timed_out);
  CHECK(is_running(child));
}

TEST_CASE("without a pidfd, a process that took over the pid during the grace is not killed") {
  check_in({CLONE_NEWPID | CLONE_NEWNS}, [](Channel&) {
    const pid_t pid = fork_idler(SIG_IGN);  // only the swap ends it, and so cannot come too late
    const auto identity = identify(pid).value();
    outwait_tick_of(identity);
    bool swapped = false;
    const Script script([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::poll && !swapped) {
        swapped = replace_process(pid);
      }
      return info.call == sys::Call::pidfd_open ? ENOSYS : 0;
    });
    REQUIRE_IN_CHILD(stop_process(identity, k_patience).value().outcome == SignalOutcome::signalled);
    REQUIRE_IN_CHILD(swapped);
    std::this_thread::sleep_for(20ms);  // what dies of a signal does so a little later
    REQUIRE_IN_CHILD(is_pid_alive(pid));
    return 0;
  });
}

TEST_CASE("without a pidfd, a process that took over the pid after the grace is not killed") {
  check_in({CLONE_NEWPID | CLONE_NEWNS}, [](Channel&) {
    const pid_t pid = fork_idler(SIG_IGN);
    const auto identity = identify(pid).value();
    outwait_tick_of(identity);
    bool swapped = false;
    int calls = 0;
    const Script script([&](const sys::CallInfo& info) {
      // Looked at, asked to end, looked at when the grace is over, and now once more.
      if (info.call == sys::Call::kill && ++calls == 4) {
        swapped = replace_process(pid);
      }
      return info.call == sys::Call::pidfd_open ? ENOSYS : 0;
    });
    REQUIRE_IN_CHILD(stop_process(identity, 0ms).value().outcome == SignalOutcome::signalled);
    REQUIRE_IN_CHILD(swapped);
    std::this_thread::sleep_for(20ms);  // what dies of a signal does so a little later
    REQUIRE_IN_CHILD(is_pid_alive(pid));
    return 0;
  });
}

TEST_CASE("a pid that is swapped anywhere between record and signal is never signalled, in 1000 rounds") {
  check_in({CLONE_NEWPID | CLONE_NEWNS}, [](Channel&) {
    sigset_t blocked;
    ::sigemptyset(&blocked);
    ::sigaddset(&blocked, SIGUSR1);
    ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
    // Before the pidfd, before and after the start time is read, before the pidfd is asked, before the signal.
    constexpr std::array k_moments{sys::Call::pidfd_open, sys::Call::kill, sys::Call::pread, sys::Call::poll,
                                   sys::Call::pidfd_send_signal};
    for (std::size_t round = 0; round < 1000; ++round) {
      const sys::Call moment = k_moments[round % k_moments.size()];
      const pid_t pid = fork_idler();
      const ProcessIdentity identity = identify(pid).value();
      if (moment == sys::Call::pidfd_open) {
        outwait_tick_of(identity);
      }
      bool swapped = false;
      bool replaced = false;
      const Script script([&](const sys::CallInfo& info) {
        if (info.call == moment && !swapped) {
          swapped = true;
          replaced = replace_process(pid);
        }
        return 0;
      });
      const auto report = signal_process(identity, SIGUSR1);
      REQUIRE_IN_CHILD(replaced);
      REQUIRE_IN_CHILD(report.has_value());
      REQUIRE_IN_CHILD(report->outcome == SignalOutcome::gone || report->outcome == SignalOutcome::recycled);
      REQUIRE_IN_CHILD(!has_pending_signal(pid));
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
    return 0;
  });
}
