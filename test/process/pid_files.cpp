// PID files between real processes: who survives, who is told what, and what is never taken away or signalled.

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sessionlock/pid_file.hpp>
#include <sessionlock/process_signal.hpp>

#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

std::string colon_record(pid_t pid, std::uint64_t offset = 0) {
  return std::to_string(pid) + ":" + std::to_string(process_start_time(pid).value() + offset) + "\n";
}

PidFileOptions colon() {
  PidFileOptions options;
  options.format = PidFileFormat::colon;
  options.timeout = k_patience;  // several may be at one stale file here, on a machine that may be busy
  return options;
}

/// A child that claims when it hears "go" and tells "claimed" or who is running; it keeps its claim until it hears
/// more.
ChildProcess claimer(const std::filesystem::path& path) {
  return ChildProcess::run([path](Channel& parent) {
    parent.expect("go");
    auto claim = PidFile::claim(path, colon());
    REQUIRE_IN_CHILD(claim.has_value());
    parent.tell(claim->file ? "claimed" : std::to_string(claim->running->record.pid.value_or(0)));
    (void)parent.hear();
    return 0;
  });
}

}  // namespace

TEST_CASE("a claim is a complete file of mode 0644 with this process's pid and start token") {
  const TemporaryDirectory directory;
  const auto path = directory / "worker.pid";
  const mode_t before = ::umask(022);
  PidFileOptions options;
  options.extra_fields = "\"port\": 4711, \"startedAt\": \"2026-11-20T03:31:48Z\"";
  auto claim = PidFile::claim(path, options);
  ::umask(before);
  REQUIRE(claim);
  REQUIRE(claim->file);
  CHECK_FALSE(claim->running);
  CHECK(claim->file->owns());
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0644);
  const ProcessIdentity own = this_process();
  // `ofd:` where the temporary directory is an overlay.
  const std::string form = read_text(path).find("ofd2:") != std::string::npos ? "ofd2:" : "ofd:";
  CHECK(read_text(path) == "{\"pid\": " + std::to_string(::getpid()) + ", \"startToken\": \"" +
                               process_start_token(::getpid()).value() + "\", \"bootId\": \"" + own.boot_id +
                               "\", \"pidNamespace\": " + std::to_string(own.pid_namespace) +
                               ", \"timeNamespace\": " + std::to_string(own.time_namespace) + ", \"witness\": \"" +
                               form + std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino) + "\", " +
                               options.extra_fields + "}\n");
  CHECK(inspect_pid_file(path)->state == PidFileState::alive);
  CHECK(claim->file->release().has_value());
  CHECK_FALSE(std::filesystem::exists(path));
  CHECK(claim->file->release().has_value());
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("of parallel starts exactly one survives, and every loser names it") {
  for (int round = 0; round < 4; ++round) {
    const TemporaryDirectory directory;
    const auto path = directory / "serve.pid";
    if (round % 2 == 1) {
      write_text(path, std::to_string(dead_pid()) + ":1\n");
    }
    std::vector<ChildProcess> children;
    for (int i = 0; i < 12; ++i) {
      children.push_back(claimer(path));
    }
    for (auto& child : children) {
      child.tell("go");
    }
    std::vector<pid_t> survivors;
    std::vector<std::string> told;
    for (auto& child : children) {
      told.push_back(child.hear().value());
      if (told.back() == "claimed") {
        survivors.push_back(child.pid());
      }
    }
    REQUIRE(survivors.size() == 1);
    for (const std::string& words : told) {
      CHECK((words == "claimed" || words == std::to_string(survivors.front())));
    }
  }
}

