#include "chaos/clocks.hpp"

#include <chrono>
#include <random>

#include <sched.h>

#include <sessionlock/pid_file.hpp>
#include <sessionlock/sentinel.hpp>

#include "chaos/bystanders.hpp"
#include "chaos/wrong_clock.hpp"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace sessionlock::test::chaos {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::seconds k_error{2h};

/// Enters one of the time namespaces; only for a process with a single thread.
void enter(World& world, int time_namespace) {
  if (::setns(time_namespace, CLONE_NEWTIME) != 0) {
    world.complain("cannot enter a time namespace");
  }
}

}  // namespace

ClockError::ClockError(Figures& figures, std::uint64_t seed, bool steps) {
  set_clock_error(seed % 2 == 0 ? k_error : -k_error);
  if (steps) {
    stepping_ = std::thread([this, &figures, random = std::mt19937_64(seed)]() mutable {
      const auto most = static_cast<std::uint64_t>(k_error.count());
      while (!is_over_.load()) {
        set_clock_error(std::chrono::seconds(random() % (2 * most)) - k_error);
        ++figures.steps;
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
      }
    });
  }
}

ClockError::~ClockError() {
  is_over_.store(true);
  if (stepping_.joinable()) {
    stepping_.join();
  }
}

ClockWriter::ClockWriter(const Stage& stage) : Writer(stage), error_(figures(), stage.seed, stage.seed % 3 != 0) {
  if (stage.seed % 3 == 0 && !clock_is_wrong()) {
    world().complain("the library's clock could not be set wrong");
  }
}

Traveller::Traveller(const Stage& stage) : Writer(stage), error_(figures(), stage.seed, false) {
  travel();
}

void Traveller::travel() {
  const auto& namespaces = stage().time_namespaces;
  enter(world(), namespaces[any(namespaces.size())]);
  ++figures().travels;
}

void Traveller::act() {
  if (in_one_of(10)) {
    travel();
  }
  Writer::act();
}

std::size_t Traveller::choose() {
  return k_foreign_sessions + any(k_sessions - k_foreign_sessions);
}

void Traveller::hold() {
  if (in_one_of(10)) {
    travel();
  }
}

Claimant::Claimant(const Stage& stage)
    : Actor(stage), error_(figures(), stage.seed, stage.seed % 4 == 0), gate_(directory() / "work.gate") {
  const auto& namespaces = stage.time_namespaces;
  if (stage.seed % 4 != 0) {
    enter(world(), namespaces[any(namespaces.size())]);
  }
}

void Claimant::act() {
  in_one_of(2) ? be_daemon() : pass_gate();
  (void)Sentinel(marker_path(directory())).active();
  pause(5000us);
}

void Claimant::judge(std::string_view call, const Error& error) const {
  if (!is_obstructed(error)) {
    world().complain(std::string(call) + ": " + error.message());
  }
}

void Claimant::be_daemon() {
  auto claim = PidFile::claim(directory() / "daemon.pid");
  if (!claim) {
    judge("claim", claim.error());
    return;
  }
  if (!claim->file) {
    return;
  }
  ++figures().claims;
  world().enter(world().daemon, token());
  pause(2000us);
  world().leave(world().daemon, token());
  if (const auto released = claim->file->release(); !released) {
    judge("release of a PID file", released.error());
  }
}

void Claimant::pass_gate() {
  auto entry = gate_.try_enter();
  if (!entry) {
    judge("gate", entry.error());
    return;
  }
  if (entry->outcome == GateOutcome::busy) {
    return;
  }
  ++figures().gates;
  world().enter(world().gate, token());
  pause(2000us);
  world().leave(world().gate, token());
  if (const auto released = entry->lock.release(); !released) {
    judge("release of a gate", released.error());
  }
}

}  // namespace sessionlock::test::chaos
