// Spawn gates between real processes.

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

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