TEST_CASE("a claimer that is stopped at any system call of its claim is never a second survivor") {
  for (const bool stale_file : {false, true}) {
    bool went_through = false;
    for (int stop_at = 1; !went_through && stop_at < 200; ++stop_at) {
      CAPTURE(stop_at);
      const TemporaryDirectory directory;
      const auto path = directory / "serve.pid";
      if (stale_file) {
        write_text(path, std::to_string(dead_pid()) + ":1\n");
      }
      auto child = ChildProcess::run([path, stop_at](Channel& parent) {
        int calls = 0;
        const Script script([&](const sys::CallInfo&) {
          if (++calls == stop_at) {
            parent.tell("here");
            parent.expect("go");
          }
          return 0;
        });
        auto claim = PidFile::claim(path, colon());
        const bool stopped = calls >= stop_at;
        if (!stopped) {
          parent.tell("through");
        }
        parent.tell(claim && claim->file ? "claimed" : "not");
        (void)parent.hear();
        return 0;
      });
      went_through = child.hear().value() == "through";
      if (!went_through) {
        child.stop();
      }
      PidFileOptions at_once = colon();
      at_once.timeout = 0ms;
      auto ours = PidFile::claim(path, at_once);
      if (!went_through) {
        child.resume();
        child.tell("go");
      }
      const bool theirs = child.hear().value() == "claimed";
      const bool is_ours = ours && ours->file;
      CHECK(theirs != is_ours);
      const auto survivor = inspect_pid_file(path);
      CHECK(survivor->state == PidFileState::alive);
      CHECK(survivor->record.pid == (theirs ? child.pid() : ::getpid()));
    }
    CHECK(went_through);
  }
}

TEST_CASE("a claim in progress by a program that creates and then writes is never stolen") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  PidFileOptions options = colon();
  options.timeout = 50ms;
  options.policy.malformed_grace = 1h;
  for (const char* half : {"", "\n", "{\"pid\": "}) {
    write_text(path, half);
    CHECK(PidFile::claim(path, options).error().code == Errc::timed_out);
    CHECK(read_text(path) == half);
  }
  auto owner = idle_process();
  options.timeout = k_patience;
  int looks = 0;
  const Script creator([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::linkat && ++looks == 3) {
      write_text(path, colon_record(owner.pid()));
    }
    return 0;
  });
  const auto claim = PidFile::claim(path, options);
  REQUIRE(claim);
  CHECK(claim->running->record.pid == owner.pid());
}

TEST_CASE("a claim of a file that comes and goes all the time ends after a bounded number of attempts, and says why") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto owner = idle_process();
  int attempts = 0;
  const Script restless(outermost([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::linkat) {
      ++attempts;
      write_text(path, colon_record(owner.pid()));
    } else if (is_call_on(info, sys::Call::openat, "serve.pid")) {
      std::filesystem::remove(path);
    }
    return 0;
  }));
  const auto claim = PidFile::claim(path, colon());
  REQUIRE_FALSE(claim);
  CHECK(claim.error().code == Errc::timed_out);
  CHECK(claim.error().message().find("came and went") != std::string::npos);
  CHECK(attempts > 1);
}

TEST_CASE("a file that names nobody is no claim in progress once it is old") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  write_text(path, "");
  make_older(path, 60s);
  CHECK(PidFile::claim(path, colon())->file);
}

TEST_CASE("a live owner stays, and the claimer is told who it is") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto owner = idle_process();
  for (const std::string& text :
       {colon_record(owner.pid()), std::to_string(owner.pid()) + ":unknown\n", std::to_string(owner.pid()) + "\n"}) {
    CAPTURE(text);
    write_text(path, text);
    const auto claim = PidFile::claim(path, colon());
    REQUIRE(claim);
    CHECK_FALSE(claim->file);
    CHECK(claim->running->state == PidFileState::alive);
    CHECK(claim->running->record.pid == owner.pid());
    CHECK(claim->running->path == path);
    CHECK(read_text(path) == text);
  }
}

TEST_CASE("a legacy record without a token is trusted, or gives way on an upgrade") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto owner = idle_process();
  write_text(path, std::to_string(owner.pid()));
  PidFileOptions upgrade = colon();
  CHECK(PidFile::claim(path, upgrade)->running);
  upgrade.policy.without_token = UnverifiedOwner::stale;
  CHECK(PidFile::claim(path, upgrade)->file);
}

TEST_CASE("a dead owner's and a reused pid's files are taken over at once") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto stranger = idle_process();
  for (const std::string& text : {std::to_string(dead_pid()) + ":1\n", colon_record(stranger.pid(), 1)}) {
    write_text(path, text);
    CHECK(inspect_pid_file(path)->state == PidFileState::stale);
    CHECK(PidFile::claim(path, colon())->file);
  }
}

