#include <cerrno>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <unistd.h>

#include "process.hpp"
#include "process/process_probe.hpp"
#include "process/this_process.hpp"
#include "script.hpp"
#include "system/system.hpp"

using namespace sessionlock;
using sessionlock::test::Channel;
using sessionlock::test::ChildProcess;
using sessionlock::test::failing;
using sessionlock::test::idle_process;
using sessionlock::test::is_call_on;
using sessionlock::test::Script;

namespace {

struct Fault {
  sys::Call call;
  int error;
};

bool opens(const sys::CallInfo& info, std::string_view path) {
  return is_call_on(info, sys::Call::openat, path);
}

}  // namespace

TEST_CASE("EPERM is alive") {
  const Script script(failing(sys::Call::kill, EPERM));
  const auto probe = probe_process(::getpid());
  CHECK(probe.pid == PidProbe::exists);
  CHECK(probe.start_time_ticks.has_value());
  CHECK(is_pid_alive(::getpid()));
}

TEST_CASE("a kill that fails otherwise proves no death") {
  for (const int error : {EINVAL, ENOSYS, EACCES}) {
    const Script script(failing(sys::Call::kill, error));
    CHECK(probe_process(::getpid()).pid == PidProbe::unknown);
    CHECK(is_pid_alive(::getpid()));
    CHECK(identify(::getpid()).has_value());
  }
}

TEST_CASE("a /proc that cannot be read makes nobody dead and the start time unknown") {
  (void)this_identity();
  for (const Fault fault :
       {Fault{sys::Call::openat, EACCES}, Fault{sys::Call::openat, ENOENT}, Fault{sys::Call::openat, EMFILE},
        Fault{sys::Call::openat, EIO}, Fault{sys::Call::pread, EIO}, Fault{sys::Call::pread, ESRCH},
        Fault{sys::Call::readlinkat, ENOENT}}) {
    CAPTURE(sys::to_string(fault.call));
    CAPTURE(fault.error);
    const Script script(failing(fault.call, fault.error));
    const auto probe = probe_process(::getpid());
    CHECK(probe.pid == PidProbe::exists);
    CHECK_FALSE(probe.start_time_ticks);
    CHECK(is_pid_alive(::getpid()));
    CHECK_FALSE(process_start_time(::getpid()));
    CHECK_FALSE(identify(::getpid())->start_time_ticks);
    if (fault.call != sys::Call::readlinkat) {
      CHECK_FALSE(boot_time_seconds());
    }
  }
}

TEST_CASE("a process that dies between kill and stat is gone") {
  auto child = idle_process();
  const std::string path = std::to_string(child.pid()) + "/stat";
  bool met = false;
  const Script script([&](const sys::CallInfo& info) {
    if (!met && opens(info, path)) {
      met = true;
      child.kill();
    }
    return 0;
  });
  const auto probe = probe_process(child.pid());
  CHECK(met);
  CHECK(probe.pid == PidProbe::gone);
}

TEST_CASE("a process that dies between opening and reading its stat is gone") {
  auto child = idle_process();
  const std::string path = std::to_string(child.pid()) + "/stat";
  bool opened = false;
  bool met = false;
  const Script script([&](const sys::CallInfo& info) {
    if (opened && !met && info.call == sys::Call::pread) {
      met = true;
      child.kill();
    }
    opened = opened || opens(info, path);
    return 0;
  });
  const auto probe = probe_process(child.pid());
  CHECK(met);
  CHECK(probe.pid == PidProbe::gone);
}

TEST_CASE("a stat that is hidden although kill answers makes nobody gone") {
  auto child = idle_process();
  const std::string path = std::to_string(child.pid()) + "/stat";
  const Script script([&](const sys::CallInfo& info) { return opens(info, path) ? ENOENT : 0; });
  const auto probe = probe_process(child.pid());
  CHECK(probe.pid == PidProbe::exists);
  CHECK_FALSE(probe.start_time_ticks);
}

TEST_CASE("reads that end short are put together") {
  auto child = ChildProcess::run([](Channel&) {
    const auto whole = *identify(::getppid());
    const auto boot = boot_time_seconds();
    const Script script([](const sys::CallInfo& info) {
      if (info.call == sys::Call::pread) {
        *info.length = 7;
      }
      return 0;
    });
    REQUIRE_IN_CHILD(whole.start_time_ticks && boot);
    REQUIRE_IN_CHILD(*identify(::getppid()) == whole);
    REQUIRE_IN_CHILD(boot_time_seconds() == boot);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("a shortage of descriptors at the first call does not leave this process half known") {
  for (const Fault fault : {Fault{sys::Call::openat, EMFILE}, Fault{sys::Call::openat, ENFILE},
                            Fault{sys::Call::pread, ENOMEM}, Fault{sys::Call::fstatat, ENOMEM}}) {
    CAPTURE(sys::to_string(fault.call));
    auto child = ChildProcess::run([fault](Channel&) {
      const Observer* poor = nullptr;
      {
        const Script script(failing(fault.call, fault.error));
        poor = &this_observer();
        REQUIRE_IN_CHILD(poor->pid == ::getpid());
        REQUIRE_IN_CHILD(!poor->start_time_ticks || poor->pid_namespace == 0);
        // As long as it lasts nothing new is kept.
        REQUIRE_IN_CHILD(&this_observer() == poor);
      }
      const Observer& rich = this_observer();
      REQUIRE_IN_CHILD(rich.start_time_ticks && !rich.boot_id.empty() && rich.pid_namespace != 0);
      REQUIRE_IN_CHILD(rich.start_time_ticks == process_start_time(::getpid()));
      REQUIRE_IN_CHILD(&this_observer() == &rich);
      REQUIRE_IN_CHILD(poor->pid == ::getpid());
      return 0;
    });
    CHECK(child.wait().exited_with(0));
  }
}

TEST_CASE("what can never be read is not asked for again and again") {
  auto child = ChildProcess::run([](Channel&) {
    int calls = 0;
    const Script script([&calls](const sys::CallInfo&) {
      ++calls;
      return EACCES;
    });
    const Observer& observer = this_observer();
    const int first = calls;
    REQUIRE_IN_CHILD(first > 0 && observer.boot_id.empty() && observer.pid_namespace == 0);
    REQUIRE_IN_CHILD(!observer.start_time_ticks && !observer.time_namespaces_absent);
    REQUIRE_IN_CHILD(&this_observer() == &observer && calls == first);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
}

TEST_CASE("only a missing ns/time beside a readable ns/pid means a kernel without time namespaces") {
  const auto ask = [](int error) {
    return ChildProcess::run([error](Channel&) {
             const Script script([error](const sys::CallInfo& info) {
               const std::string_view path = info.path == nullptr ? "" : info.path;
               return info.call == sys::Call::fstatat && path.ends_with("ns/time") ? error : 0;
             });
             const Observer& observer = this_observer();
             REQUIRE_IN_CHILD(observer.pid_namespace != 0 && observer.time_namespace == 0);
             return observer.time_namespaces_absent ? 10 : 20;
           })
        .wait()
        .exit_code;
  };
  CHECK(ask(ENOENT) == 10);
  CHECK(ask(EACCES) == 20);
}
