// Spawn gates between real processes.

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <sessionlock/lock_record.hpp>
#include <sessionlock/spawn_gate.hpp>

#include "lock_tools.hpp"
#include "process.hpp"

using namespace sessionlock;
using namespace sessionlock::test;
using namespace std::chrono_literals;

namespace {

/// A child inside a gate, until it hears anything.
ChildProcess inside(const std::filesystem::path& path) {
  auto child = ChildProcess::run([path](Channel& parent) {
    SpawnGate gate(path);
    auto entry = gate.try_enter();
    REQUIRE_IN_CHILD(entry && entry->outcome == GateOutcome::acquired);
    parent.tell("inside");
    (void)parent.hear();
    REQUIRE_IN_CHILD(entry->lock.release().has_value());
    parent.tell("done");
    (void)parent.hear();
    return 0;
  });
  child.expect("inside");
  return child;
}

}  // namespace

TEST_CASE("a gate is the very file it is named after, and goes when the work is done") {
  const TemporaryDirectory directory;
  const auto path = directory / "spawn.lock";
  SpawnGate gate(path);
  auto entry = gate.try_enter();
  REQUIRE(entry);
  CHECK(entry->outcome == GateOutcome::acquired);
  CHECK(names_in(directory.path()) == std::vector<std::string>{"spawn.lock"});
  CHECK(entry->lock.release().has_value());
  CHECK(names_in(directory.path()).empty());
}

TEST_CASE("a second caller is busy at once and learns who is at it") {
  const TemporaryDirectory directory;
  auto first = inside(directory / "spawn.lock");
  SpawnGate gate(directory / "spawn.lock");
  const auto entry = gate.try_enter();
  REQUIRE(entry);
  CHECK(entry->outcome == GateOutcome::busy);
  CHECK_FALSE(entry->lock.owns());
  REQUIRE(entry->holder);
  CHECK(entry->holder->record.pid == first.pid());
}

TEST_CASE("an error is neither acquired nor busy, so that a caller may go on without the gate") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "spawn.lock");
  SpawnGate gate(directory / "spawn.lock");
  CHECK_FALSE(gate.try_enter());
}

TEST_CASE("what is no regular file at a gate's path is refused, with its kind and what to do, and stays") {
  for (const StrangeNode& node : strange_nodes()) {
    CAPTURE(node.words);
    const TemporaryDirectory directory;
    const auto path = directory / "work.gate";
    node.make(path);
    const auto before = names_in(directory.path());
    SpawnGate gate(path);
    for (const auto& error : {gate.try_enter().error(), gate.wait_until_done(k_patience).error()}) {
      CHECK(error.code == Errc::not_a_lock_file);
      CHECK(error.path == path);
      CHECK(error.message().find(node.words) != std::string::npos);
      CHECK((error.operation + error.detail).find("session") == std::string::npos);
    }
    CHECK(names_in(directory.path()) == before);
  }
}

// Protects: another user of the directory cannot lead two processes into a gate at once, by a link that is there for
// one of them and removed before the other.
TEST_CASE("a gate is not entered through a symbolic link, dangling or not, nor is a gate made where it leads") {
  const TemporaryDirectory directory;
  const auto path = directory / "work.gate";
  std::filesystem::create_symlink("elsewhere", path);
  SpawnGate gate(path);
  CHECK(gate.try_enter().error().code == Errc::not_a_lock_file);
  CHECK_FALSE(std::filesystem::exists(directory / "elsewhere"));
  auto first = inside(directory / "elsewhere");
  CHECK(gate.try_enter().error().code == Errc::not_a_lock_file);
  CHECK(gate.wait_until_done(20ms).error().code == Errc::not_a_lock_file);
}

TEST_CASE("a gate below a directory that is a symbolic link is the same gate") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "real");
  std::filesystem::create_directory_symlink("real", directory / "link");
  auto first = inside(directory / "link" / "work.gate");
  CHECK(SpawnGate(directory / "real" / "work.gate").try_enter()->outcome == GateOutcome::busy);
}