TEST_CASE("a claim waits for somebody who is about to remove a dead owner's file") {
  // For longer than a thousand attempts without a pause take.
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  write_text(path, std::to_string(dead_pid()) + ":1\n");
  const int other = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(::flock(other, LOCK_EX | LOCK_NB) == 0);
  const auto end = std::chrono::steady_clock::now() + 300ms;
  const Script script([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::linkat && std::chrono::steady_clock::now() >= end) {
      ::flock(other, LOCK_UN);
    }
    return 0;
  });
  PidFileOptions options = colon();
  options.timeout = k_patience;
  const auto claim = PidFile::claim(path, options);
  REQUIRE_MESSAGE(claim.has_value(), (claim ? "" : claim.error().message()));
  CHECK(claim->file.has_value());
  ::close(other);
}

TEST_CASE("a corrupt token of a live pid fails closed: not alive, not taken over, not removed") {
  const TemporaryDirectory directory;
  const auto path = directory / "engine.pid";
  auto stranger = idle_process();
  write_text(path, std::to_string(stranger.pid()) + " x\n");
  CHECK(inspect_pid_file(path)->state == PidFileState::invalid);
  CHECK(PidFile::claim(path)->running->state == PidFileState::invalid);
  CHECK(remove_pid_file(path, RemoveWhose::own_or_stale).error().code == Errc::locked);
}

TEST_CASE("a dying process does not delete its successor's file") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path, colon());
  REQUIRE(claim->file);
  std::filesystem::remove(path);
  // The same pid and token, as after a removal and a second claim, but another claim.
  auto successor = PidFile::claim(path, colon());
  REQUIRE(successor->file);
  CHECK(claim->file->release().error().code == Errc::lost);
  CHECK(claim->file->touch().error().code == Errc::lost);
  CHECK_FALSE(claim->file->owns());
  CHECK(claim->file->release().has_value());  // of nothing
  CHECK(std::filesystem::exists(path));
  CHECK(successor->file->touch().has_value());
}

TEST_CASE("a claim in whose place another is put goes, and one that is put in its own place stays") {
  const TemporaryDirectory directory;
  const auto first = directory / "first.pid";
  const auto second = directory / "second.pid";
  PidFile file = std::move(*value_or_throw(PidFile::claim(first)).file);
  PidFile other = std::move(*value_or_throw(PidFile::claim(second)).file);
  file = std::move(other);
  CHECK_FALSE(std::filesystem::exists(first));
  CHECK(file.path() == second);
  PidFile& same = file;
  file = std::move(same);
  CHECK(file.owns());
  CHECK(std::filesystem::exists(second));
  // What is left of the one that was moved owns nothing, and says so.
  CHECK_FALSE(other.owns());
  CHECK(other.release().has_value());
  CHECK(other.touch().error().code == Errc::lost);
  CHECK(other.path().empty());
  CHECK(other.record() == PidRecord{});
}

TEST_CASE("a claim that cannot be meant is refused, and leaves nothing") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  PidFileOptions text;
  text.format = PidFileFormat::colon;
  text.extra_fields = "\"port\": 4711";  // there is no place for it
  CHECK(PidFile::claim(path, text).error().code == Errc::invalid_argument);
  PidFileOptions nobody;
  nobody.owner = this_process();
  nobody.owner->pid = 0;
  CHECK(PidFile::claim(path, nobody).error().code == Errc::invalid_argument);
  std::filesystem::create_directory(directory / "d");
  for (const char* name : {"", ".", "..", "d/", "d/.", "d/.."}) {
    CAPTURE(name);
    CHECK(PidFile::claim(directory.path() / name).error().code == Errc::invalid_argument);
  }
  std::filesystem::remove(directory / "d");
  CHECK(PidFile::claim(directory / std::string("a\0b", 3)).error().code == Errc::invalid_argument);
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("a claim for a process whose start is not known has no token") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  PidFileOptions options;
  options.owner = this_process();
  options.owner->start_time_ticks.reset();
  const auto claim = PidFile::claim(path, options);
  REQUIRE(claim);
  CHECK(read_text(path).starts_with("{\"pid\": " + std::to_string(::getpid()) + ", \"bootId\": "));
  const auto found = inspect_pid_file(path);
  CHECK(found->state == PidFileState::alive);
  CHECK(found->reason == PidFileReason::unverified);
}

