#pragma once

/// \file
/// Programs whose clocks are wrong: two hours ahead or behind, stepping to and fro, or in a time namespace of their
/// own.

#include <atomic>
#include <cstdint>
#include <string_view>
#include <thread>

#include <sessionlock/spawn_gate.hpp>

#include "chaos/writer.hpp"

namespace sessionlock::test::chaos {

/// Sets this process's wall clock wrong, by an amount that stays or, in a thread, by ever other amounts.
class ClockError {
 public:
  ClockError(Figures& figures, std::uint64_t seed, bool steps);
  ~ClockError();
  ClockError(const ClockError&) = delete;
  ClockError& operator=(const ClockError&) = delete;

 private:
  std::atomic<bool> is_over_{false};
  std::thread stepping_{};
};

/// Writes by a wrong clock.
class ClockWriter : public Writer {
 public:
  explicit ClockWriter(const Stage& stage);

 private:
  ClockError error_;
};

/// Writes by a clock that is wrong otherwise after each step to another time namespace; also between acquiring a lock
/// and using it.
class Traveller : public Writer {
 public:
  explicit Traveller(const Stage& stage);

 protected:
  void act() override;
  [[nodiscard]] std::size_t choose() override;
  void hold() override;

 private:
  void travel();
  ClockError error_;
};

/// A daemon of which there is to be one, and work that is to be done by one at a time, both by a wrong clock in some
/// time namespace.
class Claimant : public Actor {
 public:
  explicit Claimant(const Stage& stage);

 protected:
  void act() override;

 private:
  void be_daemon();
  void pass_gate();
  /// Complains of a failure, unless a neighbour is the reason.
  void judge(std::string_view call, const Error& error) const;
  ClockError error_;
  SpawnGate gate_;
};

}  // namespace sessionlock::test::chaos
