// The kernel lock that comes with a PID file: who holds it runs, whatever namespaces, boots and the file's text say.

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
#include <sched.h>
#include <unistd.h>

#include <sessionlock/pid_file.hpp>
#include <sessionlock/process_signal.hpp>

#include "faults.hpp"
#include "lock_tools.hpp"
#include "process.hpp"
#include "script.hpp"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

const Namespaces k_new_pids{CLONE_NEWPID | CLONE_NEWNS};
const Namespaces k_new_time{CLONE_NEWTIME, true, 24h};

PidFileOptions in(PidFileFormat format) {
  PidFileOptions options;
  options.format = format;
  options.timeout = 0ms;
  return options;
}

/// Whether a body runs well in new namespaces; says so aloud where the machine does not have them.
bool ends_well(const Namespaces& namespaces, const std::function<void()>& body) {
  const auto run = run_in_namespaces(namespaces, [&](Channel&) {
    body();
    return 0;
  });
  if (!run.why_not.empty()) {
    skip_aloud(run.why_not);
    return true;
  }
  return run.ended.exited_with(0);
}

/// A child that claims the file and keeps the claim until it hears more.
ChildProcess claimer(const std::filesystem::path& path, PidFileFormat format) {
  auto child = ChildProcess::run([=](Channel& parent) {
    auto claim = PidFile::claim(path, in(format));
    REQUIRE_IN_CHILD(claim && claim->file);
    parent.tell("claimed");
    (void)parent.hear();
    return 0;
  });
  child.expect("claimed");
  return child;
}

constexpr PidFileFormat k_formats[] = {PidFileFormat::json, PidFileFormat::colon, PidFileFormat::space,
                                       PidFileFormat::plain};

}  // namespace

TEST_CASE("of two claims from two PID namespaces in one directory one succeeds") {
  for (const auto format : k_formats) {
    const TemporaryDirectory directory;
    const auto path = directory / "serve.pid";
    auto owner = claimer(path, format);
    const std::string text = read_text(path);
    CHECK(ends_well(k_new_pids, [&] {
      const auto claim = PidFile::claim(path, in(format));
      REQUIRE_IN_CHILD(claim && claim->running);
      REQUIRE_IN_CHILD(claim->running->state == PidFileState::alive);
      REQUIRE_IN_CHILD(inspect_pid_file(path)->state == PidFileState::alive);
      REQUIRE_IN_CHILD(code_of(remove_pid_file(path, RemoveWhose::own)) == Errc::locked);
    }));
    CHECK(read_text(path) == text);
  }
}

TEST_CASE("of two claims from two time namespaces one succeeds, although start times differ there") {
  for (const auto format : k_formats) {
    const TemporaryDirectory directory;
    const auto path = directory / "serve.pid";
    auto owner = claimer(path, format);
    CHECK(ends_well(k_new_time, [&] {
      const auto claim = PidFile::claim(path, in(format));
      REQUIRE_IN_CHILD(claim && claim->running);
      REQUIRE_IN_CHILD(claim->running->state == PidFileState::alive);
    }));
  }
}

TEST_CASE("a token without a namespace, seen from another time namespace, does not make a living process another one") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto owner = idle_process();
  const std::string pid = std::to_string(owner.pid());
  const std::string token = process_start_token(owner.pid()).value();
  for (const std::string& text : {pid + ":" + token + "\n", pid + " " + token + "\n",
                                  "{\"pid\": " + pid + ", \"startToken\": \"" + token + "\"}\n"}) {
    CAPTURE(text);
    write_text(path, text);
    CHECK(inspect_pid_file(path)->reason == PidFileReason::verified);
    CHECK(ends_well(k_new_time, [&] {
      const auto claim = PidFile::claim(path, in(PidFileFormat::json));
      REQUIRE_IN_CHILD(claim && claim->running);
      REQUIRE_IN_CHILD(claim->running->state == PidFileState::alive);
      REQUIRE_IN_CHILD(claim->running->reason == PidFileReason::unverified);
    }));
    CHECK(read_text(path) == text);
  }
  write_text(path, std::to_string(dead_pid()) + ":1\n");
  CHECK(ends_well(k_new_time, [&] { REQUIRE_IN_CHILD(inspect_pid_file(path)->state == PidFileState::stale); }));
}