TEST_CASE("without random numbers there is no claim") {
  const TemporaryDirectory directory;
  auto child = ChildProcess::run([&](Channel&) {  // which has asked for none yet
    const Script script(failing(sys::Call::getrandom, EIO));
    REQUIRE_IN_CHILD(PidFile::claim(directory / "serve.pid").error().code == std::errc::io_error);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("a file that somebody removes in the middle of its release is released") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path);
  REQUIRE(claim);
  const Script script([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::unlinkat, "serve.pid")) {
      std::filesystem::remove(path);
    }
    return 0;
  });
  CHECK(claim->file->release().has_value());
  CHECK_FALSE(claim->file->owns());
}

TEST_CASE("a release that fails is reported, leaves the file to nobody else, and can be tried again") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path);
  REQUIRE(claim);
  {
    const Script script(failing(sys::Call::unlinkat, EIO));
    const auto released = claim->file->release();
    REQUIRE(!released);
    CHECK(released.error().code == std::errc::io_error);
    CHECK(released.error().path == path);
  }
  CHECK(is_unguarded(path));
  CHECK(claim->file->owns());
  CHECK(claim->file->release().has_value());
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("a touch that fails is reported, and the file stays its owner's") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path);
  REQUIRE(claim);
  {
    const Script script(failing(sys::Call::futimens, EROFS));
    const auto touched = claim->file->touch();
    CHECK(touched.error().code == std::errc::read_only_file_system);
    CHECK(touched.error().path == path);
  }
  CHECK(is_unguarded(path));
  make_older(path, 1h);
  CHECK(claim->file->touch().has_value());
  CHECK(std::filesystem::last_write_time(path) > std::filesystem::file_time_type::clock::now() - 30min);
}

