#pragma once

/// \file
/// A program that uses sessions as it should.

#include <cstddef>
#include <cstdint>

#include <sessionlock/lock_manager.hpp>

#include "chaos/actor.hpp"

namespace sessionlock::test::chaos {

/// Acquires sessions, writes under their locks and releases them; now and then forks, or ends with a lock in one of
/// several ways.
class Writer : public Actor {
 public:
  explicit Writer(const Stage& stage);

 protected:
  void act() override;
  /// Which session it uses next.
  [[nodiscard]] virtual std::size_t choose() { return any(k_sessions); }
  /// While it has a lock, between acquiring and writing.
  virtual void hold() {}
  /// Complains if this process has ever more descriptors.
  virtual void look_for_leaks();

 private:
  void use(std::size_t number);
  void write(std::size_t number, SessionLock& lock);
  Result<void> append(std::size_t number, SessionLock& lock);
  void give_up(SessionLock& lock);
  void end_somehow(const SessionLock& lock);
  void fork_inside(const SessionLock& lock);
  [[noreturn]] void replace_itself();
  [[noreturn]] void leave_to_heir(const SessionLock& lock);
  [[noreturn]] void tear(std::size_t number);
  [[noreturn]] void exit_with_lock();

  LockManager manager_;
  std::uint64_t rounds_{0};
  std::size_t descriptors_{0};
};

}  // namespace sessionlock::test::chaos