TEST_CASE("a claim that ended in another PID namespace is taken over at once, and until then it is not") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  PidFileOptions kept = in(PidFileFormat::json);
  kept.keep = true;
  CHECK(ends_well(k_new_pids, [&] {
    auto claim = PidFile::claim(path, kept);
    REQUIRE_IN_CHILD(claim && claim->file);
  }));
  const auto left = inspect_pid_file(path);
  if (left->state == PidFileState::missing) {
    return;  // no namespaces here, which was said
  }
  CHECK(left->state == PidFileState::stale);
  CHECK(left->reason == PidFileReason::orphaned);
  CHECK(left->record.pid == 1);  // who has that number here is not meant
  CHECK_FALSE(recorded_process(left->record));
  CHECK(PidFile::claim(path, in(PidFileFormat::json))->file);
}

TEST_CASE("a JSON form of another PID namespace without a declared witness is unknown, and held") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const ProcessIdentity own = this_process();
  write_text(path, "{\"pid\": " + std::to_string(dead_pid()) + ", \"bootId\": \"" + own.boot_id +
                       "\", \"pidNamespace\": 5, \"timeNamespace\": 6}\n");
  CHECK(inspect_pid_file(path)->state == PidFileState::unknown);
  CHECK(PidFile::claim(path, in(PidFileFormat::json))->running->state == PidFileState::unknown);
  CHECK(code_of(remove_pid_file(path, RemoveWhose::own_or_stale)) == Errc::locked);
}

TEST_CASE("where only the time namespace differs a dead pid is dead, and a living one is not called reused") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  const ProcessIdentity own = this_process();
  const auto write = [&](pid_t pid) {
    write_text(path, "{\"pid\": " + std::to_string(pid) + ", \"startToken\": \"1\", \"bootId\": \"" + own.boot_id +
                         "\", \"pidNamespace\": " + std::to_string(own.pid_namespace) + ", \"timeNamespace\": 6}\n");
  };
  auto other = idle_process();
  write(other.pid());
  const auto living = inspect_pid_file(path);
  CHECK(living->state == PidFileState::alive);
  CHECK(living->reason == PidFileReason::unverified);
  CHECK(signal_process(*recorded_process(living->record), SIGTERM).value().outcome == SignalOutcome::unverifiable);
  write(dead_pid());
  CHECK(inspect_pid_file(path)->reason == PidFileReason::pid_gone);
}

TEST_CASE("a file from before this boot is stale if it declares a witness, and a younger one of another boot is held") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto living = idle_process();  // by accident with the same number
  const std::string begin = "{\"pid\": " + std::to_string(living.pid()) +
                            ", \"bootId\": \"00000000-0000-4000-8000-000000000000\", \"pidNamespace\": " +
                            std::to_string(this_process().pid_namespace) + ", \"timeNamespace\": 6";
  for (const bool declares : {true, false}) {
    write_text(path, begin + (declares ? ", \"witness\": \"ofd:1:2\"}\n" : "}\n"));
    CHECK(inspect_pid_file(path)->state == PidFileState::unknown);
    CHECK_FALSE(recorded_process(inspect_pid_file(path)->record));
    make_older(path, 24h * 365 * 20);
    const auto old = inspect_pid_file(path);
    CHECK((old->reason == PidFileReason::previous_boot) == declares);
    CHECK((old->state == PidFileState::stale) == declares);
  }
}

TEST_CASE("a held witness means running, whatever the text of the file has become") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto other = idle_process();
  PidFileOptions options = in(PidFileFormat::colon);
  options.policy.without_token = UnverifiedOwner::stale;
  auto owner = claimer(path, PidFileFormat::colon);
  for (const auto& [text, reason] : std::vector<std::pair<std::string, PidFileReason>>{
           {"", PidFileReason::witness_held},
           {"{\"pid\":", PidFileReason::witness_held},
           {"words", PidFileReason::witness_held},
           {std::to_string(other.pid()) + "\n", PidFileReason::witness_held},  // stale by the policy
           {std::to_string(other.pid()) + ":1\n", PidFileReason::witness_inherited},
           {std::to_string(dead_pid()) + "\n", PidFileReason::witness_inherited}}) {
    const std::string& written = text;  // Clang 14 captures no structured binding
    CAPTURE(written);
    write_text(path, text);
    make_older(path, 1h);
    const auto claim = PidFile::claim(path, options);
    REQUIRE(claim);
    REQUIRE(claim->running);
    CHECK(claim->running->state == PidFileState::alive);
    const PidFileReason expected = reason;
    CHECK(claim->running->reason == expected);
    CHECK(read_text(path) == text);
  }
  write_text(path, "");
  make_older(path, 1h);
  owner.kill();
  CHECK(PidFile::claim(path, options)->file);
}