TEST_CASE("a forked child neither removes nor releases its parent's file") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path, colon());
  auto child = ChildProcess::run([&](Channel&) {
    REQUIRE_IN_CHILD(!claim->file->owns());
    REQUIRE_IN_CHILD(claim->file->release().error().code == Errc::lost);
    claim->file.reset();
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(std::filesystem::exists(path));
  CHECK(claim->file->owns());
}

TEST_CASE("a file that is kept outlives its owner, and is stale then: interrupted") {
  const TemporaryDirectory directory;
  const auto path = directory / "engine.pid";
  auto child = ChildProcess::run([&](Channel&) {
    PidFileOptions options;
    options.format = PidFileFormat::space;
    options.keep = true;
    REQUIRE_IN_CHILD(PidFile::claim(path, options)->file.has_value());
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  CHECK(inspect_pid_file(path)->state == PidFileState::stale);
  CHECK(PidFile::claim(path)->file);
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("dependent stale files are removed once the claim stands, and only by who claims") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const auto port = directory / "serve.port";
  PidFileOptions options = colon();
  options.invalidate = {port, directory / "not-there"};
  auto owner = idle_process();
  write_text(path, colon_record(owner.pid()));
  write_text(port, "4711");
  CHECK(PidFile::claim(path, options)->running);
  CHECK(std::filesystem::exists(port));
  owner.kill();
  bool published = false;
  const Script order([&](const sys::CallInfo& info) {
    if (is_call_on(info, sys::Call::unlinkat, "serve.port")) {
      published = std::filesystem::exists(path);
    }
    return 0;
  });
  auto claim = PidFile::claim(path, options);
  CHECK(claim->file);
  CHECK(published);
  CHECK_FALSE(std::filesystem::exists(port));
}

TEST_CASE("a dependent file that cannot be removed ends the claim with an error, and leaves nothing") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  std::filesystem::create_directory(directory / "serve.port");
  PidFileOptions options = colon();
  options.invalidate = {directory / "serve.port"};
  CHECK(PidFile::claim(path, options).error().operation == "invalidate");
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("a claim for a child that is held back until it stands names the child") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto child = ChildProcess::run([path](Channel& parent) {
    REQUIRE_IN_CHILD(parent.hear() == "go");
    REQUIRE_IN_CHILD(inspect_pid_file(path)->record.pid == ::getpid());
    REQUIRE_IN_CHILD(inspect_pid_file(path)->state == PidFileState::alive);
    return 0;
  });
  PidFileOptions options;
  options.owner = identify(child.pid()).value();
  auto claim = PidFile::claim(path, options);
  REQUIRE(claim->file);
  CHECK(claim->file->record().pid == child.pid());
  child.tell("go");
  CHECK(child.wait().exited_with(0));
  const auto left = inspect_pid_file(path);
  CHECK(left->state == PidFileState::alive);  // by its claimer, who shares the claim
  CHECK(left->reason == PidFileReason::witness_inherited);
  CHECK(claim->file->release().has_value());
  CHECK(inspect_pid_file(path)->state == PidFileState::missing);
}

TEST_CASE("a file is removed if it is one's own or a dead owner's, never a live other's") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  CHECK(remove_pid_file(path, RemoveWhose::own_or_stale)->found.state == PidFileState::missing);
  CHECK(remove_pid_file(directory / "none" / "serve.pid", RemoveWhose::own_or_stale)->found.state ==
        PidFileState::missing);
  CHECK(inspect_pid_file(directory / "none" / "serve.pid")->state == PidFileState::missing);
  write_text(path, colon_record(::getpid()));
  CHECK(remove_pid_file(path, RemoveWhose::own)->removed);
  auto other = idle_process();
  write_text(path, colon_record(other.pid()));
  CHECK(remove_pid_file(path, RemoveWhose::own_or_stale).error().code == Errc::locked);
  CHECK(remove_pid_file(path, RemoveWhose::own, {}, identify(other.pid()).value())->removed);
  write_text(path, std::to_string(dead_pid()));
  CHECK(remove_pid_file(path, RemoveWhose::own).error().code == Errc::locked);
  CHECK(remove_pid_file(path, RemoveWhose::own_or_stale)->removed);
  // Our own pid is not enough: it may have been another's before.
  write_text(path, colon_record(::getpid(), 1));
  CHECK(remove_pid_file(path, RemoveWhose::own).error().code == Errc::locked);
}

TEST_CASE("a file that names nobody is removed once it is no claim in progress, and not as one's own") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  for (const std::string& text : {std::string(), std::string("\n"), std::string(10, '\0'), std::string("{\"pid\": ")}) {
    write_text(path, text);
    CHECK(remove_pid_file(path, RemoveWhose::own_or_stale).error().code == Errc::locked);
    make_older(path, 1h);
    CHECK(remove_pid_file(path, RemoveWhose::own).error().code == Errc::locked);
    CHECK(std::filesystem::exists(path));
    CHECK(remove_pid_file(path, RemoveWhose::own_or_stale)->removed);
    CHECK_FALSE(std::filesystem::exists(path));
  }
}

TEST_CASE("a file whose time lies ahead is no old one, whoever asks") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  write_text(path, "");
  make_older(path, -1h);
  PidFileOptions at_once = colon();
  at_once.timeout = 0ms;
  CHECK(PidFile::claim(path, at_once).error().code == Errc::timed_out);
  CHECK(remove_pid_file(path, RemoveWhose::own_or_stale).error().code == Errc::locked);
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("an empty or torn file is explained as such, with the moment when it will be taken over") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  PidFileOptions at_once = colon();
  at_once.timeout = 0ms;
  for (const auto& [text, words] : std::vector<std::pair<std::string, std::string>>{
           {"", "the file is empty"}, {"{\"pid\": 41", "the file was cut off"}, {"0\n", "names no process"}}) {
    write_text(path, text);
    make_older(path, 5s);
    const std::string& expected = words;
    CAPTURE(expected);
    const auto claim = PidFile::claim(path, at_once);
    REQUIRE_FALSE(claim);
    for (const std::string& told : {claim.error().message(), inspect_pid_file(path)->explanation(),
                                    remove_pid_file(path, RemoveWhose::own_or_stale).error().message()}) {
      CAPTURE(told);
      CHECK(told.find(expected) != std::string::npos);
      CHECK(told.find("once it is 30s old, in 2") != std::string::npos);
    }
  }
}