TEST_CASE("a gate whose name becomes a link while its owner is inside is lost to the owner, and stays refused") {
  const TemporaryDirectory directory;
  const auto path = directory / "work.gate";
  SpawnGate gate(path);
  auto entry = gate.try_enter();
  REQUIRE(entry);
  std::filesystem::rename(path, directory / "elsewhere");
  std::filesystem::create_symlink("elsewhere", path);
  CHECK(SpawnGate::touch(entry->lock).error().code == Errc::lost);
  CHECK(gate.try_enter().error().code == Errc::not_a_lock_file);
  CHECK(std::filesystem::is_symlink(path));
}

TEST_CASE("what holds something else than a lock is no gate: refused at any age, and left alone") {
  const TemporaryDirectory directory;
  const auto path = directory / "work.gate";
  const auto check_refused = [&] {
    make_older(path, 24h);
    const auto before = inode_of(path);
    const auto error = SpawnGate(path).try_enter().error();
    CHECK(error.code == Errc::not_a_lock_file);
    CHECK(error.message().find(path.native()) != std::string::npos);
    CHECK((error.operation + error.detail).find("session") == std::string::npos);
    CHECK(SpawnGate(path).wait_until_done(k_patience).error().code == Errc::not_a_lock_file);
    CHECK(inode_of(path) == before);
  };
  for (const std::string text : {"[1, 2]", "words", "{\"version\": 3}"}) {
    CAPTURE(text);
    write_text(path, text);
    check_refused();
  }
  write_text(path, std::string(k_lock_record_bytes_max + 1, '7'));
  check_refused();
}

TEST_CASE("the errors of a gate name no session") {
  const TemporaryDirectory directory;
  CHECK(SpawnGate("").try_enter().error().message() == "enter gate: invalid argument (the path is empty)");
  CHECK(SpawnGate("").wait_until_done(0ms).error().message() == "enter gate: invalid argument (the path is empty)");
  CHECK(SpawnGate(directory / "..").try_enter().error().message().find("locate gate: invalid argument") == 0);
  auto first = inside(directory / "spawn.lock");
  const auto late = SpawnGate(directory / "spawn.lock").wait_until_done(20ms).error();
  CHECK(late.message().find("gate locked (timeout 20ms): pid=" + std::to_string(first.pid())) == 0);
}

TEST_CASE("a loser waits until the holder is done, without taking the gate") {
  const TemporaryDirectory directory;
  auto first = inside(directory / "spawn.lock");
  SpawnGate gate(directory / "spawn.lock");
  CHECK(gate.wait_until_done(20ms).error().code == Errc::timed_out);
  first.tell("go");
  CHECK(gate.wait_until_done(k_patience).has_value());
  first.expect("done");
  CHECK_FALSE(std::filesystem::exists(directory / "spawn.lock"));
}

TEST_CASE("a loser waits no longer than the holder lives, and the next caller takes over") {
  const TemporaryDirectory directory;
  auto first = inside(directory / "spawn.lock");
  first.kill();
  SpawnGate gate(directory / "spawn.lock");
  CHECK(gate.wait_until_done(k_patience).has_value());
  CHECK(std::filesystem::exists(directory / "spawn.lock"));
  CHECK(gate.try_enter()->outcome == GateOutcome::acquired);
}

TEST_CASE("a dead owner's gate is taken over, however long its name is") {
  // Protects: `part_of` in temporary_name.cpp.
  const TemporaryDirectory directory;
  for (const std::size_t size : {217U, 218U, 255U}) {
    CAPTURE(size);
    const auto path = directory / std::string(size, 'g');
    auto first = inside(path);
    (void)first.kill();
    SpawnGate gate(path);
    const auto entry = gate.try_enter();
    REQUIRE_MESSAGE(entry.has_value(), (entry ? "" : entry.error().message()));
    CHECK(entry->outcome == GateOutcome::acquired);
  }
}