TEST_CASE("a witness that a program inherited keeps the claim when the claimer and the recorded process are gone") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto owner = ChildProcess::run([&](Channel& parent) {
    auto claim = PidFile::claim(path, in(PidFileFormat::plain));
    REQUIRE_IN_CHILD(claim && claim->file);
    std::string program = "sleep";
    std::string time = "1000";
    char* arguments[] = {program.data(), time.data(), nullptr};
    const auto heir = sys::spawn_with_descriptor(claim->file->witness_descriptor(), "sleep", arguments, environ);
    REQUIRE_IN_CHILD(heir.ok());
    parent.tell(std::to_string(heir.value));
    (void)parent.hear();
    return 0;
  });
  const pid_t heir = std::stoi(owner.hear().value());
  owner.kill();
  const auto found = inspect_pid_file(path);
  CHECK(found->state == PidFileState::alive);
  CHECK(found->reason == PidFileReason::witness_inherited);
  const auto claim = PidFile::claim(path, in(PidFileFormat::plain));
  REQUIRE(claim);
  CHECK(claim->running->reason == PidFileReason::witness_inherited);
  CHECK(std::filesystem::exists(path));
  ::kill(heir, SIGKILL);
  PidFileOptions patient = in(PidFileFormat::plain);
  patient.timeout = k_patience;  // the heir is init's to reap; its descriptors go when it ends
  CHECK(PidFile::claim(path, patient)->file);
}

TEST_CASE("a claim waits for the claimer of a process that has just ended, which is about to remove the file") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto named = idle_process();
  PidFileOptions for_child = in(PidFileFormat::json);
  for_child.owner = identify(named.pid()).value();
  auto theirs = PidFile::claim(path, for_child);
  REQUIRE(theirs->file);
  named.kill();
  int attempts = 0;
  const Script script(outermost([&](const sys::CallInfo& info) {
    if (info.call == sys::Call::linkat && ++attempts == 3) {
      CHECK(theirs->file->release().has_value());
    }
    return 0;
  }));
  PidFileOptions patient = in(PidFileFormat::json);
  patient.timeout = k_patience;
  const auto claim = PidFile::claim(path, patient);
  REQUIRE(claim);
  CHECK(claim->file);
}

TEST_CASE("a released or lost claim holds no witness any more") {
  const TemporaryDirectory directory;
  const auto path = directory / "serve.pid";
  auto claim = PidFile::claim(path, in(PidFileFormat::plain));
  REQUIRE(claim->file);
  CHECK(claim->file->witness_descriptor() >= 0);
  std::filesystem::rename(path, directory / "aside");
  CHECK(inspect_pid_file(directory / "aside")->state == PidFileState::alive);
  CHECK(code_of(claim->file->release()) == Errc::lost);
  CHECK(claim->file->witness_descriptor() == -1);
  write_text(directory / "aside", std::to_string(dead_pid()));
  CHECK(inspect_pid_file(directory / "aside")->state == PidFileState::stale);
}

TEST_CASE(
    "where a file system has no such locks this process still knows its own claims, and a child has none of them") {
  const Workplace directory;
  const KnownTraits traits(directory.path());
  traits.forget();
  const auto path = directory.path() / "serve.pid";
  const Script no_record_locks([](const sys::CallInfo& info) {
    return info.call == sys::Call::ofd_setlk || info.call == sys::Call::ofd_getlk ? EINVAL : 0;
  });
  auto claim = PidFile::claim(path, in(PidFileFormat::json));
  REQUIRE(claim);
  REQUIRE(claim->file);
  CHECK_FALSE(claim->file->record().witness);
  write_text(path, "");
  make_older(path, 1h);
  CHECK(inspect_pid_file(path)->reason == PidFileReason::witness_held);
  CHECK(PidFile::claim(path, in(PidFileFormat::json))->running);
  auto child = ChildProcess::run([&](Channel&) {
    REQUIRE_IN_CHILD(inspect_pid_file(path)->state == PidFileState::invalid);
    return 0;
  });
  CHECK(child.wait().exited_with(0));
  claim->file.reset();
}
