#include <sessionlock/process_identity.hpp>

#include <array>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.hpp"
#include "process/process_probe.hpp"
#include "process/this_process.hpp"

using namespace sessionlock;
using sessionlock::test::Channel;
using sessionlock::test::ChildProcess;

namespace {

template <class Pid>
concept names_a_process = requires(Pid pid) {
  process_start_time(pid);
  is_pid_alive(pid);
};
template <class Pid>
concept is_refused = !requires(Pid pid) {
  process_start_time(pid);
}
&&!requires(Pid pid) {
  is_pid_alive(pid);
};

ProcessIdentity complete() {
  ProcessIdentity identity;
  identity.pid = 41237;
  identity.start_time_ticks = 98765;
  identity.boot_id = "8a5a1f9e-7d3a-4c7b-9a86-2c6c8f1b7a01";
  identity.pid_namespace = 4026531836;
  identity.time_namespace = 4026531834;
  identity.host = "here";
  return identity;
}

/// The complete identity with one member changed.
template <class F>
ProcessIdentity changed(F&& change) {
  ProcessIdentity identity = complete();
  change(identity);
  return identity;
}

/// Both ways round, because neither side is special.
Match match(const ProcessIdentity& a, const ProcessIdentity& b) {
  const Match result = same_process(a, b);
  CHECK(same_process(b, a) == result);
  return result;
}

}  // namespace

TEST_CASE("1.5, NaN and infinity do not compile as a pid") {
  // Values of a type: what refuses double refuses all three.
  static_assert(is_refused<double> && is_refused<float> && is_refused<long double>);
  static_assert(names_a_process<pid_t> && names_a_process<short>);
  CHECK(std::numeric_limits<double>::has_quiet_NaN);
  CHECK(std::numeric_limits<double>::has_infinity);
}

TEST_CASE("this process is alive and knows itself") {
  const ProcessIdentity self = this_process();
  CHECK(is_pid_alive(::getpid()));
  CHECK(self.pid == ::getpid());
  CHECK(self.start_time_ticks == process_start_time(::getpid()));
  CHECK(self.start_time_ticks.has_value());
  CHECK(self.boot_id.size() == 36);
  CHECK(self.pid_namespace != 0);
  CHECK_FALSE(self.host.empty());
  CHECK(same_process(self, self) == Match::same);
}

TEST_CASE("this process identified by its pid is this process") {
  const auto identified = identify(::getpid());
  REQUIRE(identified);
  CHECK(*identified == this_process());
}

TEST_CASE("a pid beyond the maximum is not alive") {
  const pid_t maximum = std::stoi(test::read_text("/proc/sys/kernel/pid_max"));
  for (const pid_t pid : {maximum + 1, std::numeric_limits<pid_t>::max()}) {
    CHECK_FALSE(is_pid_alive(pid));
    CHECK_FALSE(process_start_time(pid));
    const auto identified = identify(pid);
    REQUIRE_FALSE(identified);
    CHECK(identified.error().code == std::errc::no_such_process);
  }
}

TEST_CASE("0, -1 and other negative pids are not alive") {
  for (const pid_t pid : {0, -1, -::getpid(), std::numeric_limits<pid_t>::min()}) {
    CHECK_FALSE(is_pid_alive(pid));
    CHECK_FALSE(process_start_time(pid));
    CHECK(probe_process(pid).pid == PidProbe::gone);
    const auto identified = identify(pid);
    REQUIRE_FALSE(identified);
    CHECK(identified.error().code == Errc::invalid_argument);
  }
}

TEST_CASE("the same pid and start time are the same process, whatever the host is called") {
  CHECK(match(complete(), complete()) == Match::same);
  CHECK(match(complete(), changed([](auto& p) { p.host = "elsewhere"; })) == Match::same);
  CHECK(match(changed([](auto& p) { p.start_time_ticks = 0; }), changed([](auto& p) { p.start_time_ticks = 0; })) ==
        Match::same);
}

TEST_CASE("another start time, pid or boot is another process") {
  CHECK(match(complete(), changed([](auto& p) { p.start_time_ticks = 98766; })) == Match::different);
  CHECK(match(complete(), changed([](auto& p) { p.pid = 41238; })) == Match::different);
  CHECK(match(complete(), changed([](auto& p) { p.boot_id = "another"; })) == Match::different);
}

TEST_CASE("another pid or boot is another process even where no start time is known") {
  CHECK(match(complete(), changed([](auto& p) {
                p.pid = 41238;
                p.start_time_ticks.reset();
                p.time_namespace = 0;
              })) == Match::different);
  CHECK(match(complete(), changed([](auto& p) {
                p.boot_id = "another";
                p.pid_namespace = 0;
                p.start_time_ticks.reset();
              })) == Match::different);
}