TEST_CASE("a loser that names the holder does not wait for the next one") {
  const TemporaryDirectory directory;
  SpawnGate gate(directory / "spawn.lock");
  std::optional<Inspection> former;
  {
    auto first = inside(directory / "spawn.lock");
    former = gate.try_enter()->holder;
    first.kill();
  }
  auto second = inside(directory / "spawn.lock");
  CHECK(gate.wait_until_done(20ms).error().code == Errc::timed_out);
  CHECK(gate.wait_until_done(k_patience, former).has_value());
}

TEST_CASE("a gate whose file is older than the limit is stale although its owner lives, and that one is told so") {
  const TemporaryDirectory directory;
  const auto path = directory / "spawn.lock";
  auto first = ChildProcess::run([path](Channel& parent) {
    SpawnGate gate(path);
    auto entry = gate.try_enter();
    REQUIRE_IN_CHILD(entry && entry->outcome == GateOutcome::acquired);
    parent.tell("inside");
    (void)parent.hear();
    REQUIRE_IN_CHILD(SpawnGate::touch(entry->lock).error().code == Errc::lost);
    REQUIRE_IN_CHILD(entry->lock.release().error().code == Errc::lost);
    return 0;
  });
  first.expect("inside");
  make_older(path, 30s);
  SpawnGate gate(path);
  CHECK(gate.try_enter()->outcome == GateOutcome::busy);
  make_older(path, 70s);
  SpawnGate patient(path, {.stale_after = 0ms});
  CHECK(patient.try_enter()->outcome == GateOutcome::busy);
  CHECK(gate.wait_until_done(k_patience).has_value());
  const auto entry = gate.try_enter();
  CHECK(entry->outcome == GateOutcome::acquired);
  first.tell("go");
  CHECK(first.wait().exited_with(0));
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("a touched gate is young again") {
  const TemporaryDirectory directory;
  const auto path = directory / "spawn.lock";
  SpawnGate gate(path);
  auto entry = gate.try_enter();
  make_older(path, 3600s);
  CHECK(SpawnGate::touch(entry->lock).has_value());
  auto other = ChildProcess::run([path](Channel&) {
    REQUIRE_IN_CHILD(SpawnGate(path).try_enter()->outcome == GateOutcome::busy);
    return 0;
  });
  CHECK(other.wait().exited_with(0));
}

TEST_CASE("of simultaneous callers one runs, and all are through when it is done") {
  const TemporaryDirectory directory;
  const auto path = directory / "spawn.lock";
  const auto ran = directory / "ran";
  std::vector<ChildProcess> callers;
  for (int i = 0; i < 8; ++i) {
    callers.push_back(ChildProcess::run([path, ran](Channel& parent) {
      parent.expect("go");
      SpawnGate gate(path);
      auto entry = gate.try_enter();
      REQUIRE_IN_CHILD(entry.has_value());
      parent.tell(entry->outcome == GateOutcome::acquired ? "acquired" : "busy");
      if (entry->outcome == GateOutcome::acquired) {
        parent.expect("all are here");
        write_text(ran, "yes");
        REQUIRE_IN_CHILD(entry->lock.release().has_value());
        return 0;
      }
      REQUIRE_IN_CHILD(gate.wait_until_done(k_patience, entry->holder).has_value());
      return read_text(ran) == "yes" ? 0 : 1;
    }));
  }
  for (auto& caller : callers) {
    caller.tell("go");
  }
  std::vector<std::size_t> acquired;
  for (std::size_t i = 0; i < callers.size(); ++i) {
    if (callers[i].hear() == "acquired") {
      acquired.push_back(i);
    }
  }
  REQUIRE(acquired.size() == 1);
  callers[acquired.front()].tell("all are here");
  for (auto& caller : callers) {
    CHECK(caller.wait().exited_with(0));
  }
}