TEST_CASE("what is no PID file is refused at once and left alone at any age") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  for (const std::string& text :
       {std::string("garbage"), std::string("{\"event\": \"start\"}\n"), std::string("[package]\nname = \"a\"\n"),
        std::string("[1, 2]"), std::string("2026-11-20 03:31:48 started\n"), std::string(300, 'p')}) {
    CAPTURE(text);
    write_text(path, text);
    make_older(path, 24h * 365);
    PidFileOptions patient = colon();
    patient.timeout = k_patience;  // it is not waited for
    for (const auto& error : {PidFile::claim(path, patient).error(), remove_pid_file(path, RemoveWhose::own).error(),
                              remove_pid_file(path, RemoveWhose::own_or_stale).error()}) {
      CHECK(error.code == Errc::not_a_lock_file);
      CHECK(error.path == path);
      CHECK(error.detail.find("something else than a PID file") != std::string::npos);
    }
    const auto found = inspect_pid_file(path);
    CHECK(found->state == PidFileState::invalid);
    CHECK(found->reason == PidFileReason::no_pid_file);
    CHECK(read_text(path) == text);
  }
}

TEST_CASE("a file that becomes something else while it is taken over or removed stays") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const auto check_spared = [&](const std::function<std::error_code()>& action) {
    write_text(path, std::to_string(dead_pid()) + "\n");
    bool written = false;
    const Script script(outermost([&](const sys::CallInfo& info) {
      if (info.call == sys::Call::flock && !std::exchange(written, true)) {
        write_text(path, "{\"event\": 1}\n");
      }
      return 0;
    }));
    CHECK(action() == Errc::not_a_lock_file);
    CHECK(written);
    CHECK(read_text(path) == "{\"event\": 1}\n");
  };
  check_spared([&] { return code_of(PidFile::claim(path, colon())); });
  check_spared([&] { return code_of(remove_pid_file(path, RemoveWhose::own_or_stale)); });
}

TEST_CASE("what begins with a living pid is never taken over, whatever stands around it") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto owner = idle_process();
  const std::string pid = std::to_string(owner.pid());
  const std::string dead = std::to_string(dead_pid());
  const auto texts_of = [](const std::string& number) {
    return std::vector<std::string>{number + "\n/var/lib/data\n1795846513\n5432\n",
                                    "          " + number + "\n",
                                    number + " \r\n",
                                    number + std::string(1, '\0'),
                                    "\n\n" + number + "\nsendmail -bd\n",
                                    "{\"pid\":" + number + "}" + std::string(3, '\0')};
  };
  for (const std::string& text : texts_of(pid)) {
    CAPTURE(text);
    write_text(path, text);
    make_older(path, 1h);
    const auto claim = PidFile::claim(path, colon());
    REQUIRE(claim);
    REQUIRE(claim->running);
    CHECK(claim->running->record.pid == owner.pid());
    CHECK(inspect_pid_file(path)->state == PidFileState::alive);
    CHECK(remove_pid_file(path, RemoveWhose::own_or_stale).error().code == Errc::locked);
    CHECK(read_text(path) == text);
  }
  for (const std::string& text : texts_of(dead)) {
    CAPTURE(text);
    write_text(path, text);
    CHECK(PidFile::claim(path, colon())->file);
  }
}

TEST_CASE(
    "a living process that the file names by digits in the place of a pid keeps it, and is not signalled for it") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto owner = idle_process();
  for (const std::string& text : {"{\"pid\":\"" + std::to_string(owner.pid()) + "\"}\n",
                                  "{\"pid\":\"" + std::to_string(owner.pid()) + "\",\"port"}) {
    CAPTURE(text);
    write_text(path, text);
    make_older(path, 1h);
    const auto claim = PidFile::claim(path, colon());
    REQUIRE(claim);
    REQUIRE(claim->running);
    CHECK(claim->running->record.digits_pid == owner.pid());
    CHECK_FALSE(recorded_process(claim->running->record));
    CHECK(read_text(path) == text);
  }
  owner.kill();
  CHECK(PidFile::claim(path, colon())->file);
}