TEST_CASE("start times beyond 2^53 that differ in the last digit are different") {
  CHECK(match(changed([](auto& p) { p.start_time_ticks = 9007199254740992U; }),
              changed([](auto& p) { p.start_time_ticks = 9007199254740993U; })) == Match::different);
}

TEST_CASE("a missing start time on either side leaves it unknown") {
  const auto without = changed([](auto& p) { p.start_time_ticks.reset(); });
  CHECK(match(complete(), without) == Match::unknown);
  CHECK(match(without, without) == Match::unknown);
}

TEST_CASE("a missing boot or pid leaves it unknown") {
  CHECK(match(complete(), changed([](auto& p) { p.boot_id.clear(); })) == Match::unknown);
  CHECK(match(complete(), changed([](auto& p) { p.pid = 0; })) == Match::unknown);
  CHECK(match({}, {}) == Match::unknown);
}

TEST_CASE("different or missing namespaces leave it unknown, even where pid or start time differ") {
  for (const std::uint64_t other : {std::uint64_t{0}, std::uint64_t{7}}) {
    CHECK(match(complete(), changed([=](auto& p) { p.pid_namespace = other; })) == Match::unknown);
    CHECK(match(complete(), changed([=](auto& p) {
                  p.pid_namespace = other;
                  p.pid = 1;
                })) == Match::unknown);
    CHECK(match(complete(), changed([=](auto& p) {
                  p.time_namespace = other;
                  p.start_time_ticks = 5;
                })) == Match::unknown);
  }
  const auto nowhere = changed([](auto& p) { p.pid_namespace = 0; });
  CHECK(match(nowhere, nowhere) == Match::unknown);
}

TEST_CASE("a kernel without time namespaces can still tell processes apart") {
  const auto without = changed([](auto& p) { p.time_namespace = 0; });
  CHECK(match(without, without) == Match::same);
}

TEST_CASE("the observer is the identity, and its views stay valid") {
  const Observer& observer = this_observer();
  const ProcessIdentity& identity = this_identity();
  CHECK(observer.pid == identity.pid);
  CHECK(observer.start_time_ticks == identity.start_time_ticks);
  CHECK(observer.boot_id == identity.boot_id);
  CHECK(observer.boot_id.data() == identity.boot_id.data());
  CHECK(observer.pid_namespace == identity.pid_namespace);
  CHECK(observer.time_namespace == identity.time_namespace);
  CHECK(observer.time_namespaces_absent == !std::filesystem::exists("/proc/self/ns/time"));
  CHECK(&this_observer() == &observer);
  CHECK(&this_identity() == &identity);
}

TEST_CASE("a forked child is another process, and the parent's identity stays readable in it") {
  const Observer& before = this_observer();
  const ProcessIdentity parent_identity = this_process();
  auto child = ChildProcess::run([&](Channel& parent) {
    const ProcessIdentity self = this_process();
    REQUIRE_IN_CHILD(self.pid == ::getpid());
    REQUIRE_IN_CHILD(this_observer().pid == ::getpid());
    REQUIRE_IN_CHILD(&this_observer() != &before);
    REQUIRE_IN_CHILD(before.pid == parent_identity.pid && before.boot_id == parent_identity.boot_id);
    REQUIRE_IN_CHILD(same_process(self, parent_identity) == Match::different);
    REQUIRE_IN_CHILD(same_process(*identify(::getppid()), parent_identity) == Match::same);
    parent.tell(std::to_string(self.start_time_ticks.value()));
    parent.expect("end");
    return 0;
  });
  const auto told = child.hear();
  REQUIRE(told);
  CHECK(std::to_string(process_start_time(child.pid()).value()) == *told);
  child.tell("end");
  CHECK(child.wait().exited_with(0));
  CHECK(&this_observer() == &before);
}

TEST_CASE("children of _Fork and raw clone know themselves too") {
  const pid_t parent = this_process().pid;
  const auto judge = [parent](pid_t child) {
    if (child == 0) {
      const pid_t self = static_cast<pid_t>(::syscall(SYS_getpid));
      ::_exit(this_process().pid == self && self != parent ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  };
  judge(::_Fork());
  judge(static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr)));
}

TEST_CASE("threads that ask first at the same time get one answer") {
  auto child = ChildProcess::run([](Channel&) {
    std::array<const ProcessIdentity*, 8> seen{};
    std::vector<std::thread> threads;
    threads.reserve(seen.size());
    for (auto& slot : seen) {
      threads.emplace_back([&slot] { slot = &this_identity(); });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    for (const auto* identity : seen) {
      REQUIRE_IN_CHILD(identity == seen.front() && identity->pid == ::getpid());
    }
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}
