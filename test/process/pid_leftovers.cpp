// PID files that a former process left, whose number another process has now: the claimer itself, its child, pid 1.

#include <chrono>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/pid_file.hpp>

#include "lock_tools.hpp"
#include "process.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

const Namespaces k_new_pids{CLONE_NEWPID | CLONE_NEWNS};

PidFileOptions plain() {
  PidFileOptions options;
  options.format = PidFileFormat::plain;
  options.timeout = 0ms;
  return options;
}

/// Whether a body runs well as pid 1 of a PID namespace; says so aloud where the machine does not have them.
bool ends_well_as_pid_1(const std::function<void()>& body) {
  const auto run = run_in_namespaces(k_new_pids, [&](Channel&) {
    body();
    return 0;
  });
  if (!run.why_not.empty()) {
    skip_aloud(run.why_not);
    return true;
  }
  return run.ended.exited_with(0);
}

bool ends_well_in_a_child(const std::function<void()>& body) {
  auto child = ChildProcess::run([&](Channel&) {
    body();
    return 0;
  });
  return child.wait().exited_with(0);
}

bool is_claimed(const std::filesystem::path& path, const PidFileOptions& options = plain()) {
  const auto claim = PidFile::claim(path, options);
  return claim && claim->file;
}

bool is_running(const std::filesystem::path& path, const PidFileOptions& options = plain()) {
  const auto claim = PidFile::claim(path, options);
  return claim && claim->running && claim->running->state == PidFileState::alive;
}

void set_modified(const std::filesystem::path& path, std::time_t seconds) {
  const struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
  REQUIRE_IN_CHILD(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}

}  // namespace

TEST_CASE("a file without a token that names the claiming process is a former one's, however young it is") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  CHECK(ends_well_as_pid_1([&] {
    for (const char* text : {"1\n", "1:unknown\n", "{\"pid\":1,\"port\":3000}\n"}) {
      write_text(path, text);
      REQUIRE_IN_CHILD(is_claimed(path));
    }
    write_text(path, "{\"pid\":\"1\"}\n");
    REQUIRE_IN_CHILD(code_of(PidFile::claim(path, plain())) == Errc::timed_out);  // perhaps a claim in progress
    make_older(path, 31s);
    REQUIRE_IN_CHILD(is_claimed(path));
  }));
  for (const std::string& text : {std::to_string(::getpid()), std::to_string(::getpid()) + ":unknown"}) {
    write_text(path, text);
    CHECK(is_claimed(path));
  }
}

TEST_CASE(
    "a file that names this very process by its token is a former claim of its own, such as from before an exec") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  write_text(path, std::to_string(::getpid()) + ":" + process_start_token(::getpid()).value());
  CHECK(inspect_pid_file(path)->state == PidFileState::alive);  // for whoever only asks
  CHECK(is_claimed(path));
  write_text(path, std::to_string(::getpid()) + ":x");
  CHECK(PidFile::claim(path, plain())->running->state == PidFileState::invalid);
}

TEST_CASE("a claim of this process is found by its inode, also where the file tells only its pid") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const auto claim = PidFile::claim(path, plain());
  REQUIRE(claim->file);
  CHECK(is_running(path));
  std::filesystem::copy_file(path, directory / "copy");
  CHECK(is_claimed(directory / "copy"));
}

TEST_CASE("a file without a token that names the child that is held back for the claim is a former one's") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto child = idle_process();
  write_text(path, std::to_string(child.pid()));
  CHECK(is_running(path));
  PidFileOptions for_child = plain();
  for_child.owner = identify(child.pid()).value();
  CHECK(is_claimed(path, for_child));
  write_text(path, std::to_string(::getpid()));  // the claimer itself is no owner that stays, either
  CHECK(is_claimed(path, for_child));
}

TEST_CASE("a file that names pid 1 is pid 1's, unless it is older than that") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  CHECK(ends_well_as_pid_1([&] {
    // The claimer is no child of pid 1.
    const auto in_a_grandchild = [](const std::function<void()>& body) {
      return ends_well_in_a_child([&] { REQUIRE_IN_CHILD(ends_well_in_a_child(body)); });
    };
    REQUIRE_IN_CHILD(in_a_grandchild([&] {
      write_text(path, "1\n");
      REQUIRE_IN_CHILD(is_running(path));
      make_older(path, 1s);  // the clocks may differ by as much
      REQUIRE_IN_CHILD(is_running(path));
      make_older(path, 1h);
      REQUIRE_IN_CHILD(inspect_pid_file(path)->reason == PidFileReason::older_than_process);
      REQUIRE_IN_CHILD(is_claimed(path));
    }));
  }));
}

TEST_CASE("a file that names the claimer's parent is the parent's, unless it is older than that") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  CHECK(ends_well_in_a_child([&] {
    write_text(path, std::to_string(::getppid()));
    REQUIRE_IN_CHILD(is_running(path));
    make_older(path, 24h);
    REQUIRE_IN_CHILD(inspect_pid_file(path)->reason == PidFileReason::older_than_process);
    REQUIRE_IN_CHILD(is_claimed(path));
  }));
}

TEST_CASE("a file that names another ancestor, or any other process, is that one's at any age") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto other = idle_process();
  const pid_t grandparent = ::getpid();
  CHECK(ends_well_in_a_child([&] {
    REQUIRE_IN_CHILD(ends_well_in_a_child([&] {
      for (const pid_t pid : {grandparent, other.pid()}) {
        write_text(path, std::to_string(pid));
        make_older(path, 24h);
        REQUIRE_IN_CHILD(is_running(path));
      }
    }));
  }));
}

TEST_CASE("a time that a machine without a set clock writes makes no file old") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  CHECK(ends_well_in_a_child([&] {
    write_text(path, std::to_string(::getppid()));
    for (const std::time_t seconds : {100, 315'532'800, 946'684'800, 1'577'836'799}) {
      set_modified(path, seconds);
      REQUIRE_IN_CHILD(is_running(path));
    }
    set_modified(path, 1'577'836'800);
    REQUIRE_IN_CHILD(is_claimed(path));
  }));
}

TEST_CASE("whoever only asks takes a file that names itself for its own, unless it is older than the process") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  write_text(path, std::to_string(::getpid()));
  CHECK(inspect_pid_file(path)->state == PidFileState::alive);
  make_older(path, 24h);
  CHECK(inspect_pid_file(path)->state == PidFileState::stale);
  CHECK(remove_pid_file(path, RemoveWhose::own)->removed);
}

TEST_CASE("a token is never overruled by the file's age") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  CHECK(ends_well_in_a_child([&] {
    write_text(path, std::to_string(::getppid()) + ":" + process_start_token(::getppid()).value());
    make_older(path, 24h);
    REQUIRE_IN_CHILD(is_running(path));
  }));
}