TEST_CASE("a file that tells only our pid is our own where such files are trusted") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  PidFilePolicy upgrade;
  upgrade.without_token = UnverifiedOwner::stale;
  for (const char* token : {"", ":unknown", ":", " "}) {
    CAPTURE(token);
    write_text(path, std::to_string(::getpid()) + token);
    CHECK(remove_pid_file(path, RemoveWhose::own, upgrade).error().code == Errc::locked);
    const bool is_corrupt = token == std::string_view(":");
    CHECK(remove_pid_file(path, RemoveWhose::own).has_value() != is_corrupt);
  }
}

TEST_CASE("hostile records are never signalled, by whatever name it is asked for, and crash nothing") {
  const TemporaryDirectory directory;
  const auto path = directory / "engine.pid";
  auto stranger = idle_process();
  const std::string pid = std::to_string(stranger.pid());
  int signals = 0;
  const Script count([&](const sys::CallInfo& info) {
    signals += info.call == sys::Call::pidfd_send_signal ? 1 : 0;
    return info.call == sys::Call::kill ? EPERM : 0;
  });
  for (const std::string& text :
       {std::string("0"), std::string("-1"), std::string("1"), std::string("2147483648"),
        std::string("9223372036854775808"), pid + ":", pid + " x", pid + ":-5", "{\"pid\": \"" + pid + "\"}",
        "{\"pid\": " + pid + ", \"startToken\": \"x\"}", std::string("{\"pid\": 0}"), std::string("{\"pid\": -1}"),
        std::string("{\"pid\": 1}"), std::string("{\"pid\": \"7 \"}"), std::string("{\"pid\": 1e400}"),
        std::string(65536, '7'), std::string(3, '\0'), std::string("\xff\xfe")}) {
    CAPTURE(text.substr(0, 40));
    write_text(path, text);
    const auto found = inspect_pid_file(path);
    REQUIRE(found);
    const auto process = recorded_process(found->record);
    if (process) {
      CHECK(signal_process(*process, SIGKILL, Verification::unverified).value().outcome == SignalOutcome::refused);
      CHECK(stop_process(*process, 0ms, Verification::unverified).value().outcome == SignalOutcome::refused);
    }
  }
  CHECK(signals == 0);
  CHECK(is_pid_alive(stranger.pid()));
}

TEST_CASE("what is no regular file, or far too long, is reported and neither followed nor removed") {
  const auto check_refused = [](const std::filesystem::path& path, std::string_view words) {
    CAPTURE(words);
    const auto before = names_in(path.parent_path());
    for (const auto& error : {inspect_pid_file(path).error(), PidFile::claim(path).error(),
                              remove_pid_file(path, RemoveWhose::own_or_stale).error()}) {
      CHECK(error.code == Errc::not_a_lock_file);
      CHECK(error.path == path);
      CHECK(error.message().find(words) != std::string::npos);
    }
    CHECK(names_in(path.parent_path()) == before);
  };
  for (const StrangeNode& node : strange_nodes()) {
    const TemporaryDirectory directory;
    node.make(directory / "serve.pid");
    check_refused(directory / "serve.pid", node.words);
  }
  const TemporaryDirectory directory;
  write_text(directory / "serve.pid", std::string(64 * 1024 + 1, '7'));
  check_refused(directory / "serve.pid", "it is longer than any PID file");
}

TEST_CASE("a failing system call of a claim is an error under its own name, and leaves nothing") {
  for (const auto call : {sys::Call::write, sys::Call::linkat}) {
    const TemporaryDirectory directory;
    const Script full(failing(call, ENOSPC));
    CHECK(PidFile::claim(directory / "serve.pid").error().code == std::errc::no_space_on_device);
    CHECK(names_in(directory.path()).empty());
  }
  CHECK(PidFile::claim("/nowhere/serve.pid").error().code == std::errc::no_such_file_or_directory);
  CHECK(PidFile::claim("").error().code == Errc::invalid_argument);
  const TemporaryDirectory directory;
  PidFileOptions options;
  options.extra_fields = "\"pid\": 7";
  CHECK(PidFile::claim(directory / "serve.pid", options).error().code == Errc::invalid_argument);
}
